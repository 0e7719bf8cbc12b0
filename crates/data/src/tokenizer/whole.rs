//! Ids of a text of which every character counts, and where it may be cut without a change of them.

use std::sync::Arc;

use crate::documents::CONTEXT_BYTES;
use crate::tokenizer::{GPT2_END_OF_TEXT, Kind, Pipeline, Tokenizer, pipeline};
use aios_base::error::{Error, Result, shown};
use aios_base::fault::contained;

/// GPT-2's one control token.
pub(super) const GPT2_CONTROL: &str = "<|endoftext|>";

impl Tokenizer {
    /// The same tokenizer, to which names of control tokens in a text are these tokens, as they are to the libraries that
    /// models come from. It holds the vocabulary once more.
    ///
    /// # Errors
    /// As for [`Tokenizer::load`].
    pub fn with_control_tokens(&self) -> Result<Self> {
        let mut tokenizer = self.clone();
        tokenizer.control_tokens = true;
        if let Kind::Json { json, file, .. } = &*self.kind {
            let parsed = contained(|| pipeline::parse(json)).and_then(|parsed| parsed);
            let (mut pipeline, ..) = parsed.map_err(|cause| {
                Error::failed(format!("{} is not a tokenizer file: {cause}", shown(file)))
            })?;
            pipeline.set_encode_special_tokens(false);
            tokenizer.kind = Arc::new(Kind::Json {
                pipeline: Box::new(pipeline),
                json: json.clone(),
                file: file.clone(),
            });
        }
        Ok(tokenizer)
    }

    /// GPT-2's ids, with the control token's where its name stands.
    pub(super) fn gpt2_with_control_tokens(
        encode: &dyn Fn(&str) -> Vec<u32>,
        text: &str,
    ) -> Vec<u32> {
        let mut parts = text.split(GPT2_CONTROL);
        let mut ids = parts.next().map(encode).unwrap_or_default();
        for part in parts {
            ids.push(GPT2_END_OF_TEXT);
            ids.extend(encode(part));
        }
        ids
    }

    /// Whether the ids of `text` are those of its two parts, cut at the byte `at`: as far as its surroundings show, and only
    /// where the tokenizer itself cuts a text into words before it looks for tokens.
    pub(crate) fn splits_at(&self, text: &str, at: usize) -> bool {
        let start = text.floor_char_boundary(at.saturating_sub(CONTEXT_BYTES));
        let end = text.ceil_char_boundary((at + CONTEXT_BYTES).min(text.len()));
        let (both, cut) = (&text[start..end], at - start);
        let ids = [&both[..cut], &both[cut..]].map(|part| self.encode(part).ok());
        let [Some(before), Some(after)] = ids else {
            return false;
        };
        match &*self.kind {
            Kind::Gpt2(_) => self
                .encode(both)
                .is_ok_and(|ids| ids == [before, after].concat()),
            Kind::Json { pipeline, .. } => {
                contained(|| splits(pipeline, both, cut, &before, &after)).unwrap_or(false)
            }
        }
    }
}

/// Whether a word begins at the byte `cut`, with these ids before it and after.
fn splits(pipeline: &Pipeline, text: &str, cut: usize, before: &[u32], after: &[u32]) -> bool {
    let Ok(encoding) = pipeline.encode(text, false) else {
        return false;
    };
    let first = encoding
        .get_offsets()
        .iter()
        .position(|&(start, _)| start >= cut);
    let Some(first) = first.filter(|&first| first > 0) else {
        return false;
    };
    let (ids, words) = (encoding.get_ids(), encoding.get_word_ids());
    let ended = encoding.get_offsets()[first - 1].1 <= cut;
    ended && words[first] != words[first - 1] && ids[..first] == *before && ids[first..] == *after
}

#[cfg(test)]
mod tests;
