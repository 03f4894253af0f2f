//! Logs, on stderr: one INFO line per operation when it ends. `PODBRIDGE_LOG` sets the level; nothing else reads it.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// `off`, `error`, `warn`, `info`, `debug` or `trace`; `default` when absent or unknown.
fn level(default: LevelFilter) -> LevelFilter {
    let wanted = std::env::var("PODBRIDGE_LOG").ok();
    wanted.and_then(|name| name.parse().ok()).unwrap_or(default)
}

fn start(default: LevelFilter) {
    // A second call, in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level(default))
        .with_span_events(FmtSpan::NONE)
        .with_ansi(false)
        .with_writer(io::stderr)
        .try_init();
}

/// For a command line: silent unless something is worth a sentence.
pub(crate) fn start_for_command() {
    start(LevelFilter::ERROR);
}

/// For a daemon, whose stderr is its log file.
pub(crate) fn start_for_daemon() {
    start(LevelFilter::INFO);
}
