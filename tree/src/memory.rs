//! Count of the memory that a receiver needs for what the other side said: a copy ends before the other side can fill this side's memory.
//! The receiver counts what it keeps, and what it no longer keeps.

use crate::error::Error;

/// Most memory for one copy, bytes: 180,000 files with several names, or 60,000 directories that wait for content.
const MAX_MEMORY: usize = 32 << 20;

/// The memory that is in use, bytes.
#[derive(Debug, Default)]
pub(crate) struct Memory(usize);

impl Memory {
    /// Counts something new; `what` names its kind. `Err` if all together is too much.
    pub(crate) fn take(&mut self, bytes: usize, what: &str) -> Result<(), Error> {
        self.0 = self.0.saturating_add(bytes);
        if self.0 > MAX_MEMORY {
            let most = MAX_MEMORY >> 20;
            Err(Error::Local(format!(
                "this copy would need more than {most} MiB of memory, now for {what}; copy the tree in parts"
            )))
        } else {
            Ok(())
        }
    }

    /// Counts something that is no longer kept.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.0 = self.0.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_released_can_be_taken_again() {
        let mut memory = Memory::default();
        for _ in 0..3 {
            memory.take(MAX_MEMORY, "x").unwrap();
            assert!(memory.take(1, "too much").is_err());
            memory.release(MAX_MEMORY + 1);
        }
    }
}
