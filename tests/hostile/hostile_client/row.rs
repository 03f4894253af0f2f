//! One attack of a client: a bridge, an agent, and the function that attacks them. `mod` runs tables of rows.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use podbridge_tests::client_protocol::Connection;
use podbridge_tests::pair::Pair;
use serde_json::Value;

use crate::frame::bridge::start_bridge;
use crate::frame::control::Control;
use crate::frame::scene::{self, Attack, Scene, Setting};

/// What holds an attack until it is dropped.
pub(super) type Held = Box<dyn Any>;

/// An attack on the bridge of a pair.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) start: fn(&mut Attack<'_>, &Target<'_>) -> Held,
}

/// What is attacked.
pub(super) struct Target<'a> {
    pub(super) socket: &'a Path,
    /// Directory for the files of the attack, here and in the pod.
    pub(super) dir: &'a Path,
}

impl scene::Row for Row {
    fn name(&self) -> &'static str {
        self.name
    }
}

impl Target<'_> {
    pub(super) fn connect(&self) -> Connection {
        Connection::open(self.socket).unwrap()
    }

    /// Sends a request and returns its connection.
    pub(super) fn request(&self, request: &Value) -> Connection {
        self.send(request, &[])
    }

    /// Sends a request with these descriptors and returns its connection.
    pub(super) fn send(&self, request: &Value, descriptors: &[BorrowedFd<'_>]) -> Connection {
        let mut connection = self.connect();
        // The bridge may refuse it before it has come.
        let _ = connection.send_request(request, descriptors);
        connection
    }
}

/// Runs rows one after the other against one bridge and one agent, which has this ceiling.
pub(super) fn run(setting: &Setting, rows: &mut VecDeque<Row>, agent_ceiling: u64) -> Vec<String> {
    let mut scene = Scene::begin(setting);
    scene::allow_many_descriptors();
    let pair = Pair::start();
    let socket = start_bridge(&mut scene, &pair);
    scene.guard("agent", pair.agent(), agent_ceiling);
    let control = Control::Exec(socket.clone());
    let target = Target {
        socket: &socket,
        dir: pair.dir(),
    };
    while let Some(row) = rows.pop_front() {
        scene.begin_row(row.name);
        let attack = || drop(scene.attack(&control, |attack| (row.start)(attack, &target)));
        if catch_unwind(AssertUnwindSafe(attack)).is_err() {
            scene.fault("an answer was not as it has to be; the panic above says which");
        }
        if scene.is_spoilt() {
            break;
        }
    }
    scene.verdict()
}
