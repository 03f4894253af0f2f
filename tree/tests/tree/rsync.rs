//! Include and exclude patterns, compared with rsync: random trees and patterns leave the same names in the destination. `SEED=` repeats a
//! run, `CASES=` makes it longer. `cargo test` ignores it, and `make test-differential` runs it, because it needs rsync.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fastrand::Rng;
use podbridge_proto::v1::{TreeFilter, TreeOpen};

use crate::harness::{Direction, copy, options};

const NAMES: &[&str] = &[
    "a", "b", "ab", "ba", "a.b", "-", "]", "!", "\\", "a\\b", "*", "**", "[a]", " a", "\u{17c}", "B", "7",
];

/// Parts of patterns.
const PARTS: &[&str] = &[
    "a",
    "a",
    "b",
    "ab",
    ".",
    "/",
    "/",
    "/",
    "*",
    "*",
    "**",
    "**",
    "***",
    "****",
    "/***",
    "?",
    "[ab]",
    "[!a]",
    "[^b]",
    "[a-c]",
    "[c-a]",
    "[]a]",
    "[!]a]",
    "[a-]",
    "[-a]",
    "[a",
    "[",
    "[]",
    "[!",
    "[[:alpha:]]",
    "[[:foo:]]",
    "[[:upper:]7]",
    "[![:digit:]]",
    "[[:]",
    "[\\a]",
    "[\\]]",
    "[a\\-b]",
    "[a-\\b]",
    "[\\a-b]",
    "[/a]",
    "[+-0]",
    "[!/]",
    "[*]",
    "[?]",
    "\\",
    "\\a",
    "\\*",
    "\\\\",
    "\\[",
    "-",
    "]",
    "!",
    " ",
    "\u{17c}",
];

/// Paths, and whether each one is a directory.
type Universe = BTreeMap<PathBuf, bool>;

fn universe(rng: &mut Rng) -> Universe {
    let mut paths = Universe::new();
    let mut directories = vec![PathBuf::new()];
    for _ in 0..rng.usize(4..24) {
        let path = directories[rng.usize(..directories.len())].join(NAMES[rng.usize(..NAMES.len())]);
        let is_directory = rng.u8(..5) < 2;
        if paths.contains_key(&path) {
            continue;
        }
        if is_directory {
            directories.push(path.clone());
        }
        paths.insert(path, is_directory);
    }
    paths
}

/// Makes some of the paths below a root; a path comes after its directory.
fn make(root: &Path, paths: &Universe, share: f64, rng: &mut Rng) {
    fs::create_dir(root).unwrap();
    for (path, is_directory) in paths {
        let path = root.join(path);
        if rng.f64() < share && path.parent().unwrap().is_dir() {
            if *is_directory {
                fs::create_dir(path).unwrap();
            } else {
                fs::write(path, "").unwrap();
            }
        }
    }
}

fn names(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            found.insert(entry.path().strip_prefix(root).unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
        }
    }
    found
}

fn pattern(rng: &mut Rng, paths: &Universe) -> String {
    let part = |rng: &mut Rng| PARTS[rng.usize(..PARTS.len())];
    // Often close to a path that exists, so that the pattern matches something.
    if rng.bool() && !paths.is_empty() {
        let path = paths.keys().nth(rng.usize(..paths.len())).unwrap().to_str().unwrap();
        let mut components: Vec<String> = path.split('/').map(str::to_owned).collect();
        let from = rng.usize(..components.len());
        for component in &mut components {
            match rng.u8(..6) {
                0 => *component = part(rng).to_owned(),
                1 => *component += part(rng),
                2 => *component = format!("{}{component}", part(rng)),
                _ => {}
            }
        }
        let ends = ["", "", "", "/", "/*", "/**", "/***"];
        return format!(
            "{}{}{}",
            ["", "", "/"][rng.usize(..3)],
            components[from..].join("/"),
            ends[rng.usize(..ends.len())]
        );
    }
    (0..rng.usize(1..5)).map(|_| part(rng)).collect()
}

#[test]
#[ignore = "needs rsync; make test-differential installs it"]
fn patterns_leave_the_names_that_rsync_leaves() {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let cases = number("CASES").unwrap_or(120);
    let mut decided = 0;
    // In memory: the directories of all cases take a minute on a busy disk.
    let place = ["/dev/shm", "/tmp"].into_iter().find(|place| Path::new(place).is_dir());
    for case in 0..cases {
        let temporary = tempfile::tempdir_in(place.unwrap()).unwrap();
        let [from, ours, theirs] = ["from", "ours", "theirs"].map(|name| temporary.path().join(name));
        let paths = universe(&mut rng);
        make(&from, &paths, 0.9, &mut rng);
        let delete = rng.bool();
        let again = rng.u64(..);
        for to in [&ours, &theirs] {
            let share = if delete { 0.6 } else { 0.0 };
            make(to, &paths, share, &mut Rng::with_seed(again));
        }
        let filters: Vec<TreeFilter> = (0..rng.usize(1..4))
            .map(|_| TreeFilter {
                include: rng.u8(..3) == 0,
                pattern: pattern(&mut rng, &paths).into_bytes().into(),
            })
            .collect();
        let open = TreeOpen {
            filters: filters.clone(),
            delete,
            ..options()
        };
        let direction = if rng.bool() { Direction::Push } else { Direction::Pull };
        // A pattern that is empty is refused.
        if podbridge_tree::validate(&open).is_err() {
            continue;
        }
        copy(&from, &ours, direction, &open).without_problems();

        let mut rsync = Command::new("rsync");
        rsync.arg("-r").args(delete.then_some("--delete"));
        for filter in &filters {
            // The sign says what the rule does, so that no beginning of the pattern is taken for one.
            let (sign, pattern) = (
                if filter.include { '+' } else { '-' },
                std::str::from_utf8(&filter.pattern).unwrap(),
            );
            rsync.arg(format!("--exclude={sign} {pattern}"));
        }
        let ended = rsync.arg(from.join("")).arg(theirs.join("")).output().unwrap();
        assert!(ended.status.success(), "{rsync:?}: {ended:?}");
        let (left, there) = (names(&ours), names(&theirs));
        let only = |one: &BTreeSet<PathBuf>, other| one.difference(other).cloned().collect::<Vec<_>>();
        assert_eq!(
            left,
            there,
            "case {case}, {direction:?}: {rsync:?}\nfrom {:?}\nonly ours {:?}, only rsync's {:?}",
            names(&from),
            only(&left, &there),
            only(&there, &left)
        );
        decided += usize::from(left != names(&from));
    }
    assert!(
        decided as u64 > cases / 10,
        "{decided} of {cases} copies depend on their patterns"
    );
}
