//! Brings an agent into a container that has none. Comes with the next commits.

#[derive(Debug, Default)]
pub(super) struct Agents;
