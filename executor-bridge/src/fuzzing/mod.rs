//! Checks of everything that reads bytes of others, for any bytes: no panic, no endless loop, and what each check says. The fuzzer of
//! `fuzz/` calls them with new inputs, the test below with the corpus. Nothing else calls them. `differential` compares some of the same
//! parsers with the programs whose part they take.

#[cfg(test)]
mod differential;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use bytes::BytesMut;
use podbridge_proto::limits::MAX_LOG_NAME;
use podbridge_proto::words::clean;

use crate::commands;
use crate::connections;
use crate::console;
use crate::kubectl_shim;
use crate::link;
use crate::pod;
use crate::protocol::frame::{Frame, FrameError};
use crate::protocol::request::{self, Request};
use crate::protocol::target::KeyedTarget;
use crate::session::{self, LogId};

/// Words that are separated by NUL.
pub fn shim_arguments(data: &[u8]) {
    let words: Vec<_> = data
        .split(|byte| *byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    kubectl_shim::check_arguments(&words);
}

pub fn console_request(data: &[u8]) {
    console::check_request(data);
}

/// The frames do not depend on how their bytes arrive, and encode to these bytes again.
pub fn client_frames(data: &[u8]) {
    let whole = frames([data]);
    for split in 0..data.len().min(64) {
        let (first, rest) = data.split_at(split);
        assert_eq!(frames([first, rest]), whole, "{split}");
    }
    if data.len() <= 256 {
        assert_eq!(frames(data.chunks(1)), whole);
    }
    let encoded: Vec<u8> = whole
        .0
        .into_iter()
        .flat_map(|frame| {
            let (header, payload) = frame.encode();
            [&header[..], &payload].concat()
        })
        .collect();
    // A flag is any byte but 0, so it may encode to another byte.
    assert!(
        encoded.len() <= data.len()
            && encoded.get(..5) == data.get(..encoded.len().min(5)).filter(|_| !encoded.is_empty())
    );
}

/// Returns the frames in bytes that arrive in these parts, and the error after them.
fn frames<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<FrameError>) {
    let (mut read, mut found) = (BytesMut::new(), Vec::new());
    for part in parts {
        read.extend_from_slice(part);
        loop {
            match Frame::decode(&mut read) {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

pub fn request_json(data: &[u8]) {
    let _ = request::takes_notices(data);
    if let Err(error) = Request::parse(data) {
        assert!(clean(&error.to_string()).len() <= 1024);
    }
}

/// A target that is read has the same key when it is read again, and shows no token.
pub fn target_json(data: &[u8]) {
    let Ok(keyed) = KeyedTarget::parse(data) else { return };
    let again = KeyedTarget::parse(data).expect("it was read before");
    assert_eq!(keyed.key, again.key);
    let token = keyed.target.token.as_deref().unwrap_or_default();
    let shown = format!("{:?} {}", keyed.target, keyed.target.public());
    // Short texts are everywhere.
    let others = String::from_utf8_lossy(data).matches(token).count();
    assert!(token.len() < 8 || others > 1 || !shown.contains(token));
}

/// A kubeconfig means one server or is refused with one line.
pub fn kubeconfig(data: &[u8]) {
    if let Err(failure) = pod::check_kubeconfig(data) {
        assert!(!failure.message.chars().any(char::is_control), "{failure}");
    }
}

pub fn exec_channels(data: &[u8]) {
    link::check_channels(data);
}

pub fn find_report(data: &[u8]) {
    link::check_report(data);
}

/// An agent's greeting, exit record or name of a log. The first byte chooses.
pub fn agent_answers(data: &[u8]) {
    let Some((kind, answer)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => connections::check_greeting(answer),
        1 => session::check_exit_record(answer),
        _ => {
            if let Some(id) = LogId::of_file(answer) {
                let path = id.path();
                let name = path.strip_prefix("/tmp/").expect("logs are in /tmp");
                assert!(!name.contains('/') && name.len() <= MAX_LOG_NAME, "{path:?}");
                assert!(!path.chars().any(char::is_control), "{path:?}");
            }
        }
    }
}

pub fn ssh_line(data: &[u8]) {
    commands::check_git_line(data);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    type Check = fn(&[u8]);

    /// Calls the check with each file of a target's corpus.
    fn replay(target: &str, check: impl Fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(target);
        let files = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
        let mut count = 0;
        for file in files {
            check(&fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{target} has no corpus");
    }

    #[test]
    fn the_corpus_is_replayed() {
        let targets: [(&str, Check); 10] = [
            ("shim_arguments", shim_arguments),
            ("console_request", console_request),
            ("client_frames", client_frames),
            ("request_json", request_json),
            ("target_json", target_json),
            ("kubeconfig", kubeconfig),
            ("exec_channels", exec_channels),
            ("find_report", find_report),
            ("ssh_line", ssh_line),
            ("agent_answers", agent_answers),
        ];
        for (target, check) in targets {
            replay(target, check);
        }
    }
}
