//! What is typed wrong, on the commands that need the inference library: refused at once, and
//! nothing is written.

use std::path::Path;

use assert_cmd::Command;

use crate::BINARY;
use crate::clean;
use crate::fails;
use crate::names;
use crate::refused;

#[test]
fn a_wrong_name_or_number_is_refused_before_anything_is_measured_hashed_or_built() {
    let folder = tempfile::tempdir().unwrap();
    let at_least_one = "give a whole number, 1 or more";
    for (flags, says) in [
        ("shrot", "no suite or scenario `shrot` (did you mean `short`?)"),
        ("--model synthetic:nan", "no shape `nan` (did you mean `nano`?)"),
        ("--model nowhere.gguf", "no model `nowhere.gguf`"),
        ("--model .", "`.` is no model: it is empty"),
        ("--model a/b/c", "no model `a/b/c`"),
        ("--quant q4_km", "no quantisation `q4_km` (did you mean `q4_k_m`?)"),
        ("--engine nativ", "no engine `nativ` (did you mean `native`?)"),
        ("--device cuba", "no device `cuba` (did you mean `cuda`?)"),
        ("--threads 0", at_least_one),
        ("--iters 0", at_least_one),
        ("--gen-tokens 0", at_least_one),
        ("--warmups -1", "unexpected argument '-1'"),
        ("--temperature nan", "give a number, 0 or more; 0 is greedy"),
        ("--temperature=-1", "give a number, 0 or more; 0 is greedy"),
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
        ("run --blocks 0", at_least_one),
        ("run --budget 5", "write `90s`, `10m` or `1h 30m`"),
        ("run --stress-request soon", "write `90s`, `10m` or `1h 30m`"),
        ("run --text none.txt", "cannot read `none.txt`: No such file"),
        ("run --resume none.json", "cannot read `none.json`: No such file"),
        ("pair --base main pipelines", "no scenario of `pipelines` can be measured in turns"),
        ("pair --base main --budget 5", "write `90s`, `10m` or `1h 30m`"),
        ("gate-eval record --blocks 0", at_least_one),
        ("gate-eval record --quads 0", at_least_one),
        ("gate-eval record --arms Q", "no arm `Q`"),
        ("gate-eval record --environments noisy", "no environment `noisy`"),
        ("gate-eval record --layout none", "cannot read `none`: No such file"),
        ("calibrate --quads 0", at_least_one),
        ("calibrate --more", "calibration.json`: No such file"),
        ("machine --threads 0", at_least_one),
        ("peers none.gguf", "no model `none.gguf`"),
        ("peers none.gguf --engines nativ", "no engine `nativ` (did you mean `native`?)"),
        ("peers none.gguf --rounds 0", at_least_one),
    ] {
        let args: Vec<&str> = line.split_whitespace().collect();
        fails(&args, folder.path(), 2, &[says]);
    }
    assert_eq!(names(folder.path()), [""; 0], "nothing was written");
}

fn with_variable(name: &str, value: &str, folder: &Path) -> std::process::Output {
    let mut command = Command::new(BINARY);
    clean(&mut command);
    command.env(name, value).current_dir(folder).args(["run", "--model", "synthetic:nano"]);
    command.output().unwrap()
}

#[test]
fn a_variable_is_held_to_the_range_of_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value, says) in [
        ("CANDLEMARK_THREADS", "0", "give a whole number, 1 or more"),
        ("CANDLEMARK_BLOCKS", "0", "give a whole number, 1 or more"),
        ("CANDLEMARK_ENGINE", "nativ", "no engine `nativ`"),
        ("CANDLEMARK_ISA", "sse2", "no instruction set `sse2`"),
        ("CANDLEMARK_PIN", "yes", "CANDLEMARK_PIN is `yes`; write 1 to pin threads, or 0"),
        ("CANDLEMARK_INJECT", "decode:50", "injection `decode:50` is not of the form"),
    ] {
        refused(&with_variable(name, value, folder.path()), 2, &[says]);
    }
    assert_eq!(names(folder.path()), [""; 0], "nothing was written");
}
