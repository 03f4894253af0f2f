//! The two connections of a container: commands that move much data use the bulk connection, which has its own thread; all others use the
//! control connection.

use std::io::Write as _;
use std::process::{Child, Stdio};

use podbridge_tests::pair::{Pair, eventually};
use serde_json::Value;

/// Returns lane and state of each link of the pair's bridge.
fn links(pair: &Pair) -> Vec<(String, String)> {
    let output = pair.podbridge(&["status", "--json"]).output().unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let links = status[0]["links"].as_array().unwrap();
    let word = |link: &Value, key: &str| link[key].as_str().unwrap().to_owned();
    links
        .iter()
        .map(|link| (word(link, "lane"), word(link, "state")))
        .collect()
}

/// Tells whether the bridge has a thread for bulk connections.
fn has_bulk_thread(pair: &Pair) -> bool {
    let [bridge] = pair.bridges()[..] else {
        panic!("not one bridge")
    };
    let threads = std::fs::read_dir(format!("/proc/{bridge}/task")).unwrap();
    let names = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default());
    names.into_iter().any(|name| name.trim() == "bulk")
}

/// Starts a command that reads an archive from its stdin.
fn start_tar(pair: &Pair) -> Child {
    let mut tar = pair.exec(&["tar", "tf", "-"]);
    tar.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Sends the end of an archive; the command must succeed.
fn finish_tar(mut tar: Child) {
    tar.stdin.take().unwrap().write_all(&[0; 10240]).unwrap();
    assert!(tar.wait().unwrap().success());
}

/// Returns what [`links`] gives for a lane that is up.
fn lane(name: &str) -> (String, String) {
    (name.into(), "up".into())
}

#[test]
fn archives_use_the_bulk_connection() {
    let pair = Pair::start();
    assert!(pair.exec(&["true"]).status().unwrap().success());
    assert_eq!(links(&pair), [lane("control")]);
    assert!(!has_bulk_thread(&pair));
    finish_tar(start_tar(&pair));
    assert_eq!(links(&pair), [lane("control"), lane("bulk")]);
    assert!(has_bulk_thread(&pair));
}

/// The bulk limit lets few commands start at once. A command that stalls gives up its permit, because it may wait for one in the queue.
#[test]
fn stalled_archives_do_not_keep_others_from_starting() {
    let pair = Pair::start();
    let many = std::thread::available_parallelism().unwrap().get().max(2) + 2;
    let waiting: Vec<_> = (0..many).map(|_| start_tar(&pair)).collect();
    eventually("all commands run", || pair.commands().len() == many);
    // A client that ends while its command is in the queue.
    let mut last = start_tar(&pair);
    last.kill().unwrap();
    last.wait().unwrap();
    finish_tar(start_tar(&pair));
    waiting.into_iter().for_each(finish_tar);
}
