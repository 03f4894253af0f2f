//! Which execs were given which log id. Zuul puts the id of a task's log into the arguments of its `command` module, and
//! those travel, as JSON, in the payload that is the exec's standard input.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use memchr::memmem;

use crate::session::logs::log_id::LogId;
use crate::session::logs::source::Source;

/// Ended ones that are remembered: Zuul asks for a log before the task begins, and again soon after its end at the latest.
const REMEMBERED: usize = 4096;
/// Files that are remembered: a module is run soon after it was put, unless its task ended before.
const FILES: usize = 32;
/// More in one payload are not ours to know.
const IDS: usize = 16;
/// Longest id that is looked for, bytes.
const LONGEST: usize = 512;

/// An exec whose payload carried a log id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) source: Source,
    pub(crate) ended: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Runs {
    known: HashMap<LogId, (Source, usize)>,
    /// In the order in which they ended.
    ended: VecDeque<LogId>,
    /// Modules that were put into a file, the newest last: an exec that names it will write those logs.
    files: VecDeque<(Vec<u8>, Vec<LogId>)>,
}

impl Runs {
    pub(crate) fn begin(&mut self, source: &Source, ids: &[LogId]) {
        for id in ids {
            let (at, running) = self.known.entry(id.clone()).or_insert_with(|| (source.clone(), 0));
            *at = source.clone();
            *running += 1;
        }
    }

    pub(crate) fn end(&mut self, ids: &[LogId]) {
        for id in ids {
            let Some((_, running)) = self.known.get_mut(id) else {
                continue;
            };
            *running -= 1;
            if *running == 0 {
                self.ended.push_back(id.clone());
            }
        }
        while self.ended.len() > REMEMBERED {
            let Some(oldest) = self.ended.pop_front() else { return };
            // One that runs again is remembered for its later end.
            if self.known.get(&oldest).is_some_and(|(_, running)| *running == 0) && !self.ended.contains(&oldest) {
                self.known.remove(&oldest);
            }
        }
    }

    pub(crate) fn remember(&mut self, path: &[u8], ids: Vec<LogId>) {
        if self.files.len() == FILES {
            self.files.pop_front();
        }
        self.files.push_back((path.to_owned(), ids));
    }

    /// The ids in the files that a command line gives to Python. Ansible names a file in others too, before it runs it.
    pub(crate) fn of_command(&self, argv: &[Bytes]) -> Vec<LogId> {
        let run = |path: &[u8]| {
            argv.iter()
                .any(|word| memmem::find_iter(word, path).any(|at| is_python(&word[..at])))
        };
        let files = self.files.iter().filter(|(path, _)| run(path));
        files.flat_map(|(_, ids)| ids.clone()).collect()
    }

    pub(crate) fn get(&self, id: &LogId) -> Option<Run> {
        self.known.get(id).map(|(source, running)| Run {
            source: source.clone(),
            ended: *running == 0,
        })
    }
}

/// Whether the last word is an interpreter of Python.
fn is_python(before: &[u8]) -> bool {
    let Some(before) = before.strip_suffix(b" ") else {
        return false;
    };
    let word = before
        .rsplit(|byte| byte.is_ascii_whitespace())
        .next()
        .unwrap_or_default();
    memmem::find(word, b"python").is_some()
}

/// The log ids in a payload. The arguments stand in it as JSON or as a Python literal of JSON: quotes may be escaped.
pub(crate) fn ids(payload: &[u8]) -> Vec<LogId> {
    const KEY: &[u8] = b"zuul_log_id";
    let mut ids = Vec::new();
    for at in memmem::find_iter(payload, KEY).take(IDS) {
        if let Some(id) = value(&payload[at + KEY.len()..])
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    ids
}

/// What is between the next quotes, after `": "`.
fn value(rest: &[u8]) -> Option<LogId> {
    let syntax = |byte: &u8| matches!(byte, b'"' | b'\\' | b':' | b' ');
    let from = rest
        .iter()
        .position(|byte| !syntax(byte))
        .filter(|from| (3..12).contains(from))?;
    let rest = &rest[from..];
    let length = rest
        .iter()
        .take(LONGEST)
        .position(|byte| matches!(byte, b'"' | b'\\'))?;
    LogId::new(std::str::from_utf8(&rest[..length]).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(payload: &str) -> Vec<String> {
        ids(payload.as_bytes())
            .iter()
            .map(|id| id.as_str().to_owned())
            .collect()
    }

    #[test]
    fn ids_are_found_in_payloads() {
        assert_eq!(
            texts(r#"ANSIBALLZ_PARAMS = '{"ANSIBLE_MODULE_ARGS": {"zuul_log_id": "u-1-node", "x": 1}}'"#),
            ["u-1-node"]
        );
        assert_eq!(texts(r#"P = "{\"A\": {\"zuul_log_id\": \"u-1-node\"}}""#), ["u-1-node"]);
        assert_eq!(
            texts(r#"{"zuul_log_id":"a"} {"zuul_log_id":"b"} {"zuul_log_id":"a"}"#),
            ["a", "b"]
        );
        assert_eq!(texts(r#"zuul_log_id = dict(type='str')"#), Vec::<String>::new());
        assert_eq!(texts(r#"{"zuul_log_id": null}"#), Vec::<String>::new());
        assert_eq!(texts("zuul_log_id"), Vec::<String>::new());
    }

    #[test]
    fn a_command_that_names_a_module_writes_its_logs() {
        let mut runs = Runs::default();
        let id = LogId::new("a").unwrap();
        for n in 0..FILES {
            runs.remember(format!("/tmp/{n}/AnsiballZ_command.py").as_bytes(), vec![id.clone()]);
        }
        let argv = |n: usize| {
            [
                "sh".into(),
                "-c".into(),
                format!("python3 /tmp/{n}/AnsiballZ_command.py && sleep 0").into(),
            ]
        };
        assert_eq!(runs.of_command(&argv(0)), std::slice::from_ref(&id));
        assert_eq!(runs.of_command(&argv(FILES)), []);
        let chmod = ["chmod u+rwx /tmp/0/ /tmp/0/AnsiballZ_command.py".into()];
        assert_eq!(runs.of_command(&chmod), []);
        runs.remember(b"/tmp/x", vec![id]);
        assert_eq!(runs.of_command(&argv(0)), []);
    }

    #[test]
    fn the_oldest_ended_are_forgotten() {
        let mut runs = Runs::default();
        let id = |n: usize| LogId::new(&n.to_string()).unwrap();
        let source = Source::Container(None);
        runs.begin(&source, &[LogId::new("running").unwrap()]);
        for n in 0..REMEMBERED + 10 {
            runs.begin(&source, &[id(n)]);
            runs.end(&[id(n)]);
        }
        assert_eq!(runs.known.len(), REMEMBERED + 1);
        assert_eq!(runs.get(&id(9)), None);
        assert!(runs.get(&id(10)).unwrap().ended);
        assert!(!runs.get(&LogId::new("running").unwrap()).unwrap().ended);
    }
}
