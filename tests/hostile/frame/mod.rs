//! The frame of all cases: it knows no role and no attack.

pub(crate) mod bridge;
pub(crate) mod control;
pub(crate) mod flood;
mod footprint;
mod memory;
pub(crate) mod output;
pub(crate) mod record;
pub(crate) mod scene;
