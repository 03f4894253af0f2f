//! The set of public keys that one end accepts. The agent adds a key for each bridge that enrols; the verifier reads the set in each
//! handshake.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::PublicKey;

/// Cap of keys: more than the number of bridges that use one agent at a time. A bridge whose key was removed enrols again.
const MAX_KEYS: usize = 64;

/// Public keys, oldest first.
#[derive(Debug, Default)]
pub struct AllowedKeys(Mutex<VecDeque<PublicKey>>);

impl AllowedKeys {
    /// Adds a key, or makes a known key the newest. The oldest key is removed if the set is full.
    pub fn add(&self, key: PublicKey) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|known| *known != key);
        if keys.len() == MAX_KEYS {
            keys.pop_front();
        }
        keys.push_back(key);
    }

    pub(crate) fn contains(&self, der: &[u8]) -> bool {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().any(|key| key.as_der() == der)
    }
}
