//! Ids of a text with the places where they begin in it.

use crate::tokenizer::whole::GPT2_CONTROL;
use crate::tokenizer::{GPT2_END_OF_TEXT, Kind, Tokenizer, pipeline};
use aios_base::error::{Error, Result};
use aios_base::fault::contained;

impl Tokenizer {
    /// Ids of `text`, and the byte at which each begins: of a character in several tokens that of the character.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(crate) fn encode_with_starts(&self, text: &str) -> Result<(Vec<u32>, Vec<usize>)> {
        let Kind::Json { pipeline, .. } = &*self.kind else {
            let ids = self.encode(text)?;
            let starts = self.starts_by_length(&ids);
            return Ok((ids, starts));
        };
        let encoded = contained(|| {
            let encoding = pipeline.encode(text, false);
            encoding.map_err(|error| pipeline::cause(&error))
        });
        let encoding = encoded.and_then(|encoded| encoded).map_err(|cause| {
            Error::failed(format!(
                "tokenizer {} cannot encode the text: {cause}",
                self.name
            ))
        })?;
        let starts = encoding.get_offsets().iter().map(|&(start, _)| start);
        Ok((encoding.get_ids().to_vec(), starts.collect()))
    }

    /// GPT-2's tokens are the bytes of the text, one after the other.
    fn starts_by_length(&self, ids: &[u32]) -> Vec<usize> {
        let Kind::Gpt2(tables) = &*self.kind else {
            return Vec::new();
        };
        let core = tables.core();
        let length = |&id: &u32| match id {
            GPT2_END_OF_TEXT => GPT2_CONTROL.len(),
            id => core.decode_bytes(&[id]).map_or(0, |bytes| bytes.len()),
        };
        let mut end = 0;
        let starts = ids.iter().map(|id| {
            let start = end;
            end += length(id);
            start
        });
        starts.collect()
    }

    /// Whether an id is a token that was put into the vocabulary by name, and more than blanks: the end of a turn is one.
    pub fn is_named(&self, id: u32) -> bool {
        match &*self.kind {
            Kind::Gpt2(_) => id == GPT2_END_OF_TEXT,
            Kind::Json { pipeline, .. } => {
                let added = pipeline.get_added_vocabulary().get_added_tokens_decoder();
                added
                    .get(&id)
                    .is_some_and(|token| !token.content.trim().is_empty())
            }
        }
    }

    /// Text of `ids`, control tokens by their names.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub(crate) fn decode_with_names(&self, ids: &[u32]) -> Result<String> {
        let mut text = String::new();
        for part in ids.chunk_by(|&a, &b| self.is_named(a) == self.is_named(b)) {
            match part.iter().all(|&id| self.is_named(id)) {
                true => text.extend(part.iter().map(|&id| self.name_of(id))),
                false => text.push_str(&self.decode(part)?),
            }
        }
        Ok(text)
    }

    fn name_of(&self, id: u32) -> String {
        match &*self.kind {
            Kind::Json { pipeline, .. } => pipeline.id_to_token(id).unwrap_or_default(),
            Kind::Gpt2(_) => GPT2_CONTROL.to_string(),
        }
    }
}
