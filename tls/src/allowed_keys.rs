//! The keys that an end accepts.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::PublicKey;

/// More than bridges use one agent at once. A bridge whose key was pushed out tells it again.
const LIMIT: usize = 64;

#[derive(Debug, Default)]
pub struct AllowedKeys(Mutex<VecDeque<PublicKey>>);

impl AllowedKeys {
    /// The oldest makes room.
    pub fn add(&self, key: PublicKey) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|known| *known != key);
        if keys.len() == LIMIT {
            keys.pop_front();
        }
        keys.push_back(key);
    }

    pub(crate) fn has(&self, der: &[u8]) -> bool {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().any(|key| key.as_der() == der)
    }
}
