//! Signals that this process receives for a command: interrupts, and changes of the terminal's size. `attached` forwards them to the
//! command in the pod; the copy of a file ends at the first one.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::{Failure, Kind};

/// A signal that concerns the command.
pub(super) enum Event {
    /// Number of a signal that ends a process by default: SIGINT, SIGTERM, SIGHUP or SIGQUIT.
    Signal(u8),
    /// The terminal has a new size.
    Resized,
}

/// Receives the signals of this process. While it exists, they do not end the process.
pub(super) struct Signals {
    received: mpsc::Receiver<Event>,
}

/// Waits for a signal that ends a process by default; returns the exit code for it, 128 + its number.
pub(crate) async fn wait_for_interrupt() -> Result<u8, Failure> {
    let mut signals = Signals::watch(false)?;
    loop {
        if let Event::Signal(number) = signals.next().await {
            return Ok(128 + number);
        }
    }
}

impl Signals {
    /// Starts to receive signals; changes of the terminal's size only with `tty`.
    pub(super) fn watch(tty: bool) -> Result<Self, Failure> {
        let (sender, received) = mpsc::channel(8);
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        let resized = tty.then(SignalKind::window_change);
        for kind in kinds.into_iter().chain(resized) {
            let mut stream = signal(kind).map_err(|error| {
                Failure::new(
                    Kind::Internal,
                    format!("the signal handlers cannot be installed: {error}"),
                )
            })?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    let event = if kind == SignalKind::window_change() {
                        Event::Resized
                    } else {
                        Event::Signal(u8::try_from(kind.as_raw_value()).unwrap_or(15))
                    };
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { received })
    }

    /// Waits for the next event.
    pub(super) async fn next(&mut self) -> Event {
        match self.received.recv().await {
            Some(event) => event,
            // Cannot happen: the tasks that hold the senders live as long as the runtime.
            None => std::future::pending().await,
        }
    }
}
