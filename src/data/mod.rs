//! From files of text to windows of tokens.
//!
//! [`Tokenizer`] turns text into ids, [`CorpusOptions`] says which files to read and where a
//! document ends, [`TokenCache`] holds the tokens of a corpus on disk and [`Batches`] deals them
//! out in an order that depends on the seed alone.

mod batches;
mod cache;
mod corpus;
mod documents;
mod gpt2;
mod text;
mod tokenizer;

pub use batches::{BatchOptions, Batches, DataPosition, Resumed};
pub use cache::{TokenCache, Watch};
pub use corpus::{CorpusOptions, TextDocuments};
pub use tokenizer::{StreamDecoder, Tokenizer};
