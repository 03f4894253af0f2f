//! Shows that the frame finds what it looks for: processes that grow, leak, stay busy or do not end, and output that drives a terminal. A
//! check that cannot fail would make every case pass. `main` runs these cases.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podbridge_tests::pair::eventually;

use crate::frame::control::Control;
use crate::frame::output;
use crate::frame::scene::{Case, Scene, Setting};

/// Ceiling of these processes, in bytes.
const CEILING: u64 = 32 << 20;

/// A row: name, a script of Python that is guarded and attacked by a line on its stdin, and the beginning of the fault that it has.
const ROWS: [(&str, &str, &str); 6] = [
    ("memory", "x = 'x' * (48 << 20); time.sleep(300)", "the innocent had "),
    (
        "descriptors",
        "f = [open('/dev/null') for _ in range(9)]; time.sleep(300)",
        "the innocent holds ",
    ),
    (
        "children",
        "subprocess.Popen(['sleep', '300']); time.sleep(300)",
        "the innocent holds ",
    ),
    ("processor", "exec('while True: pass')", "the idle innocent uses "),
    (
        "term",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)",
        "the innocent runs ",
    ),
    ("end", "sys.exit()", "the innocent has ended"),
];

pub(crate) fn cases() -> Vec<Case> {
    let rows = ROWS.iter().map(|(name, script, fault)| {
        let case: Case = (
            format!("self_test::{name}_is_checked"),
            Box::new(move |setting| finds(setting, script, fault)),
        );
        case
    });
    let output: Case = (
        "self_test::output_is_checked".into(),
        Box::new(|_| finds_control_characters()),
    );
    rows.chain([output]).collect()
}

struct Innocent(Child);

impl Drop for Innocent {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fails unless the frame finds exactly this fault.
fn finds(setting: &Setting, script: &str, expected: &str) {
    let mut scene = Scene::begin(setting);
    scene.recovers_within(Duration::from_millis(500));
    // Its child ends with it, because nothing is left behind.
    let program = format!(
        "import os, signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: os.killpg(0, 9))\nprint(flush=True)\nsys.stdin.readline()\n{script}"
    );
    let mut command = Command::new("python3");
    command
        .args(["-c", &program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut innocent = Innocent(
        std::os::unix::process::CommandExt::process_group(&mut command, 0)
            .spawn()
            .unwrap(),
    );
    let mut stdout = innocent.0.stdout.take().unwrap();
    std::io::Read::read_exact(&mut stdout, &mut [0]).unwrap();
    scene.guard("innocent", innocent.0.id(), CEILING);
    let mut stdin = innocent.0.stdin.take().unwrap();
    scene.attack_for(Duration::from_millis(500), &Control::Nothing, |_| {
        stdin.write_all(b"\n").unwrap()
    });
    if expected.ends_with("ended") {
        eventually("it has ended", || innocent.0.try_wait().unwrap().is_some());
    }
    let faults = scene.verdict();
    assert!(
        matches!(&faults[..], [fault] if fault.starts_with(expected)),
        "{faults:?}"
    );
}

fn finds_control_characters() {
    for bad in ["\u{1b}[31m", "a\tb", "a\rb", "\u{7f}", "\u{9b}2J", "a\0b"] {
        assert_eq!(output::faults(bad.as_bytes()).len(), 1, "{bad:?}");
    }
    assert_eq!(output::faults(b"\x9b2J").len(), 1);
    assert_eq!(output::faults(&[b'x'; 5000]).len(), 1);
    assert_eq!(
        output::faults("one line\nand \u{e4}nother\n".as_bytes()),
        Vec::<String>::new()
    );
    assert_eq!(output::client_faults(b"podbridge: a\nforged\n").len(), 1);
    assert_eq!(
        output::client_faults(b"podbridge: a\npodbridge: b\n"),
        Vec::<String>::new()
    );
}
