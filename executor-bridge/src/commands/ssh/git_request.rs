//! The command line that git sends to the remote host, such as `git-receive-pack '/path'`, quoted for a shell. `ssh` recognises it, so
//! that the agent can serve it without a shell.

/// Services of git, as the agent names them.
const SERVICES: [&str; 3] = ["receive-pack", "upload-pack", "upload-archive"];

/// A service that git asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GitService {
    pub(crate) name: &'static str,
    /// Path of the repository, without quotes.
    pub(crate) path: Vec<u8>,
}

/// Returns the service that the command line asks for; `None` if the line is another command, which a shell must run.
pub(super) fn parse(line: &[u8]) -> Option<GitService> {
    let rest = line.strip_prefix(b"git-").or_else(|| line.strip_prefix(b"git "))?;
    SERVICES.into_iter().find_map(|name| {
        let path = rest.strip_prefix(name.as_bytes())?.strip_prefix(b" ")?;
        let path = unquote(path).filter(|path| !path.is_empty())?;
        Some(GitService { name, path })
    })
}

/// Returns the text as one word without quotes; `None` if a shell would expand it or split it into several words.
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let mut word = Vec::new();
    let mut bytes = text.iter().copied();
    let mut quoted = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\'' => quoted = !quoted,
            _ if quoted => word.push(byte),
            b'\\' => word.push(bytes.next().filter(|byte| *byte != b'\n')?),
            // `~` is allowed: the agent expands a home directory itself.
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'+' | b'~' | 0x80.. => {
                word.push(byte)
            }
            _ => return None,
        }
    }
    (!quoted).then_some(word)
}

/// Checks any bytes for `fuzzing`; returns the service that they ask for.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(line: &[u8]) -> Option<GitService> {
    let service = parse(line)?;
    assert!(!service.path.is_empty() && SERVICES.contains(&service.name));
    Some(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_of_git_are_parsed() {
        for (line, name, path) in [
            ("git-receive-pack '/zuul/glance'", "receive-pack", "/zuul/glance"),
            ("git upload-pack '~/it'\\''s \"new\"'", "upload-pack", "~/it's \"new\""),
            ("git-upload-archive 'wow'\\!''", "upload-archive", "wow!"),
            ("git-upload-pack src/x", "upload-pack", "src/x"),
        ] {
            let expected = GitService {
                name,
                path: path.into(),
            };
            assert_eq!(parse(line.as_bytes()), Some(expected), "{line}");
        }
    }

    #[test]
    fn other_commands_are_left_to_a_shell() {
        for line in [
            "git-receive-pack",
            "git-receive-pack ''",
            "git-receive-pack $HOME/x",
            "git-receive-pack '/x' && true",
            "git-receive-pack '/x",
            "git-receive-pack --advertise-refs /x",
            "git-receive-packs /x",
            "git status",
            "/usr/bin/git-receive-pack '/x'",
            "rsync --server . /x",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
