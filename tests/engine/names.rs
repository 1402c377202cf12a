//! Names that are unknown or not built in.

use std::fs;

use assert_cmd::Command;
use candlemark::settings::Setup;

use crate::{BINARY, fails, job, names, nano, refused, setup, succeeds, worker, worker_refuses};

#[test]
fn an_unknown_name_is_an_error_that_suggests_the_right_one() {
    let quant = |name: &str| Setup { quant: Some(name.into()), ..nano() };
    let engine = |name: &str| Setup { engine: name.into(), ..nano() };
    let device = |name: &str| Setup { device: name.into(), ..nano() };
    for (setup, says) in [
        (setup("synthetic:nan"), "no shape `nan` (did you mean `nano`?); known are mini, "),
        (quant("q4_km"), "no quantization `q4_km` (did you mean `q4_k_m`?); known are f32, "),
        (engine("nativ"), "no engine `nativ` (did you mean `native`?); known are native, candle"),
        (engine("llama-cpp"), "--external llama.cpp=PATH/llama-bench`, its server with"),
        (device("cuba"), "no device `cuba` (did you mean `cuda`?); known are cpu, cuda, metal"),
        (device("cuda:x"), "`x` in device `cuda:x` is not a number"),
        (setup("nowhere.gguf"), "no model `nowhere.gguf`: there is no such file or folder"),
    ] {
        worker_refuses(&setup, 2, &[says]);
    }
    let output = worker(Command::new(BINARY), &job(&nano(), &["short/b1", "shrot/b1"]));
    refused(&output, 2, &["no suite or scenario `shrot/b1`"]);
}

#[test]
fn an_unknown_key_is_an_error_that_suggests_the_right_one() {
    let here = tempfile::tempdir().unwrap();
    for (file, key, near) in [
        ("[generation]\ntemprature = 0.7\n", "temprature", "temperature"),
        ("[model]\nqant = \"q8_0\"\n", "qant", "quant"),
        ("[suit]\n", "suit", "suite"),
    ] {
        fs::write(here.path().join("candlemark.toml"), file).unwrap();
        let near = format!("did you mean `{near}`?");
        for command in ["run", "list"] {
            fails(&[command], here.path(), 2, &["`candlemark.toml` is not valid", key, &near]);
        }
    }
    fs::write(here.path().join("other.toml"), "").unwrap();
    succeeds(&["list", "--config", "other.toml"], here.path());
}

#[test]
fn a_device_that_is_not_built_in_never_falls_back() {
    for (device, built_in) in [
        ("cuda", cfg!(feature = "cuda")),
        ("cuda:1", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ] {
        if !built_in {
            worker_refuses(&Setup { device: device.into(), ..nano() }, 2, &[&device[..4]]);
        }
    }
}

#[test]
#[cfg(debug_assertions)]
fn a_debug_build_records_nothing() {
    let here = tempfile::tempdir().unwrap();
    let args = ["run", "short/b1", "--model", "synthetic:nano", "-o", "record.json"];
    fails(&args, here.path(), 2, &["a debug build makes no records; use cargo bench"]);
    assert!(names(here.path()).is_empty());
}
