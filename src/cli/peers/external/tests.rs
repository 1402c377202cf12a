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
    // Its flags: --model F --threads 2 -fa 1 -p P -n N [-d D] -r 1 -o json
    let echo = r#"[ "$1" = --help ] && { echo "  -d, --n-depth <n>"; exit; }
depth=0 last="${11} ${12} ${13} ${14}"
[ "${11}" = -d ] && depth=${12} last="${13} ${14} ${15} ${16}"
[ "$1 $3 $4 $5 $6 $7 $9 $last" = "--model --threads 2 -fa 1 -p -n -r 1 -o json" ] || { echo "flags: $*" >&2; exit 1; }
printf '[\n  {\n"build_commit":"abc","build_number":7,"n_prompt":%s,"n_gen":%s,"n_depth":%s,"avg_ts":1%s%s.5}\n]' $8 ${10} $depth $8 ${10}"#;
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
    // --model F --threads 2 -fa 1 -npp 128 -ntg 32 -npl 16,1 -c 4096
    let absent = rate("decode_b16").unwrap_err();
    assert_eq!(absent.kind, AbsenceKind::Unsupported);
    assert!(absent.why.starts_with("there is no `") && absent.why.contains("batched"), "{absent}");
    for (lines, expected) in [
        (
            r#"[ "$7 $8 $9 ${10} ${11} ${12} ${13} ${14}" = "-npp 128 -ntg 32 -npl 16,1 -c 4096" ] || exit 1
echo "n_kv_max = 4096"
echo "|    PP |     TG |    B | S_TG t/s |"
echo "|-------|--------|------|----------|"
echo "|   128 |     32 |   16 |    77.25 |"
echo "|   128 |     32 |    1 |    20.50 |""#,
            Ok(77.25),
        ),
        // ik_llama.cpp's prints it among its log.
        ("echo '|PP|TG|B|S_TG t/s|\n|-|-|-|-|\n|128|32|16|8.5|' >&2", Ok(8.5)),
        ("echo '|PP|TG|B|S_TG t/s|\n|-|-|-|-|\n|128|32|16|0|'", Err("its rate is 0")),
        ("echo '|PP|TG|B|S_TG t/s|\n|128|32|1|9.0|'", Err("it ran another test")),
        (
            "echo 'no such flag' >&2",
            Err("no table with S_TG t/s before its last line `no such flag`"),
        ),
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
        ("endless", r#"[ "$1" = --help ] && exit; exec yes"#, "printed more than 1048576 bytes"),
        ("bad", "echo 'no such model' >&2; exit 3", "printed `no such model`"),
        ("chatty", "echo hello", "in its output `hello`"),
        ("other", r#"echo '[{"n_prompt":2,"n_gen":0,"avg_ts":1.0}]'"#, "it ran another test"),
    ] {
        let error = start(&script(folder.path(), name, lines)).err().unwrap().to_string();
        assert!(error.contains(expected) && error.starts_with(name), "{error}");
    }
}

#[test]
fn depth_is_asked_for_as_the_program_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let start = |name: &str, lines: &str| {
        LlamaBench::start(&script(folder.path(), name, lines), Path::new("m.gguf"), 2, true)
    };
    let case = CASES.iter().find(|case| case.name == "decode_depth_4096").unwrap();
    // ik_llama.cpp: -p 0 -n 0 -gp D,N, and no --n-depth.
    let after_prompt = r#"[ "$1" = --help ] && { echo "  -gp <pp,tg>  (default: )"; exit; }
prompt=1 new=0; [ "$7 $8 $9 ${10} ${11}" = "-p 0 -n 0 -gp" ] && prompt=${12%,*} new=${12#*,}
echo "[{\"n_prompt\":$prompt,\"n_gen\":$new,\"avg_ts\":9.5}]""#;
    let turn = start("ik", after_prompt).unwrap().request(case, TurnKind::Timed).unwrap();
    assert_eq!(turn.map(|turn| turn.rate), Ok(9.5));
    // Lines before the JSON are skipped. Neither: older versions of llama.cpp.
    let neither = r#"echo 'huge pages: [0]'; printf '[\n{"n_prompt":1,"n_gen":0,"avg_ts":1.0}]\n'"#;
    let absent = start("old", neither).unwrap().request(case, TurnKind::Timed).unwrap();
    let absent = absent.err().unwrap();
    assert_eq!(absent.kind, AbsenceKind::Unsupported);
    assert!(absent.why.contains("old --help` has neither --n-depth nor -gp"), "{absent}");
    let refuses = r#"[ "$1" = --help ] && { echo 'no help' >&2; exit 2; }
echo '[{"n_prompt":1,"n_gen":0,"avg_ts":1.0}]'"#;
    let absent = start("mute", refuses).unwrap().request(case, TurnKind::Timed).unwrap();
    assert!(absent.err().unwrap().why.contains("printed `no help`"));
}
