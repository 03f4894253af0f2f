//! Commands in a container. A command starts once. The bridge carries its output to the client over as many links as it
//! takes, and reports its end only from the agent's exit record. If the client disconnects, the command is cancelled.
//! `session` calls `run` for each exec request.

mod bulk_limit;
mod cancel;
mod choose_lane;
mod control;
mod driver;
mod outcome;
mod prepare;
mod puts;
mod run;
mod running_exec;
mod stdin;

pub(crate) use bulk_limit::BulkLimiter;
#[cfg(any(test, fuzzing))]
pub(crate) use outcome::check as check_exit_record;
pub(crate) use run::run;
