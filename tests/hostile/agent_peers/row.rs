//! One attack on an agent: the pair, and the function that attacks it. `mod` runs tables of rows.

use std::any::Any;
use std::cell::OnceCell;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use podbridge_proto::v1::{EnrollRequest, EnrollResponse};
use podbridge_tests::own_address::own_address;
use podbridge_tests::pair::Pair;

use crate::agent_peers::http2::Http2;
use crate::frame::bridge::start_bridge;
use crate::frame::control::Control;
use crate::frame::scene::{self, Attack, Scene, Setting};

/// What holds an attack until it is dropped.
pub(super) type Held = Box<dyn Any>;

/// An attack on the agent of a pair.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) start: fn(&mut Attack<'_>, &Target<'_>) -> Held,
}

impl scene::Row for Row {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// What is attacked.
pub(super) struct Target<'a> {
    pub(super) socket: &'a Path,
    pub(super) agent: u32,
    /// Address of the port for direct links; the first attack that needs it opens it.
    direct: OnceCell<SocketAddr>,
}

/// A key for Ed25519, as a bridge enrols one: the beginning that all of them have (RFC 8410), and any 32 bytes.
fn public_key() -> Vec<u8> {
    let mut key = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    key.extend([7; 32]);
    key
}

impl Target<'_> {
    /// Returns the address of the port for direct links.
    pub(super) fn direct(&self) -> SocketAddr {
        *self.direct.get_or_init(|| {
            let request = EnrollRequest {
                bridge_key: public_key().into(),
                address: own_address().to_string(),
            };
            let connection = Http2::open(self.socket).unwrap();
            let answer: EnrollResponse = connection.ask("/podbridge.v1.Agent/Enroll", &request).unwrap();
            SocketAddr::new(IpAddr::V4(own_address()), answer.port.try_into().unwrap())
        })
    }
}

/// Runs rows one after the other against one agent, whose memory has this ceiling. The bridge beside them has a connection of its own.
pub(super) fn run(setting: &Setting, rows: &mut VecDeque<Row>, ceiling: u64) -> Vec<String> {
    let mut scene = Scene::begin(setting);
    scene::allow_many_descriptors();
    let log = tempfile::NamedTempFile::new().unwrap();
    let pair = Pair::with_log("info", log.reopen().unwrap());
    let socket = start_bridge(&mut scene, &pair);
    let target = Target {
        socket: pair.agent_socket(),
        agent: pair.agent(),
        direct: OnceCell::new(),
    };
    // The port stays open.
    target.direct();
    scene.guard("agent", pair.agent(), ceiling);
    scene.watch_output(log.path());
    let control = Control::Exec(socket);
    while let Some(row) = rows.pop_front() {
        scene.begin_row(row.name);
        let attack = || drop(scene.attack(&control, |attack| (row.start)(attack, &target)));
        if catch_unwind(AssertUnwindSafe(attack)).is_err() {
            scene.fault("an answer was not as it has to be; the panic above says which");
        }
        let length = log.as_file().metadata().unwrap().len();
        scene.expect(length < MAX_LOG, || format!("the agent's log has {length} bytes"));
        if scene.is_spoilt() {
            break;
        }
    }
    scene.verdict()
}

/// Longest log that an agent may write while it is attacked, in bytes.
const MAX_LOG: u64 = 256 << 10;
