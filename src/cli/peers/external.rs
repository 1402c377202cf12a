//! Another program as an engine: `llama-bench`, or one that takes its flags and prints its JSON.
//! For several sequences it is `llama-batched-bench` beside it. Each turn is a process of its own,
//! which loads the model and warms up before it times itself.

use std::env::consts::EXE_SUFFIX;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model::EngineKind;
use crate::record::{Absence, AbsenceKind};
use crate::suite::worker::{NoResponse, WorkerProcess, own_process_group};
use crate::{Error, Result};

use super::cases::PeerCase;
use super::process::{Peer, Response, TIMEOUT, Turn, TurnKind};

/// `NAME=PATH`: a program and what to call it.
#[derive(Clone)]
pub(super) struct External {
    name: String,
    path: PathBuf,
}

impl FromStr for External {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, path) = text.split_once('=').unwrap_or_default();
        if name.is_empty() || path.is_empty() {
            return Err(
                "name a program as `NAME=PATH`, for example `llama.cpp=./llama-bench`".into()
            );
        }
        if EngineKind::NAMES.contains(&name) {
            return Err(format!("`{name}` is an engine of candlemark; choose another name"));
        }
        Ok(Self { name: name.into(), path: path.into() })
    }
}

/// The line of JSON that `llama-bench -o jsonl` prints for a test.
#[derive(Debug, Deserialize)]
struct Test {
    /// Tokens per second, the mean of the repetitions: here there is one.
    avg_ts: f64,
    n_prompt: usize,
    n_gen: usize,
    #[serde(default)]
    n_depth: usize,
    #[serde(default)]
    build_commit: String,
    #[serde(default)]
    build_number: u64,
}

/// The line of JSON that `llama-batched-bench --output-format jsonl` prints for a test.
#[derive(Debug, Deserialize)]
struct BatchedTest {
    /// Tokens per second of all sequences while they decode.
    speed_tg: f64,
    /// Prompt tokens of each sequence.
    pp: usize,
    /// Decode steps.
    tg: usize,
    /// Sequences.
    pl: usize,
}

/// The contexts of llama.cpp's sequences are multiples of this.
const CONTEXT_STEP: usize = 256;

/// One program on one file in one configuration.
pub(super) struct LlamaBench {
    external: External,
    file: PathBuf,
    threads: usize,
    flash_attention: bool,
    build: String,
}

impl LlamaBench {
    /// Runs one token of the file, so that a program or a file that does not work is an error
    /// before anything is measured.
    ///
    /// # Errors
    /// When the program cannot be started, fails, or prints something else.
    pub(super) fn start(
        external: &External,
        file: &Path,
        threads: usize,
        flash_attention: bool,
    ) -> Result<Self> {
        let (external, file) = (external.clone(), file.to_owned());
        let mut bench = Self { external, file, threads, flash_attention, build: String::new() };
        let Test { build_number, build_commit, .. } = bench.test((1, 0, 0))?;
        bench.build = format!("build {build_number} ({build_commit})");
        Ok(bench)
    }

    /// What the program says of its version.
    pub(super) fn build(&self) -> &str {
        &self.build
    }

    /// Runs one test of (prompt tokens, generated tokens, tokens in the KV cache before).
    fn test(&self, (prompt, generated, depth): (usize, usize, usize)) -> Result<Test> {
        let mut flags = vec![("-p", prompt), ("-n", generated), ("-r", 1)];
        if depth > 0 {
            flags.push(("-d", depth)); // Older versions have no such flag.
        }
        let program = &self.external.path;
        let test: Test = self.run(program, &flags, ["-o", "jsonl"])?;
        if (test.n_prompt, test.n_gen, test.n_depth) != (prompt, generated, depth) {
            return Err(self.failed(program, &format!("it ran another test: {test:?}")));
        }
        Ok(test)
    }

    /// Decodes equal prompts of a case's mean length with `llama-batched-bench`.
    fn batched_test(&self, case: &PeerCase) -> Result<BatchedTest> {
        let PeerCase { sequences, tokens, steps, .. } = *case;
        let program = self.external.path.with_file_name(format!("llama-batched-bench{EXE_SUFFIX}"));
        let context = sequences * (tokens + steps).next_multiple_of(CONTEXT_STEP);
        let mut flags = vec![("-npp", tokens), ("-ntg", steps), ("-npl", sequences)];
        // It may exit before the thread that prints has printed. A further test of one sequence
        // gives that thread time; it is ended when its line is read.
        flags.extend([("-npl", 1), ("-c", context)]);
        let test = self.run(&program, &flags, ["--output-format", "jsonl"]);
        let test: BatchedTest = test.map_err(|error| match error {
            Error::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Error::Unsupported(format!("there is no `{}`", path.display()))
            }
            error => error,
        })?;
        if (test.pp, test.tg, test.pl) != (tokens, steps, sequences) {
            return Err(self.failed(&program, &format!("it ran another test: {test:?}")));
        }
        Ok(test)
    }

    /// Runs a program, parses the first line that it prints, and ends it.
    fn run<T: DeserializeOwned>(
        &self,
        program: &Path,
        flags: &[(&str, usize)],
        format: [&str; 2],
    ) -> Result<T> {
        let mut command = Command::new(program);
        command.arg("--model").arg(&self.file);
        let common = [("--threads", self.threads), ("-fa", usize::from(self.flash_attention))];
        for (flag, value) in common.iter().chain(flags) {
            command.args([*flag, &value.to_string()]);
        }
        command.args(format).stderr(Stdio::piped());
        own_process_group(&mut command);
        let mut process = WorkerProcess::spawn(&mut command, self.threads)?;
        let line = process.receive::<T>(Some(Instant::now() + TIMEOUT));
        if !matches!(line, Err(NoResponse::Closed)) {
            process.kill();
        }
        let exit = process.wait()?;
        line.map_err(|none| match none {
            NoResponse::TimedOut => {
                self.failed(program, &format!("no answer for {} s", TIMEOUT.as_secs()))
            }
            NoResponse::Invalid(error) => self.failed(program, &error.chain()),
            NoResponse::Closed => self.failed(program, &exit.error().to_string()),
        })
    }

    fn failed(&self, program: &Path, why: &str) -> Error {
        Error::Failed(format!("{}, `{}`: {why}", self.external.name, program.display()))
    }
}

impl Peer for LlamaBench {
    fn engine(&self) -> &str {
        &self.external.name
    }

    fn configuration(&self) -> &str {
        if self.flash_attention { "flash attention on" } else { "flash attention off" }
    }

    fn request(&mut self, case: &PeerCase, _: TurnKind) -> anyhow::Result<Response> {
        let began = Instant::now();
        let rate = match *case {
            PeerCase { sequences: 1, tokens, steps: 0, .. } => {
                self.test((tokens, 0, 0)).map(|test| test.avg_ts)
            }
            PeerCase { sequences: 1, tokens, steps, .. } => {
                self.test((0, steps, tokens)).map(|test| test.avg_ts)
            }
            _ => self.batched_test(case).map(|test| test.speed_tg),
        };
        Ok(match rate {
            Ok(rate) if rate.is_finite() && rate > 0.0 => {
                let seconds = began.elapsed().as_secs_f64();
                Ok(Turn { rate, seconds, ids: Vec::new(), margins: Vec::new() })
            }
            Ok(rate) => Err(Absence::new(AbsenceKind::Failed, format!("its rate is {rate}"))),
            Err(error) => Err((&error).into()),
        })
    }

    fn cpu(&self) -> Option<Duration> {
        None // No process of it lives between its turns.
    }
}

#[cfg(all(test, unix))]
mod tests;
