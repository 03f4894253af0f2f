//! Command lines for a remote shell, compared with what `sh` makes of them: those of git, and the escaped words of rsync.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::process::Command;

use super::Chance;
use crate::commands;

/// Returns the words that the shell makes of a line. No program runs: PATH is empty, and the line is only split into words.
fn words_of_shell(line: &[u8]) -> Vec<Vec<u8>> {
    let script = [b"set -- ", line, b"\nprintf '%s\\0' \"$@\""].concat();
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(OsStr::from_bytes(&script));
    // Nothing in this directory has a name that a pattern could match.
    let output = shell.current_dir("/proc/self/ns").env_clear().output().unwrap();
    let (text, about) = (output.stdout, String::from_utf8_lossy(line));
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{about}: {:?}",
        output.stderr
    );
    let mut words: Vec<_> = text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    words.pop();
    words
}

/// Checks a line that podbridge takes for one of git; returns whether it does.
fn check_git_line(line: &[u8]) -> bool {
    let Some(service) = commands::check_git_line(line) else {
        return false;
    };
    // No line of a shell has a NUL. The agent expands a home directory itself, as git does.
    if line.contains(&0) || service.path.starts_with(b"~") {
        return true;
    }
    let name = service.name.as_bytes();
    let path = service.path;
    let expected = if line.starts_with(b"git ") {
        vec![b"git".to_vec(), name.to_vec(), path]
    } else {
        vec![[b"git-", name].concat(), path]
    };
    assert_eq!(words_of_shell(line), expected, "{}", String::from_utf8_lossy(line));
    true
}

const PARTS: &[&str] = &[
    "'", "'", "\"", "\\", "\\", " ", "~", "$", "`", "*", "?", "[", "]", "!", "#", "&", ";", "|", "<", ">", "(", ")",
    "{", "}", "=", "%", "^", ",", ":", "@", "+", "-", ".", "/", "a", "b/c", "ż", "\n", "\t", "\r", "\x01", "\x7f",
    "$HOME", "'\\''", "'\\!'", "{a,b}", "\\\n", "''",
];

#[test]
fn lines_of_git_mean_for_a_shell_what_they_mean_here() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/ssh_line");
    for file in fs::read_dir(corpus).unwrap() {
        check_git_line(&fs::read(file.unwrap().path()).unwrap());
    }
    let mut chance = Chance::new(3000);
    let mut served = 0;
    for _ in 0..chance.cases {
        let git = chance.one_of(&["git-", "git ", "git- ", "git  "]);
        let service = chance.one_of(&[
            "receive-pack",
            "upload-pack",
            "upload-archive",
            "'upload-pack'",
            "status",
        ]);
        let space = chance.one_of(&[" ", " ", " ", "  ", "\t", ""]);
        let quote = chance.one_of(&["'", ""]);
        let path = chance.joined(PARTS, 4);
        served += usize::from(check_git_line(
            format!("{git}{service}{space}{quote}{path}{quote}").as_bytes(),
        ));
    }
    assert!(
        served > chance.cases / 50,
        "{served} of {} lines were taken for git's",
        chance.cases
    );
}

/// git puts a path between apostrophes, and escapes apostrophes and exclamation marks.
#[test]
fn every_path_that_git_quotes_is_understood() {
    let mut chance = Chance::new(3000);
    for _ in 0..chance.cases {
        let path = format!("/{}", chance.joined(PARTS, 8));
        let quoted = path.replace('\'', "'\\''").replace('!', "'\\!'");
        let line = format!("git-upload-pack '{quoted}'");
        let service = commands::check_git_line(line.as_bytes()).unwrap_or_else(|| panic!("{line:?}"));
        assert_eq!(service.path, path.as_bytes(), "{line:?}");
    }
}

#[test]
fn escaped_words_mean_for_a_shell_what_they_mean_here() {
    let mut chance = Chance::new(3000);
    let mut unescaped = 0;
    for _ in 0..chance.cases {
        let words: Vec<OsString> = (0..chance.rng.usize(1..4))
            .map(|_| {
                let word = chance.joined(PARTS, 3);
                // As rsync escapes its arguments.
                let escape = chance.once_in(2);
                let bytes = word.bytes().flat_map(|byte| {
                    let escaped = escape && b" \t*?[]'\"$`\\!#&;|<>(){}~".contains(&byte);
                    escaped.then_some(b'\\').into_iter().chain([byte])
                });
                OsString::from_vec(bytes.collect())
            })
            .collect();
        let Some(found) = commands::words_without_shell(&words) else {
            continue;
        };
        unescaped += 1;
        let line = words.join(OsStr::new(" ")).into_vec();
        let found: Vec<_> = found.into_iter().map(|word| word.0).collect();
        assert_eq!(found, words_of_shell(&line), "{words:?}");
    }
    assert!(
        unescaped > chance.cases / 20,
        "{unescaped} of {} lines need no shell",
        chance.cases
    );
}
