//! What a `tokenizer.json` describes, with bounds on what it may do.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokenizers::models::ModelWrapper;
use tokenizers::tokenizer::{DecoderWrapper, Encoding, PostProcessor, TokenizerImpl};

use crate::records::shorten;
use crate::tokenizer::bounds::{BoundedNormalizer, BoundedPreTokenizer};
use aios_base::meter::format_bytes;

/// A tokenizer of which nothing but the ids of a text is wanted.
pub(super) type Pipeline =
    TokenizerImpl<ModelWrapper, BoundedNormalizer, BoundedPreTokenizer, Before, DecoderWrapper>;

/// Highest id that is believed: the embedding has a row for each below it, and the largest vocabularies have a million.
const HIGHEST_ID: u32 = (1 << 22) - 1;
/// Longest token of a `Unigram` model, and all of them together: the longest published ones have some dozens of bytes,
/// the largest vocabularies ten million.
const LONGEST_PIECE: usize = 1024;
const ALL_PIECES: usize = 16 << 20;
/// How much of what the library says is shown.
const LONGEST_CAUSE: usize = 300;

/// Most control tokens before a text.
const MOST_BEFORE: usize = 16;

/// In place of the one in the file, which puts control tokens around a text and may repeat it: those that it puts before a
/// text.
#[derive(Debug, Default)]
pub(super) struct Before(pub Vec<u32>);

impl<'de> Deserialize<'de> for Before {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let described = serde_json::Value::deserialize(deserializer)?;
        Ok(Self(before(&described)))
    }
}

/// By what a file says of its post-processor.
fn before(described: &serde_json::Value) -> Vec<u32> {
    let id = |value: &serde_json::Value| u32::try_from(value.as_u64()?).ok();
    match described["type"].as_str() {
        Some("TemplateProcessing") => {
            let single = described["single"].as_array().into_iter().flatten();
            let before = single.take_while(|piece| piece.get("Sequence").is_none());
            let names = before.filter_map(|piece| piece["SpecialToken"]["id"].as_str());
            let ids = names.flat_map(|name| described["special_tokens"][name]["ids"].as_array());
            ids.flatten().filter_map(id).take(MOST_BEFORE).collect()
        }
        Some("BertProcessing" | "RobertaProcessing") => {
            id(&described["cls"][1]).into_iter().collect()
        }
        Some("Sequence") => {
            let all = described["processors"].as_array().into_iter().flatten();
            // One in another is none that the library writes.
            let plain = all.filter(|one| one["type"] != "Sequence");
            plain
                .map(before)
                .find(|ids| !ids.is_empty())
                .unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

impl PostProcessor for Before {
    fn added_tokens(&self, _is_pair: bool) -> usize {
        0
    }

    fn process_encodings(
        &self,
        encodings: Vec<Encoding>,
        _add_special_tokens: bool,
    ) -> tokenizers::Result<Vec<Encoding>> {
        Ok(encodings)
    }
}

/// The pipeline in `json`, the number of its ids, and what it cannot be taken as it stands for, if anything.
///
/// # Errors
/// What is wrong with it, in a line.
pub(super) fn parse(json: &[u8]) -> Result<(Pipeline, usize, Option<&'static str>), String> {
    check_pieces(json)?;
    let mut pipeline: Pipeline = serde_json::from_slice(json).map_err(|error| cause(&error))?;
    // A window is cut and packed here; the file's own ideas about lengths would lose text.
    pipeline
        .with_truncation(None)
        .map_err(|error| cause(&error))?
        .with_padding(None);
    // Text that happens to spell a control token must not become one.
    pipeline.set_encode_special_tokens(true);
    let remark = without_chance(&mut pipeline)?;
    check_added_tokens(&pipeline)?;
    let vocabulary = pipeline.get_vocab(true);
    if let Some((token, id)) = vocabulary.iter().find(|(_, id)| **id > HIGHEST_ID) {
        return Err(format!(
            "its token \"{}\" has the id {id}, beyond the highest that is supported, {HIGHEST_ID}",
            shorten(token, 40)
        ));
    }
    let size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
    Ok((pipeline, size, remark))
}

/// The library keeps the pieces of a `Unigram` model in a tree with a level for each byte, which it leaves by recursion.
fn check_pieces(json: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(default)]
        vocab: Pieces,
    }
    let file: File = serde_json::from_slice(json).map_err(|error| cause(&error))?;
    let Pieces { longest, all } = file.model.vocab;
    if longest > LONGEST_PIECE {
        return Err(format!(
            "it has a token of {longest} bytes, more than {LONGEST_PIECE} in a Unigram model"
        ));
    }
    if all > ALL_PIECES {
        return Err(format!(
            "its tokens have {} together, more than {} in a Unigram model",
            format_bytes(all as u64),
            format_bytes(ALL_PIECES as u64)
        ));
    }
    Ok(())
}

/// Lengths of the tokens in a list of tokens with their scores, which only `Unigram` models have.
#[derive(Default)]
struct Pieces {
    longest: usize,
    all: usize,
}

impl<'de> Deserialize<'de> for Pieces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self::default())
    }
}

impl<'de> Visitor<'de> for Pieces {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut pieces: A) -> Result<Self, A::Error> {
        while let Some((piece, _)) = pieces.next_element::<(Cow<str>, IgnoredAny)>()? {
            self.longest = self.longest.max(piece.len());
            self.all += piece.len();
        }
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut tokens: A) -> Result<Self, A::Error> {
        while tokens.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

/// Turns off what would give the same text other ids each time, which cached tokens cannot have.
fn without_chance(pipeline: &mut Pipeline) -> Result<Option<&'static str>, String> {
    match pipeline.get_model() {
        ModelWrapper::BPE(model) if model.dropout.is_some_and(|share| share > 0.0) => {
            let mut model = model.clone();
            model.dropout = None;
            pipeline.with_model(ModelWrapper::BPE(model));
            Ok(Some(
                "its dropout is left off: tokens are cached, so that a text always has the same",
            ))
        }
        // The library would look for an end of the text for ever.
        ModelWrapper::Unigram(_) if pipeline.token_to_id("").is_some() => {
            Err("its vocabulary has a token without any character".to_string())
        }
        _ => Ok(None),
    }
}

/// The library finds a token of which its own rules leave nothing everywhere, without end.
fn check_added_tokens(pipeline: &Pipeline) -> Result<(), String> {
    let added = pipeline.get_added_vocabulary();
    for (id, token) in added.get_added_tokens_decoder() {
        if added
            .simple_id_to_token(*id)
            .is_none_or(|form| form.is_empty())
        {
            let content = shorten(&token.content, 40);
            return Err(format!(
                "its normalizer leaves nothing of the added token \"{content}\""
            ));
        }
    }
    Ok(())
}

/// What the library says, in a short line. It may quote a token that is not UTF-8.
pub(super) fn cause(error: &impl ToString) -> String {
    let text = error.to_string();
    let text = String::from_utf8_lossy(text.as_bytes());
    let words: Vec<&str> = text.split_whitespace().collect();
    shorten(&words.join(" "), LONGEST_CAUSE)
}
