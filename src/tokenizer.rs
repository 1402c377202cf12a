//! Text to token ids and back: byte-level BPE from a folder, from GGUF metadata or from the binary
//! itself, with its chat template and end tokens. Of a model it knows only the number of embedding
//! rows.

mod bpe;
mod byte_level;
mod chat;
mod folder;
mod gguf;
mod panics;
mod parse;
mod stream;
#[cfg(test)]
mod tests;

pub use bpe::Tokenizer;
pub use chat::{Message, Role, Thinking};
pub use gguf::GgufTokenizer;
pub use stream::DecodeStream;
