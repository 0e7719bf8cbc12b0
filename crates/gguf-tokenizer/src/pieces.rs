//! Tokens that mean something by their names.

use crate::vocabulary::{UNKNOWN, UNUSED, USER_DEFINED, Vocabulary};

/// SentencePiece's blank.
pub(crate) const BLANK: char = '▁';

/// The token of a byte, where characters without a token are taken apart.
pub(crate) fn byte(value: u8) -> String {
    format!("<0x{value:02X}>")
}

/// Whether it is one of those.
pub(crate) fn is_byte(token: &str) -> bool {
    let digits = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The name of a row of the embedding that no token is for.
pub(crate) fn padding(id: usize) -> String {
    format!("[PAD{id}]")
}

/// Whether a file's writer put it in for such a row: older ones said that its type was unknown, or user-defined.
pub(crate) fn is_padding(id: u32, token: &str, kind: i32) -> bool {
    let digits = token
        .strip_prefix("[PAD")
        .and_then(|rest| rest.strip_suffix(']'));
    match kind {
        UNUSED | UNKNOWN => {
            digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
        }
        USER_DEFINED => digits.is_some_and(|d| d == id.to_string()),
        _ => false,
    }
}

/// Names that llama.cpp's converter takes for control tokens, whatever the file says: some models forget to.
pub(crate) fn looks_special(token: &str) -> bool {
    let within = |first: &str, last: &str| token.starts_with(first) && token.ends_with(last);
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<｜", "｜>")
        || within("<unused", ">")
}

/// Phi-3's, which swallows blanks behind control tokens. A GGUF does not say that; llama.cpp takes it from the model's name.
pub(crate) fn is_phi3(vocabulary: &Vocabulary) -> bool {
    let at = |id: usize, token: &str| vocabulary.tokens.get(id).is_some_and(|t| t == token);
    vocabulary.model == "llama"
        && at(32000, "<|endoftext|>")
        && at(32001, "<|assistant|>")
        && at(32002, "<|placeholder1|>")
}
