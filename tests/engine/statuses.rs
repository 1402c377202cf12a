//! Wrong command lines of the engine's commands: refused at once, and nothing is written.

use std::path::Path;

use assert_cmd::Command;

use crate::{BINARY, clean, fails, names, refused};

#[test]
fn a_wrong_name_or_number_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let threads = "give a whole number, 1 to 8192";
    let repeated = "give a whole number, 1 to 10000";
    let rounds = "give a whole number, 1 to 1000";
    let tokens = "give a whole number, 1 to 1048576";
    let temperature = "give a number from 0 to 1000; 0 is greedy";
    for (flags, says) in [
        ("shrot", "no suite or scenario `shrot` (did you mean `short`?)"),
        ("--model synthetic:nan", "no shape `nan` (did you mean `nano`?)"),
        ("--model nowhere.gguf", "no model `nowhere.gguf`"),
        ("--model .", "`.` is not a model: it "),
        ("--model a/b/c", "no model `a/b/c`"),
        ("--model qwen3-0.6b", "(did you mean `synthetic:qwen3-0.6b`?)"),
        ("--quant q4_km", "no quantization `q4_km` (did you mean `q4_k_m`?)"),
        ("--engine nativ", "no engine `nativ` (did you mean `native`?)"),
        ("--device cuba", "no device `cuba` (did you mean `cuda`?)"),
        ("--threads 0", threads),
        ("--threads 100000", threads),
        ("--iters 0", repeated),
        ("--iters 18446744073709551616", repeated),
        ("--gen-tokens 0", tokens),
        ("--gen-tokens 4294967296", tokens),
        ("--warmups 18446744073709551615", "give a whole number, 0 to 1000"),
        ("--warmups -1", "unexpected argument '-1'"),
        ("--temperature nan", temperature),
        ("--temperature inf", temperature),
        ("--temperature=-1", temperature),
    ] {
        for command in ["run", "pair --base main", "calibrate", "gate-eval record", "monitor"] {
            if command == "monitor" && cfg!(not(feature = "monitor")) {
                continue;
            }
            let line = format!("{command} {flags}");
            let args: Vec<&str> = line.split_whitespace().collect();
            fails(&args, folder.path(), 2, &[says]);
        }
    }
    for (line, says) in [
        ("run --blocks 0", repeated),
        ("run --blocks 100000", repeated),
        ("run --budget 9000h", "give no more than a year, `8760h`"),
        ("run --budget 5", "write `90s`, `10m` or `1h 30m`"),
        ("run --stress-request soon", "write `90s`, `10m` or `1h 30m`"),
        ("run --text none.txt", "cannot read `none.txt`: No such file"),
        ("run --resume none.json", "cannot read `none.json`: No such file"),
        ("pair --base main pipelines", "no scenario of `pipelines` can be measured in turns"),
        ("pair --base main --budget 5", "write `90s`, `10m` or `1h 30m`"),
        ("gate-eval record --blocks 0", repeated),
        ("gate-eval record --quads 0", rounds),
        ("gate-eval record --arms Q", "no arm `Q`"),
        ("gate-eval record --environments noisy", "no environment `noisy`"),
        ("gate-eval record --layout none", "cannot read `none`: No such file"),
        ("calibrate --quads 0", rounds),
        ("calibrate --more", "calibration.json`: No such file"),
        ("machine --threads 0", threads),
        ("peers none.gguf", "no model `none.gguf`"),
        ("peers none.gguf --engines nativ", "no engine `nativ` (did you mean `native`?)"),
        ("peers none.gguf --rounds 0", rounds),
    ] {
        let args: Vec<&str> = line.split_whitespace().collect();
        fails(&args, folder.path(), 2, &[says]);
    }
    assert_eq!(names(folder.path()), [""; 0], "nothing was written");
}

#[test]
fn long_wrong_values_are_shortened_in_errors() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(100_000); // The system takes 128 KiB in one argument.
    std::fs::write(folder.path().join("long.toml"), format!("[model]\n{long} = 1\n")).unwrap();
    std::fs::write(folder.path().join("value.toml"), format!("[gate.limits]\n{long} = 0.1\n"))
        .unwrap();
    for args in [
        vec!["run", &long],
        vec!["run", "--model", &long],
        vec!["run", "--device", &long],
        vec!["run", "--engine", &long],
        vec!["run", "--quant", &long],
        vec!["run", "--threads", &long],
        vec!["run", "--temperature", &long],
        vec!["run", "--budget", &long],
        vec!["run", "--prompt-format", &long],
        vec!["run", "--label", &long],
        vec![&long],
        vec!["list", &long],
        vec!["report", &long],
        vec!["check", "--record", &long],
        vec!["--config", "long.toml", "list"],
        vec!["--config", "value.toml", "check"],
        vec!["synth", "--shape", &long, "-o", "x.gguf"],
    ] {
        let mut command = Command::new(BINARY);
        clean(&mut command);
        let output = command.current_dir(folder.path()).args(&args).output().unwrap();
        let talk = String::from_utf8(output.stderr).unwrap();
        let what: Vec<&str> = args.iter().map(|arg| &arg[..arg.len().min(20)]).collect();
        assert_eq!(output.status.code(), Some(2), "{what:?}: {talk:.300}");
        assert!(talk.starts_with("error: ") && talk.len() < 3000, "{what:?}: {}", talk.len());
    }
}

#[test]
fn more_threads_than_cpus_give_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(BINARY);
    clean(&mut command);
    command.current_dir(folder.path()).args([
        "run",
        "--threads",
        "8000",
        "--model",
        "synthetic:nano",
    ]);
    let talk = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(talk.starts_with("warning: 8000 threads share "), "{talk}");
    assert!(talk.contains("give fewer with `--threads`"), "{talk}");
}

/// Other programs' variables, and arguments, need not be UTF-8.
#[cfg(unix)]
#[test]
fn variables_that_are_not_utf8_matter_only_if_they_are_ours() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = tempfile::tempdir().unwrap();
    let no_text = std::ffi::OsStr::from_bytes(b"\xff");
    let list = |name: &str| {
        let mut command = Command::new(BINARY);
        clean(&mut command);
        command.env(name, no_text).current_dir(folder.path()).args(["list", "quick"]);
        command.output().unwrap()
    };
    assert_eq!(list("SOMETHING").status.code(), Some(0));
    refused(
        &list("CANDLEMARK_PIN"),
        2,
        &["CANDLEMARK_PIN is not UTF-8; set it to text, or unset it"],
    );
    let mut command = Command::new(BINARY);
    clean(&mut command);
    let output = command.current_dir(folder.path()).arg("list").arg(no_text).output().unwrap();
    refused(&output, 2, &["error: "]);
}

fn with_variable(name: &str, value: &str, folder: &Path) -> std::process::Output {
    let mut command = Command::new(BINARY);
    clean(&mut command);
    command.env(name, value).current_dir(folder).args(["run", "--model", "synthetic:nano"]);
    command.output().unwrap()
}

#[test]
fn a_variable_has_the_range_of_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value, says) in [
        (
            "CANDLEMARK_THREADS",
            "0",
            "CANDLEMARK_THREADS is `0`: `model.threads` is out of its range",
        ),
        ("CANDLEMARK_BLOCKS", "0", "`suite.blocks` is out of its range: 1 to 10000"),
        ("CANDLEMARK_ITERS", "9999999999", "`generation.iters` is out of its range: 1 to 10000"),
        ("CANDLEMARK_WARMUPS", "many", "CANDLEMARK_WARMUPS is `many`: invalid type"),
        (
            "CANDLEMARK_MODLE",
            "x",
            "no variable `CANDLEMARK_MODLE` (did you mean `CANDLEMARK_MODEL`?)",
        ),
        ("CANDLEMARK_ENGINE", "nativ", "no engine `nativ`"),
        ("CANDLEMARK_ISA", "sse2", "no instruction set `sse2`"),
        ("CANDLEMARK_KERNELS", "no.toml", "no.toml"),
        ("CANDLEMARK_PIN", "yes", "CANDLEMARK_PIN is `yes`; write 1 to pin threads, or 0"),
        ("CANDLEMARK_INJECT", "decode:50", "injection `decode:50` is not of the form"),
    ] {
        refused(&with_variable(name, value, folder.path()), 2, &[says]);
    }
    assert_eq!(names(folder.path()), [""; 0], "nothing was written");
}
