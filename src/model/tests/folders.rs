//! Names of models, safetensors folders, and what is given in their place.

use std::path::Path;

use super::*;
use crate::model::spec::ModelSpec;

#[test]
fn model_names_have_four_forms() {
    assert_eq!(ModelSpec::parse("synthetic:mini").unwrap(), ModelSpec::Synthetic("mini".into()));
    assert_eq!(
        ModelSpec::parse("Qwen/Qwen3-0.6B@main").unwrap(),
        ModelSpec::Hub("Qwen/Qwen3-0.6B@main".into())
    );
    assert!(matches!(ModelSpec::parse("src").unwrap(), ModelSpec::Folder(_)));
    for wrong in ["nothing.gguf", "./no/such", "a/b.gguf", "qwen"] {
        let error = ModelSpec::parse(wrong).unwrap_err().to_string();
        assert!(error.contains(wrong) && error.contains("synthetic:SHAPE"), "{error}");
    }
    let error = open("synthetic:qwen3-0.7b", 1, None, &mut ()).err().unwrap().to_string();
    assert!(error.contains("did you mean `qwen3-"), "{error}");
}

/// A safetensors folder of the `nano` model with changed tensor names and configuration.
fn folder(
    rename: impl Fn(&str) -> String,
    config: impl FnOnce(String) -> String,
    keep: impl Fn(&str) -> bool,
) -> tempfile::TempDir {
    struct Renamed<'a>(&'a dyn WeightSource, Vec<(String, String)>);
    impl WeightSource for Renamed<'_> {
        fn info(&self, name: &str) -> Option<TensorInfo> {
            self.0.info(&self.1.iter().find(|(new, _)| new == name)?.1)
        }
        fn rows(&self, name: &str, rows: std::ops::Range<usize>) -> Result<StoredRows> {
            let (_, old) = self.1.iter().find(|(new, _)| new == name).unwrap();
            self.0.rows(old, rows)
        }
        fn unused(&self, _: &[(String, Vec<usize>)]) -> Vec<String> {
            Vec::new()
        }
        fn sha256(&self) -> Result<String> {
            self.0.sha256()
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let opened = open("synthetic:nano", SEED, None, &mut ()).unwrap();
    std::fs::write(dir.path().join("config.json"), config(opened.config.to_json())).unwrap();
    let kept = || opened.config.tensors().into_iter().filter(|(name, _)| keep(name));
    let names = kept().map(|(name, _)| (rename(&name), name)).collect();
    let tensors: Vec<_> = kept().map(|(name, shape)| (rename(&name), shape)).collect();
    let source = Renamed(opened.weights.as_ref(), names);
    safetensors::write(dir.path(), &source, &tensors, None).unwrap();
    dir
}

/// Collects notes.
#[derive(Default)]
struct Notes(Vec<String>);

impl Progress for Notes {
    fn update(&mut self, _: &str, _: u64, _: u64) {}

    fn note(&mut self, text: &str) {
        self.0.push(text.into());
    }
}

fn opened(dir: &Path) -> (Result<ModelSource>, Vec<String>) {
    let mut notes = Notes::default();
    let opened = open(dir.to_str().unwrap(), 0, None, &mut notes);
    (opened, notes.0)
}

#[test]
fn an_embedding_model_loads_if_its_embeddings_are_tied() {
    let bare = |name: &str| name.strip_prefix("model.").unwrap().to_owned();
    let tied = folder(bare, |config| config, |_| true);
    let (model, notes) = opened(tied.path());
    let model = load(&model.unwrap(), EngineKind::Native, Some(Quant::F32), None, &Device::Cpu, 2);
    let mut model = model.unwrap();
    model.reset(1).unwrap();
    let mut same = native("synthetic:nano");
    same.reset(1).unwrap();
    let prompt = ids(9, 1);
    let logits = model.forward(&[step(0, &prompt)]).unwrap();
    assert_eq!(logits, same.forward(&[step(0, &prompt)]).unwrap());
    assert!(notes.len() == 1 && notes[0].contains(": an embedding model: "), "{notes:?}");
    let untie = |config: String| {
        config.replace("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false")
    };
    let error = opened(folder(bare, untie, |_| true).path()).0.err().unwrap().to_string();
    assert!(error.contains("is an embedding model: it has no output matrix"), "{error}");
}

#[test]
fn embeddings_are_tied_only_if_the_folder_says_so() {
    let same = |name: &str| name.to_owned();
    for tie in ["\"tie_word_embeddings\": false", "\"tie_word_embeddings\": null"] {
        let untie = |config: String| config.replace("\"tie_word_embeddings\": true", tie);
        let error = opened(folder(same, untie, |_| true).path()).0.err().unwrap().to_string();
        let expected = "config.json` is not valid: the weights have no output matrix \
                    `lm_head.weight`, \
                    and `tie_word_embeddings` is not true";
        assert!(error.contains(expected), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tied.gguf");
    let (model, tensors) = nano_tensors();
    gguf::write(&file, &gguf::shape_metadata(&model.config, "nano"), &tensors).unwrap();
    let (model, notes) = opened(&file);
    assert!(model.unwrap().config.tied);
    let expected = "tied.gguf: no `output.weight`, so the embedding is the output matrix too";
    assert!(notes.len() == 1 && notes[0].ends_with(expected), "{notes:?}");
}

#[test]
fn weights_with_missing_or_unused_tensors_are_refused() {
    let same = |name: &str| name.to_owned();
    let lacks = folder(same, |config| config, |name| name != "model.norm.weight");
    let error = opened(lacks.path()).0.err().unwrap().to_string();
    assert!(error.contains("the weights lack the tensor `model.norm.weight`"), "{error}");
    let fewer =
        |config: String| config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    let error = opened(folder(same, fewer, |_| true).path()).0.err().unwrap().to_string();
    assert!(error.contains("the weights have more layers than the 1 of"), "{error}");
    for (more, expected) in [
        (
            "model.layers.0.self_attn.q_proj.bias",
            "the weights have `model.layers.0.self_attn.q_proj.bias`, which this model",
        ),
        ("score.weight", "the weights have `score.weight`, the head of a classifier, reranker"),
    ] {
        let dir = folder(same, |config| config, |_| true);
        let file = dir.path().join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let data = bytes.len() - 8 - header;
        let entry = format!(
            ",\"{more}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[{data},{}]}}}}",
            data + 4
        );
        let text = std::str::from_utf8(&bytes[8..8 + header]).unwrap().trim_end();
        let text = format!("{}{entry}", text.strip_suffix('}').unwrap());
        let head = (text.len() as u64).to_le_bytes();
        let file_bytes = [&head[..], text.as_bytes(), &bytes[8 + header..], &[0; 4]].concat();
        std::fs::write(&file, file_bytes).unwrap();
        let error = opened(dir.path()).0.err().unwrap().to_string();
        assert!(error.starts_with("unsupported model: ") && error.contains(expected), "{error}");
    }
}

#[test]
fn a_single_file_goes_before_a_stale_index() {
    let dir = folder(|name| name.to_owned(), |config| config, |_| true);
    let index = r#"{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}"#;
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let (model, notes) = opened(dir.path());
    model.unwrap();
    let expected = "model.safetensors.index.json: ignored, `model.safetensors` has all weights";
    assert!(notes.len() == 1 && notes[0].ends_with(expected), "{notes:?}");
}

#[test]
fn files_that_are_not_models_name_the_remedy() {
    let dir = folder(|name| name.to_owned(), |config| config, |_| true);
    let weights = dir.path().join("model.safetensors");
    let spec = ModelSpec::parse(weights.to_str().unwrap()).unwrap();
    assert_eq!(spec, ModelSpec::Folder(dir.path().into()), "a weight file stands for its folder");
    let other = dir.path().join("other.safetensors");
    let give = format!("give its folder, `{}`", dir.path().display());
    for (name, text, expected) in [
        ("config.json", None, give.as_str()),
        ("tokenizer.json", Some("{}"), &give),
        ("model.safetensors.index.json", Some("{}"), &give),
        ("other.safetensors", Some("x"), "it is one file of a model; give a folder with"),
        ("pytorch_model.bin", Some("PK"), "PyTorch's own format is not supported; convert it to"),
        ("model.pt", Some("PK"), "PyTorch's own format is not supported; convert it to"),
        ("readme.md", Some("# Model"), "give a GGUF file, or a folder with `config.json` and"),
        ("empty.gguf", Some(""), "it does not begin with `GGUF`; download it again"),
    ] {
        let path = dir.path().join(name);
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let error = ModelSpec::parse(path.to_str().unwrap()).unwrap_err();
        assert_eq!(error.cause(), crate::error::Cause::Usage);
        let error = error.to_string();
        assert!(error.contains(name) && error.contains(expected), "{error}");
    }
    std::fs::remove_file(&other).unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let dir = folder(|name| name.to_owned(), |config| config, |_| true);
        std::fs::write(dir.path().join(name), pointer).unwrap();
        let error = opened(dir.path()).0.err().unwrap().to_string();
        let expected =
            format!("{name}` is not valid: it is a Git LFS pointer and not the file itself");
        assert!(error.contains(&expected), "{error}");
    }
    for (files, expected) in [
        (&[][..], "it is empty"),
        (&["a.gguf", "b.gguf"], "it has no `config.json`; give its GGUF file, as in `"),
        (&["adapter_config.json"], "it is an adapter (LoRA) without its base model; merge"),
        (&["notes.txt"], "it has no `config.json`"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let error = opened(dir.path()).0.err().unwrap().to_string();
        assert!(error.contains("is not a model: ") && error.contains(expected), "{error}");
    }
}
