//! Files for an agent that reads nothing: root in the pod has stopped it, as `kill -STOP` does. The files are in descriptors, and the bridge
//! could read them all.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;

use podbridge_tests::client_protocol::memory_file;
use podbridge_tests::pair::{Pair, send_signal};
use rustix::process::Signal;
use serde_json::json;

use crate::frame::bridge::start_bridge;
use crate::frame::control::{Control, run_true};
use crate::frame::scene::{self, Scene, Setting};
use crate::hostile_client::row::{Row, Target};

/// Clients at once: all operations that a bridge runs.
const MANY: usize = 640;
/// Length of each file, bytes.
const LENGTH: usize = 2 << 20;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "files_of_commands",
        start: |_, target| {
            let file = memory_file(&vec![7; LENGTH]);
            let puts = json!([{"path": target.dir.join("put")}]);
            let request = json!({"v": 1, "op": "exec", "argv": ["true"], "puts": puts, "requires": ["puts"]});
            Box::new(
                (0..MANY)
                    .map(|_| target.send(&request, &[file.as_fd()]))
                    .collect::<Vec<_>>(),
            )
        },
    },
    Row {
        name: "uploads",
        start: |_, target| {
            let file = memory_file(&vec![7; LENGTH]);
            let request = json!({"v": 1, "op": "put", "path": target.dir.join("put")});
            Box::new(
                (0..MANY)
                    .map(|_| target.send(&request, &[file.as_fd()]))
                    .collect::<Vec<_>>(),
            )
        },
    },
];

/// Runs each row against a bridge and an agent of its own, which is stopped during the attack.
pub(super) fn run(setting: &Setting, rows: &mut VecDeque<Row>) -> Vec<String> {
    let mut scene = Scene::begin(setting);
    scene::allow_many_descriptors();
    let pair = Pair::start();
    let socket = start_bridge(&mut scene, &pair);
    let target = Target {
        socket: &socket,
        dir: pair.dir(),
    };
    let row = rows.pop_front().expect("the table has another row");
    scene.begin_row(row.name);
    run_true(&socket).unwrap();
    send_signal(pair.agent(), Signal::STOP);
    let control = Control::Status(socket.clone());
    let held = scene.attack(&control, |attack| (row.start)(attack, &target));
    send_signal(pair.agent(), Signal::CONT);
    drop(held);
    scene.verdict()
}
