//! Logs go to stderr, at the level that PODBRIDGE_LOG names (error, warn, info, debug, trace; default warn). Arguments,
//! environment and payloads are never logged.

use tracing::level_filters::LevelFilter;

pub(crate) fn start() {
    let level = std::env::var("PODBRIDGE_LOG").ok().and_then(|level| level.parse().ok());
    let logs = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    logs.with_max_level(level.unwrap_or(LevelFilter::WARN)).init();
}
