//! Starts a command: a module of Ansible in a warm interpreter if there is one for it, anything else as a process of its own. Owns what every
//! start needs. `supervisor` calls it on a thread that may block.

use super::process::{self, AgentStdio};
use super::process_table::ProcessTable;
use super::warm_python::{Start, WarmPython};
use super::{Command, StartFailure};
use crate::sys::limits::InheritedLimits;
use crate::sys::reaper::{Child, Reaper};

/// Resources of the agent that every exec uses.
#[derive(Debug, Clone)]
pub(super) struct Resources {
    pub(super) reaper: Reaper,
    pub(super) processes: ProcessTable,
    /// Limits that commands get.
    pub(super) limits: InheritedLimits,
    pub(super) warm: WarmPython,
}

/// A command that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) stdio: AgentStdio,
    /// `warm`, or the reason why a module of Ansible has a new interpreter; empty for other commands.
    pub(super) python: String,
}

/// Starts the command. `Err` names the step that failed.
pub(super) fn start(resources: &Resources, command: &Command) -> Result<Started, StartFailure> {
    let Resources {
        reaper, limits, warm, ..
    } = resources;
    let (user, variables) = process::account(command)?;
    let python = match warm.start(command, &variables, user.as_ref()) {
        Start::Warm(child, stdio) => {
            let python = "warm".into();
            return Ok(Started { child, stdio, python });
        }
        Start::Cold(reason) => reason,
    };
    let (child, stdio) = process::spawn(reaper, *limits, command)?;
    Ok(Started { child, stdio, python })
}
