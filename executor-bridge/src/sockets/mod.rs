//! Where the Unix sockets of bridges are, who may use them, and how they are bound. `client`, `launch`, `daemon` and the kubectl shim
//! call it; no other module touches a socket's file.

mod bind;
mod directory;
mod slot_socket;
mod zuul_loop;
mod zuul_slot;

pub(crate) use bind::{BoundSocket, KeyLock, bind, bind_locked, is_served, link, lock};
pub(crate) use directory::{BridgeFiles, Directory};
pub(crate) use slot_socket::{SlotSocket, abandoned, slot_sockets};
#[cfg(test)]
pub(crate) use zuul_loop::record_of as record_loop_of;
pub(crate) use zuul_loop::{may_return, record as record_loop};
pub(crate) use zuul_slot::{PodReference, ZuulSlot};
