//! The command line of ssh. After the word `ssh` a single letter is ssh's option, as in OpenSSH (`-n`: no input), and a long option is
//! podbridge's. `normalize` turns the letters into one hidden long option before the command line is parsed; `Session` is their meaning.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::error::Failure;
use crate::protocol::byte_string::ByteString;

/// Letters of ssh's options that have a value (ssh.c of OpenSSH 9.9, getopt).
const WITH_VALUE: &[u8] = b"BbcDEeFIiJLlmOoPpQRSWw";
/// Letters that change nothing here: how ssh would connect, authenticate and log, and what it would forward if the server agreed.
const WITHOUT_EFFECT: &[u8] = b"12346aACgkKMqvxXyYBbcEeFIiJmPpS";
/// Letters, and options of `-o`, that ask for something else than one command; and what to do instead.
const REFUSED: [(&[&str], &str); 5] = [
    (
        &[
            "L",
            "R",
            "D",
            "W",
            "w",
            "localforward",
            "remoteforward",
            "dynamicforward",
            "tunnel",
        ],
        "no port is forwarded; use kubectl port-forward",
    ),
    (
        &["f", "forkafterauthentication"],
        "the command runs in the foreground; let your shell run it in the background",
    ),
    (
        &["N", "sessiontype", "remotecommand"],
        "a command is run; write it after POD",
    ),
    (
        &["s"],
        "a pod has no subsystems of ssh; write the program's command after POD",
    ),
    (
        &["O", "Q"],
        "there is no ssh to ask; use podbridge status and podbridge stop",
    ),
];

/// Rewrites the command line of `podbridge ssh` for the parser; returns every other command line as it is.
pub(in crate::commands) fn normalize(words: Vec<OsString>) -> Vec<OsString> {
    if !words.iter().any(|word| word == "ssh") {
        return words;
    }
    let with_value = long_options_with_value();
    let takes_next = |word: &[u8]| with_value.iter().any(|name| word == [b"--", name.as_bytes()].concat());
    let Some(subcommand) = subcommand(&words, takes_next).filter(|at| words[*at] == "ssh") else {
        return words;
    };
    let mut rest = words[subcommand + 1..].iter();
    let mut normalized = words[..=subcommand].to_vec();
    let mut host: Option<OsString> = None;
    let mut command = Vec::new();
    while let Some(word) = rest.next() {
        match word.as_bytes() {
            b"--" => {
                host = host.or_else(|| rest.next().cloned());
                command.extend(rest.cloned());
                break;
            }
            long if long.starts_with(b"--") => {
                normalized.push(word.clone());
                if takes_next(long) {
                    normalized.extend(rest.next().cloned());
                }
            }
            b"-h" => normalized.push("--help".into()),
            b"-V" => return vec![words[0].clone(), "--version".into()],
            [b'-', letters @ ..] if !letters.is_empty() => {
                for (at, letter) in letters.iter().enumerate() {
                    let mut option = b"--ssh-option=".to_vec();
                    option.push(*letter);
                    let has_value = WITH_VALUE.contains(letter);
                    if has_value && at + 1 < letters.len() {
                        option.extend(&letters[at + 1..]);
                    } else if has_value {
                        option.extend(rest.next().map(|next| next.as_bytes()).unwrap_or_default());
                    }
                    normalized.push(OsString::from_vec(option));
                    if has_value {
                        break;
                    }
                }
            }
            // As in ssh, options may also follow the host.
            _ if host.is_none() => host = Some(word.clone()),
            _ => {
                command.push(word.clone());
                command.extend(rest.cloned());
                break;
            }
        }
    }
    if let Some(host) = host {
        normalized.extend(["--".into(), host]);
        normalized.extend(command);
    }
    normalized
}

/// Returns the names of podbridge's long options that are followed by their value.
fn long_options_with_value() -> Vec<String> {
    let cli = Cli::command();
    let ssh = cli.find_subcommand("ssh").cloned().unwrap_or_default();
    let arguments = cli.get_arguments().chain(ssh.get_arguments());
    let with_value = arguments.filter(|argument| argument.get_action().takes_values());
    with_value
        .flat_map(|argument| {
            let aliases = argument.get_all_aliases().unwrap_or_default();
            argument.get_long().into_iter().chain(aliases).map(str::to_owned)
        })
        .collect()
}

/// Returns the index of the subcommand: the first word that is neither an option nor the value of one.
fn subcommand(words: &[OsString], takes_next: impl Fn(&[u8]) -> bool) -> Option<usize> {
    let mut at = 1;
    loop {
        match words.get(at)?.as_bytes() {
            b"-n" | b"-c" | b"-s" => at += 2,
            word if takes_next(word) => at += 2,
            [b'-', ..] => at += 1,
            _ => return Some(at),
        }
    }
}

/// Whether the command gets a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Terminal {
    #[default]
    Never,
    /// Only if standard input is one (`-t`).
    IfThereIsOne,
    /// `-tt`.
    Always,
}

/// What ssh's options ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) user: Option<String>,
    pub(super) terminal: Terminal,
    /// The command gets no input (`-n`).
    pub(super) no_stdin: bool,
    /// Messages of ssh are not printed (`-q`).
    pub(super) quiet: bool,
    /// `-G`: nothing is run.
    pub(super) prints_configuration: bool,
    pub(super) env: Vec<(ByteString, ByteString)>,
}

impl Session {
    /// Reads the options, each a letter with its value. `Err` names the option that cannot be had.
    pub(super) fn parse(options: &[OsString]) -> Result<Self, Failure> {
        let mut session = Self::default();
        // An option given by a letter counts more than the same one in -o, and of several -o the first one counts.
        let mut configured_terminal = None;
        let mut configured_user = None;
        let mut terminal = None;
        for option in options {
            let Some((letter, value)) = option.as_bytes().split_first() else {
                continue;
            };
            if WITH_VALUE.contains(letter) && value.is_empty() {
                return Err(Failure::usage(format!(
                    "the option -{} of ssh needs a value",
                    char::from(*letter)
                )));
            }
            match letter {
                b'l' => session.user = session.user.or_else(|| Some(text(value))),
                b't' => {
                    terminal = Some(match terminal {
                        Some(Terminal::IfThereIsOne | Terminal::Always) => Terminal::Always,
                        _ => Terminal::IfThereIsOne,
                    });
                }
                b'T' => terminal = Some(Terminal::Never),
                b'n' => session.no_stdin = true,
                b'q' => session.quiet = true,
                b'G' => session.prints_configuration = true,
                b'o' => {
                    let (name, value) = split_option(value);
                    match &name[..] {
                        "requesttty" => {
                            configured_terminal = configured_terminal.or(match &value[..] {
                                "yes" => Some(Terminal::IfThereIsOne),
                                "force" => Some(Terminal::Always),
                                _ => Some(Terminal::Never),
                            });
                        }
                        "user" => configured_user = configured_user.or(Some(value)),
                        "stdinnull" => session.no_stdin |= value == "yes",
                        "setenv" => session.env.extend(value.split_whitespace().filter_map(|pair| {
                            let (name, value) = pair.trim_matches('"').split_once('=')?;
                            Some((ByteString(name.into()), ByteString(value.into())))
                        })),
                        "sessiontype" if value != "default" => refuse(&name, &format!("-o {name}"))?,
                        _ if ["no", "none", "default"].contains(&&value.to_ascii_lowercase()[..]) => {}
                        _ => refuse(&name, &format!("-o {name}"))?,
                    }
                }
                _ if WITHOUT_EFFECT.contains(letter) => {}
                _ => {
                    let letter = char::from(*letter);
                    refuse(&letter.to_string(), &format!("-{letter}"))?;
                    return Err(Failure::usage(format!(
                        "ssh has no option -{letter}; see podbridge ssh --help"
                    )));
                }
            }
        }
        session.user = session.user.or(configured_user);
        session.terminal = terminal.or(configured_terminal).unwrap_or_default();
        Ok(session)
    }
}

/// Fails if podbridge cannot do what the option asks for.
fn refuse(name: &str, shown: &str) -> Result<(), Failure> {
    match REFUSED.iter().find(|(names, _)| names.contains(&name)) {
        Some((_, instead)) => Err(Failure::usage(format!("podbridge ssh cannot take {shown}: {instead}"))),
        None => Ok(()),
    }
}

/// Splits `Name=value` or `Name value` of a configuration file of ssh; the name in lower case.
fn split_option(option: &[u8]) -> (String, String) {
    let option = text(option);
    let option = option.trim();
    let at = option.find(|character: char| character == '=' || character.is_whitespace());
    let (name, value) = option.split_at(at.unwrap_or(option.len()));
    let value = value.trim_start_matches(|character: char| character == '=' || character.is_whitespace());
    (name.to_ascii_lowercase(), value.trim_matches('"').to_owned())
}

fn text(bytes: &[u8]) -> String {
    OsStr::from_bytes(bytes).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Command;

    /// Namespace, container, session, host and command.
    type Parsed = (Option<String>, Option<String>, Session, String, Vec<OsString>);

    fn parse(line: &str) -> Result<Parsed, String> {
        let words = line.split(' ').map(OsString::from).collect();
        let cli = Cli::try_parse_from(normalize(words)).map_err(|error| error.to_string())?;
        let Command::Ssh(ssh) = cli.command else {
            panic!("{line}: not ssh")
        };
        let session = Session::parse(&ssh.options).map_err(|failure| failure.message)?;
        Ok((
            cli.target.namespace,
            cli.target.container,
            session,
            ssh.host,
            ssh.command,
        ))
    }

    /// Fields of a session that differ from the default, for the table.
    fn session(change: impl FnOnce(&mut Session)) -> Session {
        let mut session = Session::default();
        change(&mut session);
        session
    }

    #[test]
    fn letters_after_ssh_are_those_of_openssh() {
        let force = |session: &mut Session| session.terminal = Terminal::Always;
        let terminal = |session: &mut Session| session.terminal = Terminal::IfThereIsOne;
        for (line, expected) in [
            ("podbridge ssh web id", session(|_| {})),
            ("podbridge ssh -n web id", session(|s| s.no_stdin = true)),
            ("podbridge ssh web -n id", session(|s| s.no_stdin = true)),
            ("podbridge ssh -o StdinNull=yes web id", session(|s| s.no_stdin = true)),
            ("podbridge ssh -A -T -x -C -4 web id", session(|_| {})),
            ("podbridge ssh -ATxq web id", session(|s| s.quiet = true)),
            (
                "podbridge ssh -c aes128-ctr -m hmac -p 22 -i key -F none web id",
                session(|_| {}),
            ),
            ("podbridge ssh -caes128-ctr -p22 web id", session(|_| {})),
            (
                "podbridge ssh -J jump -S none -oBatchMode=yes -o ControlMaster=no web id",
                session(|_| {}),
            ),
            (
                "podbridge ssh -l zuul web id",
                session(|s| s.user = Some("zuul".into())),
            ),
            (
                "podbridge ssh -o User=zuul web id",
                session(|s| s.user = Some("zuul".into())),
            ),
            (
                "podbridge ssh -o User=a -lzuul web id",
                session(|s| s.user = Some("zuul".into())),
            ),
            ("podbridge ssh -t web id", session(terminal)),
            ("podbridge ssh -tt web id", session(force)),
            ("podbridge ssh -t web -t id", session(force)),
            ("podbridge ssh -t -T web id", session(|_| {})),
            ("podbridge ssh -o RequestTTY=force web id", session(force)),
            ("podbridge ssh -T -o RequestTTY=force web id", session(|_| {})),
            (
                "podbridge ssh -o LocalForward=none -o Tunnel=no web id",
                session(|_| {}),
            ),
            (
                "podbridge ssh -o SetEnv=A=1 web id",
                session(|s| s.env = vec![(ByteString(b"A".to_vec()), ByteString(b"1".to_vec()))]),
            ),
        ] {
            let (namespace, container, found, host, command) = parse(line).unwrap();
            assert_eq!((found, &host[..]), (expected, "web"), "{line}");
            assert_eq!((namespace, container), (None, None), "{line}");
            assert_eq!(command, ["id"], "{line}");
        }
    }

    #[test]
    fn options_of_podbridge_are_long_after_ssh_and_any_before_it() {
        for line in [
            "podbridge -n ci -c main ssh -n web sh -n -c x",
            "podbridge --context x --namespace ci --container=main ssh web sh -n -c x",
            "podbridge ssh --namespace ci -n --container main web sh -n -c x",
            "podbridge ssh web --namespace=ci --container main sh -n -c x",
            "podbridge -c main ssh --namespace ci -- web sh -n -c x",
        ] {
            let (namespace, container, _, host, command) = parse(line).unwrap();
            assert_eq!(
                (namespace.as_deref(), container.as_deref(), &host[..]),
                (Some("ci"), Some("main"), "web"),
                "{line}"
            );
            assert_eq!(command, ["sh", "-n", "-c", "x"], "{line}");
        }
    }

    #[test]
    fn other_command_lines_stay_as_they_are() {
        for line in [
            "podbridge exec web -- ssh -n host",
            "podbridge -n ssh exec web -- true",
            "podbridge git push ssh",
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(normalize(words.clone()), words, "{line}");
        }
    }

    #[test]
    fn what_podbridge_cannot_do_is_refused_by_name() {
        for (line, word) in [
            ("podbridge ssh -L 1:a:2 web id", "-L"),
            ("podbridge ssh -D1080 web id", "-D"),
            ("podbridge ssh -W a:1 web id", "-W"),
            ("podbridge ssh -nfN web id", "-f"),
            ("podbridge ssh -N web id", "-N"),
            ("podbridge ssh -s web sftp", "-s"),
            ("podbridge ssh -O check web id", "-O"),
            ("podbridge ssh -o LocalForward=1:a:2 web id", "-o localforward"),
            ("podbridge ssh -o SessionType=none web id", "-o sessiontype"),
            ("podbridge ssh -o RemoteCommand=x web id", "-o remotecommand"),
            ("podbridge ssh -Z web id", "-Z"),
            ("podbridge ssh -o", "POD"),
        ] {
            let message = parse(line).unwrap_err();
            assert!(message.contains(word), "{line}: {message}");
        }
    }
}
