//! Keeps the control connection of one container of a Zuul build up for as long as the build lasts: dials before anybody asks, and again
//! whenever the link breaks. `session` starts one for each container of a build and reads its reachability.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Connection, Container, Lane};
use crate::error::Kind;
use crate::protocol::result::Outcome;
use crate::random;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Between questions about a pod that the API says is not there, or not for us.
const GONE_PAUSE: Duration = Duration::from_secs(60);

/// Whether a container can be reached.
#[derive(Debug, Clone)]
pub(crate) enum Reachability {
    Connecting,
    Up(Arc<Connection>),
    /// Its agent is gone: which pod, and why, as one line.
    Lost(String),
}

#[derive(Debug)]
pub(crate) struct KeepAlive {
    container: Arc<Container>,
    reach: watch::Sender<Reachability>,
}

impl KeepAlive {
    pub(crate) fn start(container: Arc<Container>) -> Arc<Self> {
        let keeper = Arc::new(Self {
            container,
            reach: watch::Sender::new(Reachability::Connecting),
        });
        let kept = keeper.clone();
        tokio::spawn(async move { kept.keep().await });
        keeper
    }

    pub(crate) fn reach(&self) -> watch::Receiver<Reachability> {
        self.reach.subscribe()
    }

    async fn keep(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let wait = match self.container.connection(Lane::Control).await {
                Ok(connection) => {
                    pause = FIRST_PAUSE;
                    let why = self.stay(connection).await;
                    let pod = self.container.linker().pod();
                    tracing::warn!(pod, why, "the agent is lost");
                    // One line, as it goes into logs of lines.
                    let why = format!("pod {pod} lost: {}", why.replace('\n', " "));
                    self.reach.send_replace(Reachability::Lost(why));
                    FIRST_PAUSE
                }
                // A client's mistake; who uses it all the same dials for himself.
                Err(failure) if failure.kind == Kind::ContainerNotFound && self.container.name().is_some() => return,
                Err(failure) if matches!(failure.kind, Kind::PodNotFound | Kind::Windows) => GONE_PAUSE,
                Err(_) => {
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    pause
                }
            };
            // Many bridges lose the same API server at the same moment.
            let [jitter] = random::bytes();
            let wait = wait.mul_f32(1.0 + f32::from(jitter) / 510.0);
            tokio::select! {
                () = sleep(wait) => {}
                // A client needed it sooner.
                () = self.container.dialed_anew() => {}
            }
        }
    }

    /// With one agent, over as many links as it takes; why it is lost.
    async fn stay(&self, mut connection: Arc<Connection>) -> String {
        loop {
            self.reach.send_replace(Reachability::Up(connection.clone()));
            let hint = tokio::select! {
                hint = connection.handle.wait() => hint,
                () = connection.superseded.cancelled() => match self.container.reconnect(Lane::Control).await {
                    Ok(better) if better.agent.instance == connection.agent.instance => {
                        connection = better;
                        continue;
                    }
                    _ => "the link that took its place broke".into(),
                },
            };
            let lost_agent = LostAgent::of_connection(&connection, &hint);
            self.reach.send_replace(Reachability::Connecting);
            let mut backoff = Backoff::new(self.container.linker().lease());
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
