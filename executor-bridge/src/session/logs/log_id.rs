//! Id of a console log, and the path of its file. Zuul chooses both.

use podbridge_proto::limits::MAX_LOG_NAME;

/// Directory in which Zuul's `command` module writes its logs (its LOG_STREAM_FILE).
pub(crate) const DIRECTORY: &str = "/tmp";
pub(crate) const PREFIX: &str = "console-";
pub(crate) const SUFFIX: &str = ".log";

/// Longest id, bytes: a file system has no longer names.
const MAX_LENGTH: usize = MAX_LOG_NAME - PREFIX.len() - SUFFIX.len();

/// Id of a console log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LogId(String);

impl LogId {
    /// Returns the id; `None` if no file can have that name. Drops everything up to the last slash, as Zuul does.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let name = text.rsplit('/').next().unwrap_or_default().trim();
        let usable = !name.is_empty() && name.len() <= MAX_LENGTH && !name.chars().any(char::is_control);
        usable.then(|| Self(name.to_owned()))
    }

    /// Returns the id of a file in `DIRECTORY`; `None` if the file is no console log.
    pub(crate) fn of_file(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        Self::new(name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?)
    }

    /// Returns the path of the log in the container.
    pub(crate) fn path(&self) -> String {
        format!("{DIRECTORY}/{PREFIX}{}{SUFFIX}", self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> LogId {
        LogId::new(text).unwrap()
    }

    #[test]
    fn an_id_is_a_file_name() {
        assert_eq!(id("../../etc/passwd").path(), "/tmp/console-passwd.log");
        assert_eq!(LogId::new("a/"), None);
        for wrong in ["a\0", "a\x1b[31m", "a\nb", "a\u{9b}"] {
            assert_eq!(LogId::new(wrong), None, "{wrong:?}");
        }
        assert!(LogId::new(&"x".repeat(MAX_LENGTH)).is_some());
        assert_eq!(LogId::new(&"x".repeat(MAX_LENGTH + 1)), None);
        assert_eq!(LogId::of_file(b"console-x-1-node.log"), Some(id("x-1-node")));
        assert_eq!(LogId::of_file(b"console-.log"), None);
        assert_eq!(LogId::of_file(b"other"), None);
    }
}
