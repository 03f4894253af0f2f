//! The stock kubectl as another client of the API server, for what podbridge's own client cannot do: a gateway without WebSocket, a role that
//! allows `create` of pods/exec alone, exotic authentication. Runs `kubectl get --raw` and `kubectl exec -i`, with the options of the target.
//! No secret is on a command line: tokens and passwords are in a file in memory. Only `pod` makes one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use data_encoding::BASE64;
use rustix::fs::MemfdFlags;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::env::{Environment as _, HOME, KUBECONFIG, PODBRIDGE_DISABLE, Process};
use crate::error::{Failure, Kind, Retry};
use crate::pod::failure::{ApiCall, answered};
use crate::pod::overrides::SelectedContext;
use crate::pod::passing_faults::is_passing_fault;
use crate::protocol::target::without_logins;
use crate::{program, sys};

/// Name of the only cluster, user and context of the kubeconfig that is written here.
const ONLY: &str = "podbridge";

/// kubectl with what a target was resolved to.
#[derive(Debug)]
pub(super) struct Kubectl {
    program: PathBuf,
    /// A kubeconfig in memory with one cluster, user and context. It may hold secrets.
    kubeconfig: File,
    /// Variables of the bridge's user, which the process of the bridge does not have.
    environment: BTreeMap<String, String>,
}

impl Kubectl {
    /// Finds kubectl, and writes its kubeconfig.
    pub(super) fn new(context: &SelectedContext, environment: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let program = program::next_in_path("kubectl").ok_or_else(|| {
            Failure::new(
                Kind::ApiUnreachable,
                "the link kubectl needs kubectl in PATH, and there is none but podbridge's own; install kubectl",
            )
        })?;
        let kubeconfig = memory_file(&kubeconfig(context))
            .map_err(|error| Failure::new(Kind::Internal, format!("no kubeconfig in memory can be made: {error}")))?;
        Ok(Self {
            program,
            kubeconfig,
            environment: environment.clone(),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // kubectl, and the programs that it runs, inherit the descriptor: no other process may look into this one.
        sys::pass_on(&mut command, &self.kubeconfig);
        command
            .envs(&self.environment)
            // A script of that name may run podbridge's own kubectl.
            .env(PODBRIDGE_DISABLE, "1")
            .env(KUBECONFIG, format!("/proc/self/fd/{}", self.kubeconfig.as_raw_fd()));
        if Process.variable(HOME).is_none() && !self.environment.contains_key(HOME) {
            // kubectl caches what it learns of the API below HOME.
            command.env(HOME, "/nonexistent");
        }
        command
    }

    /// Makes the command that prints the object at this path of the API.
    pub(super) fn get(&self, path: &str) -> Command {
        let mut command = self.command();
        command.args(["get", "--raw", path]);
        command
    }

    /// Starts a program in a container. Its streams are the pipes of the process.
    pub(super) fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        arguments: &[&str],
    ) -> Result<ExecProcess, Failure> {
        let mut command = self.command();
        command
            .args(["-n", namespace, "exec", "-i", pod, "-c", container, "--"])
            .args(arguments);
        let started = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match started {
            Ok(child) => Ok(ExecProcess { child }),
            Err(error) => Err(self.cannot_run(&error)),
        }
    }

    pub(super) fn cannot_run(&self, error: &std::io::Error) -> Failure {
        Failure::new(
            Kind::ApiUnreachable,
            format!("the link kubectl cannot run {}: {error}", self.program.display()),
        )
    }
}

/// A running `kubectl exec`; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct ExecProcess {
    pub(crate) child: Child,
}

impl Drop for ExecProcess {
    fn drop(&mut self) {
        // The error says that it has ended.
        let _ = self.child.kill();
        // It dies at once: SIGKILL.
        let _ = self.child.wait();
    }
}

/// Runs a command that ends by itself. `None`: it printed more than `limit` bytes. No thread waits for it, and it is killed when the future
/// is dropped.
#[allow(clippy::disallowed_methods)] // Only the agent has a reaper of its own.
pub(super) async fn output(command: Command, limit: usize) -> std::io::Result<Option<Output>> {
    let mut child = tokio::process::Command::from(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = async { tokio::try_join!(read_all(stdout, limit), read_all(stderr, limit)) };
    let (Some(stdout), Some(stderr)) = read.await? else {
        return Ok(None);
    };
    Ok(Some(Output {
        status: child.wait().await?,
        stdout,
        stderr,
    }))
}

/// Reads a stream to its end; `None` if it has more than `limit` bytes.
async fn read_all(stream: Option<impl AsyncRead + Unpin>, limit: usize) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(limit as u64 + 1).read_to_end(&mut bytes).await?;
    }
    Ok((bytes.len() <= limit).then_some(bytes))
}

fn memory_file(content: &Value) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("podbridge-kubeconfig", MemfdFlags::CLOEXEC)?);
    file.write_all(content.to_string().as_bytes())?;
    Ok(file)
}

/// Returns a kubeconfig with one cluster, user and context.
fn kubeconfig(context: &SelectedContext) -> Value {
    let mut resolved = context.as_json();
    without_defaults(&mut resolved);
    let part = |name: &str| resolved.get(name).cloned().unwrap_or_else(|| json!({}));
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": ONLY, "cluster": part("cluster")}],
        "users": [{"name": ONLY, "user": part("user")}],
        "contexts": [{"name": ONLY, "context": {"cluster": ONLY, "user": ONLY, "namespace": part("namespace")}}],
        "current-context": ONLY,
    })
}

/// Removes empty values, which kubectl would take for values, and writes bytes in base64.
fn without_defaults(value: &mut Value) {
    let Some(fields) = value.as_object_mut() else { return };
    for (name, field) in fields.iter_mut() {
        if let (true, Some(bytes)) = (name.ends_with("-data"), field.as_array()) {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| byte.as_u64()?.try_into().ok()).collect();
            *field = Value::String(BASE64.encode(&bytes));
        }
        without_defaults(field);
    }
    fields.retain(|_, field| match field {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    });
}

/// Returns what a failure of `kubectl get` means.
pub(super) fn failure(stderr: &str, call: ApiCall<'_>) -> Failure {
    match server_error(stderr) {
        (Some(code), message) => answered(code, &message, call),
        (None, message) => {
            let retry = if is_passing_fault(&message) {
                Retry::ServerBusy(None)
            } else {
                Retry::Never
            };
            let why = format!(
                "kubectl cannot {} {} on {}: {message}",
                call.verb, call.resource, call.server
            );
            Failure::new(Kind::ApiUnreachable, without_logins(&why)).with_retry(retry)
        }
    }
}

/// End of a `kubectl exec`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KubectlEnd {
    /// The program in the container ended with this code.
    Exited(i32),
    /// kubectl says that the program did not run, or that the connection was cut.
    Failed(String),
}

/// Returns what the exit code of `kubectl exec`, and its standard error, which also has that of the program, say about the end. `None`:
/// kubectl was killed.
pub(crate) fn parse_end(code: Option<i32>, stderr: &str) -> Option<KubectlEnd> {
    const EXITED: &str = "command terminated with exit code ";
    let code = code?;
    if code == 0 {
        return Some(KubectlEnd::Exited(0));
    }
    let exited = stderr.lines().rev().find_map(|line| line.strip_prefix(EXITED));
    if let Some(code) = exited.and_then(|code| code.trim().parse().ok()) {
        return Some(KubectlEnd::Exited(code));
    }
    Some(KubectlEnd::Failed(server_error(stderr).1))
}

/// Returns the HTTP status that a message of kubectl stands for, such as `Error from server (NotFound): …`, and the message without its
/// beginning; `None`: kubectl itself failed.
pub(super) fn server_error(stderr: &str) -> (Option<u16>, String) {
    let line = stderr
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    let from_server = stderr.lines().find_map(|line| line.strip_prefix("Error from server"));
    if let Some(rest) = from_server {
        let (reason, message) = match rest.strip_prefix(" (").and_then(|rest| rest.split_once("): ")) {
            Some((reason, message)) => (reason, message),
            None => ("", rest.trim_start_matches(": ")),
        };
        let code = match reason {
            "NotFound" => 404,
            "Forbidden" => 403,
            "Unauthorized" => 401,
            "TooManyRequests" => 429,
            "ServiceUnavailable" => 503,
            "Timeout" | "ServerTimeout" => 504,
            "BadRequest" => 400,
            "MethodNotAllowed" => 405,
            _ => 500,
        };
        return (Some(code), message.to_owned());
    }
    if stderr.contains("You must be logged in to the server") {
        return (Some(401), line.trim_start_matches("error: ").to_owned());
    }
    (None, line.trim_start_matches("error: ").to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_kubeconfig_has_bytes_in_base64_and_no_empty_values() {
        let mut value = json!({"server": "https://s", "proxy-url": "", "certificate-authority-data": [97, 98],
            "client-key-data": [], "exec": null, "as-groups": [], "insecure-skip-tls-verify": false});
        without_defaults(&mut value);
        assert_eq!(
            value,
            json!({"server": "https://s", "certificate-authority-data": "YWI=", "insecure-skip-tls-verify": false})
        );
    }

    #[test]
    fn a_kubeconfig_in_memory_can_be_read_by_its_path() {
        let file = memory_file(&json!({"a": 1})).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        assert_eq!(std::fs::read_to_string(path).unwrap(), r#"{"a":1}"#);
    }

    #[test]
    fn messages_of_kubectl_have_the_status_of_the_server() {
        for (stderr, code, message) in [
            (
                "Error from server (NotFound): pods \"web\" not found\n",
                Some(404),
                "pods \"web\" not found",
            ),
            (
                "W1130 warning\nError from server (Forbidden): pods is forbidden",
                Some(403),
                "pods is forbidden",
            ),
            (
                "Error from server: error dialing backend: EOF",
                Some(500),
                "error dialing backend: EOF",
            ),
            (
                "error: You must be logged in to the server (Unauthorized)",
                Some(401),
                "You must be logged in to the server (Unauthorized)",
            ),
            (
                "error: context \"x\" does not exist",
                None,
                "context \"x\" does not exist",
            ),
            ("", None, "no message"),
        ] {
            assert_eq!(server_error(stderr), (code, message.to_owned()), "{stderr}");
        }
    }

    #[test]
    fn the_end_of_an_exec_is_that_of_the_program_or_of_kubectl() {
        for (code, stderr, end) in [
            (Some(0), "warning", Some(KubectlEnd::Exited(0))),
            (
                Some(3),
                "oops\ncommand terminated with exit code 3\n",
                Some(KubectlEnd::Exited(3)),
            ),
            (
                Some(1),
                "error: unable to upgrade connection: x",
                Some(KubectlEnd::Failed("unable to upgrade connection: x".into())),
            ),
            (
                Some(1),
                "Error from server (Forbidden): no",
                Some(KubectlEnd::Failed("no".into())),
            ),
            (None, "", None),
        ] {
            assert_eq!(parse_end(code, stderr), end, "{stderr}");
        }
    }

    fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    #[tokio::test]
    async fn the_output_of_a_command_has_a_limit() {
        let line = "echo out; echo err >&2; exit 3";
        let printed = output(shell(line), 4).await.unwrap().unwrap();
        assert_eq!(
            (&printed.stdout[..], &printed.stderr[..], printed.status.code()),
            (&b"out\n"[..], &b"err\n"[..], Some(3))
        );
        assert!(output(shell(line), 3).await.unwrap().is_none());
        for endless in ["yes", "yes >&2"] {
            assert!(output(shell(endless), 1 << 20).await.unwrap().is_none(), "{endless}");
        }
    }

    /// A bridge has few threads; this runtime has none to spare.
    #[test]
    fn a_command_that_hangs_holds_no_thread_and_ends_with_its_future() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let hanging = tokio::spawn(output(shell(&format!("exec sleep 300 >{}", fifo.display())), 1));
            // Both ends of the FIFO are open.
            let open = tokio::task::spawn_blocking(move || File::open(fifo).unwrap());
            let mut lives = tokio::time::timeout(Duration::from_secs(10), open)
                .await
                .expect("a thread")
                .unwrap();
            hanging.abort();
            let ended = tokio::task::spawn_blocking(move || std::io::Read::read(&mut lives, &mut [0]).unwrap());
            let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
            assert_eq!(ended.expect("it is killed").unwrap(), 0);
        });
    }
}
