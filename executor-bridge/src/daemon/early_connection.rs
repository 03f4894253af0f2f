//! The first connection of a slot's bridge, which is made before anybody asks for it. The bridges of one build take turns: each of them
//! brings an agent into its pod, and a hundred at the same time would take the processors and the API server from the build that is
//! starting. A client or a reader of the console does not wait for the turn. `zuul_slot` starts this.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use tokio::time::{sleep, timeout};

use crate::connections::Reachability;
use crate::session::Session;

/// Bridges of one build that connect early at the same time. With 1, 2, 4 and 100 of them, Zuul had the port-forwards of 100 pods after
/// 4, 5, 7 and 28 s on a machine of 2 cores with the whole cluster; stock kubectl takes 14 s there.
const TURNS: usize = 2;
/// Pause between two attempts to get a turn.
const INTERVAL: Duration = Duration::from_millis(50);
/// Longest time that a bridge keeps its turn. A pod that cannot be reached must not keep the others waiting.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// Waits for a turn among the bridges whose slots are in `directory`, and connects to the default container of the pod.
pub(super) async fn connect(session: Arc<Session>, directory: &Path) {
    let _turn = wait_for_turn(directory).await;
    let mut reachability = session.reachability(None);
    let connected = reachability.wait_for(|state| !matches!(state, Reachability::Connecting));
    // The session goes on with an attempt that takes longer.
    let _ = timeout(LONGEST_TURN, connected).await;
}

/// Returns the file whose lock is the turn. Returns nothing if the directory cannot have such files: the bridge then connects at once.
async fn wait_for_turn(directory: &Path) -> Option<File> {
    loop {
        for number in 0..TURNS {
            match take_turn(directory, number) {
                Ok(file) => return Some(file),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(errno) => {
                    tracing::warn!(%errno, "no turns to connect to the pods of this build");
                    return None;
                }
            }
        }
        sleep(INTERVAL).await;
    }
}

fn take_turn(directory: &Path, number: usize) -> Result<File, Errno> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(directory.join(format!(".connects-{number}")))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_few_bridges_have_a_turn() {
        let directory = tempfile::tempdir().unwrap();
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(wait_for_turn(directory.path()).await.unwrap());
        }
        let next = wait_for_turn(directory.path());
        tokio::pin!(next);
        assert!(timeout(INTERVAL * 2, &mut next).await.is_err());
        turns.pop();
        assert!(next.await.is_some());
    }

    #[tokio::test]
    async fn a_bridge_connects_where_no_turn_can_be_had() {
        let directory = tempfile::tempdir().unwrap();
        assert!(wait_for_turn(&directory.path().join("absent")).await.is_none());
    }
}
