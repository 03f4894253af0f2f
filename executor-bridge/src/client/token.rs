//! Finds a bridge that was started with another token of the same user. Without it, a user who gets a new token for every task would need a
//! new bridge for every task. The bridge itself asks the API server whether both tokens belong to one user. `start` calls this module
//! before it starts a bridge.

use crate::client::ask::ask;
use crate::error::Failure;
use crate::protocol::request::{AdmitToken, Operation, Request};
use crate::protocol::result::Outcome;
use crate::protocol::target::KeyedTarget;
use crate::sockets::{self, BridgeFiles, Directory, KeyLock};

/// Most bridges to which a token is shown. Their tokens claim the same subject, and can still belong to different users.
const USERS_MAX: usize = 8;

/// Result of the search for a bridge.
pub(super) enum TokenSearch {
    /// The socket of the target leads to a bridge of the same user now.
    Adopted,
    /// No bridge has a token of this user. A new bridge is registered with `register`, so that later tokens find it.
    NewUser(Registration),
}

/// Free name for the bridge of a new user. A lock is held until that bridge listens; clients whose tokens claim the same
/// subject wait for it.
pub(super) struct Registration {
    /// `None`: `USERS_MAX` bridges have all names, and later tokens cannot find this bridge.
    place: Option<BridgeFiles>,
    _lock: KeyLock,
}

/// Shows the token of a target to the bridges whose user may be the same. `None`: the target has no token.
pub(super) async fn search(target: &KeyedTarget, directory: &Directory) -> Result<Option<TokenSearch>, Failure> {
    let Some(token) = &target.target.token else {
        return Ok(None);
    };
    let own = directory.files(&target.key)?;
    let lock = sockets::lock(&directory.files(&target.user_key(0)?)?)?;
    let request = Request {
        container: None,
        operation: Operation::AdmitToken(AdmitToken { token: token.clone() }),
    };
    let mut place = None;
    for number in 0..USERS_MAX {
        let files = directory.files(&target.user_key(number)?)?;
        match ask(&files.socket, &request).await {
            Ok(Some(Outcome::Ok(_))) => {
                sockets::link(&files.socket, &own.socket)?;
                return Ok(Some(TokenSearch::Adopted));
            }
            Ok(Some(_)) | Err(_) => {}
            // No bridge listens on this socket, so its name is free.
            Ok(None) => place = place.or(Some(files)),
        }
    }
    Ok(Some(TokenSearch::NewUser(Registration { place, _lock: lock })))
}

impl Registration {
    /// Lets later tokens find the bridge that was started for this one.
    pub(super) fn register(self, bridge: &BridgeFiles) -> Result<(), Failure> {
        match self.place {
            Some(place) => sockets::link(&bridge.socket, &place.socket),
            None => Ok(()),
        }
    }
}
