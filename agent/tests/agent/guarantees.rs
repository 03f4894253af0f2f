//! Guarantees of execs: a repeated start runs one command, readers are independent, and unread output is bounded and never lost in
//! silence.

use std::fs;

use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::{AttachRequest, ExecEvent, Overflow, ReleaseRequest, WaitRequest};
use tokio::task::JoinSet;
use tonic::{Code, Streaming};

use crate::harness::{Agent, eventually, finish, run, shell, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_racing_and_late_starts_run_one_command() {
    let agent = Agent::start();
    let counter = agent.dir.path().join("counter");
    let start = shell(&format!("echo x >> {}; echo done", counter.display()));
    let mut racing = JoinSet::new();
    for round in 0..1000 {
        // A connection of its own for each start, as of a bridge that reconnects and repeats it.
        let mut exec = agent.exec().await;
        let start = start.clone();
        racing.spawn(async move {
            match round % 2 {
                0 => exec
                    .start(start)
                    .await
                    .map(|answer| u64::from(answer.into_inner().created)),
                _ => {
                    let seen = finish(exec.run(run(start)).await?.into_inner()).await;
                    assert_eq!((seen.stdout(), seen.cause()), ("done\n", Cause::Exited(0)));
                    Ok(0)
                }
            }
        });
    }
    let created: u64 = soon(racing.join_all()).await.into_iter().map(Result::unwrap).sum();
    assert!(created <= 1);
    let mut exec = agent.exec().await;
    let exec_id = start.exec_id.clone();
    exec.release(ReleaseRequest { exec_id }).await.unwrap();
    for _ in 0..10 {
        let late = exec.start(start.clone()).await.unwrap_err();
        assert_eq!(late.code(), Code::FailedPrecondition, "released ids stay fenced");
    }
    assert_eq!(fs::read_to_string(counter).unwrap(), "x\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_readers_see_every_byte_and_an_idle_one_blocks_nobody() {
    const LENGTH: usize = 3 << 20;
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let start = shell(&format!("head -c {LENGTH} /dev/zero; echo end >&2"));
    let exec_id = start.exec_id.clone();
    let idle = exec.run(run(start)).await.unwrap();
    let mut readers = JoinSet::new();
    for _ in 0..100 {
        let mut exec = agent.exec().await;
        let exec_id = exec_id.clone();
        readers.spawn(async move {
            let attach = AttachRequest {
                exec_id,
                ..AttachRequest::default()
            };
            finish(exec.attach(attach).await.unwrap().into_inner()).await
        });
    }
    for seen in soon(readers.join_all()).await {
        assert_eq!((seen.stdout.len(), &seen.stderr[..]), (LENGTH, &b"end\n"[..]));
    }
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn dropped_output_is_reported_as_a_gap() {
    const LENGTH: u64 = 20 << 20;
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let start = shell(&format!("head -c {LENGTH} /dev/zero"));
    let exec_id = start.exec_id.clone();
    soon(finish(exec.run(run(start)).await.unwrap().into_inner())).await;
    let attach = AttachRequest {
        exec_id,
        ..AttachRequest::default()
    };
    with_gap(exec.attach(attach).await.unwrap().into_inner(), LENGTH).await;
}

/// Reads a stdout of `length` bytes whose beginning was dropped. Returns the number of bytes in the gap, and of the others.
async fn with_gap(mut stream: Streaming<ExecEvent>, length: u64) -> (u64, u64) {
    let (mut gap, mut got) = (0, 0);
    while let Some(event) = soon(stream.message()).await.unwrap() {
        match event.event.unwrap() {
            Event::Gap(missing) => {
                assert_eq!((missing.offset, got), (0, 0), "the gap comes before the output");
                gap = missing.length;
            }
            Event::Output(output) => got += output.data.len() as u64,
            Event::Closed(closed) => assert_eq!(closed.stdout_length, length),
            Event::Started(_) | Event::Exited(_) => {}
        }
    }
    assert!(gap > 0);
    assert_eq!(gap + got, length);
    (gap, got)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_unread_command_ends_and_its_output_waits_in_a_file() {
    const LENGTH: usize = 30 << 20;
    let own = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
    let agent = Agent::start_with(&["--spool", directory.path().to_str().unwrap()]);
    let mut exec = agent.exec().await;
    let start = shell(&format!("yes 'never read' | head -c {LENGTH}"));
    let exec_id = start.exec_id.clone();
    exec.start(start).await.unwrap();
    let wait = WaitRequest {
        exec_id: exec_id.clone(),
    };
    soon(exec.wait(wait)).await.unwrap();
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        0,
        "the file has no name"
    );
    let attach = AttachRequest {
        exec_id: exec_id.clone(),
        ..AttachRequest::default()
    };
    let seen = soon(finish(exec.attach(attach).await.unwrap().into_inner())).await;
    assert_eq!(seen.stdout.len(), LENGTH);
    assert!(
        seen.stdout
            .chunks(11)
            .all(|line| line == &b"never read\n"[..line.len()])
    );
    let files = || {
        let open = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().flatten();
        open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(directory.path())))
            .count()
    };
    exec.release(ReleaseRequest { exec_id }).await.unwrap();
    eventually("the file is closed", || files() == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_makes_the_command_wait_and_the_reader_gets_the_reason() {
    const LENGTH: u64 = 30 << 20;
    let agent = Agent::start_with_small_disk();
    let mut exec = agent.exec().await;
    let counter = agent.dir.path().join("counter");
    let start = shell(&format!(
        "for i in $(seq 30); do head -c 1048576 /dev/zero; echo x >>{}; done",
        counter.display()
    ));
    let exec_id = start.exec_id.clone();
    exec.start(start).await.unwrap();
    let written = || fs::read(&counter).map_or(0, |lines| lines.len() / 2);
    let mut last = 0;
    eventually("the disk takes some output, then the command waits", || {
        // The command waits if it has written nothing in this time.
        std::thread::sleep(std::time::Duration::from_secs(2));
        let before = std::mem::replace(&mut last, written());
        last > 8 && last == before
    });
    assert!(last < 20, "{last} MiB");
    let attach = AttachRequest {
        exec_id,
        ..AttachRequest::default()
    };
    let mut stream = exec.attach(attach).await.unwrap().into_inner();
    let mut got = 0;
    let closed = loop {
        match soon(stream.message()).await.unwrap().unwrap().event.unwrap() {
            Event::Output(output) => {
                assert_eq!(output.offset, got);
                got += output.data.len() as u64;
            }
            Event::Gap(gap) => panic!("{gap:?}"),
            Event::Closed(closed) => break closed,
            Event::Started(_) | Event::Exited(_) => {}
        }
    };
    assert_eq!((got, closed.stdout_length), (LENGTH, LENGTH));
    assert!(closed.spool_error.contains("No space left"), "{}", closed.spool_error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn output_that_overflows_is_dropped_if_the_client_asks_for_it() {
    const LENGTH: u64 = 60 << 20;
    let agent = Agent::start_with(&["--spool-limit", "0"]);
    let mut exec = agent.exec().await;
    let mut start = shell(&format!("head -c {LENGTH} /dev/zero; echo end"));
    start.overflow = Overflow::DropOldest as i32;
    start.requires = vec!["exec.drop_oldest".into()];
    let exec_id = start.exec_id.clone();
    exec.start(start).await.unwrap();
    let wait = WaitRequest {
        exec_id: exec_id.clone(),
    };
    soon(exec.wait(wait)).await.unwrap();
    let attach = AttachRequest {
        exec_id,
        ..AttachRequest::default()
    };
    let (gap, got) = with_gap(exec.attach(attach).await.unwrap().into_inner(), LENGTH + 4).await;
    assert!(got < 10 << 20, "{got} after a gap of {gap}");
}
