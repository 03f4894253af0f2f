//! `proxy`: connects standard input and output to a serving agent. It hands both descriptors over to the agent if it can (ADR 11), else
//! it copies between them and the agent's socket, one thread for each direction. Descriptors 1 and 2 stay open until the link ends:
//! containerd closes stdin as soon as one of them closes, and data is lost with exit code 0. A proxy that started the agent also stays
//! as its parent after the link has ended.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::mem;
use std::net::Shutdown;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ExitCode};
use std::thread;

use podbridge_proto::limits::PROXY_MAGIC;
use rustix::process::{chdir, getppid};
use rustix::stdio;
use sha2::{Digest as _, Sha256};

use super::serve;
use crate::config::Proxy;
use crate::env;
use crate::sys::{container, descriptors, proc};
use crate::transport::choice::Choice;
use crate::transport::handover;
use crate::transport::socket::ConnectError;

/// Size of the buffer of one direction, in bytes.
const COPY_BUFFER_BYTES: usize = 256 * 1024;

pub(super) fn run(options: Proxy) -> Result<ExitCode, String> {
    let choice = match options.process {
        Some(pid) => socket_of(pid, &options.digest)?,
        None => options.socket.choice(),
    };
    let connected = choice.connect();
    if options.probe {
        return probe(connected, &options);
    }
    let (stream, agent) = match connected {
        Err(error) if options.start && options.process.is_none() && may_start(&choice, &error) => {
            let agent = start(&choice, &options)?;
            (choice.connect(), agent)
        }
        other => (other, None),
    };
    let joined = stream.map_err(|error| error.to_string()).and_then(|stream| {
        let joined = join_streams(stream, || choice.connect().map_err(io::Error::other));
        joined.map_err(|error| format!("the connection to the agent failed: {error}"))
    });
    let Some(agent) = agent else {
        return joined.map(|()| ExitCode::SUCCESS);
    };
    if let Err(sentence) = &joined {
        eprintln!("podbridge-agent: {sentence}");
    }
    reap(agent);
    Ok(ExitCode::from(u8::from(joined.is_err())))
}

/// Tells whether to start an agent after this error. A path that the user chose may belong to another container: then an agent cannot
/// listen there. Beside an agent that stands still, no other one serves: the commands of both would run at once.
fn may_start(choice: &Choice, error: &ConnectError) -> bool {
    match error {
        ConnectError::NoAgent { .. } => true,
        ConnectError::Busy(_) => false,
        ConnectError::Refused { .. } => !matches!(choice, Choice::Exact(_)),
    }
}

/// Starts a detached agent, after a check of the program: a node that crashed may have lost parts of the file.
fn start(choice: &Choice, options: &Proxy) -> Result<Option<Child>, String> {
    check_own_program(&options.digest)?;
    let mut command = serve::detached_command();
    if let Some(limit) = options.spool_limit {
        command.args(["--spool-limit", &limit.to_string()]);
    }
    if options.parent_environment {
        command.env_clear().envs(parent_environment());
    }
    serve::start_detached(command, choice, options.socket.idle_when_detached())
}

/// Variables that a shell sets for itself, also where the container has none of that name.
const SHELL_VARIABLES: [&[u8]; 4] = [b"PWD", b"OLDPWD", b"SHLVL", b"_"];

/// Returns the environment that the parent process was started with. Where that is hidden, returns the own environment without the
/// variables that a shell sets.
fn parent_environment() -> Vec<(OsString, OsString)> {
    let parent = getppid().and_then(|parent| proc::environment(parent.as_raw_nonzero().get()).ok());
    if let Some(entries) = parent {
        return entries.into_iter().filter_map(split_entry).collect();
    }
    let own = env::variables().into_iter();
    own.filter(|(name, _)| !SHELL_VARIABLES.contains(&name.as_slice()))
        .map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value)))
        .collect()
}

/// Splits `NAME=value`; `None` for an entry without a name.
fn split_entry(entry: OsString) -> Option<(OsString, OsString)> {
    let bytes = entry.into_vec();
    let equals = bytes
        .iter()
        .position(|byte| *byte == b'=')
        .filter(|position| *position > 0)?;
    let (name, value) = (bytes[..equals].to_vec(), bytes[equals + 1..].to_vec());
    Some((OsString::from_vec(name), OsString::from_vec(value)))
}

/// Waits for the end of the agent that this process has started. The agent outlives the link, and only its parent can reap it: the
/// container's first process, which would get it, reaps nothing if it is a plain `sleep infinity`. Nothing else is kept meanwhile.
fn reap(mut agent: Child) {
    let _ = chdir("/");
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = stdio::dup2_stdin(&null);
        let _ = stdio::dup2_stdout(&null);
        let _ = stdio::dup2_stderr(&null);
    }
    descriptors::close_inherited();
    let _ = agent.wait();
}

/// Prints what a call without `--probe` would do.
#[allow(clippy::print_stdout)] // The word is the output of this option.
fn probe(connected: Result<UnixStream, ConnectError>, options: &Proxy) -> Result<ExitCode, String> {
    match connected {
        // Without this option the error about an agent that stands still is printed.
        Ok(_) | Err(ConnectError::Busy(_)) => println!("running"),
        Err(error) if options.process.is_some() => return Err(error.to_string()),
        Err(_) => {
            check_own_program(&options.digest)?;
            println!("ready");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Compares this program with the digest that its name in the container claims.
fn check_own_program(digests: &[String]) -> Result<(), String> {
    let [digest] = digests else { return Ok(()) };
    let content = fs::read(env::OWN_PROGRAM);
    let content = content.map_err(|error| format!("cannot read the program of the agent: {error}"))?;
    let actual = Sha256::digest(&content);
    let actual: String = actual.iter().map(|byte| format!("{byte:02x}")).collect();
    if actual.starts_with(digest) {
        return Ok(());
    }
    Err("the program of the agent is damaged; remove its file, and a bridge brings another one".into())
}

/// Returns the socket of a detached agent, from its command line or from that of its proxy. The kernel shows the program of the proxy
/// that started an agent; the agent's own it hides.
fn socket_of(pid: i32, digests: &[String]) -> Result<Choice, String> {
    let arguments = proc::arguments(pid);
    let value = |option: &str| {
        let position = arguments.iter().position(|argument| argument == option)?;
        arguments.get(position + 1).map(PathBuf::from)
    };
    let is_agent = arguments
        .get(1)
        .is_some_and(|argument| argument == "serve" || argument == "proxy");
    let socket = value("--container-socket").filter(|path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        digests.is_empty() || digests.iter().any(|digest| name.ends_with(digest.as_str()))
    });
    let socket = socket.filter(|_| is_agent && matches!(container::is_same(pid), Ok(true)));
    let socket = socket.ok_or_else(|| format!("process {pid} is not an agent of this release and container"))?;
    Ok(Choice::OfContainer(socket))
}

/// Joins standard input and output with `stream` until the agent closes it. `connect` opens another connection to the agent.
fn join_streams(mut stream: UnixStream, connect: impl FnOnce() -> io::Result<UnixStream>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(PROXY_MAGIC.as_bytes())?;
    stdout.flush()?;
    drop(stdout);
    let (input, output) = (stdio::stdin(), stdio::stdout());
    if handover::are_pipes(input, output) {
        if let Ok(true) = handover::offer(&stream, input, output) {
            return wait_for_close(stream);
        }
        // This agent is too old to take descriptors: it has closed the connection.
        stream = connect()?;
    }
    copy(stream)
}

/// Waits until the agent has closed the streams that it took.
fn wait_for_close(mut stream: UnixStream) -> io::Result<()> {
    let mut buffer = [0];
    loop {
        match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

/// Copies both directions until the agent closes its direction.
fn copy(stream: UnixStream) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let upward = stream.try_clone()?;
    // This thread is not joined: when the agent has closed its direction, nothing reads the rest of the input.
    thread::spawn(move || {
        // The other direction sees a failed write as the end of the stream.
        let _ = copy_one_way(&mut io::stdin().lock(), &mut &upward);
        let _ = upward.shutdown(Shutdown::Write);
        // `reap` may have closed its descriptor already: closing it here again could close another file.
        mem::forget(upward);
    });
    copy_one_way(&mut &stream, &mut stdout)
}

/// Copies until the end of `from`. `io::copy` would use a smaller buffer, and `Stdout` would wait for a newline.
fn copy_one_way(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
