//! Which exec writes which log. Zuul puts the id of a task's log into the arguments of its `command` module. The
//! arguments travel as JSON in the payload, which is the exec's standard input or a file that was put before. `index`
//! uses it. No I/O.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use memchr::memmem;

use crate::session::logs::log_id::LogId;
use crate::session::logs::source::LogSource;

/// Most ended execs that are remembered. Zuul asks for a log before its task starts, or at the latest soon after its
/// end.
const MAX_ENDED: usize = 4096;
/// Most module files that are remembered. A module runs soon after it was put, unless its task ended before.
const MAX_MODULES: usize = 32;
/// Most ids that are read from one payload.
const MAX_IDS: usize = 16;
/// Longest id that is recognised, bytes.
const MAX_ID_LENGTH: usize = 512;

/// An exec whose payload carries a log id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogWriter {
    pub(crate) source: LogSource,
    pub(crate) ended: bool,
}

/// The known execs by the ids of their logs.
#[derive(Debug, Default)]
pub(crate) struct LogWriters {
    /// Source of each log, and the number of running execs that write it.
    known: HashMap<LogId, (LogSource, usize)>,
    /// Ids of ended execs, in the order of their ends.
    ended: VecDeque<LogId>,
    /// Module files with the ids in them, newest last. An exec that names such a file writes these logs.
    modules: VecDeque<(Vec<u8>, Vec<LogId>)>,
}

impl LogWriters {
    /// Notes that an exec with these ids starts.
    pub(crate) fn start(&mut self, source: &LogSource, ids: &[LogId]) {
        for id in ids {
            let (at, running) = self.known.entry(id.clone()).or_insert_with(|| (source.clone(), 0));
            *at = source.clone();
            *running += 1;
        }
    }

    /// Notes that an exec with these ids has ended.
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
        while self.ended.len() > MAX_ENDED {
            let Some(oldest) = self.ended.pop_front() else { return };
            // An exec that runs again is remembered until some time after its later end.
            if self.known.get(&oldest).is_some_and(|(_, running)| *running == 0) && !self.ended.contains(&oldest) {
                self.known.remove(&oldest);
            }
        }
    }

    /// Notes the ids in a module file.
    pub(crate) fn note_module(&mut self, path: &[u8], ids: Vec<LogId>) {
        if self.modules.len() == MAX_MODULES {
            self.modules.pop_front();
        }
        self.modules.push_back((path.to_owned(), ids));
    }

    /// Returns the ids in the module files that a command line passes to Python. Ansible also names a module file in
    /// other commands, before it runs it.
    pub(crate) fn ids_of_command(&self, argv: &[Bytes]) -> Vec<LogId> {
        let run = |path: &[u8]| {
            argv.iter()
                .any(|word| memmem::find_iter(word, path).any(|at| is_python(&word[..at])))
        };
        let files = self.modules.iter().filter(|(path, _)| run(path));
        files.flat_map(|(_, ids)| ids.clone()).collect()
    }

    pub(crate) fn get(&self, id: &LogId) -> Option<LogWriter> {
        self.known.get(id).map(|(source, running)| LogWriter {
            source: source.clone(),
            ended: *running == 0,
        })
    }
}

/// Returns whether the last word before a path is a Python interpreter.
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

/// Returns the log ids in a payload. The arguments are JSON, or JSON inside a Python string, so quotes may be escaped.
pub(crate) fn find_ids(payload: &[u8]) -> Vec<LogId> {
    const KEY: &[u8] = b"zuul_log_id";
    let mut ids = Vec::new();
    for at in memmem::find_iter(payload, KEY).take(MAX_IDS) {
        if let Some(id) = id_after_key(&payload[at + KEY.len()..])
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    ids
}

/// Returns the text between the next quotes after `": "`.
fn id_after_key(rest: &[u8]) -> Option<LogId> {
    let syntax = |byte: &u8| matches!(byte, b'"' | b'\\' | b':' | b' ');
    let from = rest
        .iter()
        .position(|byte| !syntax(byte))
        .filter(|from| (3..12).contains(from))?;
    let rest = &rest[from..];
    let length = rest
        .iter()
        .take(MAX_ID_LENGTH)
        .position(|byte| matches!(byte, b'"' | b'\\'))?;
    LogId::new(std::str::from_utf8(&rest[..length]).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(payload: &str) -> Vec<String> {
        find_ids(payload.as_bytes())
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
        let mut writers = LogWriters::default();
        let id = LogId::new("a").unwrap();
        for n in 0..MAX_MODULES {
            writers.note_module(format!("/tmp/{n}/AnsiballZ_command.py").as_bytes(), vec![id.clone()]);
        }
        let argv = |n: usize| {
            [
                "sh".into(),
                "-c".into(),
                format!("python3 /tmp/{n}/AnsiballZ_command.py && sleep 0").into(),
            ]
        };
        assert_eq!(writers.ids_of_command(&argv(0)), std::slice::from_ref(&id));
        assert_eq!(writers.ids_of_command(&argv(MAX_MODULES)), []);
        let chmod = ["chmod u+rwx /tmp/0/ /tmp/0/AnsiballZ_command.py".into()];
        assert_eq!(writers.ids_of_command(&chmod), []);
        writers.note_module(b"/tmp/x", vec![id]);
        assert_eq!(writers.ids_of_command(&argv(0)), []);
    }

    #[test]
    fn the_oldest_ended_execs_are_forgotten() {
        let mut writers = LogWriters::default();
        let id = |n: usize| LogId::new(&n.to_string()).unwrap();
        let source = LogSource::Container(None);
        writers.start(&source, &[LogId::new("running").unwrap()]);
        for n in 0..MAX_ENDED + 10 {
            writers.start(&source, &[id(n)]);
            writers.end(&[id(n)]);
        }
        assert_eq!(writers.known.len(), MAX_ENDED + 1);
        assert_eq!(writers.get(&id(9)), None);
        assert!(writers.get(&id(10)).unwrap().ended);
        assert!(!writers.get(&LogId::new("running").unwrap()).unwrap().ended);
    }
}
