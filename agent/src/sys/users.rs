//! Users and groups, read from /etc/passwd and /etc/group, because a static binary has no NSS. `exec`, `files` and `git` call it.

use std::fs;

/// User or group id that means "unchanged" to the kernel, and so belongs to no user.
const UNCHANGED_ID: u32 = u32::MAX;

/// User and groups that a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Entry of the passwd file; `None` for a number that is not in it.
    pub(crate) account: Option<Account>,
}

/// Entry of the passwd file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// Looks up `user` or `user:group`, each a name or a number; `None` if the container has no such user or group. A number needs no
/// entry, as with `docker exec -u`.
pub(crate) fn lookup(user: &str) -> Option<Identity> {
    let passwd = fs::read("/etc/passwd").unwrap_or_default();
    let group = fs::read("/etc/group").unwrap_or_default();
    resolve(
        user,
        &String::from_utf8_lossy(&passwd),
        &String::from_utf8_lossy(&group),
    )
}

fn resolve(user: &str, passwd: &str, group: &str) -> Option<Identity> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let entries = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries().find(|e| e.len() >= 7 && e[0] == user).or_else(|| {
        let uid = user.parse::<u32>().ok()?;
        entries().find(|e| e.len() >= 7 && e[2].parse() == Ok(uid))
    });
    let (uid, mut gid, account) = match entry {
        Some(e) => {
            let account = Account {
                name: e[0].into(),
                home: e[5].into(),
                shell: e[6].into(),
            };
            (e[2].parse().ok()?, e[3].parse().ok()?, Some(account))
        }
        None => (user.parse().ok()?, 0, None),
    };
    let groups = || {
        group
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .filter(|g| g.len() >= 4)
    };
    if let Some(wanted) = wanted_group {
        gid = match groups().find(|g| g[0] == wanted) {
            Some(g) => g[2].parse().ok()?,
            None => wanted.parse().ok()?,
        };
    }
    let mut supplementary = vec![gid];
    if let Some(account) = &account {
        let member_of = groups().filter(|g| g[3].split(',').any(|member| member == account.name));
        supplementary.extend(member_of.filter_map(|g| g[2].parse::<u32>().ok()).filter(|g| *g != gid));
    }
    supplementary.retain(|gid| *gid != UNCHANGED_ID);
    let is_someone = uid != UNCHANGED_ID && gid != UNCHANGED_ID;
    is_someone.then_some(Identity {
        uid,
        gid,
        groups: supplementary,
        account,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nzuul:x:1000:1001:,,,:/home/zuul:/bin/sh\nbroken line\n";
    const GROUP: &str = "root:x:0:\nzuul:x:1001:\nwheel:x:10:root,zuul\ndocker:x:99:zuul\n";

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
}
