//! The files of a tokenizer.

use std::fs;
use std::path::Path;

use candlemark::error::Result;
use candlemark::tokenizer::{Message, Role, Thinking, Tokenizer};

use crate::Reader;
use crate::mutator::Mutator;

/// Loads the tokenizer in the folder of a file, after adding the other files.
fn load(path: &Path) -> Result<Tokenizer> {
    let folder = path.parent().unwrap();
    let whole = folder.join("tokenizer.json");
    if !whole.exists() {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny/tokenizer.json");
        fs::copy(tiny, whole).unwrap();
    }
    Tokenizer::from_folder(folder)
}

fn exercise(tokenizer: &Tokenizer) {
    if let Ok(ids) = tokenizer.encode("Über 1234 tokens,\n\tif x: 💥 한국어") {
        tokenizer.decode(&ids);
    }
    let turns = [Message::new(Role::System, "Be brief."), Message::new(Role::User, "hello")];
    let _ = tokenizer.chat(&turns, Thinking::On);
    let _ = tokenizer.to_gguf(4096);
}

#[test]
fn tokenizers_are_read_and_used() {
    let reader = Reader::of("tokenizer.json", &["fixtures/tiny/tokenizer.json"], Mutator::json);
    reader.run(20, load, exercise);
}

#[test]
fn configurations_of_tokenizers_are_read() {
    let seed = ["fixtures/tiny/tokenizer_config.json"];
    Reader::of("tokenizer_config.json", &seed, Mutator::json).run(20, load, exercise);
}

#[test]
fn chat_templates_are_compiled_and_rendered() {
    let seed = ["src/tokenizer/qwen3.jinja", "src/tokenizer/qwen2.jinja"];
    let mut reader = Reader::of("chat_template.jinja", &seed, Mutator::bytes);
    reader.seeds.iter_mut().for_each(|(path, _)| path.set_file_name("chat_template.jinja"));
    reader.run(10, load, exercise);
}
