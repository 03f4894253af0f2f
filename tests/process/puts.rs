//! Requests of the client protocol that put files and run a command with them.

use std::fs::File;
use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use podbridge_tests::pair::Pair;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Sends a request with these descriptors to the pair's bridge. Returns stdout of the command and the result.
pub(crate) fn send_request(pair: &Pair, request: &str, files: &[File]) -> (Vec<u8>, String) {
    assert!(pair.exec(&["true"]).status().unwrap().success());
    let names = std::fs::read_dir(pair.bridge_dir()).unwrap().flatten();
    let socket = names
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .unwrap();
    let mut stream = UnixStream::connect(socket).unwrap();
    let mut frame = (request.len() as u32 + 1).to_be_bytes().to_vec();
    frame.push(1);
    frame.extend_from_slice(request.as_bytes());
    let descriptors: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = sendmsg(&stream, &[IoSlice::new(&frame)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, frame.len());
    let mut stdout = Vec::new();
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let mut payload = vec![0; length as usize - 1];
        stream.read_exact(&mut payload).unwrap();
        match header[4] {
            0x11 => stdout.extend_from_slice(&payload),
            0x1f => return (stdout, String::from_utf8(payload).unwrap()),
            0x13 => panic!("a client without stdin does not understand an acknowledgement"),
            _ => {}
        }
    }
}

/// Writes a file and opens it for reading.
pub(crate) fn create_file(path: &Path, content: &[u8]) -> File {
    std::fs::write(path, content).unwrap();
    File::open(path).unwrap()
}

/// Ansible without pipelining puts a module and its data, and the command removes them.
#[test]
fn files_of_a_request_are_there_before_its_command_starts() {
    let pair = Pair::start();
    let large: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
    let files = [
        create_file(&pair.dir().join("module"), b"#!/bin/sh\ncat \"$1\"; rm \"$0\" \"$1\"\n"),
        create_file(&pair.dir().join("data"), &large),
    ];
    let (script, data) = (pair.dir().join("remote.sh"), pair.dir().join("remote data"));
    let request = serde_json::json!({
        "v": 1, "op": "exec", "requires": ["puts"], "argv": [script, data],
        "puts": [{"path": script, "mode": 0o755}, {"path": data}],
    });
    let (stdout, result) = send_request(&pair, &request.to_string(), &files);
    assert!(
        result.contains(r#""outcome":"exited""#) && result.contains(r#""code":0"#),
        "{result}"
    );
    assert!(stdout == large);
    assert!(!script.exists() && !data.exists());
}

#[test]
fn a_command_does_not_start_if_one_of_its_files_fails() {
    let pair = Pair::start();
    let ran = pair.dir().join("ran");
    let (good, bad) = (pair.dir().join("good"), pair.dir().join("no/such/directory"));
    let request = serde_json::json!({
        "v": 1, "op": "exec", "argv": ["touch", ran], "puts": [{"path": good}, {"path": bad}],
    });
    let files = [
        create_file(&pair.dir().join("a"), b"a"),
        create_file(&pair.dir().join("b"), b"b"),
    ];
    let (_, result) = send_request(&pair, &request.to_string(), &files);
    assert!(
        result.contains("failed") && result.contains("no/such/directory"),
        "{result}"
    );
    let (_, result) = send_request(&pair, &request.to_string(), &files[..1]);
    assert!(result.contains("no descriptor was passed"), "{result}");
    assert!(!ran.exists() && !good.exists());
}
