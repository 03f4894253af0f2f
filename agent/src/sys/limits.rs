//! Limits of this process: more descriptors, and no copy of its memory for anybody, which holds keys and the input of commands. Commands
//! get the limits that the agent was started with. `commands::serve` sets the limits, `fork` gives them back.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Limits as they were when the agent was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InheritedLimits {
    /// Open descriptors.
    pub(crate) nofile: Rlimit,
    /// Size of a core dump.
    pub(crate) core: Rlimit,
}

/// Raises the limit on open descriptors to the hard limit, as each exec needs about three, and forbids core dumps and debuggers. Only soft
/// limits change, so that every child may set them back. After a refusal the agent can run fewer execs at once, and nothing else changes.
pub(crate) fn adapt() -> InheritedLimits {
    let inherited = InheritedLimits {
        nofile: getrlimit(Resource::Nofile),
        core: getrlimit(Resource::Core),
    };
    let with_soft = |limit: &Rlimit, current| Rlimit {
        current,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, with_soft(&inherited.nofile, inherited.nofile.maximum));
    let _ = setrlimit(Resource::Core, with_soft(&inherited.core, Some(0)));
    // A program that receives core dumps through a pipe gets them whatever the limit is. Another program is dumpable again when it is
    // executed, so commands are not concerned.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    inherited
}
