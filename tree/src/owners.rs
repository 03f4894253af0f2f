//! Owners across two systems: by name where both know it, else by number. Read from /etc/passwd and /etc/group, as a static
//! binary has no NSS.

use std::collections::HashMap;

use podbridge_files::users::users_and_groups;
use podbridge_proto::v1::TreeOwner;

use crate::error::Error;

/// More than any user database that is a file has; the other side's names are held.
const MAX_OWNERS: usize = 65_536;

/// The sender's: names that are still to be told.
#[derive(Debug)]
pub(crate) struct OwnerNames([HashMap<u32, Vec<u8>>; 2]);

impl OwnerNames {
    pub(crate) fn load() -> Self {
        // The first of several names of a number is its name.
        Self(users_and_groups().map(|entries| entries.into_iter().rev().map(|(name, id)| (id, name)).collect()))
    }

    /// The record that has to go before the number, once.
    pub(crate) fn take_record(&mut self, group: bool, id: u32) -> Option<TreeOwner> {
        let name = self.0[usize::from(group)].remove(&id)?;
        Some(TreeOwner {
            group,
            id,
            name: name.into(),
        })
    }
}

/// The receiver's: what the sender's numbers are here.
#[derive(Debug)]
pub(crate) struct OwnerIds {
    known: [HashMap<Vec<u8>, u32>; 2],
    translated: [HashMap<u32, u32>; 2],
}

impl OwnerIds {
    pub(crate) fn load() -> Self {
        Self {
            known: users_and_groups().map(|entries| entries.into_iter().rev().collect()),
            translated: Default::default(),
        }
    }

    pub(crate) fn add(&mut self, owner: &TreeOwner) -> Result<(), Error> {
        let which = usize::from(owner.group);
        if self.translated[which].len() >= MAX_OWNERS {
            return Err(Error::Protocol("there are too many owners"));
        }
        if let Some(local) = self.known[which].get(&owner.name[..]) {
            self.translated[which].insert(owner.id, *local);
        }
        Ok(())
    }

    pub(crate) fn local(&self, uid: u32, gid: u32) -> (u32, u32) {
        let local = |which: usize, id: u32| self.translated[which].get(&id).copied().unwrap_or(id);
        (local(0, uid), local(1, gid))
    }
}
