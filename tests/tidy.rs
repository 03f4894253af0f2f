//! Rules of this repository that no other tool checks. Each rule is a function that reports where the files break it; a test beside it
//! shows a sample that does. `proto/tests/bootstrap.rs` checks that the generated code is up to date.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test fails by panicking, and asks where the repository is

use std::path::PathBuf;

use podbridge_tests::markdown::{headings, links_of, prose, resolve_link};
use podbridge_tests::module_graph::{diverging_names, graphs};
use podbridge_tests::repository::{Repository, is_generated};
use podbridge_tests::rust_source::{code, imports, line_of, paths, without_tests, words};

/// Longest source file, in lines.
const MAX_LINES: usize = 600;

/// Modules from top to bottom, by the directory of their crate: a module uses only modules behind it. The crate's root file is above all
/// of them.
const LADDERS: [(&str, &str); 2] = [
    (
        "executor-bridge/src/",
        "fuzzing commands kubectl_shim daemon console client session connections link launch sockets config cli pod report exit terminal \
         telemetry program shutdown sys backoff protocol error env random",
    ),
    (
        "agent/src/",
        "fuzzing commands app config telemetry rpc transport git logs files exec sys env",
    ),
];

/// What only some files may use: name of the rule, beginnings of paths, the files that the rule is about, those of them that may use the
/// paths, and what to do otherwise. Files are given by the beginnings of their names.
type Boundary = (&'static str, &'static str, &'static str, &'static str, &'static str);

const BOUNDARIES: [Boundary; 6] = [
    (
        "environment",
        "std::env",
        "agent/src/ executor-bridge/src/ files/src/ proto/src/ tls/src/ tree/src/",
        "agent/src/env.rs executor-bridge/src/env.rs",
        "ask the crate's env.rs, the only reader of the environment",
    ),
    (
        "domain",
        "tonic prost podbridge_proto::v1",
        "agent/src/exec/ agent/src/files/ agent/src/git/ agent/src/logs/ agent/src/sys/ files/ tls/",
        "",
        "translate messages in agent/src/rpc; a domain knows neither gRPC nor generated types",
    ),
    (
        "bytes only",
        "podbridge_proto::v1",
        "agent/src/transport/ executor-bridge/src/link/",
        "",
        "move bytes, and leave messages to the layer above",
    ),
    (
        "grpc",
        "tonic",
        "executor-bridge/src/ tree/",
        "executor-bridge/src/connections/ executor-bridge/src/session/",
        "use gRPC in connections and session",
    ),
    (
        "kubernetes",
        "kube k8s_openapi",
        "agent/ executor-bridge/src/ files/ proto/ tls/ tree/",
        "executor-bridge/src/pod/",
        "translate to podbridge's own types in executor-bridge/src/pod",
    ),
    (
        "fork",
        "crate::sys::fork::fork fork::fork",
        "agent/src/",
        "agent/src/sys/",
        "start children by sys::reaper, which has to know all of them",
    ),
];

/// Types that had a private meaning or named several things, and what to write instead. As words of a comment they are plain English.
const RETIRED_TYPES: [(&str, &str); 10] = [
    ("Door Doors", "DirectListener, or an address"),
    ("Ends", "Endpoint"),
    ("Errands", "BackgroundCalls"),
    ("Patience", "Backoff"),
    ("Piece Pieces", "what it is: Chunk, StdinPart, ContentPart"),
    ("Place", "ContainerRef, ResolvedPath, Layout"),
    ("Chosen Selected Doing", "Overrides, SelectedContext, ApiCall"),
    ("Way Home", "DirectRoute, LostAgent"),
    ("Turn Turns", "BulkPermit, BulkLimiter or TransferGuard"),
    (
        "Sought Called Wires Over",
        "a noun: LogSearch, Invocation, InputQueues, StreamEnd",
    ),
];

/// Private metaphors, in code and texts of every kind, and what to write instead.
const RETIRED_WORDS: [(&str, &str); 9] = [
    ("patience", "a backoff, or the timeout of something"),
    ("errand errands", "a background call"),
    ("epitaph", "the end reason"),
    ("landing rhythm", "a sink, a timer"),
    ("keeper keepers", "keep-alive, a watch"),
    ("octets", "bytes"),
    ("twin twins", "pods of the same name, or a pod with two containers"),
    ("rooms", "modules"),
    ("zeroth", "argv0"),
];

/// What names a document that readers of this repository do not have, and what to do.
const OUTSIDE: [(&str, &str); 3] = [
    ("../shared/", "name a file of this repository"),
    ("rust-notes", "give the reason itself"),
    ("DESIGN §", "name docs/design.md and its heading"),
];

/// Collects where rules are broken, as `path:line: rule: what to do`.
#[derive(Default)]
struct Report(Vec<String>);

impl Report {
    fn add(&mut self, path: &str, line: usize, rule: &str, advice: &str) {
        let violation = format!("{path}:{line}: {rule}: {advice}");
        if !self.0.contains(&violation) {
            self.0.push(violation);
        }
    }
}

type Rule = fn(&Repository, &mut Report);

const RULES: [Rule; 12] = [
    length,
    header,
    ladder,
    circles,
    boundaries,
    unsafe_code,
    retired_names,
    links,
    outside,
    decisions,
    architecture,
    sleeps,
];

#[test]
fn every_rule_is_kept() {
    // Read at run time, because clones of the repository may share a target directory.
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..");
    let repository = Repository::read(&root);
    assert!(repository.rust().count() > 200, "no sources in {}", root.display());
    let mut report = Report::default();
    RULES.iter().for_each(|rule| rule(&repository, &mut report));
    let Report(violations) = report;
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// Fails if `rule` says anything else of samples, given as path and text, than `expected`: the paths and lines.
#[track_caller]
fn assert_finds(rule: Rule, samples: &[(&str, &str)], expected: &str) {
    let mut report = Report::default();
    rule(&Repository::of(samples), &mut report);
    let places: Vec<_> = report.0.iter().map(|found| found.split(": ").next().unwrap()).collect();
    assert_eq!(places.join(" "), expected);
}

/// A source file has at most 600 lines. An Ansible plugin has to be one file: its documentation does not count.
fn length(repository: &Repository, report: &mut Report) {
    for (path, text) in repository.texts().filter(|(path, _)| !is_generated(path)) {
        let is_plugin = path.starts_with("ansible/plugins/");
        let documentation = text.split("\"\"\"").skip(1).step_by(2).filter(|_| is_plugin);
        let lines = text.lines().count() - documentation.map(|block| block.lines().count()).sum::<usize>();
        let is_source = [".rs", ".py", ".sh"].iter().any(|end| path.ends_with(end)) || text.starts_with("#!");
        if is_source && lines > MAX_LINES {
            report.add(path, lines, "length", "split this file; 600 lines are the most");
        }
    }
}

#[test]
fn a_long_file_is_found() {
    let long = "x\n".repeat(MAX_LINES + 1);
    let (script, plugin) = (format!("#!{long}"), format!("X = r\"\"\"{long}\"\"\"\n"));
    let samples = [
        ("a.rs", &long),
        ("b.md", &long),
        ("c/gen/d.rs", &long),
        ("ansible/plugins/e.py", &plugin),
        ("f", &script),
    ];
    assert_finds(
        length,
        &samples.map(|(path, text)| (path, text.as_str())),
        "a.rs:601 f:601",
    );
}

/// The first line of a Rust file says what the file owns.
fn header(repository: &Repository, report: &mut Report) {
    for (path, _) in repository.rust().filter(|(_, text)| !text.starts_with("//! ")) {
        let advice = "begin with `//!`: what the file owns, what it may not touch, who calls it";
        report.add(path, 1, "header", advice);
    }
}

#[test]
fn a_missing_header_is_found() {
    assert_finds(header, &[("a.rs", "//! Reads.\n"), ("b.rs", "use c;\n")], "b.rs:1");
}

/// A module uses no module above it on its crate's ladder.
fn ladder(repository: &Repository, report: &mut Report) {
    for graph in graphs(repository) {
        let Some((root, ladder)) = LADDERS.iter().find(|(root, _)| *root == graph.directory) else {
            continue;
        };
        for edge in &graph.edges {
            let (directory, from, to) = diverging_names(&edge.from, &edge.to);
            let rank = |name: &str| {
                let mut modules = ["lib"].into_iter().chain(ladder.split(' '));
                modules.position(|module| module == name.trim_end_matches(".rs"))
            };
            let advice = match (rank(from), rank(to)) {
                _ if directory != *root => continue,
                (Some(above), Some(below)) if above < below => continue,
                (Some(_), Some(_)) => format!("{from} uses {to} above it; move what both need down"),
                _ => format!("add {from} and {to} to the ladder in tests/tidy.rs"),
            };
            report.add(&edge.from, edge.line, "ladder", &advice);
        }
    }
}

#[test]
fn a_use_that_goes_up_the_ladder_is_found() {
    let samples = [
        ("agent/src/lib.rs", "mod exec; mod rpc; mod sys; mod new;"),
        (
            "agent/src/exec/mod.rs",
            "/*\n{ */\nuse crate::{sys, rpc::{self, Service}};",
        ),
        (
            "agent/src/rpc.rs",
            "struct Service;\nfn f() { super::exec::run('\"', r#\" \"#, '\\'') }",
        ),
        (
            "agent/src/sys.rs",
            "fn f() { crate::new::f() }\n#[cfg(test)]\nmod tests { use crate::rpc::Service; }",
        ),
        ("agent/src/new.rs", "fn f() {}"),
    ];
    assert_finds(ladder, &samples, "agent/src/exec/mod.rs:3 agent/src/sys.rs:1");
}

/// Files and folders use each other in one direction only. A child may use what its parent only re-exports.
fn circles(repository: &Repository, report: &mut Report) {
    for graph in graphs(repository) {
        for (directory, edge) in graph.circles() {
            let advice = format!(
                "its use of {} closes a circle in {directory}; move what both need to a new file",
                edge.to
            );
            report.add(&edge.from, edge.line, "circle", &advice);
        }
    }
}

#[test]
fn circles_of_files_and_folders_are_found() {
    let samples = [
        ("x/src/lib.rs", "mod a; mod b; mod c;"),
        (
            "x/src/a/mod.rs",
            "mod one; mod two;\npub(crate) use one::One;\nuse two::Two;\nstruct Face;",
        ),
        ("x/src/a/one.rs", "pub(crate) struct One;"),
        ("x/src/a/two.rs", "use super::One;\nstruct Two;\ntype Up = super::Face;"),
        (
            "x/src/b/mod.rs",
            "mod leaf; pub use leaf::leaf;\nfn b() { crate::c::c() }",
        ),
        ("x/src/b/leaf.rs", "pub(in crate::c) fn leaf() {}"),
        ("x/src/c/mod.rs", "fn c() {}\nmod inner;"),
        ("x/src/c/inner.rs", "use crate::b;\n\nfn inner() { b::leaf() }"),
    ];
    let expected = "x/src/b/mod.rs:2 x/src/c/inner.rs:3 x/src/a/mod.rs:3 x/src/a/two.rs:3";
    assert_finds(circles, &samples, expected);
}

/// What only some files may use is used there only: the environment, gRPC, Kubernetes, fork.
fn boundaries(repository: &Repository, report: &mut Report) {
    // Constants are no environment, and writing it is unsafe code.
    const EXCEPT: [&str; 3] = ["std::env::consts::", "std::env::set_var::", "std::env::remove_var::"];
    let is_in = |path: &str, files: &str| files.split_whitespace().any(|beginning| path.starts_with(beginning));
    for (path, text) in repository.rust().filter(|(path, _)| !path.ends_with("/tests.rs")) {
        let (imports, rest) = imports(&without_tests(&code(text)));
        let imported = imports.into_iter().map(|import| (import.line, import.path));
        let used = imported.chain(paths(&rest).into_iter().map(|path| (path.line, path.path)));
        let used: Vec<_> = used.map(|(line, path)| (line, path.join("::") + "::")).collect();
        let about = BOUNDARIES
            .iter()
            .filter(|(_, _, inside, allowed, _)| is_in(path, inside) && !is_in(path, allowed));
        for (rule, barred, .., advice) in about {
            let is_barred = |used: &str| barred.split(' ').any(|path| used.starts_with(&format!("{path}::")));
            for (line, used) in used.iter().filter(|(_, used)| is_barred(used)) {
                if !EXCEPT.iter().any(|except| used.starts_with(except)) {
                    report.add(path, *line, rule, advice);
                }
            }
        }
    }
}

#[test]
fn what_crosses_a_boundary_is_found() {
    let environment = "use std::{env, fs};\nfn f() { std::env::var(a); }\nlet a = std::env::consts::ARCH;\n#[cfg(test)]\nuse std::env;";
    let samples = [
        ("agent/src/app.rs", environment),
        ("agent/src/env.rs", environment),
        (
            "agent/src/exec/mod.rs",
            "// tonic::Status\nuse podbridge_proto::{digest, v1::Hello};",
        ),
        ("agent/src/rpc/mod.rs", "use tonic::Status;"),
        (
            "agent/src/transport/mod.rs",
            "use podbridge_proto::v1;\nuse tonic::Connected;",
        ),
        ("executor-bridge/src/cli.rs", "fn f(_: tonic::Status) {}"),
        ("executor-bridge/src/link.rs", "#[kube::derive]\nstruct kubectl;"),
        ("executor-bridge/src/pod/view.rs", "use kube::Client;"),
    ];
    let expected = "agent/src/app.rs:1 agent/src/app.rs:2 agent/src/exec/mod.rs:2 agent/src/transport/mod.rs:1 \
                    executor-bridge/src/cli.rs:1 executor-bridge/src/link.rs:1";
    assert_finds(boundaries, &samples, expected);
}

/// `unsafe` is in the modules `sys` only.
fn unsafe_code(repository: &Repository, report: &mut Report) {
    for (path, text) in repository
        .rust()
        .filter(|(path, _)| !path.contains("/sys/") && !path.ends_with("/sys.rs"))
    {
        let code = code(text);
        for at in words(&code, "unsafe") {
            report.add(path, line_of(&code, at), "unsafe", "move it to the crate's module sys");
        }
    }
}

#[test]
fn unsafe_code_outside_sys_is_found() {
    let outside = "// unsafe\n#![allow(unsafe_code)]\nlet text = \"\n unsafe\";\nfn f() { unsafe { g() } }";
    assert_finds(
        unsafe_code,
        &[("a/src/b.rs", outside), ("a/src/sys/c.rs", "unsafe fn f() {}")],
        "a/src/b.rs:5",
    );
}

/// Names that the project has given up stay away.
fn retired_names(repository: &Repository, report: &mut Report) {
    for (path, text) in repository
        .texts()
        .filter(|(path, _)| *path != "tests/tidy.rs" && !is_generated(path))
    {
        let code = if path.ends_with(".rs") {
            code(text)
        } else {
            String::new()
        };
        let lower = text.to_ascii_lowercase();
        let types = RETIRED_TYPES.iter().map(|retired| (&code, retired));
        for (text, (retired, instead)) in types.chain(RETIRED_WORDS.iter().map(|retired| (&lower, retired))) {
            for word in retired.split(' ') {
                for at in words(text, word) {
                    report.add(
                        path,
                        line_of(text, at),
                        "retired name",
                        &format!("instead of `{word}` write {instead}"),
                    );
                }
            }
        }
    }
}

#[test]
fn retired_names_are_found() {
    let rust = "/// Ends the stream.\nenum Ends {}\n// The rhythm of retries.\n";
    assert_finds(
        retired_names,
        &[("a.rs", rust), ("b.md", "It has\nRooms. Algorithms stay.")],
        "a.rs:2 a.rs:3 b.md:2",
    );
}

/// A Markdown link leads to a file, and to a heading, that exist.
fn links(repository: &Repository, report: &mut Report) {
    for (path, text) in repository.texts().filter(|(path, _)| path.ends_with(".md")) {
        for (line, target) in links_of(text) {
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let file = if file.is_empty() {
                Some(path.to_owned())
            } else {
                resolve_link(path, file)
            };
            let Some(file) = file.filter(|file| repository.contains(file)) else {
                report.add(path, line, "link", &format!("there is no {target}"));
                continue;
            };
            let has_heading = || headings(repository.text(&file).unwrap_or_default()).contains(&heading.to_owned());
            if !heading.is_empty() && !has_heading() {
                report.add(path, line, "link", &format!("{file} has no heading #{heading}"));
            }
        }
    }
}

#[test]
fn links_that_lead_nowhere_are_found() {
    let samples = [
        ("README.md", "# Use `it`, now\n# A\n# A"),
        (
            "docs/a.md",
            "[a](b.md) `[x](y.md)`\n[r](../README.md#use-it-now) [s](../README.md#a-1)\n[t](../README.md#use)\n[u](../../x)",
        ),
        (
            "docs/c.md",
            "```\n[a](b.md)\n```\n[w](https://example.org) [d](.) [self](#none)",
        ),
    ];
    assert_finds(links, &samples, "docs/a.md:1 docs/a.md:3 docs/a.md:4 docs/c.md:4");
}

/// Nothing refers to a document outside of the repository, and each document that a text names exists.
fn outside(repository: &Repository, report: &mut Report) {
    let is_part_of_a_path = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || "}/._-".contains(c));
    for (path, text) in repository.texts().filter(|(path, _)| *path != "tests/tidy.rs") {
        for (index, line) in text.lines().enumerate() {
            for (name, advice) in OUTSIDE {
                if line.match_indices(name).any(|(at, _)| !is_part_of_a_path(&line[..at])) {
                    report.add(path, index + 1, "outside", advice);
                }
            }
            for (at, _) in line
                .match_indices("docs/")
                .filter(|(at, _)| !is_part_of_a_path(&line[..*at]))
            {
                let mut names = line[at..].split(|c: char| !(c.is_alphanumeric() || "/._-".contains(c)));
                let name = names.next().unwrap_or_default().trim_end_matches('.');
                if name.ends_with(".md") && !repository.contains(name) {
                    report.add(path, index + 1, "outside", &format!("there is no {name}"));
                }
            }
        }
    }
}

#[test]
fn documents_outside_of_the_repository_are_found() {
    let text = "// See ../shared/notes.md.\n// As DESIGN §6 says.\n// See docs/a.md and docs/b.md.";
    assert_finds(
        outside,
        &[("a.rs", text), ("docs/a.md", "https://example.org/docs/c.md")],
        "a.rs:1 a.rs:2 a.rs:3",
    );
}

/// Every decision (ADR) that a text cites by its number has its file.
fn decisions(repository: &Repository, report: &mut Report) {
    for (path, text) in repository.texts().filter(|(path, _)| *path != "tests/tidy.rs") {
        for (at, cited) in text.match_indices("ADR ") {
            let rest = &text[at + cited.len()..];
            let number = &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()];
            let file = format!("docs/adr/{number:0>4}-");
            if !number.is_empty() && !repository.texts().any(|(path, _)| path.starts_with(&file)) {
                report.add(
                    path,
                    line_of(text, at),
                    "decision",
                    &format!("there is no ADR {number}"),
                );
            }
        }
    }
}

#[test]
fn a_decision_that_does_not_exist_is_found() {
    assert_finds(
        decisions,
        &[
            ("a.rs", "// ADR 1\n// ADR 12, and the next ADR"),
            ("docs/adr/0001-x.md", ""),
        ],
        "a.rs:2",
    );
}

/// ARCHITECTURE.md has the ladders of this file. It names every file of the binaries and of the tree copy, and no other.
fn architecture(repository: &Repository, report: &mut Report) {
    const MAP: &str = "ARCHITECTURE.md";
    let mut named: Vec<(String, usize)> = Vec::new();
    let mut shown = String::new();
    let (mut root, mut folder) = ("", "");
    for (number, line) in prose(repository.text(MAP).unwrap_or_default()) {
        let mut quoted = line.split('`').skip(1).step_by(2);
        if line.starts_with("## ") {
            (root, folder) = (quoted.next().unwrap_or_default(), "");
            shown += root;
        } else if line.starts_with("**") {
            folder = quoted.next().unwrap_or_default();
        } else if line.starts_with("| ") && root.ends_with("/src") {
            let cell = line.split('|').nth(1).unwrap_or_default();
            let files = cell.split('`').filter(|name| name.ends_with(".rs"));
            named.extend(files.map(|file| (format!("{root}/{folder}{file}"), number)));
        } else {
            quoted.for_each(|word| shown.extend([" ", word]));
        }
    }
    for (root, ladder) in LADDERS.iter().filter(|(_, ladder)| !shown.contains(ladder)) {
        report.add(
            MAP,
            1,
            "architecture",
            &format!("show the ladder of {root} as it is in tests/tidy.rs: {ladder}"),
        );
    }
    for (file, number) in named.iter().filter(|(file, _)| !repository.contains(file)) {
        report.add(MAP, *number, "architecture", &format!("there is no {file}"));
    }
    let roots = ["agent/src/", "executor-bridge/src/", "tree/src/"];
    let is_mapped = |path: &str| roots.iter().any(|root| path.starts_with(root)) && !path.ends_with("/tests.rs");
    for (path, _) in repository.rust().filter(|(path, _)| is_mapped(path)) {
        if !named.iter().any(|(file, _)| file == path) {
            report.add(path, 1, "architecture", "say in ARCHITECTURE.md what this file owns");
        }
    }
}

#[test]
fn a_map_that_lacks_a_file_or_a_ladder_is_found() {
    let ladders = LADDERS.map(|(_, ladder)| format!("`{}`", ladder.replace(' ', "` →\n`")));
    let map = "## The agent: `agent/src`\n**Loose files**\n| `lib.rs`, `none.rs` | x |\n**`exec/`: commands**\n| `mod.rs` | `x.rs` |\n";
    let (whole, half) = (map.to_owned() + &ladders.join("\n"), map.to_owned() + &ladders[0]);
    let files = ["agent/src/lib.rs", "agent/src/exec/mod.rs", "agent/src/exec/new.rs"].map(|path| (path, ""));
    let samples = |map| [&files[..], &[("ARCHITECTURE.md", map)]].concat();
    assert_finds(
        architecture,
        &samples(&whole),
        "ARCHITECTURE.md:3 agent/src/exec/new.rs:1",
    );
    assert_finds(
        architecture,
        &samples(&half),
        "ARCHITECTURE.md:1 ARCHITECTURE.md:3 agent/src/exec/new.rs:1",
    );
}

/// A test that sleeps says in a comment what it waits for, because most sleeps should be a wait for an event.
fn sleeps(repository: &Repository, report: &mut Report) {
    let is_test = |path: &str| path.starts_with("tests/") || path.contains("/tests/");
    // The programs that tests start may sleep as long as they like.
    let is_checked = |path: &str| is_test(path) && !path.starts_with("tests/src/bin/");
    for (path, text) in repository.rust().filter(|(path, _)| is_checked(path)) {
        let lines: Vec<&str> = text.lines().collect();
        let code = code(text);
        for at in words(&code, "sleep").filter(|at| code[*at..].starts_with("sleep(")) {
            let line = line_of(&code, at);
            let nearby = &lines[line.saturating_sub(2)..line];
            if !nearby.iter().any(|line| line.contains("//")) {
                report.add(
                    path,
                    line,
                    "sleep",
                    "wait for an event, or say in a comment why the test sleeps",
                );
            }
        }
    }
}

#[test]
fn a_sleep_without_a_reason_is_found() {
    let test = "fn f() {\n    sleep(a);\n\n    // The reason.\n    sleep(b);\n    run(\"sleep(1)\");\n}";
    assert_finds(
        sleeps,
        &[("a/tests/b.rs", test), ("a/src/c.rs", test)],
        "a/tests/b.rs:2",
    );
}
