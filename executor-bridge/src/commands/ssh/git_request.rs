//! The line that git wants to have run on the other side: `git-receive-pack '/path'`, quoted for a shell.

/// The agent's name of each.
const SERVICES: [&str; 3] = ["receive-pack", "upload-pack", "upload-archive"];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) path: Vec<u8>,
}

/// `None`: whatever it is, it is for a shell.
pub(super) fn service(line: &[u8]) -> Option<Service> {
    let rest = line.strip_prefix(b"git-").or_else(|| line.strip_prefix(b"git "))?;
    SERVICES.into_iter().find_map(|name| {
        let path = rest.strip_prefix(name.as_bytes())?.strip_prefix(b" ")?;
        let path = unquoted(path).filter(|path| !path.is_empty())?;
        Some(Service { name, path })
    })
}

/// The one word that a shell would see, if it has nothing else to do.
fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let mut word = Vec::new();
    let mut bytes = text.iter().copied();
    let mut quoted = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\'' => quoted = !quoted,
            _ if quoted => word.push(byte),
            b'\\' => word.push(bytes.next().filter(|byte| *byte != b'\n')?),
            // Not before a name, where a shell would look for a home; the agent does so itself.
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'+' | b'~' | 0x80.. => {
                word.push(byte)
            }
            _ => return None,
        }
    }
    (!quoted).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gits_own_lines_are_understood() {
        for (line, name, path) in [
            ("git-receive-pack '/zuul/glance'", "receive-pack", "/zuul/glance"),
            ("git upload-pack '~/it'\\''s \"new\"'", "upload-pack", "~/it's \"new\""),
            ("git-upload-archive 'wow'\\!''", "upload-archive", "wow!"),
            ("git-upload-pack src/x", "upload-pack", "src/x"),
        ] {
            let expected = Service {
                name,
                path: path.into(),
            };
            assert_eq!(service(line.as_bytes()), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_gets_one() {
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
            assert_eq!(service(line.as_bytes()), None, "{line}");
        }
    }
}
