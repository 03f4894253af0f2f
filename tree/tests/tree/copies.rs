//! Trees by chance come over whole, in both directions, over whatever was there before.

use std::fs;

use fastrand::Rng;
use podbridge_proto::v1::TreeOpen;

use crate::harness::{Direction, assert_equal, copy, look, open};
use crate::random::{disturb, fill};

const ROUNDS: usize = 16;

fn with_delete() -> TreeOpen {
    TreeOpen { delete: true, ..open() }
}

/// Runs with one seed after the other; a failure tells it.
fn rounds(test: impl Fn(&mut Rng, &str)) {
    let first = fastrand::u64(..);
    for round in 0..ROUNDS as u64 {
        let seed = first.wrapping_add(round);
        test(&mut Rng::with_seed(seed), &format!("seed {seed}"));
    }
}

#[test]
fn a_random_tree_becomes_what_the_source_is() {
    rounds(|rng, seed| {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fill(&from, rng, 120);
        let expected = look(&from);
        match rng.u8(..3) {
            0 => {}
            1 => fill(&to, rng, 60),
            _ => {
                copy(&from, &to, Direction::Push, &with_delete()).clean();
                disturb(&to, rng);
            }
        }
        let direction = *rng.choice(&[Direction::Push, Direction::Pull]).unwrap();
        let options = TreeOpen {
            checksum: rng.bool(),
            compression: rng.i32(0..3),
            ..with_delete()
        };
        let dry = TreeOpen {
            dry_run: true,
            ..options.clone()
        };
        let before = to.exists().then(|| look(&to));
        let foretold = copy(&from, &to, direction, &dry).clean();
        assert_eq!(
            before,
            to.exists().then(|| look(&to)),
            "{seed}: a dry run changes nothing"
        );
        let summary = copy(&from, &to, direction, &options).clean();
        assert_equal(&expected, &look(&to), seed);
        assert_eq!(foretold.new, summary.new, "{seed}");
        let again = copy(&from, &to, direction, &options);
        assert!(again.changes.is_empty(), "{seed}: {:?}", again.changes);
        assert_eq!(again.clean().bytes, 0, "{seed}");
        assert_eq!(expected, look(&from), "{seed}: the source is not touched");
        fs::remove_dir_all(&to).unwrap();
    });
}
