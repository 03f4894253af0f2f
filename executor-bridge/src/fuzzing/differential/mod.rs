//! Differential tests: what podbridge makes of random inputs, compared with what the program makes of them whose part podbridge takes.
//! `SEED=` repeats a run, `CASES=` makes it longer. Tests that need another program than the shell are ignored by `cargo test`, and run
//! by `make test-differential`, which builds what they ask.

mod kubectl;
mod plugin;
mod shell;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use fastrand::Rng;
use serde_json::Value;

use crate::env::{Environment, Process};

/// A running program that answers each line of its input with one line of JSON.
struct Reference {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Reference {
    /// Starts the program whose path is in this variable.
    fn start(variable: &str, configure: impl FnOnce(&mut Command)) -> Self {
        let program = Process.variable(variable);
        let program =
            program.unwrap_or_else(|| panic!("{variable} is not set; run this test by `make test-differential`"));
        let mut command = Command::new(program);
        configure(&mut command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self {
            questions: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn ask(&mut self, question: &str) -> Value {
        writeln!(self.questions.as_mut().unwrap(), "{question}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{question}: {error}: {answer:?}"))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // The program ends at the end of its input.
        drop(self.questions.take());
        let _ = self.child.wait();
    }
}

/// Variables and working directory that a test makes up.
struct Surroundings {
    variables: HashMap<String, String>,
    directory: PathBuf,
}

impl Environment for Surroundings {
    fn variable(&self, name: &str) -> Option<OsString> {
        let value = self.variables.get(name).filter(|value| !value.is_empty());
        value.map(OsString::from)
    }

    fn variables(&self) -> Vec<(OsString, OsString)> {
        let variables = self.variables.iter();
        variables.map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn current_directory(&self) -> io::Result<PathBuf> {
        Ok(self.directory.clone())
    }
}

/// Random choices of one run.
struct Chance {
    rng: Rng,
    cases: usize,
}

impl Chance {
    /// Takes seed and number of cases from the environment; `cases` is the number of a run that names none.
    fn new(cases: usize) -> Self {
        let number = |name| Process.variable(name)?.to_str()?.parse().ok();
        let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
        println!("SEED={seed}");
        Self {
            rng: Rng::with_seed(seed),
            cases: number("CASES").map_or(cases, |given| usize::try_from(given).unwrap()),
        }
    }

    /// Returns whether something happens that happens once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.rng.usize(..times) == 0
    }

    fn one_of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.rng.usize(..choices.len())]
    }

    /// Returns up to `most` of these parts, joined.
    fn joined(&mut self, parts: &[&str], most: usize) -> String {
        (0..self.rng.usize(..=most)).map(|_| self.one_of(parts)).collect()
    }
}
