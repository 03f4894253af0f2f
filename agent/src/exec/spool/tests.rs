//! Tests of the spool from outside: a command that writes, readers at any offset, and time that passes (a paused clock).

use std::sync::LazyLock;

use super::*;

const OUT: Channel = Channel::Stdout;
const MIB: u64 = 1 << 20;

/// Returns the bytes that every test writes at this offset. Each byte tells its offset, modulo a prime.
fn pattern(offset: u64, length: usize) -> Bytes {
    const PERIOD: usize = 65_521;
    static PERIODS: LazyLock<Bytes> =
        LazyLock::new(|| (0..3 * PERIOD).map(|at| ((at % PERIOD * 31) >> 3) as u8).collect());
    let start = (offset % PERIOD as u64) as usize;
    let period = |at: usize| PERIODS.slice(at..(at + length).min(PERIODS.len()));
    if start + length <= PERIODS.len() {
        period(start)
    } else {
        (start..start + length).map(|at| PERIODS[at % PERIOD]).collect()
    }
}

fn in_memory(overflow: Overflow) -> Arc<Spool> {
    Arc::new(Spool::new(overflow, Arc::new(Store::new(None, 0))))
}

/// Returns a directory that is not in memory, and a spool with files there.
fn on_disk(overflow: Overflow, limit: u64) -> (tempfile::TempDir, Arc<Spool>) {
    let own = crate::env::own_location().unwrap();
    let directory = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
    let store = Store::new(Some(directory.path().to_owned()), limit);
    (directory, Arc::new(Spool::new(overflow, Arc::new(store))))
}

/// Starts a command that writes `length` bytes, as fast as the spool takes them.
fn writer(spool: &Arc<Spool>, length: u64) -> tokio::task::JoinHandle<()> {
    let spool = spool.clone();
    tokio::spawn(async move {
        let mut offset = 0;
        while offset < length {
            assert!(spool.wait_for_space(OUT).await);
            spool.write(OUT, pattern(offset, CHUNK_LIMIT));
            offset += CHUNK_LIMIT as u64;
        }
        spool.close(OUT, false);
        spool.close(Channel::Stderr, false);
    })
}

/// Reads to the end, or until there is nothing yet. Returns the number of dropped bytes, and the next offset.
async fn read_on(spool: &Spool, mut offset: u64) -> (u64, u64) {
    let mut missing = 0;
    loop {
        match spool.read(OUT, offset, 128 << 10).await {
            Read::Data(data) => {
                assert!(data == pattern(offset, data.len()), "at {offset}");
                offset += data.len() as u64;
            }
            Read::Gap(length) => {
                missing += length;
                offset += length;
            }
            Read::Wait | Read::End => return (missing, offset),
        }
        spool.take(OUT, offset);
    }
}

async fn data(spool: &Spool, offset: u64, max: usize) -> Bytes {
    match spool.read(OUT, offset, max).await {
        Read::Data(data) => data,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn readers_are_independent_and_see_every_byte() {
    let spool = in_memory(Overflow::Block);
    spool.write(OUT, "hello ".into());
    spool.write(OUT, "world".into());
    assert_eq!(data(&spool, 0, 1024).await, "hello world");
    assert_eq!(data(&spool, 3, 4).await, "lo w"[..3]);
    assert_eq!(data(&spool, 8, 1024).await, "rld");
    assert_eq!(spool.read(OUT, 11, 8).await, Read::Wait);
    assert_eq!(spool.read(Channel::Stderr, 0, 8).await, Read::Wait);
    spool.close(OUT, false);
    assert_eq!(spool.read(OUT, 11, 8).await, Read::End);
    assert_eq!(spool.lengths(), None);
    spool.close(Channel::Stderr, true);
    let lengths = spool.lengths().unwrap();
    assert_eq!((lengths.stdout, lengths.stderr, lengths.held_open), (11, 0, true));
}

#[tokio::test]
async fn bytes_that_a_reader_read_long_ago_are_an_explicit_gap() {
    let spool = in_memory(Overflow::Block);
    for round in 0..6 {
        spool.write(OUT, pattern(round * MIB, MIB as usize));
    }
    spool.take(OUT, 6 * MIB);
    assert_eq!(spool.read(OUT, 0, 8).await, Read::Gap(2 * MIB));
    assert_eq!(data(&spool, 2 * MIB, 8).await.len(), 8);
}

/// All that a connection may have taken can be read again.
#[tokio::test]
async fn a_reader_with_a_larger_window_has_more_kept() {
    for (window, kept) in [(0, 4), (MIB, 4), (4 * MIB, 6), (8 * MIB, 10), (u64::MAX, 10)] {
        let spool = in_memory(Overflow::Block);
        spool.widen(window);
        spool.widen(0);
        for round in 0..16 {
            spool.write(OUT, pattern(round * MIB, MIB as usize));
        }
        spool.take(OUT, 16 * MIB);
        assert_eq!(spool.read(OUT, 0, 8).await, Read::Gap((16 - kept) * MIB), "{window}");
    }
}

#[tokio::test]
async fn an_offset_beyond_the_end_marks_nothing_as_read() {
    let spool = in_memory(Overflow::Block);
    spool.write(OUT, pattern(0, CHUNK_LIMIT));
    spool.take(OUT, u64::MAX);
    assert!(spool.wait_for_space(OUT).await);
    spool.write(OUT, pattern(CHUNK_LIMIT as u64, CHUNK_LIMIT));
    assert_eq!(read_on(&spool, 0).await, (0, 2 * CHUNK_LIMIT as u64));
}

#[tokio::test(start_paused = true)]
async fn without_files_the_command_waits_for_a_reader() {
    let spool = in_memory(Overflow::Block);
    let writing = writer(&spool, 20 * MIB);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(spool.lock().stdout.end(), 2 * MIB);
    let mut offset = 0;
    while !writing.is_finished() {
        offset = read_on(&spool, offset).await.1;
        tokio::task::yield_now().await;
    }
    assert_eq!(read_on(&spool, offset).await, (0, 20 * MIB));
}

#[tokio::test]
async fn a_writer_stops_waiting_when_its_exec_is_released() {
    let spool = in_memory(Overflow::Block);
    spool.write(OUT, pattern(0, 5 << 20));
    let waiting = tokio::spawn({
        let spool = spool.clone();
        async move { spool.wait_for_space(OUT).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    spool.abandon();
    assert!(!waiting.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn output_moves_to_a_file_when_readers_stall() {
    let (directory, spool) = on_disk(Overflow::Block, 256 * MIB);
    let writing = writer(&spool, 30 * MIB);
    writing.await.unwrap();
    assert!(spool.lock().stdout.in_memory() < 9 * MIB);
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "a file without a name"
    );
    assert_eq!(read_on(&spool, 0).await, (0, 30 * MIB));
    assert_eq!(spool.lengths().unwrap().file_error, None);
    // A second reader can still read the bytes that a cut connection may have lost.
    assert_eq!(read_on(&spool, 26 * MIB).await, (0, 30 * MIB));
}

#[tokio::test(start_paused = true)]
async fn a_full_file_makes_the_command_wait_for_a_reader() {
    let (_directory, spool) = on_disk(Overflow::Block, 256 * MIB);
    let writing = writer(&spool, 100 * MIB);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let held = spool.lock().stdout.end();
    assert!((34 * MIB..46 * MIB).contains(&held), "{held}");
    let mut offset = 0;
    while !writing.is_finished() {
        let (missing, next) = read_on(&spool, offset).await;
        assert_eq!(missing, 0);
        offset = next;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(read_on(&spool, offset).await, (0, 100 * MIB));
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_drops_the_oldest_bytes_and_reports_a_gap() {
    let (_directory, with_file) = on_disk(Overflow::DropOldest, 256 * MIB);
    for (spool, kept) in [(in_memory(Overflow::DropOldest), 6 * MIB), (with_file, 38 * MIB)] {
        writer(&spool, 100 * MIB).await.unwrap();
        let (missing, end) = read_on(&spool, 0).await;
        assert_eq!(end, 100 * MIB);
        assert!(
            (kept..kept + MIB).contains(&(end - missing)),
            "{missing} of {end} are missing"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_usable_directory_the_command_waits_and_the_reader_gets_the_reason() {
    let store = Store::new(Some("/no/such/directory".into()), 256 * MIB);
    let spool = Arc::new(Spool::new(Overflow::Block, Arc::new(store)));
    let writing = writer(&spool, 20 * MIB);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(spool.lock().stdout.end() < 9 * MIB);
    let mut offset = 0;
    while !writing.is_finished() {
        offset = read_on(&spool, offset).await.1;
        tokio::task::yield_now().await;
    }
    assert_eq!(read_on(&spool, offset).await, (0, 20 * MIB));
    assert!(spool.lengths().unwrap().file_error.unwrap().contains("No such file"));
}

#[tokio::test(start_paused = true)]
async fn all_files_share_one_limit_and_return_what_they_reserved() {
    let (_directory, first) = on_disk(Overflow::Block, 16 * MIB);
    let second = Arc::new(Spool::new(Overflow::Block, first.store.clone()));
    writer(&first, 20 * MIB).await.unwrap();
    let writing = writer(&second, 20 * MIB);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!writing.is_finished(), "the limit holds");
    drop(first);
    writing.await.unwrap();
    assert_eq!(read_on(&second, 0).await, (0, 20 * MIB));
}

#[tokio::test(start_paused = true)]
async fn many_unread_streams_share_the_memory() {
    let store = Arc::new(Store::new(None, 0));
    let spools: Vec<_> = (0..200)
        .map(|_| Arc::new(Spool::new(Overflow::Block, store.clone())))
        .collect();
    let writing: Vec<_> = spools.iter().map(|spool| writer(spool, MIB)).collect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let held: u64 = spools.iter().map(|spool| spool.lock().stdout.in_memory()).sum();
    assert!(held < (64 + 13) * MIB, "{held}");
    for (spool, writing) in spools.iter().zip(writing) {
        let mut offset = 0;
        while !writing.is_finished() {
            offset = read_on(spool, offset).await.1;
            tokio::task::yield_now().await;
        }
        assert_eq!(read_on(spool, offset).await, (0, MIB));
    }
}
