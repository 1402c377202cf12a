//! Results of other tools in `check`, `merge` and `compare`.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::json;

use crate::candlemark;

/// A result of llama-bench with this rate of decoding, made at this hour and minute.
fn result(folder: &Path, name: &str, (hour, minute): (u32, u32), rate: f64, cpu: &str) {
    let test = json!({
        "build_commit": "0a1b2c3d", "build_number": 11434, "cpu_info": cpu, "gpu_info": "",
        "backends": "CPU", "model_filename": "mini.gguf", "model_type": "qwen3 0.6B Q8_0",
        "model_size": 1000, "model_n_params": 900, "n_threads": 2, "type_k": "f16",
        "type_v": "f16", "n_prompt": 0, "n_gen": 16, "n_depth": 0,
        "test_time": format!("2026-07-04T{hour:02}:{minute:02}:00Z"),
        "avg_ns": 16e9 / rate, "avg_ts": rate, "samples_ts": [rate, 1.01 * rate, 0.99 * rate],
    });
    fs::write(folder.join(name), json!([test]).to_string()).unwrap();
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(text).unwrap()
}

#[test]
fn results_of_another_tool_are_judged_as_runs_are() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str], status: i32| {
        let output = candlemark(words, folder.path());
        let said = said(&output);
        assert_eq!(output.status.code(), Some(status), "{words:?}\n{said}");
        said
    };
    // A baseline of three sessions of three runs, and two candidates of three runs.
    let names = |of: &str| (0..9).map(|at| format!("{of}-{at}.json")).collect::<Vec<_>>();
    let noise = [0.0, 0.3, -0.2, 0.1, 0.4, -0.3, 0.2, 0.0, -0.1];
    for (at, (name, noise)) in names("base").iter().zip(noise).enumerate() {
        let time = (2 * (at as u32 / 3), at as u32);
        result(folder.path(), name, time, 100.0 + noise, "AMD EPYC");
    }
    for (of, rate) in [("same", 100.1), ("slow", 80.0)] {
        for (at, (name, noise)) in names(of).iter().zip(noise).take(3).enumerate() {
            result(folder.path(), name, (9, at as u32), rate + noise, "AMD EPYC");
        }
    }
    let merge = |of: &str, count: usize| {
        let (names, file) = (names(of), format!("{of}.json"));
        let names = names[..count].iter().map(String::as_str);
        run(&[&["merge"][..], &names.collect::<Vec<_>>(), &["-o", &file]].concat(), 0);
    };
    merge("base", 9);
    merge("same", 3);
    merge("slow", 3);

    let single = run(&["check", "--record", "slow-0.json", "--baseline", "base-0.json"], 3);
    assert!(single.contains("too few blocks") && single.contains("one run has no"), "{single}");
    assert!(single.contains("measured by llama-bench"), "{single}");
    assert!(!single.contains("--measure"), "candlemark cannot measure it further: {single}");
    run(&["check", "--record", "same.json", "--baseline", "base.json"], 0);
    let slow = run(&["check", "--record", "slow.json", "--baseline", "base.json"], 1);
    assert!(slow.contains("tg16") && slow.contains("-19."), "{slow}");
    let twice = run(&["merge", "same-0.json", "same-0.json"], 4);
    assert!(twice.contains("given twice"), "{twice}");
    let measure = ["check", "--record", "slow.json", "--baseline", "base.json", "--measure"];
    let measure = run(&measure, 2);
    assert!(measure.contains("run llama-bench again"), "{measure}");

    let compared = run(&["compare", "base.json", "slow.json"], 0);
    assert!(compared.contains("tg16") && compared.contains("80"), "{compared}");
    result(folder.path(), "elsewhere.json", (9, 0), 100.0, "Intel Xeon");
    let other = run(&["check", "--record", "elsewhere.json", "--baseline", "base.json"], 4);
    assert!(other.contains("machine: cpu"), "{other}");
    run(&["report", "slow.json", "--format", "html", "-o", "page.html"], 0);
}
