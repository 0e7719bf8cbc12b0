//! Tokens that are put into a tokenizer by name.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::hash::hex_hash;
use crate::tokenizer::{Kind, Tokenizer, pipeline};
use aios_base::error::{Error, Result, shown};
use aios_base::fault::contained;

/// Longest name of a token, in bytes: no published one has a quarter.
const LONGEST: usize = 256;

impl Tokenizer {
    /// The same tokenizer with these tokens behind its own, as they will stand in its `tokenizer.json`; those that it has are
    /// left as they are. What stands between `<|` and `|>` is a control token, which gives no text.
    ///
    /// # Errors
    /// A name that cannot be one, or a tokenizer without a file that they could be put into.
    pub fn with_added(&self, names: &[String]) -> Result<Self> {
        if let Some(name) = names
            .iter()
            .find(|n| n.trim().is_empty() || n.len() > LONGEST)
        {
            return Err(Error::invalid(format!(
                "--add-tokens: \"{}\" is no name of a token: give 1 to {LONGEST} bytes that are not all blanks",
                crate::records::shorten(name, 40)
            )));
        }
        let Kind::Json {
            pipeline,
            json,
            file,
            ..
        } = &*self.kind
        else {
            return Err(Error::invalid(
                "--add-tokens: the tokenizer gpt2 is built in and has no file that tokens could be put into; give --tokenizer \
                 a folder with a tokenizer.json",
            ));
        };
        let mut new: Vec<&str> = Vec::new();
        for name in names {
            if pipeline.token_to_id(name).is_none() && !new.contains(&name.as_str()) {
                new.push(name);
            }
        }
        let wrong = |cause: String| {
            Error::failed(format!(
                "tokens cannot be added to {}: {cause}",
                shown(file)
            ))
        };
        let json = with_entries(json, &new, self.vocab_size).map_err(wrong)?;
        let parsed = contained(|| pipeline::parse(&json)).and_then(|parsed| parsed);
        let (pipeline, vocab_size, _) = parsed.map_err(wrong)?;
        Ok(Self {
            fingerprint: hex_hash(&[&json, &self.end_of_text.to_le_bytes()]),
            kind: Arc::new(Kind::Json {
                pipeline: Box::new(pipeline),
                json,
                file: file.clone(),
            }),
            vocab_size,
            ..self.clone()
        })
    }

    /// Names and ids of the tokens that were put into it by name, from this id on, in their order; nothing if one from there
    /// on is of its vocabulary proper.
    pub fn added_from(&self, first: usize) -> Option<Vec<(String, u32)>> {
        let Kind::Json { pipeline, .. } = &*self.kind else {
            return (self.vocab_size <= first).then(Vec::new);
        };
        let is_beyond = |id: u32| id as usize >= first;
        if pipeline.get_vocab(false).values().any(|&id| is_beyond(id)) {
            return None;
        }
        let added = pipeline.get_added_vocabulary().get_added_tokens_decoder();
        let beyond = added.iter().filter(|(id, _)| is_beyond(**id));
        let mut beyond: Vec<(String, u32)> = beyond
            .map(|(&id, token)| (token.content.clone(), id))
            .collect();
        beyond.sort_by_key(|(_, id)| *id);
        Some(beyond)
    }
}

/// A `tokenizer.json` with more tokens, from the id `first` on.
fn with_entries(json: &[u8], names: &[&str], first: usize) -> Result<Vec<u8>, String> {
    if names.is_empty() {
        return Ok(json.to_vec());
    }
    let mut file: Value = serde_json::from_slice(json).map_err(|cause| cause.to_string())?;
    let object = file.as_object_mut().ok_or("it is no JSON object")?;
    let list = object.entry("added_tokens").or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    let list = list.as_array_mut().ok_or("its added_tokens are no list")?;
    for (name, id) in names.iter().zip(first..) {
        list.push(json!({
            "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": name.starts_with("<|") && name.ends_with("|>"),
        }));
    }
    serde_json::to_vec_pretty(&file).map_err(|cause| cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn llama() -> Tokenizer {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
        Tokenizer::load(&tests.join("golden/decoders/a/llama").to_string_lossy()).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn tokens_are_added_behind_the_others_once() {
        let before = llama();
        let size = before.vocab_size() as u32;
        let tokenizer = before
            .with_added(&names(&["<tool>", "<|tool|>", "<tool>", "a"]))
            .unwrap();
        assert_eq!(tokenizer.vocab_size() as u32, size + 2);
        let added = tokenizer.added_from(size as usize).unwrap();
        assert_eq!(
            added,
            [
                ("<tool>".to_string(), size),
                ("<|tool|>".to_string(), size + 1)
            ]
        );
        assert_eq!(tokenizer.encode("<tool>").unwrap(), [size]);
        // A control token is one only where a template writes it.
        assert!(tokenizer.encode("<|tool|>").unwrap().len() > 1);
        let control = tokenizer.with_control_tokens().unwrap();
        assert_eq!(control.encode("<|tool|>").unwrap(), [size + 1]);
        assert_eq!(tokenizer.decode(&[size, size + 1]).unwrap(), "<tool>");
        assert_ne!(tokenizer.fingerprint(), before.fingerprint());
        assert_eq!(tokenizer.end_of_text(), before.end_of_text());
        let again = tokenizer.with_added(&names(&["<tool>"])).unwrap();
        assert_eq!(again.fingerprint(), tokenizer.fingerprint());
    }

    #[test]
    fn what_cannot_be_added_is_one_clear_error() {
        let error = llama().with_added(&names(&[" "])).map(drop).unwrap_err();
        assert!(error.to_string().contains("--add-tokens"), "{error}");
        let gpt2 = Tokenizer::load("gpt2").unwrap();
        let error = gpt2.with_added(&names(&["x"])).map(drop).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        assert_eq!(gpt2.added_from(50257), Some(Vec::new()));
        assert!(llama().added_from(0).is_none());
    }
}
