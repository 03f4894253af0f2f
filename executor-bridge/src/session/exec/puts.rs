//! Starts a command together with its files in one call. After a link break the call is made again: the files can be
//! read again, and the agent writes no file once it has the exec.

use podbridge_proto::limits::MAX_CHUNK;
use podbridge_proto::v1::exec_client::ExecClient;
use podbridge_proto::v1::put_and_exec_request::Part;
use podbridge_proto::v1::put_request::Part as PutPart;
use podbridge_proto::v1::{ExecEvent, PutAndExecRequest, PutHeader, PutRequest, PutTrailer, RunRequest};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tonic::{Response, Status, Streaming};

use crate::connections::{PermitChannel, permitted};
use crate::protocol::result::Outcome;
use crate::session::budget::{InputCredit, InputShare};
use crate::session::files::passed_file::LocalFile;

/// Parts handed to HTTP/2 and not yet sent.
const QUEUED_PARTS: usize = 4;

/// Makes the call. `share`: what the bridge may hold of the files. The outer error means that a local file cannot be read; the inner one is
/// the agent's.
pub(crate) async fn run(
    exec: &mut ExecClient<PermitChannel>,
    run: RunRequest,
    puts: &[(PutHeader, LocalFile)],
    share: &InputShare,
) -> Result<Result<Streaming<ExecEvent>, Status>, Outcome> {
    let (parts, outgoing) = mpsc::channel(QUEUED_PARTS);
    let call = exec.put_and_exec(permitted(outgoing));
    tokio::pin!(call);
    // The call progresses only while it is polled. Its answer, which may be a refusal, can come before the last part.
    let feed = send_parts(run, puts, share, parts);
    tokio::pin!(feed);
    let answer = tokio::select! {
        answer = &mut call => answer,
        sent = &mut feed => {
            sent?;
            call.await
        }
    };
    Ok(answer.map(Response::into_inner))
}

/// Sends the command, then each file with its length and digest.
async fn send_parts(
    run: RunRequest,
    puts: &[(PutHeader, LocalFile)],
    share: &InputShare,
    parts: mpsc::Sender<(PutAndExecRequest, Option<InputCredit>)>,
) -> Result<(), Outcome> {
    let send = async |part, credit| {
        let part = PutAndExecRequest { part: Some(part) };
        if parts.send((part, credit)).await.is_err() {
            // The call has ended. Only its answer matters now.
            std::future::pending::<()>().await;
        }
    };
    let put = |part| Part::Put(PutRequest { part: Some(part) });
    send(Part::Run(run), None).await;
    for (header, file) in puts {
        send(put(PutPart::Header(header.clone())), None).await;
        let (mut length, mut digest) = (0, Sha256::new());
        loop {
            let credit = share.charge(MAX_CHUNK).await;
            let data = file.read_at(length, credit.bytes()).await?;
            if data.is_empty() {
                break;
            }
            length += data.len() as u64;
            digest.update(&data);
            send(put(PutPart::Data(data)), Some(credit)).await;
        }
        let digest = digest.finalize().to_vec().into();
        send(put(PutPart::Trailer(PutTrailer { length, digest })), None).await;
    }
    Ok(())
}
