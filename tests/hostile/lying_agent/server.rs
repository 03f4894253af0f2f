//! A gRPC server that answers as an agent does, except for one call, to which it lies. It runs in the process of the test. `cases` start it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use podbridge_proto::limits::{CAPABILITIES, MAX_MESSAGE, PROTOCOL_MAJOR};
use podbridge_proto::v1::agent_server::{Agent, AgentServer};
use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::exec_server::{Exec, ExecServer};
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::files_server::{Files, FilesServer};
use podbridge_proto::v1::logs_server::{Logs, LogsServer};
use podbridge_proto::v1::{
    AttachRequest, CancelRequest, CancelResponse, Closed, EnrollRequest, EnrollResponse, ExecEvent, ExitRecord,
    FollowEvent, FollowRequest, GetRequest, GetResponse, HelloRequest, HelloResponse, ListRequest, ListResponse,
    PutAndExecRequest, PutRequest, PutResponse, ReleaseRequest, ReleaseResponse, RemoveRequest, RemoveResponse,
    ResizeRequest, ResizeResponse, RunRequest, SignalRequest, SignalResponse, StartRequest, StartResponse, Started,
    StatRequest, StatResponse, StdinAck, StdinChunk, WaitRequest, WaitResponse, WatchEvent, WatchRequest,
    WriteProgress,
};
use rustix::net::{Shutdown, shutdown};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::lying_agent::answer::{Answer, AnswerStream};

/// The call to which an agent lies, and its answer. Calls of commands other than `true` get the answer; `true` runs as it should, so that
/// the bridge can be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lie {
    Hello(Answer<HelloResponse>),
    /// The way to a direct link. Each connection leads to another life of the agent, so that the bridge looks for the way again.
    Enroll(Answer<EnrollResponse>),
    Run(Answer<ExecEvent>),
    /// Acknowledgements of stdin. The command does not end.
    Stdin(Answer<StdinAck>),
    /// The calls after a command are never answered.
    Release,
    Cancel,
    Get(Answer<GetResponse>),
    Stat(Answer<StatResponse>),
    Write(Answer<WriteProgress>),
    Follow(Answer<FollowEvent>),
    Watch(Answer<WatchEvent>),
    /// Each link is cut at its second call.
    Links,
}

/// A running agent. The drop ends it and its connections.
#[derive(Debug)]
pub(crate) struct LyingAgent {
    runtime: Option<Runtime>,
    state: Arc<State>,
}

impl LyingAgent {
    /// Starts an agent on this socket. It does not lie yet.
    pub(crate) fn start(socket: &Path, seed: u64) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let state = Arc::new(State {
            lie: Mutex::new(None),
            rng: Mutex::new(Rng::with_seed(seed)),
            hellos: AtomicU32::new(0),
            follows: AtomicU32::new(0),
            links: Mutex::default(),
        });
        let service = Service(state.clone());
        let kept = state.clone();
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(socket).unwrap()
        };
        let server = Server::builder()
            .add_service(AgentServer::new(service.clone()))
            .add_service(ExecServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE))
            .add_service(FilesServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE))
            .add_service(LogsServer::new(service))
            .serve_with_incoming(UnixListenerStream::new(listener).map(move |link| kept.keep(link?)));
        runtime.spawn(server);
        Self {
            runtime: Some(runtime),
            state,
        }
    }

    /// Returns how many links have been opened since the last time.
    pub(crate) fn take_hellos(&self) -> u32 {
        self.state.hellos.swap(0, Ordering::Relaxed)
    }

    /// Returns how many calls have asked for a log since the last time.
    pub(crate) fn take_follows(&self) -> u32 {
        self.state.follows.swap(0, Ordering::Relaxed)
    }

    /// Sets the lie of all later calls.
    pub(crate) fn lie(&self, lie: Option<Lie>) {
        *self.state.lie.lock().unwrap_or_else(PoisonError::into_inner) = lie;
    }
}

impl Drop for LyingAgent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug)]
struct State {
    lie: Mutex<Option<Lie>>,
    rng: Mutex<Rng>,
    /// Links that were greeted, and calls that asked for a log.
    hellos: AtomicU32,
    follows: AtomicU32,
    /// The sockets of all links that were not cut.
    links: Mutex<Vec<OwnedFd>>,
}

impl State {
    fn links(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, link: UnixStream) -> std::io::Result<UnixStream> {
        self.links().push(link.as_fd().try_clone_to_owned()?);
        Ok(link)
    }

    fn cut_links(&self) {
        for link in self.links().drain(..) {
            // The bridge may have closed it.
            let _ = shutdown(link, Shutdown::Both);
        }
    }
}

#[derive(Debug, Clone)]
struct Service(Arc<State>);

impl Service {
    fn lie(&self) -> Option<Lie> {
        *self.0.lie.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a generator of random numbers for one call.
    fn rng(&self) -> Rng {
        self.0.rng.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }
}

/// Returns Hello's answer of an agent that does not lie.
pub(crate) fn honest_hello() -> HelloResponse {
    HelloResponse {
        protocol_major: PROTOCOL_MAJOR,
        version: env!("CARGO_PKG_VERSION").into(),
        capabilities: CAPABILITIES.iter().map(|name| (*name).into()).collect(),
        instance: "0123456789abcdef0123456789abcdef.boot.1".into(),
        boot_id: "boot".into(),
        ..HelloResponse::default()
    }
}

pub(crate) fn event(event: Event) -> ExecEvent {
    ExecEvent { event: Some(event) }
}

/// Returns the events of a command that ends at once with this exit code.
pub(crate) fn exits(code: u32) -> [ExecEvent; 3] {
    let exit = ExitRecord {
        cause: Some(Cause::Exited(code)),
        ..ExitRecord::default()
    };
    [
        event(Event::Started(Started {
            pid: 1,
            ..Started::default()
        })),
        event(Event::Exited(exit)),
        event(Event::Closed(Closed::default())),
    ]
}

/// The answer of a command that runs until it is cancelled.
const RUNS_ON: Answer<ExecEvent> = Answer::Stays(|_| {
    Box::new(
        [event(Event::Started(Started {
            pid: 1,
            ..Started::default()
        }))]
        .into_iter(),
    )
});
/// Name of the log that the console's reader asks for.
pub(crate) const LOG_NAME: &str = "console-podbridge-hostile-1-node.log";
/// The names of an agent that has this log.
const HAS_LOG: Answer<WatchEvent> = Answer::Stays(|_| {
    let names = WatchEvent {
        all: true,
        appeared: vec![LOG_NAME.into()],
        ..WatchEvent::default()
    };
    Box::new([names].into_iter())
});
/// The answer of a command that has ended.
const HAS_ENDED: Answer<ExecEvent> = Answer::Closes(|_| Box::new(exits(0).into_iter()));

#[tonic::async_trait]
impl Agent for Service {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        self.0.hellos.fetch_add(1, Ordering::Relaxed);
        match self.lie() {
            Some(Lie::Hello(answer)) => answer.message(&mut self.rng()).await,
            Some(Lie::Enroll(_)) => Ok(Response::new(HelloResponse {
                instance: format!("{:032x}.boot.1", self.rng().u128(..)),
                ..honest_hello()
            })),
            _ => Ok(Response::new(honest_hello())),
        }
    }

    async fn enroll(&self, _: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        match self.lie() {
            Some(Lie::Enroll(answer)) => answer.message(&mut self.rng()).await,
            _ => Err(Status::failed_precondition("no address")),
        }
    }
}

#[tonic::async_trait]
impl Exec for Service {
    type RunStream = AnswerStream<ExecEvent>;
    type PutAndExecStream = AnswerStream<ExecEvent>;
    type AttachStream = AnswerStream<ExecEvent>;
    type WriteStdinStream = AnswerStream<StdinAck>;

    async fn run(&self, request: Request<RunRequest>) -> Result<Response<Self::RunStream>, Status> {
        let start = request.into_inner().start.unwrap_or_default();
        if matches!(self.lie(), Some(Lie::Links)) {
            self.0.cut_links();
        }
        let program = start.argv.first().map(|program| &program[..]).unwrap_or_default();
        let answer = match self.lie() {
            _ if [&b"true"[..], b"tar"].contains(&program) => HAS_ENDED,
            Some(Lie::Run(answer)) => answer,
            Some(Lie::Release) => HAS_ENDED,
            _ => RUNS_ON,
        };
        answer.stream(&mut self.rng()).await
    }

    async fn put_and_exec(
        &self,
        _: Request<Streaming<PutAndExecRequest>>,
    ) -> Result<Response<Self::PutAndExecStream>, Status> {
        match self.lie() {
            Some(Lie::Run(answer)) => answer.stream(&mut self.rng()).await,
            _ => HAS_ENDED.stream(&mut self.rng()).await,
        }
    }

    async fn start(&self, _: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        Ok(Response::new(StartResponse { pid: 1, created: true }))
    }

    async fn attach(&self, _: Request<AttachRequest>) -> Result<Response<Self::AttachStream>, Status> {
        match self.lie() {
            Some(Lie::Run(answer)) => answer.stream(&mut self.rng()).await,
            _ => Err(Status::not_found("no such exec")),
        }
    }

    async fn write_stdin(
        &self,
        request: Request<Streaming<StdinChunk>>,
    ) -> Result<Response<Self::WriteStdinStream>, Status> {
        let mut chunks = request.into_inner();
        if let Some(Lie::Stdin(answer)) = self.lie() {
            let answer = answer.stream(&mut self.rng()).await?;
            // The data has to be taken, or the answers would wait for it.
            tokio::spawn(async move { while let Some(Ok(_)) = chunks.next().await {} });
            return Ok(answer);
        }
        let acks = chunks.map(|chunk| {
            let chunk = chunk?;
            Ok(StdinAck {
                offset: chunk.offset + chunk.data.len() as u64,
                closed: false,
            })
        });
        Ok(Response::new(Box::pin(acks)))
    }

    async fn signal(&self, _: Request<SignalRequest>) -> Result<Response<SignalResponse>, Status> {
        Ok(Response::new(SignalResponse {}))
    }

    async fn resize(&self, _: Request<ResizeRequest>) -> Result<Response<ResizeResponse>, Status> {
        Ok(Response::new(ResizeResponse {}))
    }

    async fn wait(&self, _: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        std::future::pending().await
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(ListResponse::default()))
    }

    async fn release(&self, _: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        match self.lie() {
            Some(Lie::Release) => std::future::pending().await,
            _ => Ok(Response::new(ReleaseResponse {})),
        }
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        match self.lie() {
            Some(Lie::Cancel) => std::future::pending().await,
            _ => Ok(Response::new(CancelResponse {})),
        }
    }
}

#[tonic::async_trait]
impl Files for Service {
    type WriteStream = AnswerStream<WriteProgress>;
    type GetStream = AnswerStream<GetResponse>;

    async fn put(&self, request: Request<Streaming<PutRequest>>) -> Result<Response<PutResponse>, Status> {
        let mut parts = request.into_inner();
        while parts.message().await?.is_some() {}
        Ok(Response::new(PutResponse::default()))
    }

    async fn write(&self, request: Request<Streaming<PutRequest>>) -> Result<Response<Self::WriteStream>, Status> {
        let mut parts = request.into_inner();
        let answer = match self.lie() {
            Some(Lie::Write(answer)) => answer,
            _ => Answer::Fails(tonic::Code::NotFound, "no such directory"),
        };
        let answer = answer.stream(&mut self.rng()).await?;
        // The content has to be taken, or the answers would wait for it.
        tokio::spawn(async move { while let Some(Ok(_)) = parts.next().await {} });
        Ok(answer)
    }

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        match self.lie() {
            Some(Lie::Get(answer)) => answer.stream(&mut self.rng()).await,
            _ => Err(Status::not_found("no such file")),
        }
    }

    async fn stat(&self, _: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        match self.lie() {
            Some(Lie::Stat(answer)) => answer.message(&mut self.rng()).await,
            _ => Ok(Response::new(StatResponse { stat: None })),
        }
    }
}

#[tonic::async_trait]
impl Logs for Service {
    type FollowStream = AnswerStream<FollowEvent>;
    type WatchStream = AnswerStream<WatchEvent>;

    async fn follow(&self, _: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        self.0.follows.fetch_add(1, Ordering::Relaxed);
        match self.lie() {
            Some(Lie::Follow(answer)) => answer.stream(&mut self.rng()).await,
            _ => Answer::Never.stream(&mut self.rng()).await,
        }
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        match self.lie() {
            Some(Lie::Links) => {
                self.0.cut_links();
                Answer::Never.stream(&mut self.rng()).await
            }
            Some(Lie::Watch(answer)) => answer.stream(&mut self.rng()).await,
            Some(Lie::Follow(_)) => HAS_LOG.stream(&mut self.rng()).await,
            _ => Answer::Never.stream(&mut self.rng()).await,
        }
    }

    async fn remove(&self, _: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        Ok(Response::new(RemoveResponse {}))
    }
}
