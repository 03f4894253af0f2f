//! Tests of PutAndExec: the files are put once, and the command runs once.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use podbridge_proto::v1::put_and_exec_request::Part;
use podbridge_proto::v1::put_request::Part as PutPart;
use podbridge_proto::v1::{PutAndExecRequest, PutHeader, PutRequest, PutTrailer, StartRequest};
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::{Agent, eventually, finish, run, shell, soon};

fn messages(start: StartRequest, path: &Path, content: &'static [u8], digest: Bytes) -> Vec<PutAndExecRequest> {
    let put = |part| Part::Put(PutRequest { part: Some(part) });
    let path = path.to_str().unwrap().to_owned().into();
    let length = content.len() as u64;
    let parts = [
        Part::Run(run(start)),
        put(PutPart::Header(PutHeader {
            path,
            ..PutHeader::default()
        })),
        put(PutPart::Data(Bytes::from_static(content))),
        put(PutPart::Trailer(PutTrailer { length, digest })),
    ];
    let message = |part| PutAndExecRequest { part: Some(part) };
    parts.into_iter().map(message).collect()
}

/// Returns the digest of "content".
fn content_digest() -> Bytes {
    let hex = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";
    (0..32)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_requests_at_once_one_puts_the_file_and_runs_the_command() {
    let agent = Agent::start();
    let (file, counter) = (agent.dir.path().join("file"), agent.dir.path().join("counter"));
    let start = shell(&format!(
        "echo x >>{}; cat {1}; rm {1}",
        counter.display(),
        file.display()
    ));
    let mut racing = JoinSet::new();
    for _ in 0..50 {
        let mut exec = agent.exec().await;
        let messages = messages(start.clone(), &file, b"content", content_digest());
        racing.spawn(async move {
            let answers = exec.put_and_exec(tokio_stream::iter(messages)).await.unwrap();
            finish(answers.into_inner()).await
        });
    }
    for seen in soon(racing.join_all()).await {
        assert_eq!(seen.stdout(), "content");
    }
    assert_eq!(fs::read_to_string(counter).unwrap(), "x\n");
    assert!(!file.exists(), "a late duplicate put the file again");
    let names = || fs::read_dir(agent.dir.path()).unwrap().flatten();
    eventually("no temporary file is left", || {
        !names().any(|entry| entry.file_name().to_string_lossy().starts_with(".podbridge-"))
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_broken_file_starts_nothing_and_the_request_can_be_repeated() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let file = agent.dir.path().join("file");
    let start = shell(&format!("cat {}", file.display()));
    let bad = messages(start.clone(), &file, b"content", Bytes::from(vec![0; 32]));
    let refused = exec.put_and_exec(tokio_stream::iter(bad)).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss);
    let mut short = messages(start.clone(), &file, b"content", content_digest());
    short.pop();
    let refused = exec.put_and_exec(tokio_stream::iter(short)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(!file.exists());
    let good = messages(start, &file, b"content", content_digest());
    let answers = exec.put_and_exec(tokio_stream::iter(good)).await.unwrap();
    assert_eq!(soon(finish(answers.into_inner())).await.stdout(), "content");
}
