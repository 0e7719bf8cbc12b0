//! From files of text to windows of tokens.
//!
//! [`Tokenizer`] turns text into ids, [`CorpusOptions`](aios_base::config::CorpusOptions) says which files to read and where a
//! document ends, [`TokenCache`] holds the tokens of a corpus on disk, [`Sequences`] are they or a part
//! of them, cut to the length of a model, and [`Batches`] deals them out in an order that depends on the seed alone.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod batches;
mod builtin;
mod cache;
mod chat_rows;
mod columnar;
mod corpus;
mod csv;
mod datasets;
mod detect;
mod documents;
mod folder;
mod form;
mod gpt2;
mod hash;
mod json;
mod marked;
mod packing;
mod records;
mod sequences;
mod stdin;
mod telling;
mod text;
mod tokenizer;
mod utf16;

pub use aios_base::background::Watch;
pub use batches::{BatchOptions, Batches, DataPosition, Resumed};
pub use cache::{TokenCache, directory as cache_folder};
pub use corpus::{look_for, size};
pub use documents::{each_document, require_text};
pub use form::{Content, content};
pub use marked::marked;
pub use sequences::{Arranged, Arrangement, Cutting, Sequences};
pub use stdin::Spool;
pub use telling::telling;
pub use tokenizer::{StreamDecoder, Tokenizer};
