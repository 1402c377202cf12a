//! Another program as an engine: `llama-bench`, or one that takes its flags and prints its JSON.
//! Each turn is a process of its own, which loads the model and warms up before it times itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::Deserialize;

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

/// One program on one file in one configuration.
pub(super) struct LlamaBench {
    external: External,
    file: PathBuf,
    threads: usize,
    flash_attention: bool,
    setup: String,
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
        let mut bench = Self { external, file, threads, flash_attention, setup: String::new() };
        let test = bench.test((1, 0, 0))?;
        let state = if flash_attention { "on" } else { "off" };
        let Test { build_number, build_commit, .. } = test;
        bench.setup = format!("flash attention {state}; build {build_number} ({build_commit})");
        Ok(bench)
    }

    /// Runs one test of (prompt tokens, generated tokens, tokens in the KV cache before).
    fn test(&self, (prompt, generated, depth): (usize, usize, usize)) -> Result<Test> {
        let External { name, path } = &self.external;
        let mut command = Command::new(path);
        command.arg("--model").arg(&self.file);
        let mut flag = |name: &str, value: usize| {
            command.args([name, &value.to_string()]);
        };
        flag("--threads", self.threads);
        flag("-fa", usize::from(self.flash_attention));
        flag("-p", prompt);
        flag("-n", generated);
        if depth > 0 {
            flag("-d", depth); // Older versions have no such flag.
        }
        flag("-r", 1);
        command.args(["-o", "jsonl"]).stderr(Stdio::piped());
        own_process_group(&mut command);
        let failed = |why: String| Error::Failed(format!("{name}, `{}`: {why}", path.display()));
        let mut process = WorkerProcess::spawn(&mut command, self.threads)?;
        let test = process.receive::<Test>(Some(Instant::now() + TIMEOUT));
        if !matches!(test, Ok(_) | Err(NoResponse::Closed)) {
            process.kill();
        }
        let exit = process.wait()?;
        match test {
            Ok(test) if (test.n_prompt, test.n_gen, test.n_depth) == (prompt, generated, depth) => {
                Ok(test)
            }
            Ok(test) => Err(failed(format!("it ran another test: {test:?}"))),
            Err(NoResponse::TimedOut) => {
                Err(failed(format!("no answer for {} s", TIMEOUT.as_secs())))
            }
            Err(NoResponse::Invalid(error)) => Err(failed(error.chain())),
            Err(NoResponse::Closed) => Err(failed(exit.error().to_string())),
        }
    }
}

impl Peer for LlamaBench {
    fn engine(&self) -> &str {
        &self.external.name
    }

    fn setup(&self) -> &str {
        &self.setup
    }

    fn request(&mut self, case: &PeerCase, _: TurnKind) -> anyhow::Result<Response> {
        if case.sequences > 1 {
            let why = "llama-bench measures one sequence";
            return Ok(Err(Absence::new(AbsenceKind::Unsupported, why)));
        }
        let began = Instant::now();
        let test = match case.steps {
            0 => self.test((case.tokens, 0, 0)),
            steps => self.test((0, steps, case.tokens)),
        };
        Ok(match test {
            Ok(Test { avg_ts: rate, .. }) if rate.is_finite() && rate > 0.0 => {
                let seconds = began.elapsed().as_secs_f64();
                Ok(Turn { rate, seconds, ids: Vec::new(), margins: Vec::new() })
            }
            Ok(test) => Err(Absence::new(AbsenceKind::Failed, format!("no rate: {test:?}"))),
            Err(error) => Err((&error).into()),
        })
    }

    fn cpu(&self) -> Option<Duration> {
        None // No process of it lives between its turns.
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::cli::peers::cases::CASES;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_program_has_a_name_of_its_own() {
        let parse = |text: &str| text.parse::<External>().map(|external| external.name);
        assert_eq!(parse("ik=/opt/llama-bench"), Ok("ik".into()));
        for text in ["llama-bench", "=x", "ik="] {
            assert!(parse(text).unwrap_err().contains("`NAME=PATH`"), "{text}");
        }
        assert!(parse("native=x").unwrap_err().contains("choose another name"));
    }

    /// A script in place of `llama-bench`.
    fn script(folder: &Path, name: &str, lines: &str) -> External {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        External { name: name.into(), path }
    }

    #[test]
    fn a_turn_is_a_test_of_llama_bench_and_its_failures_are_quoted() {
        let folder = tempfile::tempdir().unwrap();
        // Its flags: --model F --threads 2 -fa 1 -p P -n N [-d D] -r 1 -o jsonl
        let echo = r#"depth=0; [ "${11}" = -d ] && depth=${12}
[ "$1 $3 $4 $5 $6 $7 $9" = "--model --threads 2 -fa 1 -p -n" ] || { echo "flags: $*" >&2; exit 1; }
echo "{\"build_commit\":\"abc\",\"build_number\":7,\"n_prompt\":$8,\"n_gen\":${10},\"n_depth\":$depth,\"avg_ts\":1$8${10}.5}""#;
        let external = script(folder.path(), "good", echo);
        let start = |external: &External| LlamaBench::start(external, Path::new("m.gguf"), 2, true);
        let mut bench = start(&external).unwrap();
        assert_eq!(bench.setup(), "flash attention on; build 7 (abc)");
        let mut rate = |name: &str| {
            let case = CASES.iter().find(|case| case.name == name).unwrap();
            bench.request(case, TurnKind::Timed).unwrap().map(|turn| turn.rate)
        };
        assert_eq!(rate("prefill_512"), Ok(15120.5));
        assert_eq!(rate("decode_depth_4096"), Ok(1032.5));
        assert_eq!(rate("decode_b16").unwrap_err().kind, AbsenceKind::Unsupported);

        for (name, lines, expected) in [
            ("bad", "echo 'no such model' >&2; exit 3", "printed `no such model`"),
            ("chatty", "echo hello", "invalid response: `hello`"),
            ("other", r#"echo '{"n_prompt":2,"n_gen":0,"avg_ts":1.0}'"#, "it ran another test"),
        ] {
            let error = start(&script(folder.path(), name, lines)).err().unwrap().to_string();
            assert!(error.contains(expected) && error.starts_with(name), "{error}");
        }
    }
}
