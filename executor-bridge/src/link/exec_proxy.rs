//! The exec-proxy link: `pods/exec` of `podbridge-agent proxy`. Comes with the next commits.

use std::time::Duration;

use super::{Dialed, Start, inject};
use crate::error::{Failure, Kind};
use crate::pod::{Fate, Place};
use crate::protocol::target::Target;

pub(super) async fn dial(
    target: &Target,
    _: Option<&str>,
    _: Start,
    _: &inject::Agents,
    _: Duration,
) -> Result<Dialed, Failure> {
    let pod = target.pod_name();
    Err(Failure::usage(format!(
        "pod {pod}: this build has the local link only; set PODBRIDGE_LINK=local"
    )))
}

pub(super) async fn fate(_: &Target, _: &Place, _: Duration) -> Result<Fate, Failure> {
    Err(Failure::new(Kind::Internal, "only exec-proxy links have a place"))
}
