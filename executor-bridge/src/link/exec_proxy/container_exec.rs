//! Execs in one container: runs a program there by `pods/exec`, and recognises what its first output is. Knows no script and no agent
//! binary. `exec_proxy` and `inject` call it.

use bytes::{Bytes, BytesMut};
use podbridge_proto::limits::{MAX_REPORT, PROXY_MAGIC};
use podbridge_proto::words::clean;

use crate::error::{Failure, Kind};
use crate::link::exec_proxy::deadline::Deadline;
use crate::link::exec_proxy::exec_stream::{self, ExecStatus, Reader, Writer};
use crate::link::exec_proxy::scripts::{FIND_MARKER, FindReport};
use crate::pod::{Access, ContainerRef};

/// Bytes of an unexpected output that a message shows.
const SHOWN_OUTPUT: usize = 200;

/// Runs programs in one container, all of them within the time of one dial.
pub(super) struct ContainerExec {
    pub(super) access: Access,
    pub(super) container: ContainerRef,
    pub(super) deadline: Deadline,
}

/// A running proxy: the program has printed the magic line.
pub(super) struct Proxy {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    /// Output that came together with the magic line.
    pub(super) rest: Bytes,
}

/// The first output of a program.
pub(super) enum FirstOutput {
    Proxy(Proxy),
    Report(FindReport),
    /// There is no such program, and so no output.
    NoProgram,
    /// The program ended, or printed something else.
    Unexpected(Failure),
}

impl ContainerExec {
    pub(super) async fn exec(&self, arguments: &[&str]) -> Result<(Reader, Writer), Failure> {
        let begun = self.access.exec(&self.container.container, arguments);
        let streams = self
            .within(begun, "the API server did not start a command in it")
            .await??;
        exec_stream::split(streams).map_err(|error| {
            self.failure(
                Kind::Internal,
                &format!("the streams of its exec cannot be used: {error}"),
            )
        })
    }

    /// Runs a program and waits until its first output is recognised.
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<FirstOutput, Failure> {
        let (reader, writer) = self.exec(arguments).await?;
        self.first_output(reader, writer).await
    }

    /// Waits until the first output of a running program is recognised.
    pub(super) async fn first_output(&self, mut reader: Reader, writer: Writer) -> Result<FirstOutput, Failure> {
        let mut output = BytesMut::new();
        let recognised = async {
            loop {
                let data = reader.stdout().await?;
                output.extend_from_slice(&data);
                if let Some(marker) = recognise(&output) {
                    return Some(marker);
                }
            }
        };
        match self.within(recognised, "its agent did not answer").await? {
            Some(Marker::Proxy) => {
                let rest = output.split_off(PROXY_MAGIC.len()).freeze();
                Ok(FirstOutput::Proxy(Proxy { reader, writer, rest }))
            }
            Some(Marker::Report) => {
                let whole = async {
                    while output.len() <= MAX_REPORT
                        && let Some(data) = reader.stdout().await
                    {
                        output.extend_from_slice(&data);
                    }
                };
                self.within(whole, "its shell did not end its search for an agent")
                    .await?;
                if output.len() > MAX_REPORT {
                    return Ok(FirstOutput::Unexpected(self.too_much_output(MAX_REPORT)));
                }
                let text = String::from_utf8_lossy(&output[FIND_MARKER.len()..]).into_owned();
                Ok(FirstOutput::Report(FindReport::parse(&text)))
            }
            None if output.is_empty() && reader.status().is_some_and(ExecStatus::is_no_such_program) => {
                Ok(FirstOutput::NoProgram)
            }
            Some(Marker::Other) => Ok(FirstOutput::Unexpected(self.unexpected_output(&output, &reader))),
            None => {
                let failure = self.unexpected_output(&output, &reader);
                Ok(FirstOutput::Unexpected(failure.with_retry(reader.retry())))
            }
        }
    }

    /// Waits for a step of the dial. `late` begins the sentence about a step that the dial cannot wait for any longer.
    pub(super) async fn within<T>(&self, step: impl Future<Output = T>, late: &str) -> Result<T, Failure> {
        self.deadline.wait_for(step).await.ok_or_else(|| {
            let limit = self.deadline.seconds();
            self.failure(Kind::Timeout, &format!("{late} within {limit} s"))
        })
    }

    /// Makes the failure of a program that printed more than `most` bytes, where it prints fewer.
    pub(super) fn too_much_output(&self, most: usize) -> Failure {
        let why = format!("its shell printed more than {most} bytes; is its `sh` another program?");
        self.failure(Kind::Agent, &why)
    }

    fn unexpected_output(&self, output: &[u8], reader: &Reader) -> Failure {
        let text = String::from_utf8_lossy(&output[..output.len().min(SHOWN_OUTPUT)]);
        let shown = match text.trim() {
            "" => String::new(),
            text => format!("its first output is {text:?}; "),
        };
        let stderr = reader.stderr();
        let agent_error = stderr.lines().find_map(|line| line.strip_prefix("podbridge-agent: "));
        let why = match agent_error {
            Some(sentence) => sentence.to_owned(),
            None => format!("its agent cannot be used: {shown}{}", reader.end_reason()),
        };
        self.failure(Kind::Agent, &why)
    }

    /// Makes a failure whose message begins with the names of the container and the pod.
    pub(super) fn failure(&self, kind: Kind, why: &str) -> Failure {
        let container = &self.container.container;
        // The reason may be in the words of the container.
        let why = clean(why);
        Failure::new(
            kind,
            format!("container {container} of pod {}: {why}", self.access.pod()),
        )
    }
}

/// The first line of an output.
#[derive(Debug, PartialEq, Eq)]
enum Marker {
    Proxy,
    Report,
    Other,
}

/// Recognises the first line of an output; `None` while more bytes can make it one of the known lines.
fn recognise(output: &[u8]) -> Option<Marker> {
    for (line, marker) in [(PROXY_MAGIC.as_bytes(), Marker::Proxy), (FIND_MARKER, Marker::Report)] {
        if output.starts_with(line) {
            return Some(marker);
        }
        if line.starts_with(output) {
            return None;
        }
    }
    Some(Marker::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_an_output_tells_what_the_program_is() {
        assert_eq!(recognise(b""), None);
        assert_eq!(recognise(b"podbridge-"), None);
        assert_eq!(recognise(b"podbridge-proxy/1"), None);
        assert_eq!(recognise(b"podbridge-proxy/1\nPRI"), Some(Marker::Proxy));
        assert_eq!(recognise(b"podbridge-find/1\n"), Some(Marker::Report));
        assert_eq!(recognise(b"podbridge-proxy/2\n"), Some(Marker::Other));
        assert_eq!(recognise(b"Welcome!\n"), Some(Marker::Other));
    }
}
