//! The two connections of a container: what is large travels on its own, on a thread of its own, and what is small on the other.

use std::io::Write as _;
use std::process::{Child, Stdio};

use podbridge_tests::pair::{Pair, eventually};
use serde_json::Value;

/// Lane and state of the pair's links.
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

/// Whether the bridge has a thread for what is large.
fn has_bulk_thread(pair: &Pair) -> bool {
    let [bridge] = pair.bridges()[..] else {
        panic!("not one bridge")
    };
    let threads = std::fs::read_dir(format!("/proc/{bridge}/task")).unwrap();
    let names = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default());
    names.into_iter().any(|name| name.trim() == "bulk")
}

/// An archive that is listed as it comes.
fn tar(pair: &Pair) -> Child {
    let mut tar = pair.exec(&["tar", "tf", "-"]);
    tar.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// The archive ends.
fn ends(mut tar: Child) {
    tar.stdin.take().unwrap().write_all(&[0; 10240]).unwrap();
    assert!(tar.wait().unwrap().success());
}

fn lane(name: &str) -> (String, String) {
    (name.into(), "up".into())
}

#[test]
fn archives_travel_on_a_connection_of_their_own() {
    let pair = Pair::start();
    assert!(pair.exec(&["true"]).status().unwrap().success());
    assert_eq!(links(&pair), [lane("control")]);
    assert!(!has_bulk_thread(&pair));
    ends(tar(&pair));
    assert_eq!(links(&pair), [lane("control"), lane("bulk")]);
    assert!(has_bulk_thread(&pair));
}

/// Few begin at once; but those at work may wait for somebody, and perhaps for who is in the queue.
#[test]
fn archives_that_stand_still_keep_no_other_from_beginning() {
    let pair = Pair::start();
    let many = std::thread::available_parallelism().unwrap().get().max(2) + 2;
    let waiting: Vec<_> = (0..many).map(|_| tar(&pair)).collect();
    eventually("all of them run", || pair.commands().len() == many);
    // One that gives up before its turn.
    let mut last = tar(&pair);
    last.kill().unwrap();
    last.wait().unwrap();
    ends(tar(&pair));
    waiting.into_iter().for_each(ends);
}
