//! Converts an exec request to the agent's StartRequest and takes the client's file descriptors.

use bytes::Bytes;
use podbridge_proto::limits::MAX_INLINE_STDIN;
use podbridge_proto::v1::{EnvVar, Pty, PutHeader, StartRequest, StdinMode};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::protocol::request::{self, Resume, Size};
use crate::protocol::result::Outcome;
use crate::random;
use crate::session::budget::Credit;
use crate::session::client::{Client, bad_request};
use crate::session::files::passed_file::{self, Access, LocalFile};
use crate::session::files::put;

/// An exec that is ready to be sent.
pub(crate) struct PreparedExec {
    pub(crate) start: StartRequest,
    pub(crate) id: [u8; 16],
    /// Standard input that is too long to travel inside the StartRequest.
    pub(crate) stdin_file: Option<LocalFile>,
    pub(crate) stdout: Option<LocalFile>,
    pub(crate) stderr: Option<LocalFile>,
    /// Files that are put before the command starts.
    pub(crate) puts: Vec<(PutHeader, LocalFile)>,
    pub(crate) resume: Option<Resume>,
    /// Held as long as the inline input is kept.
    pub(crate) inline_credit: Option<Credit>,
}

/// Prepares the exec; an error is the outcome of a bad request or an unreadable file.
pub(crate) async fn prepare(mut request: request::Exec, client: &mut Client) -> Result<PreparedExec, Outcome> {
    let descriptors = &mut client.descriptors;
    let input = match request.stdin {
        request::Input::Fd => Some(passed_file::take(descriptors, "stdin", Access::Read)?),
        request::Input::None | request::Input::Stream => None,
    };
    let mut output = |what, mode| match mode {
        request::Output::Fd => passed_file::take(descriptors, what, Access::Write).map(Some),
        request::Output::Stream => Ok(None),
    };
    let stdout = output("stdout", request.stdout)?;
    let stderr = output("stderr", request.stderr)?;
    let puts = std::mem::take(&mut request.puts).into_iter().map(|put| {
        let file = passed_file::take(descriptors, "the content of a file", Access::Read)?;
        Ok((put::to_header(put), file))
    });
    let puts = puts.collect::<Result<Vec<_>, Outcome>>()?;
    let id = request.id().unwrap_or_else(random::bytes);
    let timeout_ms = request.timeout().map_or(0, |timeout| timeout.as_millis() as u64);
    let shell = |script: Vec<u8>| vec![Bytes::from_static(b"/bin/sh"), Bytes::from_static(b"-c"), script.into()];
    let argv = match (request.argv, request.shell) {
        (Some(argv), _) => argv.into_iter().map(|argument| argument.0.into()).collect(),
        (None, Some(script)) => shell(script.0),
        (None, None) => return Err(bad_request("exec needs argv or shell")),
    };
    let mut inline_credit = None;
    let mut may_be_inline = |size: u64| {
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let held = (length <= MAX_INLINE_STDIN).then(|| client.replies.budget.inline_input(length));
        match held {
            Some(Ok(credit)) => {
                inline_credit = credit;
                true
            }
            // Other commands hold as much as the bridge may: this input is read in parts.
            Some(Err(_)) | None => false,
        }
    };
    let (mode, inline, stdin_file) = match (request.stdin, input) {
        (request::Input::Stream, _) => (StdinMode::Stream, Bytes::new(), None),
        (_, None) => (StdinMode::Unspecified, Bytes::new(), None),
        // One round trip is enough for an Ansible module and its result.
        (_, Some(file)) if may_be_inline(file.size()) => {
            let content = file.read_at(0, file.size() as usize).await?;
            (StdinMode::Inline, content, None)
        }
        (_, Some(file)) => (StdinMode::Stream, Bytes::new(), Some(file)),
    };
    let mut requires = Vec::new();
    // An agent without these capabilities must refuse the command: it would start it without its files, or start
    // another program.
    requires.extend((!puts.is_empty()).then(|| "exec.put".to_owned()));
    requires.extend(request.agent_program.then(|| "exec.agent_program".to_owned()));
    let mut start = StartRequest {
        exec_id: Bytes::copy_from_slice(&id),
        argv,
        env: request
            .env
            .into_iter()
            .map(|(name, value)| EnvVar {
                name: name.0.into(),
                value: value.0.into(),
            })
            .collect(),
        cwd: request.cwd.map(|cwd| cwd.0.into()).unwrap_or_default(),
        user: request.user.unwrap_or_default(),
        pty: request.pty.map(pty_size),
        stdin_mode: mode.into(),
        stdin: inline,
        timeout_ms,
        kill_grace_ms: request.kill_grace_ms.unwrap_or(0),
        agent_program: request.agent_program,
        cold_python: request.cold_python,
        requires,
        ..StartRequest::default()
    };
    start.digest = Sha256::digest(start.encode_to_vec()).to_vec().into();
    Ok(PreparedExec {
        start,
        id,
        stdin_file,
        stdout,
        stderr,
        puts,
        resume: request.resume,
        inline_credit,
    })
}

/// Converts a terminal size.
pub(crate) fn pty_size(size: Size) -> Pty {
    Pty {
        rows: size.rows.into(),
        cols: size.cols.into(),
    }
}
