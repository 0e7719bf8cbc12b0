//! From `tokenizer.json` and its companions to a GGUF's vocabulary.

use std::collections::HashMap;

use serde_json::Value;

use aios_base::error::{Error, Result};

use crate::added::{self, Added};
use crate::merges::{self, Merge, Piece};
use crate::pieces::{BLANK, byte, is_byte, looks_special, padding};
use crate::pre::{Pre, UNCUT};
use crate::structure;
use crate::vocabulary::{
    BYTE, CONTROL, ENDS, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary, quoted,
};

/// What a GGUF says of a tokenizer. `rows` is how many the model's embedding has: those that no token is for get names of
/// their own, and added tokens without a row are left out.
///
/// # Errors
/// Names what a GGUF cannot say: a model other than BPE, a normalizer or pre-tokenizer that llama.cpp does not know, merges
/// that no scores give; and what is wrong with a damaged file.
pub fn vocabulary_of(
    tokenizer_json: &Value,
    tokenizer_config: Option<&Value>,
    generation_config: Option<&Value>,
    chat_template: Option<&str>,
    rows: usize,
) -> Result<Vocabulary> {
    let mut file = File::read(tokenizer_json, rows)?;
    let mut vocabulary = match structure::cuts(tokenizer_json)? {
        Some(cuts) => file.in_bytes(&cuts)?,
        None => file.in_characters(structure::blank_prefix(tokenizer_json)?)?,
    };
    vocabulary.checked()?;
    special(
        &mut vocabulary,
        tokenizer_json,
        tokenizer_config,
        generation_config,
    )?;
    uncut(&mut vocabulary);
    templates(&mut vocabulary, tokenizer_config, chat_template);
    Ok(vocabulary)
}

/// Where merges stand, for errors.
const MERGES: &str = "tokenizer.json: model.merges";

/// A `tokenizer.json`'s tokens and merges.
struct File<'a> {
    model: &'a Value,
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
}

impl<'a> File<'a> {
    fn read(tokenizer: &'a Value, rows: usize) -> Result<Self> {
        let wrong = |what: &str| {
            Err(Error::failed(format!(
                "tokenizer.json: {what}: a GGUF has a place for BPE only, on bytes or as SentencePiece has it"
            )))
        };
        let Some(model) = tokenizer.get("model").filter(|model| model.is_object()) else {
            return wrong("there is no model");
        };
        match model.get("type").and_then(Value::as_str) {
            None | Some("BPE") => {}
            Some(other) => return wrong(&format!("the model is {}", quoted(other))),
        }
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            let text = model.get(key).and_then(Value::as_str);
            if text.is_some_and(|text| !text.is_empty()) {
                return wrong(&format!("model.{key} is {}", model[key]));
            }
        }
        let Some(vocab) = model.get("vocab").and_then(Value::as_object) else {
            return wrong("model.vocab is not an object");
        };
        let mut file = Self {
            model,
            tokens: vec![String::new(); rows],
            types: vec![UNUSED; rows],
            merges: listed(model)?,
        };
        for (token, id) in vocab {
            let at = id.as_u64().and_then(|id| usize::try_from(id).ok());
            let Some(at) = at.filter(|at| *at < rows) else {
                return Err(Error::failed(format!(
                    "tokenizer.json: {} is {id}, but the model's embedding has {rows} rows: the tokenizer is another model's",
                    quoted(token)
                )));
            };
            if file.types[at] != UNUSED {
                return Err(Error::failed(format!(
                    "tokenizer.json: {} and {} are both {id}",
                    quoted(token),
                    quoted(&file.tokens[at])
                )));
            }
            file.types[at] = NORMAL;
            file.tokens[at].clone_from(token);
        }
        for (id, added) in added::of_json(tokenizer)? {
            file.add(id as usize, &added);
        }
        for (id, token) in file.tokens.iter_mut().enumerate() {
            if file.types[id] == UNUSED {
                *token = padding(id);
            }
        }
        Ok(file)
    }

    /// One that has no row is left out: Gemma's for images, of which its models of text alone know nothing.
    fn add(&mut self, id: usize, added: &Added) {
        if id < self.tokens.len() {
            let special = added.special || looks_special(&added.content);
            self.types[id] = if special { CONTROL } else { USER_DEFINED };
            self.tokens[id].clone_from(&added.content);
        }
    }

    fn vocabulary(&mut self, model: &str, pre: &str) -> Vocabulary {
        Vocabulary {
            model: model.to_string(),
            pre: Some(pre.to_string()),
            tokens: std::mem::take(&mut self.tokens),
            types: std::mem::take(&mut self.types),
            merges: std::mem::take(&mut self.merges),
            ..Vocabulary::default()
        }
    }

    fn flag(&self, key: &str) -> bool {
        self.model.get(key).and_then(Value::as_bool) == Some(true)
    }

    /// BPE on bytes.
    fn in_bytes(&mut self, cuts: &[String]) -> Result<Vocabulary> {
        let ignore_merges = self.flag("ignore_merges");
        // Where merges give every token by themselves it is the same whether they are ignored.
        let as_good = || Pre::that_cuts(cuts, !ignore_merges).filter(|_| self.all_merged());
        let Some(pre) = Pre::that_cuts(cuts, ignore_merges).or_else(as_good) else {
            return Err(Error::failed(format!(
                "tokenizer.json: text is cut at {}{}, for which llama.cpp has no name known here: such a tokenizer has no place \
                 in a GGUF (known are {})",
                cuts.join(" and then "),
                if ignore_merges {
                    " with ignore_merges"
                } else {
                    ""
                },
                Pre::all_names()
            )));
        };
        let name = pre.names[0];
        Ok(self.vocabulary("gpt2", name))
    }

    /// Whether merges make every token of its own text.
    fn all_merged(&self) -> bool {
        let ids = ids(&self.tokens);
        let Ok(merges) = merges::parsed(&self.merges, &ids, MERGES) else {
            return false;
        };
        let rules = merges::Rules::of(&merges);
        let tokens = self.tokens.iter().zip(&self.types);
        (0_u32..)
            .zip(tokens)
            .filter(|(_, (_, kind))| **kind == NORMAL)
            .all(|(id, (token, _))| rules.apply(token, &ids) == [id])
    }

    /// On characters, with bytes for those that have no token: as SentencePiece's, or, where its scores do not say the
    /// merges and no blank is put before a text, with its merges.
    fn in_characters(&mut self, prefix: bool) -> Result<Vocabulary> {
        if !self.flag("byte_fallback") || self.flag("ignore_merges") {
            return Err(Error::failed(
                "tokenizer.json: its tokens are characters, without byte_fallback or with ignore_merges: such a tokenizer has no \
                 place in a GGUF",
            ));
        }
        self.mark_bytes()?;
        let ids = ids(&self.tokens);
        let merges = merges::parsed(&self.merges, &ids, MERGES)?;
        let scores = self.scores(&ids, &merges);
        drop(ids);
        if let Some(scores) = scores {
            self.mark_blanks();
            let mut vocabulary = self.vocabulary("llama", "default");
            vocabulary.merges.clear();
            vocabulary.scores = scores;
            vocabulary.add_space_prefix = Some(prefix);
            return Ok(vocabulary);
        }
        let mixed = |token: &&String| {
            let lines = token.bytes().filter(|byte| *byte == b'\n').count();
            lines != 0 && lines != token.len()
        };
        let cut = self.tokens.iter().find(mixed);
        if prefix || cut.is_some() {
            return Err(Error::failed(
                "tokenizer.json: its merges are not those of SentencePiece's scores (every way to part a token into two, token by \
                 token): such a tokenizer has no place in a GGUF",
            ));
        }
        Ok(self.vocabulary("gpt2", UNCUT[1]))
    }

    /// Those for all 256 bytes, without which llama.cpp ends at a character that it has no token for.
    fn mark_bytes(&mut self) -> Result<()> {
        let missing = {
            let ids = ids(&self.tokens);
            (0..=u8::MAX)
                .map(byte)
                .find(|token| !ids.contains_key(token.as_str()))
        };
        if let Some(token) = missing {
            return Err(Error::failed(format!(
                "tokenizer.json: byte_fallback is true, but {token} is missing: such a tokenizer has no place in a GGUF"
            )));
        }
        let unknown = self.model.get("unk_token").and_then(Value::as_str);
        for (token, kind) in self.tokens.iter().zip(&mut self.types) {
            if *kind != UNUSED && is_byte(token) {
                *kind = BYTE;
            } else if *kind != UNUSED && Some(token.as_str()) == unknown {
                *kind = UNKNOWN;
            }
        }
        Ok(())
    }

    /// A score for every token, if scores give these merges.
    fn scores(&self, ids: &HashMap<&str, u32>, merges: &[Merge]) -> Option<Vec<f32>> {
        let scores = merges::to_scores(merges, &self.types)?;
        let pieces = self.tokens.iter().zip(&self.types).zip(&scores);
        let pieces = (0_u32..).zip(pieces);
        let pieces = pieces.map(|(id, ((text, kind), score))| Piece {
            id,
            text,
            kind: *kind,
            score: *score,
        });
        let pieces: Vec<Piece> = pieces.filter(|piece| piece.kind != UNUSED).collect();
        let mut given = merges::of_scores(&pieces, ids, false);
        let mut listed = merges.to_vec();
        // llama.cpp finds user-defined runs of blanks before it merges, the longest first: merges must say so too, and no other
        // token may have such a run in it.
        let runs = |merges: &[Merge]| -> Vec<Merge> {
            let whole = |merge: &Merge| merge.whole as usize;
            let run = |m: &&Merge| {
                self.types[whole(m)] == USER_DEFINED && self.tokens[whole(m)].contains(BLANK)
            };
            merges.iter().filter(run).copied().collect()
        };
        let hidden = || {
            let tokens = self.tokens.iter().zip(&self.types);
            let mut others = tokens.filter(|(_, kind)| **kind == NORMAL);
            others.any(|(token, _)| token.contains("▁▁"))
        };
        if runs(&given) != runs(&listed) || (!runs(&given).is_empty() && hidden()) {
            return None;
        }
        let order = |merge: &Merge| (merge.whole, merge.left, merge.right);
        given.sort_unstable_by_key(order);
        listed.sort_unstable_by_key(order);
        (given == listed).then_some(scores)
    }

    /// User-defined runs of blanks are looked for in the text itself.
    fn mark_blanks(&mut self) {
        for (token, kind) in self.tokens.iter_mut().zip(&self.types) {
            if *kind == USER_DEFINED && token.contains(BLANK) {
                *token = token.replace(BLANK, " ");
            }
        }
    }
}

fn ids(tokens: &[String]) -> HashMap<&str, u32> {
    (0_u32..)
        .zip(tokens)
        .map(|(id, token)| (token.as_str(), id))
        .collect()
}

/// Merges as a GGUF has them.
fn listed(model: &Value) -> Result<Vec<String>> {
    let Some(list) = model.get("merges").and_then(Value::as_array) else {
        return Err(Error::failed("tokenizer.json: model.merges is not a list"));
    };
    let one = |merge: &Value| match merge {
        Value::String(text) => Some(text.clone()),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)]
                if !left.is_empty() && !left.contains(' ') && !right.contains(' ') =>
            {
                Some(format!("{left} {right}"))
            }
            _ => None,
        },
        _ => None,
    };
    let mut merges = Vec::with_capacity(list.len());
    for (at, merge) in list.iter().enumerate() {
        let Some(merge) = one(merge) else {
            let shown: String = merge.to_string().chars().take(80).collect();
            return Err(Error::failed(format!(
                "tokenizer.json: model.merges[{at}] is {shown}, which is not two tokens without blanks: such a tokenizer has no \
                 place in a GGUF"
            )));
        };
        // A remark in old files.
        if !merge.starts_with("#version") {
            merges.push(merge);
        }
    }
    Ok(merges)
}

/// Control tokens and what is put around a text.
fn special(
    vocabulary: &mut Vocabulary,
    tokenizer: &Value,
    config: Option<&Value>,
    generation: Option<&Value>,
) -> Result<()> {
    let known = ids(&vocabulary.tokens);
    let count = vocabulary.tokens.len();
    let named = |key: &str| -> Option<u32> {
        let value = config?.get(key)?;
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        known.get(text).copied()
    };
    let listed = |key: &str| -> Vec<u32> {
        let value = generation.and_then(|generation| generation.get(key));
        let list = match value {
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        let ids = list.iter().filter_map(Value::as_u64);
        let ids = ids.filter(|id| usize::try_from(*id).is_ok_and(|id| id < count));
        ids.filter_map(|id| u32::try_from(id).ok()).collect()
    };
    let put = structure::put_around(tokenizer)?;
    let (before, behind) = put.unwrap_or((None, None));
    let ends = listed("eos_token_id");
    let bos = named("bos_token").or_else(|| listed("bos_token_id").first().copied());
    // Without one llama.cpp takes id 11 of a tokenizer on bytes, which is a comma.
    let by_name = || {
        let mut names = ENDS.iter().chain(&["</s>", "<eos>"]);
        let ids = |name: &&str| known.get(*name).copied();
        names.find_map(|name| ids(name).filter(|id| vocabulary.kind(*id) == CONTROL))
    };
    let eos = named("eos_token").or_else(|| ends.first().copied());
    let eos = eos.or(behind).or_else(by_name);
    let bos = agreed(bos, before, count, "before")?;
    let eos = agreed(eos, behind, count, "behind")?;
    let said = |key: &str| config.and_then(|config| config.get(key)?.as_bool()) == Some(true);
    // Llama's fast tokenizers take it from the settings where the file says nothing.
    let add_bos = before.is_some() || (put.is_none() && bos.is_some() && said("add_bos_token"));
    let add_eos = behind.is_some() || (put.is_none() && eos.is_some() && said("add_eos_token"));
    // The names that llama.cpp knows need no key.
    let other = ends
        .iter()
        .copied()
        .find(|id| Some(*id) != eos && !ENDS.contains(&vocabulary.token(*id)));
    let padding = named("pad_token").or_else(|| listed("pad_token_id").first().copied());
    let own = tokenizer
        .pointer("/model/unk_token")
        .and_then(Value::as_str);
    let own = own.and_then(|token| known.get(token).copied());
    let unknown = own.or_else(|| named("unk_token"));
    vocabulary.bos = bos;
    vocabulary.eos = eos;
    vocabulary.eot = other;
    vocabulary.padding = padding;
    vocabulary.unknown = unknown;
    vocabulary.add_bos = Some(add_bos);
    vocabulary.add_eos = Some(add_eos);
    Ok(())
}

/// The one token that is said to stand there.
fn agreed(said: Option<u32>, put: Option<u32>, count: usize, place: &str) -> Result<Option<u32>> {
    match (said, put) {
        (_, Some(put)) if put as usize >= count => Err(Error::failed(format!(
            "tokenizer.json: the post_processor puts token {put} {place} a text, but the model's embedding has {count} rows"
        ))),
        (Some(said), Some(put)) if said != put => Err(Error::failed(format!(
            "tokenizer.json: the post_processor puts token {put} {place} a text, but tokenizer_config.json or generation_config.json \
             says {said}, and a GGUF has a place for one: correct the one that is wrong"
        ))),
        (said, put) => Ok(put.or(said)),
    }
}

/// Where text is not cut, the name says whether `bos` is put before it: llama.cpp always does it for the one.
fn uncut(vocabulary: &mut Vocabulary) {
    if vocabulary.pre.as_deref() == Some(UNCUT[1]) && vocabulary.add_bos == Some(true) {
        vocabulary.pre = Some(UNCUT[0].to_string());
    }
}

fn templates(vocabulary: &mut Vocabulary, config: Option<&Value>, own: Option<&str>) {
    vocabulary.chat_template = own.map(str::to_string);
    match config.and_then(|config| config.get("chat_template")) {
        Some(Value::String(text)) if own.is_none() => {
            vocabulary.chat_template = Some(text.clone());
        }
        Some(Value::Array(list)) => {
            for entry in list {
                let part = |key: &str| entry.get(key).and_then(Value::as_str);
                match (part("name"), part("template")) {
                    (Some("default"), Some(text)) => {
                        vocabulary
                            .chat_template
                            .get_or_insert_with(|| text.to_string());
                    }
                    (Some(name), Some(text)) => {
                        let one = (name.to_string(), text.to_string());
                        vocabulary.more_templates.push(one);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}
