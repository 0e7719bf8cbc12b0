//! Tokens that are found in a text before anything else is done with it.

use std::collections::HashMap;

use serde_json::{Value, json};

use aios_base::error::{Error, Result};

use crate::pieces::{is_padding, is_phi3};
use crate::vocabulary::{CONTROL, UNKNOWN, USER_DEFINED, Vocabulary, quoted};

/// An entry of `added_tokens`.
pub(crate) struct Added {
    pub content: String,
    pub special: bool,
}

/// `added_tokens` for control tokens, the unknown one and user-defined ones.
pub(crate) fn of_vocabulary(vocabulary: &Vocabulary) -> Value {
    let swallows = is_phi3(vocabulary);
    let mut list = Vec::new();
    for (id, token) in (0_u32..).zip(&vocabulary.tokens) {
        let kind = vocabulary.kind(id);
        if !matches!(kind, CONTROL | UNKNOWN | USER_DEFINED) || is_padding(id, token, kind) {
            continue;
        }
        let plain = matches!(token.as_str(), "<unk>" | "<s>" | "<|endoftext|>");
        list.push(json!({
            "id": id,
            "content": token,
            "single_word": false,
            "lstrip": false,
            "rstrip": swallows && !plain,
            "normalized": false,
            "special": kind != USER_DEFINED,
        }));
    }
    Value::Array(list)
}

/// Those of a `tokenizer.json`, by id.
///
/// # Errors
/// Names an entry without an id or a text.
pub(crate) fn of_json(tokenizer: &Value) -> Result<HashMap<u32, Added>> {
    let mut all = HashMap::new();
    let none = Vec::new();
    let list = match tokenizer.get("added_tokens") {
        None | Some(Value::Null) => &none,
        Some(Value::Array(list)) => list,
        Some(_) => {
            return Err(Error::failed(
                "tokenizer.json: added_tokens is not a list: save the tokenizer again",
            ));
        }
    };
    for (at, entry) in list.iter().enumerate() {
        let id = entry.get("id").and_then(Value::as_u64);
        let id = id.and_then(|id| u32::try_from(id).ok());
        let content = entry.get("content").and_then(Value::as_str);
        let (Some(id), Some(content)) = (id, content) else {
            return Err(Error::failed(format!(
                "tokenizer.json: added_tokens[{at}] has no id or no content: save the tokenizer again"
            )));
        };
        let said = |key: &str| entry.get(key).and_then(Value::as_bool) == Some(true);
        if said("single_word") {
            return Err(Error::failed(format!(
                "tokenizer.json: the token {} is one between words only (single_word), which a GGUF cannot say",
                quoted(content)
            )));
        }
        let token = Added {
            content: content.to_string(),
            special: said("special"),
        };
        if all.insert(id, token).is_some() {
            return Err(Error::failed(format!(
                "tokenizer.json: added_tokens has id {id} twice: save the tokenizer again"
            )));
        }
    }
    Ok(all)
}
