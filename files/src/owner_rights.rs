//! The right to give files to other users, and which users exist for this process. Root in a container may lack the capability CHOWN, and
//! in a user namespace most ids do not exist. The tree copy asks it, so that it does not try, and report, the same change at every run.

use std::fs;
use std::ops::Range;

use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};

/// Rights of this process to set owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerRights {
    /// Ids of users and of groups that exist in the user namespace; `None`: no owner can be set.
    ids: Option<[Vec<Range<u64>>; 2]>,
}

impl OwnerRights {
    /// Reads the rights of this process.
    pub fn of_this_process() -> Self {
        // A system that does not tell its capabilities gets the benefit of the doubt: chown itself refuses.
        let may_chown = capabilities(None).map_or(true, |sets| sets.effective.contains(CapabilitySet::CHOWN));
        let ids = (geteuid().is_root() && may_chown)
            .then(|| ["/proc/self/uid_map", "/proc/self/gid_map"].map(|path| ranges(fs::read_to_string(path).ok())));
        Self { ids }
    }

    /// Returns whether this process may give a file to this user and group.
    pub fn allows(&self, uid: u32, gid: u32) -> bool {
        let has = |ranges: &[Range<u64>], id: u32| ranges.iter().any(|range| range.contains(&u64::from(id)));
        self.ids
            .as_ref()
            .is_some_and(|[users, groups]| has(users, uid) && has(groups, gid))
    }
}

/// Returns the ids inside of a user namespace from its map (user_namespaces(7)); all ids if there is no map.
fn ranges(map: Option<String>) -> Vec<Range<u64>> {
    let ranges = map.unwrap_or_default();
    let ranges = ranges.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_outside)), Some(Ok(count))) = (fields.next(), fields.next(), fields.next())
        else {
            return None;
        };
        Some(first..first.saturating_add(count))
    });
    let ranges: Vec<_> = ranges.collect();
    if ranges.is_empty() {
        const ALL: Range<u64> = 0..1 << 32;
        vec![ALL]
    } else {
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_the_user_namespace_can_be_given() {
        let map = "         0     100000      65536\n     70000          5          1\n";
        let rights = OwnerRights {
            ids: Some([ranges(Some(map.into())), ranges(None)]),
        };
        for (uid, gid, allowed) in [
            (0, 0, true),
            (65_535, 4_000_000_000, true),
            (65_536, 0, false),
            (70_000, 1, true),
        ] {
            assert_eq!(rights.allows(uid, gid), allowed, "{uid}:{gid}");
        }
        assert!(!OwnerRights { ids: None }.allows(0, 0));
    }
}
