//! Recognises the commands that Ansible runs its Python modules with, and derives the command of the warm interpreter. Pure: it looks at
//! no file. `mod.rs` calls it for every exec.

use std::ffi::CString;

use super::super::{Command, StdinMode};

/// Text near the start of every module that Ansible sends.
const MODULE_SIGN: &[u8] = b"_ANSIBALLZ_WRAPPER = True";
/// Most bytes of a module before that text.
const SIGN_WITHIN: usize = 1024;
/// Variables that make Python or the shell do something of its own at every start, such as writing to stderr.
const START_VARIABLES: &[&[u8]] = &[
    b"BASH_ENV",
    b"ENV",
    b"PYTHONASYNCIODEBUG",
    b"PYTHONDEBUG",
    b"PYTHONDEVMODE",
    b"PYTHONDUMPREFS",
    b"PYTHONDUMPREFSFILE",
    b"PYTHONFAULTHANDLER",
    b"PYTHONINSPECT",
    b"PYTHONMALLOC",
    b"PYTHONMALLOCSTATS",
    b"PYTHONPERFSUPPORT",
    b"PYTHONPROFILEIMPORTTIME",
    b"PYTHONTRACEMALLOC",
    b"PYTHONVERBOSE",
    b"PYTHONWARNINGS",
    b"PYTHON_PERF_JIT_SUPPORT",
    b"PYTHON_PRESITE",
];

/// The command of an Ansible module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// The command of the interpreter: the same, without the file of the module.
    pub(super) argv: Vec<CString>,
    /// Path of the interpreter, as the command names it.
    pub(super) python: Vec<u8>,
    /// The shells that the command names.
    pub(super) shells: [Vec<u8>; 2],
    /// File of the module; `None`: the module is on standard input.
    pub(super) script: Option<CString>,
}

/// Returns the form of the command. `Err(None)`: it runs no module of Ansible; else the reason why the form is of no use.
pub(super) fn recognise(command: &Command) -> Result<Form, Option<&'static str>> {
    let on_stdin = match &command.stdin {
        StdinMode::Inline(module) => has_sign(module),
        StdinMode::Null | StdinMode::Stream => false,
    };
    let [shell, option, line] = &command.argv[..] else {
        return Err(None);
    };
    let line = line.as_bytes();
    if option.as_bytes() != b"-c" || !on_stdin && !contains(line, b"/AnsiballZ_") {
        return Err(None);
    }
    let other = Err(Some(
        "the command is no plain call of a Python interpreter, as with become or async",
    ));
    let Some([inner_shell, inner_option, script]) = words(line).and_then(|words| <[_; 3]>::try_from(words).ok()) else {
        return other;
    };
    let absolute = |path: &[u8]| path.first() == Some(&b'/');
    if inner_option != b"-c" || !absolute(shell.as_bytes()) || !absolute(&inner_shell) {
        return other;
    }
    let Some(call) = words(&script) else { return other };
    let first = call.iter().take_while(|word| assigned_name(word).is_some()).count();
    let (assignments, call) = call.split_at(first);
    // ansible-core 2.18 and older add a pause that takes no time.
    let call = match call {
        [call @ .., and, sleep, zero] if (&and[..], &sleep[..], &zero[..]) == (b"&&", b"sleep", b"0") => call,
        call => call,
    };
    let (python, module) = match call {
        [python] => (python, None),
        [python, module] => (python, Some(module)),
        _ => return other,
    };
    if !absolute(python) || module.is_some() == on_stdin || module.is_some_and(|path| !is_copied_module(path)) {
        return other;
    }
    if command.pty.is_some() || command.agent_program || command.cwd.is_some() {
        return Err(Some("the command has a terminal or a working directory of its own"));
    }
    if assignments
        .iter()
        .filter_map(|word| assigned_name(word))
        .any(is_start_variable)
    {
        return Err(Some("a variable of the environment changes how Python starts"));
    }
    let argv = match module {
        None => command.argv.clone(),
        Some(module) => {
            let Some(script) = without(&script, module) else {
                return other;
            };
            let line = [&inner_shell, &b" -c "[..], &quoted(&script)].concat();
            let Ok(line) = CString::new(line) else { return other };
            vec![shell.clone(), option.clone(), line]
        }
    };
    Ok(Form {
        argv,
        python: python.clone(),
        shells: [shell.as_bytes().to_vec(), inner_shell],
        script: module.and_then(|path| CString::new(path.clone()).ok()),
    })
}

/// Tells whether a variable with this name changes how a shell or Python starts.
pub(super) fn is_start_variable(name: &[u8]) -> bool {
    START_VARIABLES.contains(&name)
}

fn has_sign(module: &[u8]) -> bool {
    module.starts_with(b"#!") && contains(&module[..module.len().min(SIGN_WITHIN)], MODULE_SIGN)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Returns whether the path is one of the files that Ansible copies its modules to.
fn is_copied_module(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    path.first() == Some(&b'/')
        && path.iter().all(|byte| is_plain(*byte) && *byte != b'=')
        && name.starts_with(b"AnsiballZ_")
        && name.ends_with(b".py")
}

/// Returns the name that a word assigns a value to; `None`: it is no assignment.
fn assigned_name(word: &[u8]) -> Option<&[u8]> {
    let end = word.iter().position(|byte| *byte == b'=')?;
    let name = &word[..end];
    let valid = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    (valid && name.first().is_some_and(|byte| !byte.is_ascii_digit())).then_some(name)
}

/// Returns the command line without the word `module`, which has no special character.
fn without(line: &[u8], module: &[u8]) -> Option<Vec<u8>> {
    let word = [b" ", module].concat();
    let begin = line.windows(word.len()).position(|window| window == word)?;
    Some([&line[..begin], &line[begin + word.len()..]].concat())
}

/// Returns a word in the quotes that Python's `shlex.quote` gives it.
fn quoted(word: &[u8]) -> Vec<u8> {
    if word.iter().all(|byte| is_plain(*byte)) {
        return word.to_vec();
    }
    let mut quoted = vec![b'\''];
    for byte in word {
        match byte {
            b'\'' => quoted.extend(b"'\"'\"'"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Tells whether a byte means itself, in every shell and outside of quotes.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte)
}

/// Splits a command line as a shell does. `None`: it has more than plain words, quoted words and `&&`.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut rest = line;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b' ' => words.extend(word.take()),
            b'&' if word.is_none() && rest.starts_with(b"& ") => {
                words.push(b"&&".to_vec());
                rest = &rest[1..];
            }
            b'\'' | b'"' => {
                let end = rest.iter().position(|end| end == byte)?;
                let text = &rest[..end];
                // A shell looks for these inside of double quotes.
                if *byte == b'"' && text.iter().any(|byte| b"$`\\!".contains(byte)) {
                    return None;
                }
                word.get_or_insert_default().extend(text);
                rest = &rest[end + 1..];
            }
            plain if is_plain(*plain) => word.get_or_insert_default().push(*plain),
            _ => return None,
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::exec::{Digest, ExecId, OnDisconnect, Overflow};

    const MODULE: &[u8] = b"#!/usr/bin/python3\n# -*- coding: utf-8 -*-\n_ANSIBALLZ_WRAPPER = True\n";

    fn command(argv: &[&str], stdin: StdinMode) -> Command {
        Command {
            id: ExecId([0; 16]),
            digest: Digest([0; 32]),
            argv: argv.iter().map(|word| CString::new(*word).unwrap()).collect(),
            agent_program: false,
            env: Vec::new(),
            cwd: None,
            user: None,
            pty: None,
            stdin,
            timeout: None,
            kill_grace: Duration::ZERO,
            on_disconnect: OnDisconnect::Lease,
            lease: Duration::ZERO,
            overflow: Overflow::Block,
            session: Vec::new(),
            cold_python: false,
        }
    }

    fn shell(line: &str, stdin: &'static [u8]) -> Result<Form, Option<&'static str>> {
        let stdin = if stdin.is_empty() {
            StdinMode::Null
        } else {
            StdinMode::Inline(Bytes::from_static(stdin))
        };
        recognise(&command(&["/bin/sh", "-c", line], stdin))
    }

    #[test]
    fn the_commands_of_modules_are_recognised() {
        for (line, stdin, python, own_line) in [
            (
                "/bin/sh -c '/usr/bin/python3 && sleep 0'",
                MODULE,
                "/usr/bin/python3",
                None,
            ),
            (
                "/bin/bash -c '/opt/venv/bin/python && sleep 0'",
                MODULE,
                "/opt/venv/bin/python",
                None,
            ),
            (
                "/bin/sh -c 'A=b LANG='\"'\"'a b'\"'\"' /usr/bin/python3.11 && sleep 0'",
                MODULE,
                "/usr/bin/python3.11",
                None,
            ),
            (
                "/bin/sh -c '/usr/bin/python3 /root/.ansible/tmp/ansible-tmp-1.5-2-3/AnsiballZ_ping.py && sleep 0'",
                b"",
                "/usr/bin/python3",
                Some("/bin/sh -c '/usr/bin/python3 && sleep 0'"),
            ),
            (
                "/bin/sh -c 'A='\"'\"'b c'\"'\"' /usr/bin/python3 /tmp/AnsiballZ_ping.py && sleep 0'",
                b"",
                "/usr/bin/python3",
                Some("/bin/sh -c 'A='\"'\"'b c'\"'\"' /usr/bin/python3 && sleep 0'"),
            ),
        ] {
            let form = shell(line, stdin).expect(line);
            assert_eq!(form.python, python.as_bytes());
            assert_eq!(form.script.is_some(), stdin.is_empty());
            assert_eq!(form.argv[2].to_str().unwrap(), own_line.unwrap_or(line));
        }
    }

    #[test]
    fn the_commands_of_newer_cores_are_recognised() {
        let line = "/bin/sh -c /usr/bin/python3";
        let form = shell(line, MODULE).unwrap();
        assert_eq!((form.argv[2].to_str().unwrap(), form.script), (line, None));
        let form = shell("/bin/sh -c '/usr/bin/python3 /tmp/AnsiballZ_ping.py'", b"").unwrap();
        assert_eq!(form.argv[2].to_str().unwrap(), line);
        assert_eq!(form.script.unwrap().to_str().unwrap(), "/tmp/AnsiballZ_ping.py");
    }

    #[test]
    fn other_commands_run_as_they_are() {
        // The last column tells whether they run a module, so that the reason is of interest.
        for (line, stdin, is_module) in [
            ("/bin/sh -c 'echo ~root && sleep 0'", &b""[..], false),
            ("/bin/sh -c '/usr/bin/python3 && sleep 0'", b"print(1)", false),
            ("/bin/sh -c '/usr/bin/python3 && sleep 0'", b"", false),
            ("/usr/bin/python3", MODULE, true),
            (
                "/bin/sh -c 'sudo -n /bin/sh -c '\"'\"'echo A ; /usr/bin/python3'\"'\"' && sleep 0'",
                MODULE,
                true,
            ),
            ("/bin/sh -c '/usr/bin/python3 -v && sleep 0'", MODULE, true),
            ("/bin/sh -c '/usr/bin/env python3 && sleep 0'", MODULE, true),
            ("/bin/sh -c 'python3 && sleep 0'", MODULE, true),
            ("/bin/sh -c '$PYTHON && sleep 0'", MODULE, true),
            ("/bin/sh -c '/usr/bin/python3 && sleep 1'", MODULE, true),
            ("/bin/sh -c '/usr/bin/python3 ; sleep 0'", MODULE, true),
            ("/bin/sh -c '/usr/bin/python3 > /tmp/x && sleep 0'", MODULE, true),
            ("/bin/sh -c 'A=\"$(id)\" /usr/bin/python3 && sleep 0'", MODULE, true),
            ("/bin/sh -c 'PYTHONVERBOSE=1 /usr/bin/python3 && sleep 0'", MODULE, true),
            (
                "/bin/sh -c '/usr/bin/python3 /tmp/AnsiballZ_ping.py && sleep 0'",
                MODULE,
                true,
            ),
            (
                "/bin/sh -c '/usr/bin/python3 /tmp/AnsiballZ_ping.py explode && sleep 0'",
                b"",
                true,
            ),
            (
                "/bin/sh -c '/usr/bin/python3 /t/async_wrapper.py j1 9 /t/AnsiballZ_ping.py _ && sleep 0'",
                b"",
                true,
            ),
            ("/bin/sh -c 'rm -f /tmp/AnsiballZ_ping.py && sleep 0'", b"", true),
        ] {
            let refused = shell(line, stdin).expect_err(line);
            assert_eq!(refused.is_some(), is_module, "{line}");
        }
    }
}
