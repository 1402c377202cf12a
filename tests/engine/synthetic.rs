//! `candlemark synth` writes the synthetic model in every format.

use std::fs;

use candlemark::engine::Engine;
use candlemark::model::Step;
use candlemark::settings::Setup;

use crate::{at, candlemark, fails, names, nano, output_of, synth, with};

#[test]
fn every_format_of_a_model_gives_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    synth(dir, &["-o", "model.gguf"]);
    synth(dir, &["-o", "single"]);
    synth(dir, &["-o", "sharded", "--shard-mib", "1"]);
    synth(dir, &["-o", "other.gguf", "--seed", "7"]);
    assert_eq!(names(dir), ["model.gguf", "other.gguf", "sharded", "single"]);
    assert_eq!(
        names(&dir.join("single")),
        [
            "chat_template.jinja",
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    let sharded = names(&dir.join("sharded"));
    assert_eq!(sharded.iter().filter(|name| name.ends_with(".safetensors")).count(), 7);
    assert_eq!(sharded.len(), 7 + 5, "{sharded:?}");

    let output = output_of(&nano());
    for form in ["model.gguf", "single", "sharded"] {
        assert_eq!(output_of(&at(&dir.join(form))), output, "{form}");
    }
    assert_ne!(output_of(&at(&dir.join("other.gguf"))), output);
    let other = with(nano(), |generation| generation.seed = 7);
    assert_eq!(output_of(&at(&dir.join("other.gguf"))), output_of(&other));
}

/// The logits after a few tokens, which differ even if the greedy tokens do not.
fn logits(model: &Setup) -> Vec<f32> {
    let mut decoder = Engine::load(model, &mut ()).unwrap().decoder;
    decoder.reset(1).unwrap();
    decoder.forward(&[Step { sequence: 0, tokens: &[11, 222, 333, 44] }]).unwrap().values
}

#[test]
fn a_quantized_file_equals_quantizing_at_load() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for quant in ["f32", "bf16", "q8_0", "q4_k_m", "iq4_nl", "iq4_xs", "mxfp4"] {
        let name = format!("{quant}.gguf");
        synth(folder.path(), &["--quant", quant, "-o", &name]);
        let file = at(&folder.path().join(&name));
        let at_load = Setup { quant: Some(quant.into()), ..nano() };
        assert_eq!(output_of(&file), output_of(&at_load), "{quant}");
        let values = logits(&file);
        assert_eq!(values.len(), 3072);
        assert!(values == logits(&at_load), "{quant}: the scores differ");
        assert!(!all.contains(&values), "{quant} is not like another");
        all.push(values);
    }
}

#[test]
fn a_model_is_written_completely_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    fs::write(dir.join("file"), "").unwrap();
    let synth = ["synth", "--shape", "nano", "-o"];
    for (more, status, says) in [
        (["folder", "--quant", "q8_0"].as_slice(), 2, "for q8_0 name a file that ends in .gguf"),
        (&["x.gguf", "--quant", "q4_km"], 2, "did you mean `q4_k_m`?"),
        (&["folder", "--shard-mib", "0"], 2, "'--shard-mib <MIB>': 0 is not in 1..=17592186044415"),
        (&["file/x.gguf"], 2, "cannot write `file/x.gguf`: Not a directory"),
    ] {
        fails(&[&synth, more].concat(), dir, status, &[says]);
    }
    fails(&["synth", "--shape", "nan", "-o", "x.gguf"], dir, 2, &["did you mean `nano`?"]);
    assert_eq!(names(dir), ["file"]);
}

#[test]
fn a_model_that_cannot_be_written_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("x.gguf")).unwrap();
    let args = ["synth", "--shape", "nano", "-o", "x.gguf"];
    fails(&args, folder.path(), 2, &["cannot write `x.gguf`: is a directory"]);
    assert_eq!(names(folder.path()), ["x.gguf"]);
}

#[test]
fn an_existing_folder_is_kept_and_an_existing_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let again =
        |name: &str| ["synth", "--shape", "nano", "--seed", "7", "-o", name].map(String::from);
    for name in ["model", "model.gguf"] {
        synth(folder.path(), &["-o", name]);
    }
    let seed_7 = with(nano(), |generation| generation.seed = 7);
    for (name, status, holds) in [("model", 2, nano()), ("model.gguf", 0, seed_7)] {
        let args = again(name);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = candlemark(&args, folder.path());
        assert_eq!(output.status.code(), Some(status), "{name}");
        assert_eq!(output_of(&at(&folder.path().join(name))), output_of(&holds), "{name}");
    }
}
