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

use crate::error::{Error, Result, shortened};
use crate::model::EngineKind;
use crate::record::{Absence, AbsenceKind};
use crate::suite::worker::{NoResponse, WorkerProcess, own_process_group};

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

/// A test in the JSON that `llama-bench -o json` prints.
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

/// How a program is told to generate after tokens that are not timed.
#[derive(Debug, Clone, Copy)]
enum DepthFlag {
    /// llama.cpp: `-n N -d D`.
    Depth,
    /// ik_llama.cpp: `-gp D,N`. It reports the tokens before as its prompt.
    GenerateAfterPrompt,
}

impl DepthFlag {
    /// The one that a program's `--help` lists, if any.
    fn of_help(help: &str) -> Option<Self> {
        let listed = |flag: &str| help.split_whitespace().any(|word| word == flag);
        match () {
            () if listed("--n-depth") => Some(Self::Depth),
            () if listed("-gp") => Some(Self::GenerateAfterPrompt),
            () => None,
        }
    }
}

/// A row of the table that `llama-batched-bench` prints.
#[derive(Debug)]
struct BatchedTest {
    /// Tokens per second of all sequences while they decode.
    decode_rate: f64,
    /// Prompt tokens of each sequence.
    prompt: usize,
    /// Decode steps.
    steps: usize,
    sequences: usize,
}

impl BatchedTest {
    /// The first row of the table in the text.
    fn first(text: &str) -> Option<Self> {
        let mut rows = text.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        let header = rows.find(|cells| cells.contains(&"S_TG t/s"))?;
        rows.find_map(|cells| {
            let cell = |name| cells.get(header.iter().position(|cell| *cell == name)?);
            Some(Self {
                decode_rate: cell("S_TG t/s")?.parse().ok()?,
                prompt: cell("PP")?.parse().ok()?,
                steps: cell("TG")?.parse().ok()?,
                sequences: cell("B")?.parse().ok()?,
            })
        })
    }
}

/// Enough for a program to print its help.
const HELP_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes of standard output that are read: a hundred times what a test prints.
const MAX_OUTPUT: usize = 1 << 20;

/// The contexts of llama.cpp's sequences are multiples of this.
const CONTEXT_STEP: usize = 256;

/// One program on one file in one configuration.
pub(super) struct LlamaBench {
    external: External,
    file: PathBuf,
    threads: usize,
    flash_attention: bool,
    /// Or why there is none.
    depth_flag: std::result::Result<DepthFlag, String>,
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
        let (depth_flag, build) = (Err(String::new()), String::new());
        let mut bench = Self { external, file, threads, flash_attention, depth_flag, build };
        let mut help = Command::new(&bench.external.path);
        help.arg("--help");
        let help = bench.run(help, HELP_TIMEOUT);
        bench.depth_flag = help.map_err(|error| error.chain()).and_then(|(help, _)| {
            DepthFlag::of_help(&help).ok_or_else(|| {
                let program = bench.external.path.display();
                format!("`{program} --help` has neither --n-depth nor -gp")
            })
        });
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
        let program = &self.external.path;
        let mut expected = (prompt, generated, depth);
        let tests = match &self.depth_flag {
            _ if depth == 0 => vec![("-p", prompt.to_string()), ("-n", generated.to_string())],
            Ok(DepthFlag::Depth) => vec![
                ("-p", prompt.to_string()),
                ("-n", generated.to_string()),
                ("-d", depth.to_string()),
            ],
            Ok(DepthFlag::GenerateAfterPrompt) => {
                expected = (depth, generated, 0);
                vec![
                    ("-p", "0".into()),
                    ("-n", "0".into()),
                    ("-gp", format!("{depth},{generated}")),
                ]
            }
            Err(why) => {
                let why = format!("no flag for tokens before those that are timed: {why}");
                return Err(Error::Unsupported(why));
            }
        };
        let mut command = self.command(program, &tests);
        command.args(["-r", "1", "-o", "json"]);
        let (out, _) = self.run(command, TIMEOUT)?;
        // ik_llama.cpp's `-thp 1` reports huge pages before.
        let json = out.find("[\n").map_or(&*out, |at| &out[at..]);
        let [test] = serde_json::from_str::<[Test; 1]>(json).map_err(|error| {
            self.failed(program, &format!("{error} in its output `{}`", shortened(json.trim())))
        })?;
        if (test.n_prompt, test.n_gen, test.n_depth) != expected {
            return Err(self.failed(program, &format!("it ran another test: {test:?}")));
        }
        Ok(test)
    }

    /// Decodes equal prompts of a case's mean length with `llama-batched-bench`.
    fn batched_test(&self, case: &PeerCase) -> Result<BatchedTest> {
        let PeerCase { sequences, tokens, steps, .. } = *case;
        let program = self.external.path.with_file_name(format!("llama-batched-bench{EXE_SUFFIX}"));
        let context = sequences * (tokens + steps).next_multiple_of(CONTEXT_STEP);
        // It may exit before the thread that prints has printed. A further test of one sequence
        // gives that thread time.
        let tests = [
            ("-npp", tokens.to_string()),
            ("-ntg", steps.to_string()),
            ("-npl", format!("{sequences},1")),
            ("-c", context.to_string()),
        ];
        let (out, log) =
            self.run(self.command(&program, &tests), TIMEOUT).map_err(|error| match error {
                Error::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                    Error::Unsupported(format!("there is no `{}`", path.display()))
                }
                error => error,
            })?;
        // ik_llama.cpp's prints the table where others print their log.
        let test = BatchedTest::first(&out).or_else(|| BatchedTest::first(&log));
        let test = test.ok_or_else(|| {
            let last = [&out, &log].into_iter().find_map(|text| text.trim().lines().last());
            let last = shortened(last.unwrap_or_default());
            self.failed(&program, &format!("no table with S_TG t/s before its last line `{last}`"))
        })?;
        if (test.prompt, test.steps, test.sequences) != (tokens, steps, sequences) {
            return Err(self.failed(&program, &format!("it ran another test: {test:?}")));
        }
        Ok(test)
    }

    /// A program on the file, with further flags and their values.
    fn command(&self, program: &Path, flags: &[(&str, String)]) -> Command {
        let mut command = Command::new(program);
        command.arg("--model").arg(&self.file);
        let flash_attention = usize::from(self.flash_attention).to_string();
        let common = [("--threads", self.threads.to_string()), ("-fa", flash_attention)];
        for (flag, value) in common.iter().chain(flags) {
            command.args([*flag, value]);
        }
        command
    }

    /// Runs a program to its end; returns what it printed to standard output and to standard error.
    fn run(&self, mut command: Command, timeout: Duration) -> Result<(String, String)> {
        let program = PathBuf::from(command.get_program());
        let program = program.as_path();
        command.stderr(Stdio::piped());
        own_process_group(&mut command);
        let mut process = WorkerProcess::spawn(&mut command, self.threads)?;
        let deadline = Instant::now() + timeout;
        let mut out = String::new();
        let end = loop {
            match process.receive_line(Some(deadline)) {
                Ok(_) if out.len() > MAX_OUTPUT => {
                    let why = format!("it printed more than {MAX_OUTPUT} bytes");
                    break NoResponse::Invalid(Error::Failed(why));
                }
                Ok(line) => out += &(line + "\n"),
                Err(end) => break end,
            }
        };
        if !matches!(end, NoResponse::Closed) {
            process.kill();
        }
        let exit = process.wait()?;
        match end {
            NoResponse::Closed if exit.status.success() => Ok((out, exit.stderr)),
            NoResponse::Closed => Err(self.failed(program, &exit.error().to_string())),
            NoResponse::TimedOut => {
                Err(self.failed(program, &format!("no answer for {} s", timeout.as_secs())))
            }
            NoResponse::Invalid(error) => Err(self.failed(program, &error.chain())),
        }
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
            _ => self.batched_test(case).map(|test| test.decode_rate),
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
