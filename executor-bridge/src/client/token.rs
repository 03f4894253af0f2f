//! Finds the bridge that another token of the same user started: a token that is made anew for every task would else cost a bridge each.
//! The bridge itself asks the API server whether both tokens belong to one user. `start` calls it before a bridge is started.

use crate::client::ask::ask;
use crate::error::Failure;
use crate::protocol::request::{AdmitToken, Operation, Request};
use crate::protocol::result::Outcome;
use crate::protocol::target::KeyedTarget;
use crate::sockets::{self, BridgeFiles, Directory, KeyLock};

/// Users of tokens that look alike, each with a bridge that the next token is shown to.
const USERS_MAX: usize = 8;

/// What became of a token.
pub(super) enum TokenSearch {
    /// The socket of the target leads to a bridge of the same user now.
    Adopted,
    /// No bridge has a token of this user. A new bridge is registered with `register`, so that later tokens find it.
    NewUser(Registration),
}

/// The place of a new user, held by a lock until its bridge listens: tokens that come at the same time wait for it.
pub(super) struct Registration {
    /// `None`: all places are taken.
    place: Option<BridgeFiles>,
    _lock: KeyLock,
}

/// Shows the token of a target to the bridges that may be of the same user. `None`: the target has no token.
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
            // Nobody listens there.
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
