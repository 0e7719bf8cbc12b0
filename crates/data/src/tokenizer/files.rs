//! The files of a tokenizer: read with a limit, whatever they turn out to be.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::tokenizer::pipeline::Pipeline;
use aios_base::error::{Error, Result, shown};

/// The tokenizer itself, in the format of Hugging Face's `tokenizers`.
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";
/// Names the end-of-text token of a tokenizer from the Hub.
pub(super) const CONFIG_FILE: &str = "tokenizer_config.json";
/// What [`super::Tokenizer::save`] adds, since `tokenizer.json` holds neither the name nor the end of text.
pub(super) const INFO_FILE: &str = "aios_tokenizer.json";
/// The largest known has 33 MB; parsing takes more than ten times as much memory.
pub(super) const TOKENIZER_BYTES: u64 = 128 << 20;
/// The largest known of these have 2 MB.
const COMPANION_BYTES: u64 = 32 << 20;
/// Tried in this order when no file names the end-of-text token.
const KNOWN_END_OF_TEXT: [&str; 8] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<|im_end|>",
    "[SEP]",
];

/// Content of [`INFO_FILE`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Info {
    pub name: String,
    pub end_of_text: String,
}

/// All of the file, which has to be one.
///
/// # Errors
/// If it is no file, cannot be read or is larger than `limit`.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, "read", error))?;
    if !metadata.is_file() {
        return Err(Error::invalid(format!(
            "{} is neither a file nor a folder with a tokenizer",
            shown(path)
        )));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::io(path, "read", error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::failed(format!(
            "{} is larger than {} MiB, which no tokenizer is",
            shown(path),
            limit >> 20
        )));
    }
    Ok(bytes)
}

/// What [`super::Tokenizer::save`] wrote in `directory`, if it did.
///
/// # Errors
/// If it is damaged.
pub(super) fn read_info(directory: &Path) -> Result<Option<Info>> {
    let path = directory.join(INFO_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let text = read(&path, COMPANION_BYTES)?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| Error::failed(format!("{} is damaged: {error}", shown(&path))))
}

/// The end-of-text token that a companion in `directory` names, and the companion.
///
/// # Errors
/// What [`super::Tokenizer::save`] wrote is damaged.
pub(super) fn named_end_of_text(directory: &Path) -> Result<Option<(String, &'static str)>> {
    Ok(match read_info(directory)? {
        Some(info) => Some((info.end_of_text, INFO_FILE)),
        None => configured_end_of_text(&directory.join(CONFIG_FILE)).map(|t| (t, CONFIG_FILE)),
    })
}

/// The token that is named by a companion file, else the first well-known one that the vocabulary has. Says so where the named
/// one is not in the vocabulary.
///
/// # Errors
/// If there is none.
pub(super) fn end_of_text_id(
    pipeline: &Pipeline,
    named: Option<(String, &'static str)>,
    file: &Path,
) -> Result<u32> {
    let id_of = |token: &str| pipeline.token_to_id(token);
    if let Some(id) = named.as_ref().and_then(|(token, _)| id_of(token)) {
        return Ok(id);
    }
    let known = KNOWN_END_OF_TEXT.into_iter();
    let found = known
        .filter_map(|token| Some((token, id_of(token)?)))
        .next();
    match (found, named) {
        (Some((token, id)), Some((missing, place))) => {
            tracing::warn!(
                "tokenizer {}: the end-of-text token \"{missing}\" that {place} names is not in its vocabulary; \
                 \"{token}\" is used instead",
                shown(file)
            );
            Ok(id)
        }
        (Some((_, id)), None) => Ok(id),
        (None, named) => {
            let missing = named.map_or(String::new(), |(missing, place)| {
                format!(" (\"{missing}\" in {place} is not in its vocabulary)")
            });
            Err(Error::failed(format!(
                "{} has no end-of-text token{missing}: name one of its tokens as \"eos_token\" in a {CONFIG_FILE} \
                 beside it",
                shown(file)
            )))
        }
    }
}

/// `eos_token` of a `tokenizer_config.json`: a string, or an object with `content`.
fn configured_end_of_text(path: &Path) -> Option<String> {
    if !path.exists() {
        return None;
    }
    let config: serde_json::Value = match read(path, COMPANION_BYTES)
        .and_then(|text| serde_json::from_slice(&text).map_err(|e| Error::failed(e.to_string())))
    {
        Ok(config) => config,
        Err(error) => {
            tracing::warn!("{} is passed over: {error}", shown(path));
            return None;
        }
    };
    end_of_text_in(&config)
}

/// `eos_token` of such settings.
pub(super) fn end_of_text_in(config: &serde_json::Value) -> Option<String> {
    let token = config.get("eos_token")?;
    let token = token.get("content").unwrap_or(token);
    token.as_str().map(str::to_string)
}
