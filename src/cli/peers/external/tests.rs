//! Scripts in place of the programs.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::cli::peers::cases::CASES;

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
    // Its flags: --model F --threads 2 -fa 1 -p P -n N -r 1 [-d D] -o jsonl
    let echo = r#"depth=0; [ "${13}" = -d ] && depth=${14}
[ "$1 $3 $4 $5 $6 $7 $9 ${11}" = "--model --threads 2 -fa 1 -p -n -r" ] || { echo "flags: $*" >&2; exit 1; }
echo "{\"build_commit\":\"abc\",\"build_number\":7,\"n_prompt\":$8,\"n_gen\":${10},\"n_depth\":$depth,\"avg_ts\":1$8${10}.5}""#;
    let external = script(folder.path(), "good", echo);
    let start = |external: &External| LlamaBench::start(external, Path::new("m.gguf"), 2, true);
    let mut bench = start(&external).unwrap();
    assert_eq!(
        (bench.name(), bench.build()),
        ("good (flash attention on)".into(), "build 7 (abc)")
    );
    let mut rate = |name: &str| {
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        bench.request(case, TurnKind::Timed).unwrap().map(|turn| turn.rate)
    };
    assert_eq!(rate("prefill_512"), Ok(15120.5));
    assert_eq!(rate("decode_depth_4096"), Ok(1032.5));

    // Flags of the program beside it:
    // --model F --threads 2 -fa 1 -npp 128 -ntg 32 -npl 16 -npl 1 -c 4096 --output-format jsonl
    let absent = rate("decode_b16").unwrap_err();
    assert_eq!(absent.kind, AbsenceKind::Unsupported);
    assert!(absent.why.starts_with("there is no `") && absent.why.contains("batched"), "{absent}");
    for (lines, expected) in [
        (
            r#"[ "$7 $9 ${11} ${13} ${14} ${15} ${16} ${17}" = "-npp -ntg -npl -npl 1 -c 4096 --output-format" ] || exit 1
echo "{\"pp\":$8,\"tg\":${10},\"pl\":${12},\"speed_tg\":$8${10}${12}.5}"; exec sleep 600"#,
            Ok(1_283_216.5),
        ),
        (r#"echo '{"pp":128,"tg":32,"pl":16,"speed_tg":0}'"#, Err("its rate is 0")),
        (r#"echo '{"pp":128,"tg":32,"pl":1,"speed_tg":9.0}'"#, Err("it ran another test")),
        ("echo 'unknown value for -fa' >&2; exit 1", Err("unknown value for -fa")),
    ] {
        script(folder.path(), "llama-batched-bench", lines);
        match (rate("decode_b16"), expected) {
            (Ok(rate), expected) => assert_eq!(Ok(rate), expected),
            (Err(absent), expected) => {
                assert_eq!(absent.kind, AbsenceKind::Failed);
                assert!(expected.is_err_and(|why| absent.why.contains(why)), "{absent}");
            }
        }
    }

    for (name, lines, expected) in [
        ("bad", "echo 'no such model' >&2; exit 3", "printed `no such model`"),
        ("chatty", "echo hello", "invalid response: `hello`"),
        ("other", r#"echo '{"n_prompt":2,"n_gen":0,"avg_ts":1.0}'"#, "it ran another test"),
    ] {
        let error = start(&script(folder.path(), name, lines)).err().unwrap().to_string();
        assert!(error.contains(expected) && error.starts_with(name), "{error}");
    }
}
