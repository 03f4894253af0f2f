//! Requests with names of any length: each is refused with one sentence that fits into a header of HTTP/2, and the connection goes on. A
//! row of a table names the request.

use std::pin::Pin;

use podbridge_proto::v1::agent_client::AgentClient;
use podbridge_proto::v1::exec_client::ExecClient;
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::files_client::FilesClient;
use podbridge_proto::v1::logs_client::LogsClient;
use podbridge_proto::v1::put_request::Part;
use podbridge_proto::v1::{
    CancelRequest, EnrollRequest, FollowRequest, GetRequest, HelloRequest, PutHeader, PutRequest, PutTrailer,
    RemoveRequest, StartRequest, StatRequest, WaitRequest, WatchRequest,
};
use podbridge_proto::words::MAX_WORDS;
use sha2::{Digest as _, Sha256};
use tonic::Status;
use tonic::transport::Channel;

use crate::harness::{Agent, argv, finish, run, soon};

/// A request that repeats a name, and what the sentence ends with. The request returns the sentence.
type Row = (&'static str, &'static str, fn(Channel, String) -> Answer);
type Answer = Pin<Box<dyn Future<Output = String>>>;

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    answer.unwrap_err().message().to_owned()
}

/// Runs a command that does not start; returns the reason.
async fn not_started(channel: Channel, start: StartRequest) -> String {
    let answer = ExecClient::new(channel).run(run(start)).await.unwrap().into_inner();
    match finish(answer).await.cause() {
        Cause::StartFailed(failure) => failure.message,
        other => panic!("{other:?}"),
    }
}

/// Puts a file without content.
async fn put(channel: Channel, header: PutHeader) -> String {
    let trailer = PutTrailer {
        digest: Sha256::digest([]).to_vec().into(),
        ..PutTrailer::default()
    };
    let parts = [Part::Header(header), Part::Trailer(trailer)];
    let messages = parts.map(|part| PutRequest { part: Some(part) });
    refused(FilesClient::new(channel).put(tokio_stream::iter(messages)).await)
}

const ROWS: &[Row] = &[
    ("a program", " (os error 36)", |channel, name| {
        Box::pin(async move { not_started(channel, argv(&[&format!("/{name}")])).await })
    }),
    ("a program without a path", "", |channel, name| {
        Box::pin(async move { not_started(channel, argv(&[&name.replace('/', "x")])).await })
    }),
    ("a working directory", " (os error 36)", |channel, name| {
        let start = StartRequest {
            cwd: format!("/{name}").into(),
            ..argv(&["true"])
        };
        Box::pin(not_started(channel, start))
    }),
    ("a user", " in /etc/passwd", |channel, user| {
        let start = StartRequest {
            user,
            ..argv(&["true"])
        };
        Box::pin(not_started(channel, start))
    }),
    ("the reason of a cancel", "", |channel, reason| {
        Box::pin(async move {
            let mut exec = ExecClient::new(channel);
            let start = argv(&["sleep", "300"]);
            let exec_id = start.exec_id.clone();
            exec.start(start).await.unwrap();
            let cancel = CancelRequest {
                exec_id: exec_id.clone(),
                reason,
            };
            exec.cancel(cancel).await.unwrap();
            let exit = exec.wait(WaitRequest { exec_id }).await.unwrap().into_inner().exit;
            match exit.unwrap().cause.unwrap() {
                Cause::Cancelled(ended) => ended.reason,
                other => panic!("{other:?}"),
            }
        })
    }),
    ("a file to read", ": file name too long", |channel, name| {
        let request = GetRequest {
            path: format!("/{name}").into(),
            ..GetRequest::default()
        };
        Box::pin(async move { refused(FilesClient::new(channel).get(request).await) })
    }),
    ("a file below a root", "", |channel, name| {
        let request = GetRequest {
            path: format!("../{name}").into(),
            root: Some("/tmp".into()),
            ..GetRequest::default()
        };
        Box::pin(async move { refused(FilesClient::new(channel).get(request).await) })
    }),
    ("a root", ": file name too long", |channel, name| {
        let request = GetRequest {
            path: "x".into(),
            root: Some(format!("/{name}").into()),
            ..GetRequest::default()
        };
        Box::pin(async move { refused(FilesClient::new(channel).get(request).await) })
    }),
    ("a file to look at", ": file name too long", |channel, name| {
        let request = StatRequest {
            path: format!("/{name}").into(),
            ..StatRequest::default()
        };
        Box::pin(async move { refused(FilesClient::new(channel).stat(request).await) })
    }),
    ("a file to write", ": file name too long", |channel, name| {
        let header = PutHeader {
            path: format!("/{name}").into(),
            ..PutHeader::default()
        };
        Box::pin(put(channel, header))
    }),
    ("the owner of a file", " in /etc/passwd", |channel, user| {
        let header = PutHeader {
            path: "/tmp/podbridge-is-not-written".into(),
            user,
            ..PutHeader::default()
        };
        Box::pin(put(channel, header))
    }),
    ("a log to delete", ": file name too long", |channel, name| {
        let request = RemoveRequest {
            path: format!("/{name}").into(),
        };
        Box::pin(async move { refused(LogsClient::new(channel).remove(request).await) })
    }),
    ("a log to follow", ": file name too long", |channel, name| {
        let request = FollowRequest {
            path: format!("/{name}").into(),
            ..FollowRequest::default()
        };
        Box::pin(async move {
            let mut events = LogsClient::new(channel).follow(request).await.unwrap().into_inner();
            refused(events.message().await)
        })
    }),
    ("a directory of logs", ": file name too long", |channel, name| {
        let request = WatchRequest {
            directory: format!("/{name}").into(),
            ..WatchRequest::default()
        };
        Box::pin(async move {
            let mut events = LogsClient::new(channel).watch(request).await.unwrap().into_inner();
            refused(events.message().await)
        })
    }),
    ("a capability", "; install a newer agent", |channel, name| {
        let request = HelloRequest {
            protocol_major: 1,
            requires: vec![name],
            ..HelloRequest::default()
        };
        Box::pin(async move { refused(AgentClient::new(channel).hello(request).await) })
    }),
    (
        "a version",
        "; install the same release on both sides",
        |channel, version| {
            let request = HelloRequest {
                version,
                ..HelloRequest::default()
            };
            Box::pin(async move { refused(AgentClient::new(channel).hello(request).await) })
        },
    ),
    ("an address", "", |channel, address| {
        let request = EnrollRequest {
            address,
            ..EnrollRequest::default()
        };
        Box::pin(async move { refused(AgentClient::new(channel).enroll(request).await) })
    }),
];

#[tokio::test]
async fn a_name_of_any_length_is_refused_with_one_sentence() {
    let agent = Agent::start();
    let channel = agent.channel().await;
    for unit in ["x", "/x", "\u{1b}[31m\n", "\u{20ac}"] {
        let name = unit.repeat((1 << 18) / unit.len());
        for (what, end, request) in ROWS {
            let sentence = soon(request(channel.clone(), name.clone())).await;
            let shown = format!("{what} of {unit:?}: {sentence:?}");
            assert!(!sentence.is_empty() && sentence.len() <= MAX_WORDS, "{shown}");
            assert!(!sentence.contains(char::is_control), "{shown}");
            assert!(sentence.ends_with(end), "{shown}");
        }
    }
    // The connection is the same one.
    let answer = ExecClient::new(channel).run(run(argv(&["true"]))).await.unwrap();
    assert_eq!(finish(answer.into_inner()).await.cause(), Cause::Exited(0));
}
