//! Engines of another crate, measured by candlemark: one written from nothing, and one that wraps a
//! model of candle-transformers.

pub mod bag_of_words;
pub mod llama;
