//! The agent's own log: to stderr, at the level that `env::LOG_LEVEL` names. No module logs arguments, environment or payloads.
//! `commands::serve` calls it.

use tracing::level_filters::LevelFilter;

use crate::env;

/// Starts logging; an unknown level counts as unset.
pub(crate) fn start() {
    let level = env::variable(env::LOG_LEVEL).and_then(|level| level.to_str()?.parse().ok());
    let logs = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    logs.with_max_level(level.unwrap_or(LevelFilter::WARN)).init();
}
