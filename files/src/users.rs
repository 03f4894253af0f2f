//! Users and groups of the system, read from /etc/passwd and /etc/group: the agent is a static binary and has no NSS.
//!
//! The agent looks up the user of a command, a repository or a file; the tree copy translates owners between two systems.

use std::fs;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// User or group id that means "unchanged" to the kernel, and so belongs to no user.
const UNCHANGED_ID: u32 = u32::MAX;

/// User and groups that a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Entry of the passwd file; `None` for a number that is not in it.
    pub account: Option<Account>,
}

/// Entry of the passwd file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub home: String,
    pub shell: String,
}

/// Name and number of a user or group. The name is bytes, as the files prescribe no encoding.
pub type NamedId = (Vec<u8>, u32);

/// Looks up `user` or `user:group`, each a name or a number; `None` if the system has no such user or group. A number needs no entry, as
/// with `docker exec -u`.
pub fn lookup(user: &str) -> Option<Identity> {
    resolve(user, &content(PASSWD), &content(GROUP))
}

/// Returns all users and all groups, each in the order of its file.
pub fn users_and_groups() -> [Vec<NamedId>; 2] {
    [PASSWD, GROUP].map(|path| named_ids(&content(path)))
}

/// Returns the bytes of a file; a file that cannot be read counts as empty.
fn content(path: &str) -> Vec<u8> {
    fs::read(path).unwrap_or_default()
}

/// Returns the colon-separated fields of each line that has at least `fields` of them.
fn records(content: &[u8], fields: usize) -> impl Iterator<Item = Vec<&[u8]>> {
    let lines = content.split(|byte| *byte == b'\n');
    let records = lines.map(|line| line.split(|byte| *byte == b':').collect::<Vec<_>>());
    records.filter(move |record| record.len() >= fields)
}

fn number(field: &[u8]) -> Option<u32> {
    str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Returns name and number of each line, which are the first and the third field in both files.
fn named_ids(content: &[u8]) -> Vec<NamedId> {
    let named_id = |record: Vec<&[u8]>| Some((record[0].to_vec(), number(record[2])?));
    records(content, 3).filter_map(named_id).collect()
}

fn resolve(user: &str, passwd: &[u8], group: &[u8]) -> Option<Identity> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let accounts = || records(passwd, 7);
    let entry = accounts().find(|account| account[0] == user.as_bytes()).or_else(|| {
        let uid = user.parse::<u32>().ok()?;
        accounts().find(|account| number(account[2]) == Some(uid))
    });
    let (uid, mut gid) = match &entry {
        Some(account) => (number(account[2])?, number(account[3])?),
        None => (user.parse().ok()?, 0),
    };
    let groups = || records(group, 4);
    if let Some(wanted) = wanted_group {
        gid = match groups().find(|group| group[0] == wanted.as_bytes()) {
            Some(group) => number(group[2])?,
            None => wanted.parse().ok()?,
        };
    }
    let mut supplementary = vec![gid];
    if let Some(account) = &entry {
        let member_of = groups().filter(|group| group[3].split(|byte| *byte == b',').any(|name| name == account[0]));
        supplementary.extend(member_of.filter_map(|group| number(group[2])).filter(|id| *id != gid));
    }
    supplementary.retain(|gid| *gid != UNCHANGED_ID);
    let is_someone = uid != UNCHANGED_ID && gid != UNCHANGED_ID;
    is_someone.then(|| Identity {
        uid,
        gid,
        groups: supplementary,
        account: entry.map(|account| Account {
            name: text(account[0]),
            home: text(account[5]),
            shell: text(account[6]),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\nzuul:x:1000:1001:,,,:/home/zuul:/bin/sh\nbroken line\n";
    const GROUP: &[u8] = b"root:x:0:\nzuul:x:1001:\nwheel:x:10:root,zuul\ndocker:x:99:zuul\n";

    #[test]
    fn a_name_gets_its_supplementary_groups() {
        let zuul = resolve("zuul", PASSWD, GROUP).unwrap();
        assert_eq!((zuul.uid, zuul.gid), (1000, 1001));
        assert_eq!(zuul.groups, [1001, 10, 99]);
        assert_eq!(zuul.account.unwrap().home, "/home/zuul");
    }

    #[test]
    fn a_number_needs_no_entry_and_a_group_may_be_named() {
        assert_eq!(resolve("1000", PASSWD, GROUP), resolve("zuul", PASSWD, GROUP));
        let random = resolve("12345", PASSWD, GROUP).unwrap();
        assert_eq!((random.uid, random.gid, random.account), (12345, 0, None));
        assert_eq!(resolve("zuul:wheel", PASSWD, GROUP).unwrap().gid, 10);
        assert_eq!(resolve("zuul:77", PASSWD, GROUP).unwrap().gid, 77);
    }

    #[test]
    fn unknown_names_are_refused() {
        assert_eq!(resolve("nobody", PASSWD, GROUP), None);
        assert_eq!(resolve("zuul:nogroup", PASSWD, GROUP), None);
        assert_eq!(resolve("", PASSWD, GROUP), None);
        assert_eq!(resolve("4294967295", PASSWD, GROUP), None);
        assert_eq!(resolve("zuul:4294967295", PASSWD, GROUP), None);
    }

    #[test]
    fn lines_without_a_number_are_skipped() {
        let content = b"root:x:0:0:root:/root:/bin/bash\n\n# comment\nsys:x:many:\nz\xff:x:7:\n";
        assert_eq!(named_ids(content), [(b"root".to_vec(), 0), (b"z\xff".to_vec(), 7)]);
    }
}
