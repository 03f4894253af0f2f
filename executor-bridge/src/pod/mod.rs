//! The pod as Kubernetes knows it. Kubernetes types end here: callers get places, fates, streams and failures.

mod access;
mod config;
mod fault;
mod state;

pub(crate) use access::{Cluster, ExecSocket};
pub(crate) use state::{Fate, Place};
