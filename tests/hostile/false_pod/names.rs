//! Clients that name containers that the pod does not have. The bridge serves the pod's live log. `mod` runs the case.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use podbridge_tests::build::Console;
use podbridge_tests::client_protocol::ask;
use podbridge_tests::pair::{Pair, eventually};
use serde_json::json;

use crate::false_pod::api_server::{ApiServer, Container};
use crate::false_pod::row::start_bridge_with;
use crate::frame::control::Control;
use crate::frame::scene::{BRIDGE_CEILING, Scene, Setting};

/// More names than a bridge keeps.
const NAMES: usize = 70;

/// The names take no place from the containers of the pod, and do not open the way to logs that nobody knows.
pub(super) fn run(setting: &Setting) {
    let mut scene = Scene::begin(setting);
    let pair = Pair::start();
    let server = ApiServer::start(Container::HasAgent(pair.agent_socket().to_owned()));
    let console = {
        let [a, b, c] = [(); 3].map(|()| fastrand::u8(2..254));
        let listener = TcpListener::bind((Ipv4Addr::new(127, a, b, c), 0)).unwrap();
        SocketAddrV4::new(Ipv4Addr::new(127, a, b, c), listener.local_addr().unwrap().port())
    };
    let socket = start_bridge_with(&pair, &server, &json!({"console": console.to_string()}));
    let log = socket.with_extension("log");
    scene.watch_output(&log);
    let control = Control::Exec(socket.clone());
    control.run().unwrap();
    let connect = |container: &str| ask(&socket, &json!({"v": 1, "op": "connect", "container": container})).unwrap();
    assert_eq!(connect("main")["outcome"], "ok");
    eventually("the live log is served", || TcpStream::connect(console).is_ok());
    let [bridge] = pair.bridges()[..] else {
        panic!("not one bridge")
    };
    scene.guard("bridge", bridge, BRIDGE_CEILING);
    scene.attack(&control, |_| {
        for number in 0..NAMES {
            let answer = connect(&format!("invented-{number}"));
            assert_eq!(answer["kind"], "container_not_found", "{answer}");
        }
    });
    let mut stranger = Console::connect_to(console);
    eventually("a log that nobody knows is not deleted", || {
        stranger.send("f:podbridge-nowhere-1-node\n");
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("delete a log that is not known"))
    });
    drop(stranger);
    scene.conclude();
}
