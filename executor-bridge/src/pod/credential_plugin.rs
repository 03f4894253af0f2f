//! Credential plugins (`exec` in a kubeconfig), as client-go's `plugin/pkg/client/auth/exec` runs them: a program prints a token or a client
//! certificate, which is kept until it expires. `authentication` and `http_client` ask for credentials here.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, ErrorKind, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process_group};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::error::{Failure, Kind};
use crate::pod::certificates;
use crate::pod::kubeconfig::{self, Exec};

/// Variable by which a plugin learns what is asked of it.
const KUBERNETES_EXEC_INFO: &str = "KUBERNETES_EXEC_INFO";
/// Highest number of bytes that a plugin may print.
const MAX_OUTPUT: u64 = 1 << 20;
/// Number of bytes of a plugin's messages that a failure shows.
const SHOWN_MESSAGES: usize = 1000;
/// Highest number of lines that are kept for users who wait.
const MAX_LINES: usize = 100;
/// Time between two looks whether the plugin has ended.
const POLL_PAUSE: Duration = Duration::from_millis(10);
/// Time for the output to end after the plugin: a process that it left may hold the pipe.
const OUTPUT_WAIT: Duration = Duration::from_secs(1);

/// A credential and how long it is good.
pub(super) struct Credential {
    pub(super) token: Option<String>,
    pub(super) certificate: Option<Arc<CertifiedKey>>,
    /// `None` means until the server refuses it.
    expires: Option<Timestamp>,
}

/// One plugin with its arguments. The lock also keeps it from running twice at once.
pub(super) struct Plugin {
    exec: Exec,
    cluster: Option<Value>,
    state: tokio::sync::Mutex<Option<Arc<Credential>>>,
    /// The certificate for TLS handshakes, which cannot wait for the lock.
    certificate: Mutex<Option<Arc<CertifiedKey>>>,
}

/// Plugins of this process. A client is made for each dial; credentials outlive it, as they do in client-go.
static PLUGINS: Mutex<Option<HashMap<String, Arc<Plugin>>>> = Mutex::new(None);

/// Lines that plugins have written since one of them started, and the number of those that run.
static MESSAGES: Mutex<Messages> = Mutex::new(Messages {
    running: 0,
    lines: Vec::new(),
    written: 0,
});
/// Wakes the readers of `MESSAGES`.
static NEW_MESSAGE: Notify = Notify::const_new();

struct Messages {
    running: usize,
    lines: Vec<String>,
    /// Number of lines before `lines`.
    written: usize,
}

/// A reader of the messages of plugins.
#[derive(Debug)]
pub(crate) struct PluginMessages {
    /// Number of the next line.
    next: usize,
}

impl PluginMessages {
    pub(super) fn subscribe() -> Self {
        let messages = messages();
        let is_over = messages.running == 0;
        Self {
            next: messages.written + if is_over { messages.lines.len() } else { 0 },
        }
    }

    /// Waits for the next line.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            let notified = NEW_MESSAGE.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            {
                let messages = messages();
                self.next = self.next.max(messages.written);
                if let Some(line) = messages.lines.get(self.next - messages.written) {
                    self.next += 1;
                    return line.clone();
                }
            }
            notified.await;
        }
    }
}

fn messages() -> std::sync::MutexGuard<'static, Messages> {
    MESSAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a plugin that runs. The lines are forgotten when the next one starts, so that readers get all of them.
struct Running;

impl Running {
    fn new() -> Self {
        let mut messages = messages();
        if messages.running == 0 {
            messages.written += messages.lines.len();
            messages.lines.clear();
        }
        messages.running += 1;
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        messages().running -= 1;
    }
}

fn publish(plugin: &str, line: &[u8]) {
    let line = shown(line);
    if line.is_empty() {
        return;
    }
    let mut messages = messages();
    if messages.lines.len() < MAX_LINES {
        messages.lines.push(format!("{plugin} says: {line}"));
    }
    drop(messages);
    NEW_MESSAGE.notify_waiters();
}

impl Plugin {
    /// Returns the plugin of these settings, with the credential that it printed for an earlier dial.
    pub(super) fn shared(exec: &Exec, cluster: Option<&Value>) -> Arc<Self> {
        let environment: Vec<_> = exec
            .env
            .iter()
            .map(|variable| (&variable.name, &variable.value))
            .collect();
        let key = json!([
            exec.command,
            exec.args,
            environment,
            exec.api_version,
            exec.interactive_mode,
            cluster
        ]);
        let mut plugins = PLUGINS.lock().unwrap_or_else(PoisonError::into_inner);
        let plugin = plugins.get_or_insert_default().entry(key.to_string());
        let new = || {
            Arc::new(Self {
                exec: exec.clone(),
                cluster: cluster.cloned(),
                state: tokio::sync::Mutex::default(),
                certificate: Mutex::default(),
            })
        };
        plugin.or_insert_with(new).clone()
    }

    /// Returns the credential, and runs the plugin if there is none that is good. The limit includes the time in which another caller
    /// waits for the same plugin.
    pub(super) async fn credential(self: &Arc<Self>, limit: Duration) -> Result<Arc<Credential>, Failure> {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock().await;
        let is_good = |credential: &&Arc<Credential>| credential.expires.is_none_or(|end| Timestamp::now() < end);
        if let Some(credential) = state.as_ref().filter(is_good) {
            return Ok(credential.clone());
        }
        let plugin = self.clone();
        let run = tokio::task::spawn_blocking(move || plugin.run(deadline));
        let credential = run
            .await
            .map_err(|_| Failure::bug("a credential plugin's task failed"))??;
        let credential = Arc::new(credential);
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = credential.certificate.clone();
        *state = Some(credential.clone());
        Ok(credential)
    }

    /// Drops a credential that the server refused, so that the next call runs the plugin.
    pub(super) async fn forget(&self, refused: &Arc<Credential>) {
        let mut state = self.state.lock().await;
        if state
            .as_ref()
            .is_some_and(|credential| Arc::ptr_eq(credential, refused))
        {
            *state = None;
        }
    }

    fn run(&self, deadline: Instant) -> Result<Credential, Failure> {
        let name = &self.exec.command;
        if self.exec.interactive_mode == "Always" {
            // client-go's words are "standard input is not a terminal": a bridge has none.
            return Err(refused(format!(
                "the credential plugin {name} wants a terminal (interactiveMode: Always), and podbridge's bridge has none: log in by hand \
                 and use the credential that results, or set interactiveMode: IfAvailable"
            )));
        }
        let mut child = self.spawn()?;
        let stdout = read_in_background(child.stdout.take());
        let _running = Running::new();
        let messages = read_lines_in_background(name.clone(), child.stderr.take());
        let status = wait_until(&mut child, deadline);
        let wait = |output: std::sync::mpsc::Receiver<Vec<u8>>| output.recv_timeout(OUTPUT_WAIT).unwrap_or_default();
        let messages = shown(&wait(messages));
        if !messages.is_empty() {
            tracing::warn!(plugin = name, "the credential plugin says: {messages}");
        }
        let said = if messages.is_empty() {
            String::new()
        } else {
            format!("; it says: {messages}")
        };
        match status {
            None => {
                return Err(Failure::new(
                    Kind::Timeout,
                    format!("the credential plugin {name} printed no credential in time and was ended{said}"),
                ));
            }
            Some(status) if !status.success() => {
                return Err(refused(format!(
                    "the credential plugin {name} failed with {status}{said}"
                )));
            }
            Some(_) => {}
        }
        self.parse(&wait(stdout))
            .map_err(|why| refused(format!("the credential plugin {name} {why}{said}")))
    }

    fn spawn(&self) -> Result<Child, Failure> {
        let exec = &self.exec;
        let mut spec = serde_json::Map::from_iter([("interactive".to_owned(), Value::Bool(false))]);
        if let Some(cluster) = &self.cluster {
            spec.insert("cluster".into(), cluster.clone());
        }
        let info = json!({"kind": "ExecCredential", "apiVersion": exec.api_version, "spec": spec});
        let variables = exec.env.iter().map(|variable| (&variable.name, &variable.value));
        Command::new(&exec.command)
            .args(&exec.args)
            .envs(variables)
            .env(KUBERNETES_EXEC_INFO, info.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| {
                let name = &exec.command;
                if error.kind() != ErrorKind::NotFound {
                    return refused(format!("the credential plugin {name} cannot be run: {error}"));
                }
                let hint = shown(exec.install_hint.as_bytes());
                let next = if hint.is_empty() {
                    "install it, or correct PATH or the kubeconfig".to_owned()
                } else {
                    hint
                };
                refused(format!("the credential plugin {name} is not on this host: {next}"))
            })
    }

    /// Reads the credential that the plugin printed; the error is the end of a sentence and quotes nothing.
    fn parse(&self, output: &[u8]) -> Result<Credential, String> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Printed {
            kind: String,
            api_version: String,
            status: Option<Status>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Status {
            expiration_timestamp: Option<String>,
            token: Option<String>,
            client_certificate_data: Option<String>,
            client_key_data: Option<String>,
        }
        let other = || "printed something other than a credential".to_owned();
        let text = std::str::from_utf8(output).map_err(|_| other())?;
        let value = serde_json::from_str(text)
            .or_else(|_| kubeconfig::yaml(text))
            .map_err(|_| other())?;
        let printed: Printed = serde_json::from_value(value).map_err(|_| other())?;
        if printed.kind != "ExecCredential" {
            return Err(other());
        }
        if printed.api_version != self.exec.api_version {
            return Err(format!(
                "printed a credential of another version ({}) than the kubeconfig wants ({})",
                shown(printed.api_version.as_bytes()),
                self.exec.api_version
            ));
        }
        let status = printed.status.ok_or("printed no status, that is, no credential")?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let token = given(status.token);
        let pair = (given(status.client_certificate_data), given(status.client_key_data));
        let certificate = match pair {
            (Some(certificate), Some(key)) => Some(
                certificates::key_pair(certificate.as_bytes(), key.as_bytes(), &ring::default_provider())
                    .map_err(|why| format!("printed a pair that cannot be used: {why}"))?,
            ),
            (None, None) if token.is_none() => return Err("printed neither a token nor a client certificate".into()),
            (None, None) => None,
            _ => return Err("printed a client certificate or its key, and not both".into()),
        };
        let expires = given(status.expiration_timestamp)
            .map(|time| {
                time.parse()
                    .map_err(|_| "printed an expirationTimestamp that is not a time".to_owned())
            })
            .transpose()?;
        Ok(Credential {
            token,
            certificate,
            expires,
        })
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Plugin").field(&self.exec.command).finish()
    }
}

impl ResolvesClientCert for Plugin {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let certificate = self.certificate.lock().unwrap_or_else(PoisonError::into_inner).clone();
        certificate.filter(|certificate| certificate.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        self.certificate
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}

fn refused(why: String) -> Failure {
    Failure::new(Kind::Unauthorized, why)
}

/// Reads a pipe to its end, on a thread: the plugin may fill both of its pipes.
fn read_in_background(pipe: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut output);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        let _ = sender.send(output);
    });
    receiver
}

/// Reads the messages of a plugin on a thread, and publishes each line.
fn read_lines_in_background(
    plugin: String,
    pipe: Option<impl Read + Send + 'static>,
) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        if let Some(pipe) = pipe {
            let mut reader = BufReader::new(pipe.take(MAX_OUTPUT));
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                publish(&plugin, &line);
                output.append(&mut line);
            }
            let _ = std::io::copy(&mut reader.into_inner().into_inner(), &mut std::io::sink());
        }
        let _ = sender.send(output);
    });
    receiver
}

/// Waits for the plugin; kills it with its process group at the deadline and returns `None`.
fn wait_until(child: &mut Child, deadline: Instant) -> Option<std::process::ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL_PAUSE),
            Ok(None) | Err(_) => break,
        }
    }
    if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
    None
}

/// Returns the end of a program's messages as one line without control characters.
fn shown(messages: &[u8]) -> String {
    let start = messages.len().saturating_sub(SHOWN_MESSAGES);
    let text = String::from_utf8_lossy(&messages[start..]);
    let printable = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter });
    let text: String = printable.collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::kubeconfig::Variable;

    const LIMIT: Duration = Duration::from_secs(10);

    fn plugin(script: &str, mode: &str) -> Arc<Plugin> {
        let exec = Exec {
            api_version: "client.authentication.k8s.io/v1".into(),
            command: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![Variable {
                name: "WHO".into(),
                value: "me".into(),
            }],
            interactive_mode: mode.into(),
            ..Exec::default()
        };
        Plugin::shared(&exec, Some(&json!({"server": "https://x"})))
    }

    fn printing(status: &str) -> String {
        format!(
            r#"echo '{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{status}}}'"#
        )
    }

    async fn failure(script: &str) -> Failure {
        plugin(script, "Never").credential(LIMIT).await.err().unwrap()
    }

    #[tokio::test]
    async fn a_plugin_runs_once_until_its_credential_expires() {
        let directory = tempfile::tempdir().unwrap();
        let runs = directory.path().join("runs");
        let count = || std::fs::read_to_string(&runs).unwrap().len();
        let counted = |status: &str| format!("printf x >>{}; {}", runs.display(), printing(status));
        let long = plugin(
            &counted(r#"{"token":"t","expirationTimestamp":"2999-01-01T00:00:00Z"}"#),
            "IfAvailable",
        );
        for _ in 0..3 {
            assert_eq!(long.credential(LIMIT).await.unwrap().token.as_deref(), Some("t"));
        }
        assert_eq!(count(), 1);
        let refused = long.credential(LIMIT).await.unwrap();
        long.forget(&refused).await;
        long.credential(LIMIT).await.unwrap();
        assert_eq!(count(), 2);
        let expired = plugin(
            &counted(r#"{"token":"t","expirationTimestamp":"2001-01-01T00:00:00Z"}"#),
            "Never",
        );
        expired.credential(LIMIT).await.unwrap();
        expired.credential(LIMIT).await.unwrap();
        assert_eq!(count(), 4);
    }

    #[tokio::test]
    async fn a_plugin_learns_of_the_cluster_and_its_variables() {
        let script = r#"test "$WHO" = me || exit 1; case "$KUBERNETES_EXEC_INFO" in *'"server":"https://x"'*) ;; *) exit 2;; esac;"#;
        let credential = plugin(&format!("{script}{}", printing(r#"{"token":"t"}"#)), "Never");
        credential.credential(LIMIT).await.unwrap();
    }

    #[tokio::test]
    async fn the_messages_of_a_plugin_are_shown_and_its_output_is_not() {
        let failed = failure("echo 'run: sso login' >&2; echo SECRET; exit 3").await;
        assert_eq!(failed.kind, Kind::Unauthorized);
        assert!(
            failed.message.contains("run: sso login") && failed.message.contains('3'),
            "{failed}"
        );
        assert!(!failed.message.contains("SECRET"), "{failed}");
        for output in [
            "echo SECRET",
            "echo '{\"kind\":\"SECRET\"}'",
            "echo '{\"kind\":\"ExecCredential\",\"apiVersion\":1,\"x\":\"SECRET\"}'",
        ] {
            assert!(!failure(output).await.message.contains("SECRET"));
        }
        assert!(failure(&printing("{}")).await.message.contains("neither"));
        assert!(
            failure(&printing(r#"{"clientKeyData":"SECRET"}"#))
                .await
                .message
                .contains("not both")
        );
    }

    #[tokio::test]
    async fn a_user_who_waits_sees_what_a_plugin_says() {
        let waiting = plugin(
            &format!("echo 'code ABCD' >&2; sleep 1; {}", printing(r#"{"token":"t"}"#)),
            "Never",
        );
        let mut messages = PluginMessages::subscribe();
        let (credential, message) = tokio::join!(waiting.credential(LIMIT), async {
            loop {
                // Other tests run plugins too.
                let message = messages.next().await;
                if message.contains("code ABCD") {
                    return Instant::now();
                }
            }
        });
        assert!(credential.is_ok() && message.elapsed() > Duration::from_millis(500));
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_is_ended() {
        let hanging = plugin("echo 'code ABCD' >&2; sleep 60 & sleep 60", "Never");
        let failure = hanging.credential(Duration::from_millis(300)).await.err().unwrap();
        assert_eq!(failure.kind, Kind::Timeout);
        assert!(failure.message.contains("code ABCD"), "{failure}");
    }

    #[tokio::test]
    async fn a_missing_plugin_is_named_with_its_hint() {
        let exec = Exec {
            api_version: "client.authentication.k8s.io/v1".into(),
            command: "no-such-login".into(),
            install_hint: "brew install \u{1b}[1mlogin".into(),
            ..Exec::default()
        };
        let failure = Plugin::shared(&exec, None).credential(LIMIT).await.err().unwrap();
        assert!(
            failure.message.contains("no-such-login") && failure.message.contains("brew install"),
            "{failure}"
        );
        assert!(!failure.message.contains('\u{1b}'));
        let always = plugin("true", "Always").credential(LIMIT).await.err().unwrap();
        assert!(always.message.contains("terminal"), "{always}");
    }
}
