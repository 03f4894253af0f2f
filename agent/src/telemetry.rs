//! Logs go to stderr, at the level that PODBRIDGE_LOG names (error, warn, info, debug, trace; default warn). Arguments,
//! environment and payloads are never logged.

use tracing::level_filters::LevelFilter;

use crate::env;

pub(crate) fn start() {
    let level = env::variable(env::LOG_LEVEL).and_then(|level| level.to_str()?.parse().ok());
    let logs = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    logs.with_max_level(level.unwrap_or(LevelFilter::WARN)).init();
}
