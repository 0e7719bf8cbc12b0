//! Tokenizers between a GGUF file's metadata and Hugging Face's `tokenizer.json`, both ways, with the same ids.
//!
//! ```text
//! tokenizer.ggml.*  --  Vocabulary::read      Vocabulary  --  tokenizer_json, tokenizer_config  -->  tokenizer.json ...
//!                   <-- metadata                          <--  vocabulary_of
//! ```
//!
//! A GGUF says less than a `tokenizer.json`: how text is cut before tokens are merged is a name (`tokenizer.ggml.pre`) that
//! llama.cpp has a regular expression for, and of a SentencePiece model there are scores in place of merges. `pre` has
//! the names, `merges` makes the one of the other. What a GGUF cannot say is an error, never a tokenizer with other ids.
//!
//! Both sides come from anybody: lengths and ids are compared with what is there before anything is made of them.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod added;
mod export;
mod import;
mod merges;
mod pieces;
mod pre;
mod structure;
mod vocabulary;

#[cfg(test)]
mod tests;

pub use export::vocabulary_of;
pub use import::{tokenizer_config, tokenizer_json};
pub use vocabulary::{Entry, Vocabulary};
