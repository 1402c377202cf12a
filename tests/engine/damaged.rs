//! Truncated, garbage, hostile and mismatched models: each is an error that names the file, before
//! memory is allocated.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use candlemark::settings::Setup;

use crate::{BINARY, at, edit, job, refused, skipped, synth, truncate, worker, worker_refuses};

#[test]
fn a_truncated_or_garbage_gguf_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let whole = ["-o", "model.gguf"];
    for (bytes, status, says) in [
        (5_000_000, 5, "the file is truncated: tensor `"),
        (100_000, 5, "the file has 100000; download it again"),
        (20, 5, "its header continues after byte 16, the file ends at 20; download it again"),
    ] {
        synth(folder.path(), &whole);
        truncate(&file, bytes);
        worker_refuses(&at(&file), status, &["model.gguf` is not valid: ", says]);
    }
    truncate(&file, 0); // Nothing says that it is a model.
    worker_refuses(&at(&file), 2, &["model.gguf` is not a model: it does not begin with `GGUF`"]);
    fs::write(&file, "<!DOCTYPE html><title>Not Found</title>").unwrap();
    worker_refuses(&at(&file), 2, &["model.gguf` is not a model: it is a web page instead of"]);
}

/// A GGUF header: magic, version 3, and the numbers of tensors and keys.
fn header(tensors: u64, keys: u64) -> Vec<u8> {
    [b"GGUF", &3u32.to_le_bytes()[..], &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

fn gguf_text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// An embedding of f32 rows, at the start of the data.
fn embedding(columns: u64, rows: u64) -> Vec<u8> {
    let shape = [2u32.to_le_bytes().to_vec(), [columns, rows].map(u64::to_le_bytes).concat()];
    [gguf_text("token_embd.weight"), shape.concat(), vec![0; 4 + 8]].concat()
}

/// A key with a 32-bit number.
fn number(key: &str, value: u32) -> Vec<u8> {
    [gguf_text(key), [4u32.to_le_bytes(), value.to_le_bytes()].concat()].concat()
}

#[test]
fn absurd_sizes_are_refused_before_memory_is_allocated() {
    let (array, string, texts) = (9u32.to_le_bytes(), 8u32.to_le_bytes(), (1u64 << 29));
    let huge_array = [&gguf_text("x")[..], &array, &string, &texts.to_le_bytes()].concat();
    let huge_text = [&gguf_text("x")[..], &string, &(1u64 << 40).to_le_bytes()].concat();
    let architecture =
        [gguf_text("general.architecture"), string.to_vec(), gguf_text("qwen3")].concat();
    let layers = [
        architecture,
        number("qwen3.attention.head_count", 4),
        number("qwen3.embedding_length", 256),
        number("qwen3.block_count", 4_000_000_000),
        number("qwen3.feed_forward_length", 512),
        number("qwen3.context_length", 4096),
        number("qwen3.attention.layer_norm_rms_epsilon", 0),
    ];
    let layers = [header(1, 7), layers.concat(), embedding(256, 8), vec![0; 64 + 8192]].concat();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    for (bytes, says) in [
        (header(1 << 62, 1 << 62), "claims 4611686018427387904 tensors and"),
        (header(1 << 30, 1 << 30), "claims 1073741824 tensors and 1073741824 keys in 0"),
        ([header(0, 1), huge_array].concat(), "`x` claims 536870912 elements in 0"),
        ([header(0, 1), huge_text].concat(), "`x` claims 1099511627776 bytes, 0"),
        ([header(1, 0), embedding(1 << 32, 1 << 31)].concat(), "has the impossible shape"),
        ([header(1, 0), embedding(256, 1 << 50)].concat(), "has 1152921504606846976 bytes"),
        (layers, "layers is 4000000000; it must be between 1 and 1024"),
    ] {
        fs::write(&file, bytes).unwrap();
        let output = worker(within_2_gb(), &job(&at(&file), &["short/b1"]));
        refused(&output, 5, &["model.gguf` is not valid: ", says]);
    }
}

/// The binary with an address space of 2 GB, where the system can limit it.
pub(crate) fn within_2_gb() -> Command {
    if !cfg!(target_os = "linux") {
        skipped("what files ask for was not limited: this system has no `ulimit -v`");
        return Command::new(BINARY);
    }
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 2000000; exec \"$0\" \"$@\"", BINARY]);
    command
}

#[test]
fn a_damaged_folder_is_an_error_with_the_file_and_the_remedy() {
    type Damage = fn(&Path);
    let cases: &[(Damage, i32, &[&str])] = &[
        (
            |dir| fs::remove_file(dir.join("model-00003-of-00007.safetensors")).unwrap(),
            5,
            &["1 of 7 shards are missing: model-00003-of-00007.safetensors; download them again"],
        ),
        (
            |dir| truncate(&dir.join("model-00001-of-00007.safetensors"), 1_000_000),
            5,
            &["model-00001-of-00007.safetensors` is not valid: the file is truncated", "again"],
        ),
        (
            |dir| {
                let claim = [(1u64 << 62).to_le_bytes().as_slice(), b"{}"].concat();
                fs::write(dir.join("model-00002-of-00007.safetensors"), claim).unwrap();
            },
            5,
            &["it claims a header of 4611686018427387904 bytes and has 10"],
        ),
        (
            |dir| edit(&dir.join("model.safetensors.index.json"), "model-00001", "../model-00001"),
            5,
            &["shard `../model-00001-of-00007.safetensors` is not a plain file name"],
        ),
        (
            |dir| fs::remove_file(dir.join("model.safetensors.index.json")).unwrap(),
            5,
            &["neither `model.safetensors` nor `model.safetensors.index.json`"],
        ),
        (
            |dir| fs::remove_file(dir.join("tokenizer.json")).unwrap(),
            5,
            &["cannot read `", "/tokenizer.json`: No such file"],
        ),
        (
            |dir| fs::remove_file(dir.join("config.json")).unwrap(),
            2,
            &["/model` is not a model: it has no `config.json`"],
        ),
        (
            |dir| edit(&dir.join("config.json"), "3072", "3000"),
            5,
            &[
                "tensor `model.embed_tokens.weight` has shape [3072, 256], the configuration asks for [3000",
            ],
        ),
        (
            |dir| edit(&dir.join("config.json"), "3072", "4000"),
            5,
            &["`model.embed_tokens.weight` has shape [3072, 256]", "asks for [4000, 256]"],
        ),
        (
            |dir| {
                edit(
                    &dir.join("config.json"),
                    "\"num_hidden_layers\": 2",
                    "\"num_hidden_layers\": 3",
                );
            },
            5,
            &["the weights lack the tensor `model.layers.2."],
        ),
        (
            |dir| edit(&dir.join("config.json"), "\"qwen3\"", "\"llama\""),
            2,
            &["unsupported model: architecture `llama`; supported: qwen3 and qwen2"],
        ),
    ];
    for (damage, status, says) in cases {
        let folder = tempfile::tempdir().unwrap();
        synth(folder.path(), &["-o", "model", "--shard-mib", "1"]);
        let model = folder.path().join("model");
        damage(&model);
        worker_refuses(&at(&model), *status, says);
    }
}

#[test]
fn the_candle_engine_refuses_weights_of_another_shape() {
    let folder = tempfile::tempdir().unwrap();
    synth(folder.path(), &["-o", "model"]);
    let model = folder.path().join("model");
    edit(&model.join("config.json"), "3072", "4000");
    let setup = Setup { engine: "candle".into(), ..at(&model) };
    worker_refuses(&setup, 5, &["[3072, 256]", "[4000, 256]"]);
}

#[test]
fn hostile_shapes_and_keys_do_not_panic() {
    let shape = |name: &str, dims: &[u64]| {
        let count = (dims.len() as u32).to_le_bytes();
        let dims: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        [gguf_text(name), count.to_vec(), dims, vec![0; 4 + 8]].concat()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let alignment = number("general.alignment", 0);
    for (bytes, says) in [
        (
            [header(1, 0), shape("blk.0.attn_k_norm.weight", &[1 << 62])].concat(),
            "`blk.0.attn_k_norm.weight` has the impossible shape [4611686018427387904]",
        ),
        (
            [header(1, 0), shape("blk.0.attn_v.weight", &[256, 0])].concat(),
            "`blk.0.attn_v.weight` has the impossible shape [0, 256]",
        ),
        (
            [header(0, 2), number("x", 1), alignment].concat(),
            "`general.alignment` is 0, not a power of two",
        ),
    ] {
        fs::write(&file, [bytes, vec![0; 4096]].concat()).unwrap();
        for engine in ["native", "candle"] {
            let setup = Setup { engine: engine.into(), ..at(&file) };
            worker_refuses(&setup, 5, &["model.gguf` is not valid: ", says]);
        }
    }
}
