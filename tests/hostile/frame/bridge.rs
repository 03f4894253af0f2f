//! The bridge of a pair, started as a first command starts it. The roles call it.

use std::path::{Path, PathBuf};

use podbridge_tests::client_protocol::ask;
use podbridge_tests::pair::Pair;
use serde_json::json;

use crate::frame::control::Control;
use crate::frame::scene::{BRIDGE_CEILING, Scene};

/// Starts the bridge of a pair by a first command, and lets it open the connections that it keeps. Guards it; returns its socket.
pub(crate) fn start_bridge(scene: &mut Scene, pair: &Pair) -> PathBuf {
    start_bridge_with_log(scene, pair, "info")
}

/// Does what [`start_bridge`] does, with this level of the bridge's log.
pub(crate) fn start_bridge_with_log(scene: &mut Scene, pair: &Pair, level: &str) -> PathBuf {
    let first = pair.exec(&["true"]).env("PODBRIDGE_LOG", level).output().unwrap();
    assert!(first.status.success(), "{first:?}");
    let files = std::fs::read_dir(pair.bridge_dir())
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let socket = files.into_iter().find(|path| has_extension(path, "sock")).unwrap();
    scene.watch_output(socket.with_extension("log"));
    // The connection for files.
    ask(&socket, &json!({"v": 1, "op": "exec", "argv": ["tar"]})).unwrap();
    Control::Exec(socket.clone()).run().unwrap();
    let [bridge] = pair.bridges()[..] else {
        panic!("not one bridge")
    };
    scene.guard("bridge", bridge, BRIDGE_CEILING);
    socket
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}
