//! One exec: started once, its output carried to the client as it comes, over as many links as it takes; its end told
//! only from the agent's exit record. A client that goes away has it cancelled.

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
pub(crate) use run::run;
