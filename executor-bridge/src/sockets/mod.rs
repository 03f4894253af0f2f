//! Where the Unix sockets of bridges are, who may use them, and how they are bound. `client`, `launch`, `daemon` and the kubectl shim
//! call it; no other module touches a socket's file.

mod bind;
mod directory;
mod zuul_slot;

pub(crate) use bind::{BoundSocket, KeyLock, bind, bind_in_slot, bind_locked, is_served, link, lock};
pub(crate) use directory::{BridgeFiles, Directory};
pub(crate) use zuul_slot::{PodReference, ZuulSlot};
