//! The two programs that `podbridge bench` compares, and one timed run of them.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum as _;

use crate::cli::TargetOptions;
use crate::commands::bench::workload::Workload;
use crate::env::{Environment as _, PODBRIDGE_DISABLE, PODBRIDGE_TOKEN, Process};
use crate::error::{Failure, Kind};
use crate::program;

/// Length of the ticks in which the kernel counts processor time (USER_HZ, 100 per second on x86_64 and aarch64).
const MILLISECONDS_PER_TICK: u64 = 10;

/// A program that runs commands in the pod.
pub(super) struct Peer {
    pub(super) name: &'static str,
    program: PathBuf,
    /// Options that name the cluster and the pod.
    options: Vec<OsString>,
    pod: String,
}

/// What one run took.
pub(super) struct Taken {
    pub(super) time: Duration,
    /// Processor time of the process that was run, without what other processes did for it.
    pub(super) processor: Duration,
}

impl Peer {
    /// Returns podbridge and kubectl for the same pod. `Err` if kubectl is missing or cannot get the options.
    pub(super) fn both(target: &TargetOptions, pod: &str) -> Result<[Self; 2], Failure> {
        if target.token_file.is_some() || Process.variable(PODBRIDGE_TOKEN).is_some() {
            return Err(Failure::usage(
                "bench gives kubectl the same options, and kubectl takes a token on its command line only; name a kubeconfig with the token",
            ));
        }
        let kubectl = program::next_in_path("kubectl").ok_or_else(|| {
            Failure::usage("bench compares podbridge with kubectl, and PATH has no kubectl; install it")
        })?;
        let common = options_of_kubectl(target);
        let mut own = common.clone();
        if let Some(link) = target.link.and_then(|link| link.to_possible_value()) {
            own.push(format!("--link={}", link.get_name()).into());
        }
        let peer = |name, program, options| Self {
            name,
            program,
            options,
            pod: pod.to_owned(),
        };
        Ok([
            peer("podbridge", program::path_to_start(), own),
            peer("kubectl", kubectl, common),
        ])
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if self.name == "kubectl" {
            // A script of that name may run podbridge's own kubectl.
            command.env(PODBRIDGE_DISABLE, "1");
        }
        command.args(&self.options).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Makes the command that removes a file in the pod.
    pub(super) fn remove(&self, file: &str) -> Command {
        let mut command = self.command();
        command
            .args(["exec", &self.pod, "--", "rm", "-f", file])
            .stderr(Stdio::null());
        command
    }

    /// Runs a workload once; `stdin` is what a copy into the pod sends.
    pub(super) fn once(&self, workload: Workload, file: &str, stdin: &File) -> Result<Taken, Failure> {
        let mut command = self.command();
        let remote = format!("{}:{file}", self.pod);
        match (workload, self.name) {
            (Workload::Command, _) => command.args(["exec", &self.pod, "--", "true"]),
            (Workload::CopyIn(_), "podbridge") => command.args(["cp", "--quiet", "-", &remote]),
            (Workload::CopyOut(_), "podbridge") => command.args(["cp", "--quiet", &remote, "-"]),
            // `kubectl cp` needs tar in the image, and takes longer.
            (Workload::CopyIn(_), _) => {
                command.args(["exec", "-i", &self.pod, "--", "sh", "-c", &format!("cat >{file}")])
            }
            (Workload::CopyOut(_), _) => command.args(["exec", &self.pod, "--", "cat", file]),
        };
        if let Workload::CopyIn(_) = workload {
            command.stdin(stdin.try_clone().map_err(|error| self.cannot_run(&error))?);
        }
        let (processor, begun) = (processor_time_of_children(), Instant::now());
        let output = command
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| self.cannot_run(&error))?;
        let time = begun.elapsed();
        if output.status.success() {
            let processor = processor_time_of_children().saturating_sub(processor);
            return Ok(Taken { time, processor });
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let reason = stderr.lines().last().unwrap_or("no reason was printed");
        let reason = reason.strip_prefix("podbridge: ").unwrap_or(reason);
        Err(Failure::new(Kind::RemoteFile, format!("{}: {reason}", self.name)))
    }

    fn cannot_run(&self, error: &std::io::Error) -> Failure {
        let program = self.program.display();
        Failure::new(Kind::LocalFile, format!("{program} cannot be run: {error}"))
    }
}

/// Returns the options that kubectl and podbridge spell alike.
fn options_of_kubectl(target: &TargetOptions) -> Vec<OsString> {
    let text = |value: &Option<String>| value.clone().map(OsString::from);
    let path = |value: &Option<PathBuf>| value.clone().map(PathBuf::into_os_string);
    let skip_verify = target.insecure_skip_tls_verify.map(|skip| skip.to_string().into());
    let single = [
        ("kubeconfig", target.kubeconfig.clone()),
        ("context", text(&target.context)),
        ("namespace", text(&target.namespace)),
        ("container", text(&target.container)),
        ("server", text(&target.server)),
        ("certificate-authority", path(&target.certificate_authority)),
        ("client-certificate", path(&target.client_certificate)),
        ("client-key", path(&target.client_key)),
        ("insecure-skip-tls-verify", skip_verify),
        ("as", text(&target.impersonate)),
    ];
    let groups = target
        .impersonate_group
        .iter()
        .map(|group| ("as-group", Some(group.into())));
    let given = single.into_iter().chain(groups);
    given
        .filter_map(|(name, value)| {
            let mut word = OsString::from(format!("--{name}="));
            word.push(value?);
            Some(word)
        })
        .collect()
}

/// Returns the processor time of all child processes that have ended.
fn processor_time_of_children() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields of proc_pid_stat(5) behind the name: cutime and cstime are the 14th and 15th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields
        .skip(13)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * MILLISECONDS_PER_TICK)
}
