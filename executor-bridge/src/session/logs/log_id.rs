//! Id of a console log, and the path of its file. Zuul chooses both.

/// Directory in which Zuul's `command` module writes its logs (its LOG_STREAM_FILE).
pub(crate) const DIRECTORY: &str = "/tmp";
pub(crate) const PREFIX: &str = "console-";
pub(crate) const SUFFIX: &str = ".log";

/// Id of a console log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LogId(String);

impl LogId {
    /// Returns the id; `None` if no file can have that name. Drops everything up to the last slash, as Zuul does.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let name = text.rsplit('/').next().unwrap_or_default().trim();
        let usable = !name.is_empty() && !name.contains('\0');
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
        assert_eq!(LogId::new("a\0"), None);
        assert_eq!(LogId::of_file(b"console-x-1-node.log"), Some(id("x-1-node")));
        assert_eq!(LogId::of_file(b"console-.log"), None);
        assert_eq!(LogId::of_file(b"other"), None);
    }
}
