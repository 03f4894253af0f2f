//! Files.Put, Files.Get and Files.Stat: a file is written completely or not at all, digests are checked, errors name the path.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use podbridge_proto::limits::{ERRNO_METADATA, KIND_METADATA};
use podbridge_proto::v1::get_response::Part as GetPart;
use podbridge_proto::v1::put_request::Part;
use podbridge_proto::v1::{GetRequest, PutHeader, PutRequest, PutTrailer, StatRequest};
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use crate::harness::{Agent, soon};

pub(crate) fn bytes(path: &Path) -> bytes::Bytes {
    path.to_str().unwrap().to_owned().into()
}

pub(crate) async fn put(agent: &Agent, path: &Path, chunks: &[&[u8]], sha256: Option<&[u8]>) -> Result<u64, Status> {
    let content = chunks.concat();
    let sha256 = sha256.map_or_else(|| Sha256::digest(&content).to_vec(), <[u8]>::to_vec);
    let header = PutHeader {
        path: bytes(path),
        mode: Some(0o640),
        ..Default::default()
    };
    let mut messages = vec![Part::Header(header)];
    messages.extend(chunks.iter().map(|chunk| Part::Data(chunk.to_vec().into())));
    messages.push(Part::Trailer(PutTrailer {
        length: content.len() as u64,
        digest: sha256.into(),
    }));
    let messages: Vec<_> = messages
        .into_iter()
        .map(|part| PutRequest { part: Some(part) })
        .collect();
    let response = soon(agent.files().await.put(tokio_stream::iter(messages))).await?;
    Ok(response.into_inner().length)
}

pub(crate) async fn get(agent: &Agent, path: &Path, offset: u64) -> Result<Vec<u8>, Status> {
    let mut parts = agent
        .files()
        .await
        .get(GetRequest {
            path: bytes(path),
            offset,
            ..Default::default()
        })
        .await?
        .into_inner();
    let mut content = Vec::new();
    while let Some(part) = soon(parts.message()).await? {
        match part.part.unwrap() {
            GetPart::Stat(_) => {}
            GetPart::Hole(_) => panic!("the request allows no holes"),
            GetPart::Data(data) => content.extend_from_slice(&data),
            GetPart::Trailer(trailer) => {
                assert_eq!(
                    (trailer.length, &trailer.digest[..]),
                    (content.len() as u64, &Sha256::digest(&content)[..])
                );
                return Ok(content);
            }
        }
    }
    panic!("no trailer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_is_the_same_after_put_and_get() {
    let agent = Agent::start();
    let path = agent.dir.path().join("ünï code");
    let big = vec![42u8; 5 << 20];
    let chunks: Vec<&[u8]> = big.chunks(100_000).collect();
    assert_eq!(put(&agent, &path, &chunks, None).await.unwrap(), 5 << 20);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(get(&agent, &path, 0).await.unwrap(), big);
    assert_eq!(get(&agent, &path, (5 << 20) - 3).await.unwrap(), [42, 42, 42]);
    let empty = agent.dir.path().join("empty");
    put(&agent, &empty, &[], None).await.unwrap();
    assert_eq!(get(&agent, &empty, 0).await.unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_damaged_or_incomplete_put_changes_nothing() {
    let agent = Agent::start();
    let path = agent.dir.path().join("file");
    std::fs::write(&path, "old").unwrap();
    let damaged = put(&agent, &path, &[b"new"], Some(&[0; 32])).await.unwrap_err();
    assert_eq!(damaged.code(), Code::DataLoss);
    assert_eq!(damaged.metadata().get(KIND_METADATA).unwrap(), "digest");
    let header = PutHeader {
        path: bytes(&path),
        ..Default::default()
    };
    let cut = [Part::Header(header), Part::Data("half".into())].map(|part| PutRequest { part: Some(part) });
    let cut = soon(agent.files().await.put(tokio_stream::iter(cut))).await;
    assert_eq!(cut.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    let left: Vec<_> = std::fs::read_dir(agent.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        left.iter().all(|name| !name.to_str().unwrap().contains("podbridge-")),
        "{left:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn errors_have_an_errno_and_a_sentence() {
    let agent = Agent::start();
    let missing = agent.dir.path().join("no/such");
    let refused = get(&agent, &missing, 0).await.unwrap_err();
    assert_eq!(
        (
            refused.code(),
            refused.metadata().get(ERRNO_METADATA).unwrap().to_str().unwrap()
        ),
        (Code::NotFound, "2")
    );
    assert!(refused.message().contains("no/such") && refused.message().contains("no such file"));
    let directory = get(&agent, agent.dir.path(), 0).await.unwrap_err();
    assert_eq!(directory.metadata().get(ERRNO_METADATA).unwrap(), "21");
    let refused = put(&agent, &missing, &[b"x"], None).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let device = get(&agent, Path::new("/dev/null"), 0).await.unwrap_err();
    assert!(device.message().contains("not a regular file"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stat_reports_a_file_a_link_and_an_absent_path() {
    let agent = Agent::start();
    let link = agent.dir.path().join("link");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    let mut files = agent.files().await;
    let mut stat = async |path: &Path, no_follow| {
        let request = StatRequest {
            path: bytes(path),
            no_follow,
            root: None,
        };
        files.stat(request).await.unwrap().into_inner().stat
    };
    assert_eq!(stat(&link, false).await.unwrap().mode & 0o170000, 0o100000);
    assert_eq!(stat(&link, true).await.unwrap().mode & 0o170000, 0o120000);
    assert_eq!(stat(Path::new("/no/such"), false).await, None);
}
