//! Keeps one container of Zuul's slot in reach for as long as the build lasts: dials before anybody asks, again whenever
//! the link breaks, and passes on which logs its agent has.

use std::sync::Arc;
use std::time::Duration;

use podbridge_proto::v1::{RemoveRequest, StatRequest, WatchRequest};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::{Code, Status};

use super::super::container::Container;
use super::super::diagnosis::{self, Home, Patience, Recovery};
use super::super::{Connection, Lane, status};
use super::{DIRECTORY, LogId, Logs, PREFIX, SUFFIX, Source};
use crate::error::Kind;
use crate::protocol::result::Outcome;
use crate::random;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Between questions about a pod that the API says is not there, or not for us.
const GONE_PAUSE: Duration = Duration::from_secs(60);

/// Whether a container can be reached.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    Sought,
    Up(Arc<Connection>),
    /// Its agent is gone: which pod, and why, as one line.
    Lost(String),
}

#[derive(Debug)]
pub(in crate::session) struct Keeper {
    container: Arc<Container>,
    source: Source,
    reach: watch::Sender<Reach>,
    logs: Arc<Logs>,
}

impl Keeper {
    pub(in crate::session) fn start(container: Arc<Container>, logs: Arc<Logs>) -> Arc<Self> {
        let keeper = Arc::new(Self {
            source: Source::Container(container.name().map(str::to_owned)),
            container,
            reach: watch::Sender::new(Reach::Sought),
            logs,
        });
        let kept = keeper.clone();
        tokio::spawn(async move { kept.keep().await });
        keeper
    }

    pub(in crate::session) fn reach(&self) -> watch::Receiver<Reach> {
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
                    self.reach.send_replace(Reach::Lost(why));
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
            self.reach.send_replace(Reach::Up(connection.clone()));
            let hint = tokio::select! {
                hint = connection.handle.wait() => hint,
                never = self.watch_always(&connection) => never,
                () = connection.superseded.cancelled() => match self.container.reconnect(Lane::Control).await {
                    Ok(better) if better.agent.instance == connection.agent.instance => {
                        connection = better;
                        continue;
                    }
                    _ => "the link that took its place broke".into(),
                },
            };
            let home = Home::behind(&connection, &hint);
            self.reach.send_replace(Reach::Sought);
            let mut patience = Patience::new(self.container.linker().lease());
            match diagnosis::recover(&self.container, &home, &mut patience).await {
                Recovery::Again(again) => connection = again,
                Recovery::Over(outcome) => return reason(&outcome),
            }
        }
    }

    /// Passes on what logs there are; never ends.
    async fn watch_always(&self, connection: &Connection) -> String {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.watch(connection).await {
                // An older agent: tasks run, and have no live log.
                Err(status) if status.code() == Code::Unimplemented => return std::future::pending().await,
                Err(status) => tracing::info!(reason = status::reason(&status), "logs are not watched"),
                Ok(()) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn watch(&self, connection: &Connection) -> Result<(), Status> {
        let request = WatchRequest {
            directory: DIRECTORY.into(),
            prefix: PREFIX.into(),
            suffix: SUFFIX.into(),
        };
        let mut events = connection.logs().watch(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            let ids = |names: &[bytes::Bytes]| names.iter().filter_map(|name| LogId::of_file(name)).collect::<Vec<_>>();
            self.logs
                .update(&self.source, event.all, ids(&event.appeared), &ids(&event.gone));
        }
        Ok(())
    }
}

fn reason(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Lost(failure) | Outcome::Unreachable(failure) => failure.message.clone(),
        Outcome::OomKilled { message, .. } => message.clone(),
        other => other.name().to_owned(),
    }
}

/// Whether a log is there now; a broken link is no answer.
pub(in crate::session) async fn exists(connection: &Connection, id: &LogId) -> Result<bool, Status> {
    let request = StatRequest {
        path: id.path().into(),
        no_follow: true,
        root: None,
    };
    let answer = connection.files().stat(request).await?;
    Ok(answer.into_inner().stat.is_some())
}

pub(in crate::session) async fn remove(connection: &Connection, id: &LogId) -> Result<(), Status> {
    let request = RemoveRequest { path: id.path().into() };
    match connection.logs().remove(request).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(status),
    }
}
