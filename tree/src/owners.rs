//! Translation of owners between two systems: by name where both systems know it, else by number. The sender sends the names of the ids
//! that it uses, the receiver maps them to its own ids.

use std::collections::HashMap;

use podbridge_files::users::users_and_groups;
use podbridge_proto::v1::TreeOwner;

use crate::error::Error;

/// Cap of users and of groups that a sender may name, as the receiver holds them. User databases that are files have fewer.
const MAX_OWNERS: usize = 65_536;

/// Names of users and groups that the sender has not sent yet, by id: users at index 0, groups at index 1.
#[derive(Debug)]
pub(crate) struct OwnerNames([HashMap<u32, Vec<u8>>; 2]);

impl OwnerNames {
    pub(crate) fn load() -> Self {
        // The first of several names for an id counts, so it is inserted last.
        Self(users_and_groups().map(|entries| entries.into_iter().rev().map(|(name, id)| (id, name)).collect()))
    }

    /// Returns the record to send before the first use of an id; `None` if the id was used before or has no name.
    pub(crate) fn take_record(&mut self, group: bool, id: u32) -> Option<TreeOwner> {
        let name = self.0[usize::from(group)].remove(&id)?;
        Some(TreeOwner {
            group,
            id,
            name: name.into(),
        })
    }
}

/// The receiver's map from the sender's ids to its own; users at index 0, groups at index 1.
#[derive(Debug)]
pub(crate) struct OwnerIds {
    /// Local ids by name.
    known: [HashMap<Vec<u8>, u32>; 2],
    /// Local ids by the sender's id.
    translated: [HashMap<u32, u32>; 2],
}

impl OwnerIds {
    pub(crate) fn load() -> Self {
        Self {
            known: users_and_groups().map(|entries| entries.into_iter().rev().collect()),
            translated: Default::default(),
        }
    }

    /// Adds an owner that the sender named. `Err` if the sender named too many.
    pub(crate) fn add(&mut self, owner: &TreeOwner) -> Result<(), Error> {
        let which = usize::from(owner.group);
        if self.translated[which].len() >= MAX_OWNERS {
            return Err(Error::Protocol("it names too many owners"));
        }
        if let Some(local) = self.known[which].get(&owner.name[..]) {
            self.translated[which].insert(owner.id, *local);
        }
        Ok(())
    }

    /// Returns the local user and group id; an id without a common name stays as it is.
    pub(crate) fn local(&self, uid: u32, gid: u32) -> (u32, u32) {
        let local = |which: usize, id: u32| self.translated[which].get(&id).copied().unwrap_or(id);
        (local(0, uid), local(1, gid))
    }
}
