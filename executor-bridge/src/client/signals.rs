//! The signals that a command in front of the user would get. `attend` and the copy of a file use them.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::{Failure, Kind};

pub(super) enum Event {
    Signal(u8),
    Resized,
}

pub(super) struct Signals {
    received: mpsc::Receiver<Event>,
}

/// Waits for one that would end us; the exit code then.
pub(crate) async fn interrupted() -> Result<u8, Failure> {
    let mut signals = Signals::watch(false)?;
    loop {
        if let Event::Signal(number) = signals.next().await {
            return Ok(128 + number);
        }
    }
}

impl Signals {
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
            let mut stream = signal(kind)
                .map_err(|error| Failure::new(Kind::Internal, format!("signals cannot be watched: {error}")))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    let event = match kind == SignalKind::window_change() {
                        true => Event::Resized,
                        false => Event::Signal(u8::try_from(kind.as_raw_value()).unwrap_or(15)),
                    };
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { received })
    }

    pub(super) async fn next(&mut self) -> Event {
        match self.received.recv().await {
            Some(event) => event,
            // Its watchers live as long as the runtime.
            None => std::future::pending().await,
        }
    }
}
