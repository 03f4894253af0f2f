//! Keeps the control connection of one container of a Zuul build up for as long as the build lasts: dials before any client asks, and again
//! whenever the link breaks. Runs no operation. `session` starts one for each container of a build and reads its reachability.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::backoff::{Backoff, DoublingPause, jitter};
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Connection, Container, Lane};
use crate::error::Kind;
use crate::protocol::result::Outcome;

/// Pause before another agent is dialled, after one was lost.
const LOST_PAUSE: Duration = Duration::from_millis(250);
/// Pauses between dials that fail.
const FIRST_FAILED_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_FAILED_PAUSE: Duration = Duration::from_secs(30);
/// Pause between dials of a pod that the API does not know, or that has another operating system.
const NO_POD_PAUSE: Duration = Duration::from_secs(60);

/// A link that breaks sooner than this after it was opened is one more failed attempt: the next one is opened after a pause.
const PROVEN_AFTER: Duration = Duration::from_secs(2);

/// State of the connection to a container.
#[derive(Debug, Clone)]
pub(crate) enum Reachability {
    Connecting,
    Up(Arc<Connection>),
    /// The agent is gone. The text is one line with the pod and the reason.
    Lost(String),
}

#[derive(Debug)]
pub(crate) struct KeepAlive {
    container: Arc<Container>,
    reachability: watch::Sender<Reachability>,
}

impl KeepAlive {
    /// Starts to keep a container connected. Returns whether it can be reached, as a value that changes. No sender is left when the pod does
    /// not have the container.
    pub(crate) fn start(container: Arc<Container>) -> watch::Receiver<Reachability> {
        let (reachability, receiver) = watch::channel(Reachability::Connecting);
        let task = Self {
            container,
            reachability,
        };
        tokio::spawn(async move { task.run().await });
        receiver
    }

    async fn run(&self) {
        let new_pauses = || DoublingPause::new(FIRST_FAILED_PAUSE, LONGEST_FAILED_PAUSE);
        let mut failed_pauses = new_pauses();
        loop {
            let pause = match self.container.connection(Lane::Control).await {
                Ok(connection) => {
                    failed_pauses = new_pauses();
                    let why = self.stay_connected(connection).await;
                    let pod = self.container.linker().pod();
                    tracing::warn!(pod, why, "the agent is lost");
                    // Live logs consist of lines: the reason must be one.
                    let line = format!("pod {pod} lost: {}", why.replace('\n', " "));
                    self.reachability.send_replace(Reachability::Lost(line));
                    LOST_PAUSE
                }
                // A client named a container that the pod does not have. A client that uses the name again makes a dial of its own.
                Err(failure) if failure.kind == Kind::ContainerNotFound && self.container.name().is_some() => return,
                Err(failure) if matches!(failure.kind, Kind::PodNotFound | Kind::Windows) => NO_POD_PAUSE,
                Err(_) => failed_pauses.advance(),
            };
            tokio::select! {
                () = sleep(pause.mul_f32(1.0 + jitter() / 2.0)) => {}
                // A client needed the connection sooner, and its dial succeeded.
                () = self.container.wait_for_dial() => {}
            }
        }
    }

    /// Stays connected to one agent, over as many links as necessary. Returns the reason why the agent is lost.
    async fn stay_connected(&self, mut connection: Arc<Connection>) -> String {
        let new_backoff = || Backoff::new(self.container.linker().lease());
        let mut backoff = new_backoff();
        loop {
            let opened = Instant::now();
            self.reachability.send_replace(Reachability::Up(connection.clone()));
            let hint = tokio::select! {
                hint = connection.handle.wait_for_end() => hint,
                () = connection.superseded.cancelled() => match self.container.reconnect(Lane::Control).await {
                    Ok(better) if better.agent.instance == connection.agent.instance => {
                        connection = better;
                        continue;
                    }
                    _ => "the direct link that replaced it broke".into(),
                },
            };
            let lost_agent = LostAgent::of_connection(&connection, &hint);
            self.reachability.send_replace(Reachability::Connecting);
            if opened.elapsed() > PROVEN_AFTER {
                backoff = new_backoff();
            }
            match recovery::recover(&self.container, &lost_agent, &mut backoff).await {
                Recovery::Reconnected(again) => connection = again,
                Recovery::GivenUp(outcome) => return reason(&outcome),
            }
        }
    }
}

fn reason(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Lost(failure) | Outcome::Unreachable(failure) => failure.message.clone(),
        Outcome::OomKilled { message, .. } => message.clone(),
        other => other.name().to_owned(),
    }
}
