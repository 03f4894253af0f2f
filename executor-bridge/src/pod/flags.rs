//! kubectl's options in a target's `extra_args`: the global ones and those of `kubectl exec`. Parses the options that change the
//! connection, ignores the harmless ones and refuses all others by name: an option that is dropped in silence could mean another cluster.
//! Only `pod` uses it.

use std::collections::BTreeMap;
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
    pub(super) impersonate_extra: BTreeMap<String, Vec<String>>,
    /// `None` leaves the bridge's own limit.
    pub(super) request_timeout: Option<Duration>,
    /// How long to wait until a pod runs; `None` leaves the bridge's own limit.
    pub(super) pod_running_timeout: Option<Duration>,
}

impl Flags {
    /// Parses the words of `extra_args`; the error names the option that is not understood.
    pub(super) fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut flags = Self::default();
        let mut rest = arguments.iter().map(String::as_str).filter(|word| !word.is_empty());
        while let Some(word) = rest.next() {
            if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
                let (name, value) = match long.find('=') {
                    Some(at) => (&word[..at + 2], Some(&long[at + 1..])),
                    None => (word, None),
                };
                flags.take(name, value, &mut rest)?;
            } else {
                flags.take_letters(word, &mut rest)?;
            }
        }
        Ok(flags)
    }

    /// Takes one word of single letters, such as `-n`, `-nci`, `-n=ci` and `-it`: switches, and at last an option with its value.
    fn take_letters<'a>(&mut self, word: &'a str, rest: &mut impl Iterator<Item = &'a str>) -> Result<(), Failure> {
        let mut letters = word.strip_prefix('-').unwrap_or_default();
        if !letters.starts_with(|letter: char| letter.is_ascii_alphabetic()) {
            // The message does not show the word: it may be the value of a mistyped option, such as a token.
            return Err(Failure::usage("extra_args contains a word that is not an option"));
        }
        while let Some(letter) = letters.chars().next() {
            let name = format!("-{letter}");
            letters = &letters[letter.len_utf8()..];
            if SWITCHES.contains(&name.as_str()) && !letters.starts_with('=') {
                continue;
            }
            // The value of `-n=` is `=`.
            let value = letters.strip_prefix('=').filter(|value| !value.is_empty());
            let value = value.unwrap_or(letters);
            let value = (!letters.is_empty()).then_some(value);
            return self.take(&name, value, rest);
        }
        Ok(())
    }

    /// Takes an option, with the value that stands in its own word, or with the next word.
    fn take<'a>(
        &mut self,
        name: &str,
        value: Option<&'a str>,
        rest: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(), Failure> {
        if SWITCHES.contains(&name) {
            let on = match value {
                None => true,
                Some(value) => go_bool(value)
                    .ok_or_else(|| Failure::usage(format!("the option {name} is either true or false")))?,
            };
            if name == INSECURE {
                self.insecure = Some(on);
            }
            return Ok(());
        }
        let value = value.or_else(|| rest.next());
        let value = value.ok_or_else(|| Failure::usage(format!("the option {name} needs a value")))?;
        self.set(name, value)
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
            "--as-user-extra" => {
                let pair = value.split_once('=').filter(|(key, _)| !key.is_empty());
                let (key, value) =
                    pair.ok_or_else(|| Failure::usage("--as-user-extra needs a value of the form KEY=VALUE"))?;
                let values = self.impersonate_extra.entry(key.to_owned()).or_default();
                values.push(value.to_owned());
                return Ok(());
            }
            "--request-timeout" => {
                let seconds = value.parse().ok().map(Duration::from_secs);
                let timeout = seconds.or_else(|| go_duration(value)).ok_or_else(|| {
                    Failure::usage(format!("--request-timeout {value:?} is not a duration such as 10s"))
                })?;
                self.request_timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
                return Ok(());
            }
            "--pod-running-timeout" => {
                let timeout = go_duration(value).filter(|timeout| !timeout.is_zero()).ok_or_else(|| {
                    Failure::usage(format!(
                        "--pod-running-timeout {value:?} is not a duration such as 2m, longer than zero"
                    ))
                })?;
                self.pod_running_timeout = Some(timeout);
                return Ok(());
            }
            "-c" | "--container" => {
                return Err(Failure::usage(
                    "extra_args names a container; name it with the key container of the request, as the Ansible plugin does",
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

/// Reads a boolean as Go's `strconv.ParseBool` does.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads a duration as Go's `time.ParseDuration` does: `1h30m`, `1.5s`. `None` also for a negative one.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let is_number = |letter: char| letter.is_ascii_digit() || letter == '.';
    let mut sum: u64 = 0;
    loop {
        let (number, after) = rest.split_at(rest.find(|letter| !is_number(letter))?);
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        let unit: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // Nine digits are as exact as the result.
        let fraction = &fraction[..fraction.len().min(9)];
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let digits = |text: &str| {
            if text.is_empty() {
                Some(0)
            } else {
                text.parse::<u64>().ok()
            }
        };
        let part = u128::from(digits(fraction)?) * u128::from(unit) / 10_u128.pow(fraction.len() as u32);
        sum = sum
            .checked_add(digits(whole)?.checked_mul(unit)?)?
            .checked_add(part.try_into().ok()?)?;
        rest = after;
        if rest.is_empty() {
            return Some(Duration::from_nanos(sum));
        }
    }
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
            "-itq=false",
            "-v4",
            "--as-user-extra=scope=a=b",
        ];
        let flags = parse(&arguments).unwrap();
        assert_eq!(flags.impersonate.as_deref(), Some("ci"));
        assert_eq!(flags.impersonate_groups, ["a", "b"]);
        assert_eq!(flags.namespace.as_deref(), Some("x"));
        assert_eq!(flags.server.as_deref(), Some("https://h"));
        assert_eq!(flags.insecure, Some(true));
        assert_eq!(flags.request_timeout, Some(Duration::from_secs(120)));
        assert_eq!(flags.pod_running_timeout, Some(Duration::from_secs(120)));
        assert_eq!(flags.impersonate_extra["scope"], ["a=b"]);
        assert_eq!(parse(&["-itnx"]).unwrap().namespace.as_deref(), Some("x"));
        assert_eq!(parse(&["-itn", "x"]).unwrap().namespace.as_deref(), Some("x"));
        assert_eq!(parse(&["-n="]).unwrap().namespace.as_deref(), Some("="));
        assert_eq!(parse(&["-itn="]).unwrap().namespace.as_deref(), Some("="));
        assert_eq!(parse(&["--namespace="]).unwrap().namespace.as_deref(), Some(""));
        assert_eq!(
            parse(&["--insecure-skip-tls-verify=false"]).unwrap().insecure,
            Some(false)
        );
        assert_eq!(parse(&["--request-timeout", "0"]).unwrap().request_timeout, None);
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, nanoseconds) in [
            ("2m", 120_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("1.0000000019s", 1_000_000_001),
            ("+1us", 1000),
            ("1\u{b5}s1ns", 1001),
            ("0", 0),
        ] {
            assert_eq!(go_duration(text), Some(Duration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn an_option_that_is_not_understood_is_refused_by_name() {
        let refused = |arguments: &[&str]| parse(arguments).err().unwrap().message;
        assert!(refused(&["--all-namespaces"]).contains("--all-namespaces"));
        assert!(refused(&["--foo=SECRET"]).contains("--foo"));
        assert!(!refused(&["--foo=SECRET"]).contains("SECRET"));
        assert!(!refused(&["SECRET"]).contains("SECRET"));
        assert!(refused(&["--as"]).contains("--as"));
        for value in [
            "soon",
            "",
            "5",
            "0",
            "0s",
            "-5s",
            "5d",
            "5 s",
            "1",
            "s",
            ".s",
            "1.2.3s",
            "99999999999h",
        ] {
            let message = refused(&[&format!("--pod-running-timeout={value}")]);
            assert!(message.contains(&format!("{value:?}")), "{value}: {message}");
        }
        assert!(refused(&["-tz"]).contains("-z"));
        assert!(refused(&["-itn"]).contains("-n"));
        assert!(refused(&["--as-user-extra=x"]).contains("KEY=VALUE"));
        assert!(refused(&["-c", "side"]).contains("container"));
        assert!(refused(&["--request-timeout", "soon"]).contains("soon"));
    }
}
