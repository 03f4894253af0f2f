//! Brings the agent into a container that has a shell, with nothing but `sh`, `cat` and `chmod`: one exec writes the binary and
//! sends it back, one makes it executable and starts it. The file becomes executable only after it was compared, so an
//! executable one is complete.
//!
//! The shell that containerd started keeps descriptors 1 and 2 open to the end (8 and 9 below): containerd closes stdin as
//! soon as one of them closes, and cuts the transfer with exit 0.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::Start;
use super::exec_proxy::{Answer, no_proxy, run};
use super::exec_stream::{self, ExecStream};
use crate::error::{Failure, Kind};
use crate::pod::{Cluster, Place};
use crate::protocol::target::hex;

/// What the search says if it finds no agent.
pub(super) const ABSENT: &str = "podbridge-absent/1\n";
/// What the transfer says before it sends the file back.
const WRITTEN: &str = "podbridge-written/1 ";
/// Where the agent may be put; a directory counts if a program in it can be executed.
const DIRECTORIES: &str = r#"/tmp /var/tmp /dev/shm /run "${HOME:-/}" ."#;

/// The agent's binary on this host.
#[derive(Debug)]
pub(super) struct Binary {
    bytes: Vec<u8>,
    sha256: [u8; 32],
}

impl Binary {
    /// Names the file in the pod: another agent is another file, and has another socket.
    fn name(&self) -> String {
        format!(
            ".podbridge-agent-{}-{}",
            env!("CARGO_PKG_VERSION"),
            hex(&self.sha256[..4])
        )
    }
}

/// Finds the binary once.
#[derive(Debug, Default)]
pub(super) struct Agents(Mutex<Option<Arc<Binary>>>);

impl Agents {
    pub(super) fn binary(&self) -> Result<Arc<Binary>, Failure> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(binary) = &*slot {
            return Ok(binary.clone());
        }
        let bytes = read()?;
        let sha256 = Sha256::digest(&bytes).into();
        Ok(slot.insert(Arc::new(Binary { bytes, sha256 })).clone())
    }
}

fn read() -> Result<Vec<u8>, Failure> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.to_owned()));
    let mut places: Vec<PathBuf> = Vec::new();
    match std::env::var_os("PODBRIDGE_AGENT").filter(|path| !path.is_empty()) {
        Some(path) => places.push(path.into()),
        None => places.extend(beside.into_iter().flat_map(|beside| {
            [
                beside.join("podbridge-agent"),
                beside.join("../libexec/podbridge/podbridge-agent"),
            ]
        })),
    }
    let found = places.iter().find_map(|path| std::fs::read(path).ok());
    found.ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        Failure::new(
            Kind::Agent,
            format!(
                "the pod has no agent, and there is none here to bring: looked for {}; install podbridge-agent beside \
                 podbridge, or name it with PODBRIDGE_AGENT",
                looked.join(" and ")
            ),
        )
    })
}

/// Becomes the proxy of an agent of the image or of one brought before, else says `ABSENT`. A file counts only if it is
/// our own: /tmp is everybody's.
pub(super) fn search_script(binary: Option<&Arc<Binary>>, start: Start) -> String {
    let option = match start {
        Start::IfNeeded => "--start",
        Start::Never => "",
    };
    let brought = binary.map(|binary| {
        let name = binary.name();
        format!(
            r#"for d in {DIRECTORIES}; do for f in "$d/{name}"*; do
if [ -x "$f" ] && [ -O "$f" ] && [ -f "$f" ]; then exec "$f" proxy {option} --socket "$d/{name}.d/agent.sock"; fi
done; done
"#
        )
    });
    format!(
        "if command -v podbridge-agent >/dev/null 2>&1; then exec podbridge-agent proxy {option}; fi\n{}echo {}",
        brought.unwrap_or_default(),
        ABSENT.trim_end()
    )
}

pub(super) async fn bring(cluster: &Cluster, place: &Place, binary: Arc<Binary>) -> Result<ExecStream, Failure> {
    let file = transfer(cluster, place, &binary).await?;
    let directory = file.rsplit_once('/').map_or(".", |(directory, _)| directory);
    let socket = format!("{directory}/{}.d/agent.sock", binary.name());
    let script = r#"chmod 700 "$1" && exec "$1" proxy --start --socket "$2""#;
    match run(cluster, place, &["sh", "-c", script, "sh", &file, &socket]).await? {
        Answer::Agent(stream) => Ok(stream),
        Answer::NoAgent => Err(no_proxy(cluster, "nothing")),
        Answer::Other(said) => Err(Failure::new(
            Kind::Agent,
            format!(
                "the agent was brought to {file} in pod {} and does not start there ({said}); is it built for that machine?",
                cluster.name()
            ),
        )),
    }
}

/// Writes the binary into the first directory that takes it; its path in the container.
async fn transfer(cluster: &Cluster, place: &Place, binary: &Binary) -> Result<String, Failure> {
    let mut random = [0u8; 4];
    // So few bytes are given at once, always.
    let _ = getrandom(&mut random, GetRandomFlags::empty());
    // A name of its own: another bridge may bring the same agent at this moment.
    let name = format!("{}-{}", binary.name(), hex(&random));
    let mut skip = 0;
    let mut refusals = Vec::new();
    loop {
        let script = format!(
            r#"exec 8>&1 9>&2
umask 077
i=0
for d in {DIRECTORIES}; do
i=$((i+1)); [ $i -gt {skip} ] || continue
f="$d/{name}"
if (echo 'exit 0' >"$f" && chmod 700 "$f" && "$f") 2>/dev/null; then
chmod 600 "$f"
if cat >"$f"; then echo "{WRITTEN}$i $f" && cat "$f"; else : >"$f"; echo "podbridge-refused/1 $i $d"; fi
exit 0
fi
done
echo podbridge-refused/1 0 -"#
        );
        let socket = cluster.exec(&place.container, &["sh", "-c", &script]).await?;
        if !socket.half_close {
            return Err(Failure::new(
                Kind::Agent,
                "this API server cannot tell a command that its input has ended (it is older than 1.30), so no agent can be \
                 brought; put podbridge-agent into the image",
            ));
        }
        let ExecStream { pipe, notes, .. } = exec_stream::open(socket);
        let (from, mut to) = tokio::io::split(pipe);
        let sending = async {
            // A shell that refuses does not read; it says so on the other stream.
            let _ = to.write_all(&binary.bytes).await;
            let _ = to.shutdown().await;
        };
        let receiving = async {
            let mut from = BufReader::new(from);
            let mut line = String::new();
            // A stream that breaks here is an empty answer.
            let _ = from.read_line(&mut line).await;
            let mut content = Vec::with_capacity(binary.bytes.len());
            let _ = from.read_to_end(&mut content).await;
            (line, content)
        };
        let ((), (line, content)) = tokio::join!(sending, receiving);
        if let Some((_, file)) = line
            .strip_prefix(WRITTEN)
            .and_then(|rest| rest.trim_end().split_once(' '))
        {
            if content.len() == binary.bytes.len() && Sha256::digest(&content)[..] == binary.sha256 {
                return Ok(file.to_owned());
            }
            return Err(Failure::new(
                Kind::Agent,
                format!(
                    "the agent arrived damaged in pod {}: {} of {} bytes came back; {}",
                    cluster.name(),
                    content.len(),
                    binary.bytes.len(),
                    notes.text()
                ),
            ));
        }
        let mut words = line.split_whitespace();
        match (
            words.next(),
            words.next().and_then(|index| index.parse::<u32>().ok()),
            words.next(),
        ) {
            // That directory is full; the next one may not be.
            (Some("podbridge-refused/1"), Some(index), Some(directory)) if index > 0 => {
                refusals.push(format!("{directory}: {}", notes.text()));
                skip = index;
            }
            (Some("podbridge-refused/1"), ..) => {
                let refusals = match refusals.is_empty() {
                    true => String::new(),
                    false => format!(" ({})", refusals.join(", ")),
                };
                return Err(Failure::new(
                    Kind::NoSpace,
                    format!(
                        "container {} of pod {} has no directory where an agent can be written and executed{refusals}; mount an \
                         emptyDir at /tmp, or put podbridge-agent into the image",
                        place.container,
                        cluster.name()
                    ),
                ));
            }
            _ => return Err(no_proxy(cluster, &format!("{} {}", line.trim_end(), notes.text()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_names_only_its_own_agent() {
        let binary = Arc::new(Binary {
            bytes: vec![],
            sha256: [0xab; 32],
        });
        let script = search_script(Some(&binary), Start::IfNeeded);
        assert!(
            script.contains(&format!(".podbridge-agent-{}-abababab", env!("CARGO_PKG_VERSION"))),
            "{script}"
        );
        assert!(script.ends_with("echo podbridge-absent/1"));
        assert!(!search_script(None, Start::Never).contains("--start"));
    }

    #[test]
    fn the_scripts_are_shell() {
        let binary = Arc::new(Binary {
            bytes: vec![],
            sha256: [1; 32],
        });
        let script = search_script(Some(&binary), Start::Never);
        let run = std::process::Command::new("sh")
            .args(["-c", &script])
            .env("PATH", "/bin:/usr/bin")
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(run.stdout).unwrap(), ABSENT, "{:?}", run.stderr);
    }
}
