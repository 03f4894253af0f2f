//! kubectl's options in a target's `extra_args`: the global ones and those of `kubectl exec`. Parses the options that change the
//! connection, ignores the harmless ones and refuses all others by name: an option that is dropped in silence could mean another cluster.
//! Only `pod` uses it.

use std::time::Duration;

use crate::error::Failure;

const INSECURE: &str = "--insecure-skip-tls-verify";
/// Options without a value.
const SWITCHES: &[&str] = &[
    INSECURE,
    "--disable-compression",
    "--match-server-version",
    "--warnings-as-errors",
    // Of `kubectl exec`; a request says itself what its streams are.
    "--stdin",
    "--tty",
    "--quiet",
    "-i",
    "-t",
    "-q",
];

/// Values of the options; `None` means that an option is not given.
#[derive(Default, PartialEq)]
pub(super) struct Flags {
    pub(super) kubeconfig: Option<String>,
    pub(super) context: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) user: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) server: Option<String>,
    pub(super) token: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) client_certificate: Option<String>,
    pub(super) client_key: Option<String>,
    pub(super) certificate_authority: Option<String>,
    pub(super) tls_server_name: Option<String>,
    pub(super) insecure: Option<bool>,
    pub(super) impersonate: Option<String>,
    pub(super) impersonate_uid: Option<String>,
    pub(super) impersonate_groups: Vec<String>,
    /// `None` leaves the bridge's own limit.
    pub(super) request_timeout: Option<Duration>,
}

impl Flags {
    /// Parses the words of `extra_args`; the error names the option that is not understood.
    pub(super) fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut flags = Self::default();
        let mut rest = arguments.iter().filter(|argument| !argument.is_empty());
        while let Some(argument) = rest.next() {
            let (name, mut value) = split(argument)?;
            if SWITCHES.contains(&name) {
                let on = match value {
                    None => true,
                    Some(value) => go_bool(value)
                        .ok_or_else(|| Failure::usage(format!("the option {name} is either true or false")))?,
                };
                if name == INSECURE {
                    flags.insecure = Some(on);
                }
                continue;
            }
            if value.is_none() {
                value = rest.next().map(String::as_str);
            }
            let value = value.ok_or_else(|| Failure::usage(format!("the option {name} needs a value")))?;
            flags.set(name, value)?;
        }
        Ok(flags)
    }

    /// Stores the value of an option that takes one.
    fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let field = match name {
            "--kubeconfig" => &mut self.kubeconfig,
            "--context" => &mut self.context,
            "--cluster" => &mut self.cluster,
            "--user" => &mut self.user,
            "-n" | "--namespace" => &mut self.namespace,
            "-s" | "--server" => &mut self.server,
            "--token" => &mut self.token,
            "--username" => &mut self.username,
            "--password" => &mut self.password,
            "--client-certificate" => &mut self.client_certificate,
            "--client-key" => &mut self.client_key,
            "--certificate-authority" => &mut self.certificate_authority,
            "--tls-server-name" => &mut self.tls_server_name,
            "--as" => &mut self.impersonate,
            "--as-uid" => &mut self.impersonate_uid,
            "--as-group" => {
                self.impersonate_groups.push(value.to_owned());
                return Ok(());
            }
            "--request-timeout" => {
                let timeout = duration(value)
                    .ok_or_else(|| Failure::usage(format!("--request-timeout {value:?} is no duration such as 10s")))?;
                self.request_timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
                return Ok(());
            }
            // The bridge waits for the pod for its own connect timeout.
            "--pod-running-timeout" => {
                return match duration(value) {
                    Some(_) => Ok(()),
                    None => Err(Failure::usage(format!(
                        "--pod-running-timeout {value:?} is no duration such as 2m"
                    ))),
                };
            }
            "-c" | "--container" => {
                return Err(Failure::usage(
                    "extra_args names a container, which belongs into the request: the Ansible plugin puts it there",
                ));
            }
            "-v"
            | "--v"
            | "--vmodule"
            | "--log-flush-frequency"
            | "--cache-dir"
            | "--kuberc"
            | "--profile"
            | "--profile-output" => return Ok(()),
            _ => {
                return Err(Failure::usage(format!(
                    "unknown flag in extra_args: {name}; kubectl's global options and those of kubectl exec are known"
                )));
            }
        };
        *field = Some(value.to_owned());
        Ok(())
    }
}

/// Returns name and value of `--name`, `--name=value`, `-n`, `-nvalue`, `-n=value`.
fn split(argument: &str) -> Result<(&str, Option<&str>), Failure> {
    if let Some(long) = argument.strip_prefix("--").filter(|long| !long.is_empty()) {
        return Ok(match long.find('=') {
            Some(at) => (&argument[..at + 2], Some(&long[at + 1..])),
            None => (argument, None),
        });
    }
    let mut letters = argument.char_indices().skip(2).map(|(at, _)| at);
    match argument.strip_prefix('-') {
        Some(short) if short.starts_with(|letter: char| letter.is_ascii_alphabetic()) => Ok(match letters.next() {
            Some(at) => (&argument[..at], Some(argument[at..].trim_start_matches('='))),
            None => (argument, None),
        }),
        // The message does not show the word: it may be the value of a mistyped option, such as a token.
        _ => Err(Failure::usage("extra_args holds a word that is no option")),
    }
}

/// Reads a boolean as Go's `strconv.ParseBool` does.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads a duration as kubectl does: Go's form, or a plain number of seconds.
fn duration(mut text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut sum = Duration::ZERO;
    while !text.is_empty() {
        let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
        let number: u64 = text[..digits].parse().ok()?;
        let rest = &text[digits..];
        let unit = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let milliseconds = match &rest[..unit] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        sum = sum.checked_add(Duration::from_millis(number.checked_mul(milliseconds)?))?;
        text = &rest[unit..];
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Flags, Failure> {
        Flags::parse(
            &arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn all_forms_that_kubectl_takes_are_understood() {
        let arguments = [
            "--as=ci",
            "--as-group",
            "a",
            "--as-group=b",
            "-nx",
            "-s=https://h",
            "--insecure-skip-tls-verify",
            "",
            "-v",
            "6",
            "--request-timeout=1m60s",
            "--pod-running-timeout=2m",
            "--stdin=true",
            "--quiet",
            "--cache-dir=/c",
        ];
        let flags = parse(&arguments).unwrap();
        assert_eq!(flags.impersonate.as_deref(), Some("ci"));
        assert_eq!(flags.impersonate_groups, ["a", "b"]);
        assert_eq!(flags.namespace.as_deref(), Some("x"));
        assert_eq!(flags.server.as_deref(), Some("https://h"));
        assert_eq!(flags.insecure, Some(true));
        assert_eq!(flags.request_timeout, Some(Duration::from_secs(120)));
        assert_eq!(
            parse(&["--insecure-skip-tls-verify=false"]).unwrap().insecure,
            Some(false)
        );
        assert_eq!(parse(&["--request-timeout", "0"]).unwrap().request_timeout, None);
    }

    #[test]
    fn an_option_that_is_not_understood_is_refused_by_name() {
        let refused = |arguments: &[&str]| parse(arguments).err().unwrap().message;
        assert!(refused(&["--all-namespaces"]).contains("--all-namespaces"));
        assert!(refused(&["--foo=SECRET"]).contains("--foo"));
        assert!(!refused(&["--foo=SECRET"]).contains("SECRET"));
        assert!(!refused(&["SECRET"]).contains("SECRET"));
        assert!(refused(&["--as"]).contains("--as"));
        assert!(refused(&["--pod-running-timeout=soon"]).contains("soon"));
        assert!(refused(&["-c", "side"]).contains("container"));
        assert!(refused(&["--request-timeout", "soon"]).contains("soon"));
    }
}
