//! `podbridge bench`: times the same work in one pod through podbridge and through kubectl, in turns, and prints one table. Runs both as
//! whole processes, as a user does. Writes one file in the pod, and removes it.

mod peer;
mod report;
mod workload;

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustix::fs::MemfdFlags;

use crate::cli::{BenchOptions, TargetOptions};
use crate::client;
use crate::commands::bench::peer::Peer;
use crate::commands::bench::report::Row;
use crate::commands::bench::workload::Workload;
use crate::commands::bridge_of_pod;
use crate::error::{Failure, Kind};
use crate::protocol::request::{Operation, Request};
use crate::protocol::result::Outcome;
use crate::random;
use crate::report::say;

/// Time after which a workload begins no further round, so that the whole takes less than a minute.
const TIME_OF_WORKLOAD: Duration = Duration::from_secs(8);

pub(super) fn run(target: TargetOptions, command: &BenchOptions) -> Result<u8, Failure> {
    let peers = Peer::both(&target, &command.pod)?;
    let file = format!("/tmp/podbridge-bench-{}", HEXLOWER.encode(&random::bytes::<8>()));
    let measured = measure(&peers, &file);
    // Without a copy there is no file, and `rm -f` says nothing.
    let _ = peers[0].remove(&file).status();
    let rows = measured?;
    let link = link_of(target, &command.pod)?;
    let text = if command.json {
        report::json(&rows, &link)
    } else {
        report::table(&rows, &link, &command.pod)
    };
    // An error is ignored: it means that the reader has closed standard output.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(0)
}

/// Times every workload. A workload that one of the peers cannot do is left out, and said.
fn measure(peers: &[Peer], file: &str) -> Result<Vec<Row>, Failure> {
    // The first command starts the bridge, and kubectl fills its cache.
    for peer in peers {
        peer.once(Workload::Command, file, &empty_file()?)?;
    }
    let mut rows = Vec::new();
    for (workload, rounds) in Workload::ALL {
        match measure_workload(peers, workload, rounds, file) {
            Ok(found) => rows.extend(found),
            Err(failure) => say(&format!("{} is left out: {}", workload.name(), failure.message)),
        }
    }
    Ok(rows)
}

/// Times one workload in rounds; each peer has its turn in each of them.
fn measure_workload(peers: &[Peer], workload: Workload, rounds: usize, file: &str) -> Result<Vec<Row>, Failure> {
    let begun = Instant::now();
    let mut rows: Vec<_> = peers.iter().map(|peer| Row::new(workload.name(), peer.name)).collect();
    let mut stdin = match workload {
        Workload::CopyIn(size) => random_file(size)?,
        _ => empty_file()?,
    };
    for round in 0..rounds {
        if round > 0 && begun.elapsed() > TIME_OF_WORKLOAD {
            break;
        }
        for (peer, row) in peers.iter().zip(&mut rows) {
            stdin.rewind().map_err(|error| no_file(&error))?;
            row.add(peer.once(workload, file, &stdin)?);
        }
    }
    Ok(rows)
}

/// Returns the name of the link that the pod's bridge uses for commands.
fn link_of(target: TargetOptions, pod: &str) -> Result<String, Failure> {
    let socket = bridge_of_pod::socket_of(target, pod)?;
    let request = Request {
        container: None,
        operation: Operation::Status,
    };
    let answer = client::runtime()?.block_on(client::ask(&socket, &request))?;
    let links = match answer {
        Some(Outcome::Ok(done)) => done.links,
        _ => None,
    };
    let control = links.into_iter().flatten().find(|link| link.lane == "control");
    Ok(control.map_or_else(|| "unknown".into(), |link| link.link))
}

fn empty_file() -> Result<File, Failure> {
    rustix::fs::memfd_create("podbridge-bench", MemfdFlags::CLOEXEC)
        .map(File::from)
        .map_err(|errno| no_file(&errno.into()))
}

/// Returns a file of random bytes, which no compression shortens.
fn random_file(size: usize) -> Result<File, Failure> {
    let mut file = empty_file()?;
    let content: Vec<u8> = (0..size / 256).flat_map(|_| random::bytes::<256>()).collect();
    file.write_all(&content).map_err(|error| no_file(&error))?;
    Ok(file)
}

fn no_file(error: &std::io::Error) -> Failure {
    Failure::new(Kind::LocalFile, format!("no file in memory can be made: {error}"))
}
