//! From a GGUF's vocabulary to `tokenizer.json` and `tokenizer_config.json`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use aios_base::error::{Error, Result};

use crate::added;
use crate::merges::{self, Merge, Piece};
use crate::pieces::{BLANK, is_padding};
use crate::pre::{Pre, UNCUT};
use crate::structure;
use crate::vocabulary::{CONTROL, UNKNOWN, USER_DEFINED, Vocabulary, quoted};

/// What kind of tokenizer it is.
enum Kind {
    /// BPE on bytes, behind a pre-tokenizer.
    Bytes(&'static Pre),
    /// BPE on characters whose merges are listed, blanks being `▁`.
    Uncut,
    /// SentencePiece's, by scores.
    Scored,
}

/// The `tokenizer.json` of Hugging Face's `tokenizers` that gives the ids that llama.cpp gives, and the original model's file
/// gave. Where these differ it is the model's: of text whose characters are not composed, by the normalizer NFC.
///
/// # Errors
/// Names a kind of tokenizer or a pre-tokenizer that is not known, and what is wrong with a damaged vocabulary.
pub fn tokenizer_json(vocabulary: &Vocabulary) -> Result<Value> {
    let kind = kind_of(vocabulary)?;
    let respelled = match kind {
        Kind::Scored => blanks_respelled(vocabulary),
        _ => vocabulary.clone(),
    };
    let vocabulary = &named(respelled);
    let mut ids = vocabulary.checked()?;
    ids.retain(|token, id| !is_padding(*id, token, vocabulary.kind(*id)));
    let (bos, eos) = around(vocabulary, &kind)?;
    let merges = match kind {
        Kind::Scored => scored(vocabulary, &ids)?,
        _ if vocabulary.merges.is_empty() => {
            return Err(Error::failed(
                "tokenizer.ggml.merges is missing: give a tokenizer with --tokenizer DIR",
            ));
        }
        _ => merges::parsed(&vocabulary.merges, &ids, "tokenizer.ggml.merges")?,
    };
    let prefix = matches!(kind, Kind::Scored) && vocabulary.add_space_prefix.unwrap_or(true);
    let (normalizer, pre_tokenizer, decoder) = match &kind {
        Kind::Bytes(pre) => (
            if pre.nfc {
                json!({"type": "NFC"})
            } else {
                Value::Null
            },
            pre.json(),
            structure::byte_decoder(),
        ),
        Kind::Uncut | Kind::Scored => (
            structure::blank_normalizer(prefix),
            Value::Null,
            structure::blank_decoder(prefix),
        ),
    };
    let characters = !matches!(kind, Kind::Bytes(_));
    let ignore_merges = matches!(&kind, Kind::Bytes(pre) if pre.ignore_merges);
    let unknown = unknown_of(vocabulary, characters);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added::of_vocabulary(vocabulary),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": structure::around(bos, eos),
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": characters,
            "byte_fallback": characters,
            "ignore_merges": ignore_merges,
            "merges": listed(vocabulary, &merges),
            "vocab": table(&ids),
        },
    }))
}

/// The `tokenizer_config.json` that belongs to it. The chat template is not in it: it has a file of its own.
pub fn tokenizer_config(vocabulary: &Vocabulary) -> Value {
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    let kind = kind_of(vocabulary).ok();
    let (bos, eos) = defaults(vocabulary);
    let said = |flag: Option<bool>, usual: bool| flag.unwrap_or(usual);
    let usual = kind.as_ref().is_some_and(adds_bos);
    let add_bos = said(vocabulary.add_bos, usual) && bos.is_some();
    config.insert("add_bos_token".into(), add_bos.into());
    let add_eos = said(vocabulary.add_eos, false) && eos.is_some();
    config.insert("add_eos_token".into(), add_eos.into());
    for (name, id) in [
        ("bos_token", bos),
        ("eos_token", eos),
        ("pad_token", vocabulary.padding),
        ("unk_token", vocabulary.unknown),
    ] {
        let token = id.and_then(|id| vocabulary.tokens.get(id as usize));
        if let Some(token) = token {
            config.insert(name.into(), token.as_str().into());
        }
    }
    Value::Object(config)
}

fn kind_of(vocabulary: &Vocabulary) -> Result<Kind> {
    let give = "give a tokenizer with --tokenizer DIR";
    let uncut = vocabulary
        .pre
        .as_deref()
        .is_some_and(|pre| UNCUT.contains(&pre));
    match (vocabulary.model.as_str(), vocabulary.pre.as_deref()) {
        ("llama", _) => Ok(Kind::Scored),
        ("gemma4", _) => Ok(Kind::Uncut),
        ("gpt2", _) if uncut => Ok(Kind::Uncut),
        ("gpt2", Some(name)) => match Pre::named(name) {
            Some(pre) => Ok(Kind::Bytes(pre)),
            None => Err(Error::failed(format!(
                "tokenizer.ggml.pre is {}, which is not one of {}: {give}",
                quoted(name),
                Pre::all_names()
            ))),
        },
        ("gpt2", None) => Err(Error::failed(format!(
            "tokenizer.ggml.pre is missing, and nothing else says how text is cut before it becomes tokens: {give}"
        ))),
        (other, _) => Err(Error::failed(format!(
            "tokenizer.ggml.model is {}, which is none of gpt2, llama and gemma4: {give}",
            quoted(other)
        ))),
    }
}

/// What llama.cpp does where a file does not say.
fn adds_bos(kind: &Kind) -> bool {
    match kind {
        Kind::Bytes(pre) => pre.add_bos,
        // Gemma's templates write it themselves, and llama.cpp's converter says so for all others.
        Kind::Uncut => false,
        Kind::Scored => true,
    }
}

/// `bos` and `eos`: of SentencePiece's models they are 1 and 2 where a file does not say.
fn defaults(vocabulary: &Vocabulary) -> (Option<u32>, Option<u32>) {
    let usual = |id: u32| {
        let there = vocabulary.model == "llama" && vocabulary.kind(id) == CONTROL;
        Some(id).filter(|_| there)
    };
    (
        vocabulary.bos.or_else(|| usual(1)),
        vocabulary.eos.or_else(|| usual(2)),
    )
}

/// The tokens that are put before and behind a text.
fn around<'a>(
    vocabulary: &'a Vocabulary,
    kind: &Kind,
) -> Result<(Option<structure::Token<'a>>, Option<structure::Token<'a>>)> {
    let (bos, eos) = defaults(vocabulary);
    let put = |said: Option<bool>, usual: bool, id: Option<u32>, name: &str| match id {
        Some(id) if said.unwrap_or(usual) => Ok(Some((vocabulary.token(id), id))),
        None if said == Some(true) => Err(Error::failed(format!(
            "tokenizer.ggml.add_{name}_token is true, but tokenizer.ggml.{name}_token_id is missing: give a tokenizer with --tokenizer DIR"
        ))),
        _ => Ok(None),
    };
    Ok((
        put(vocabulary.add_bos, adds_bos(kind), bos, "bos")?,
        put(vocabulary.add_eos, false, eos, "eos")?,
    ))
}

/// With a name for every token: llama.cpp names empty ones so.
fn named(mut vocabulary: Vocabulary) -> Vocabulary {
    for (id, token) in vocabulary.tokens.iter_mut().enumerate() {
        if token.is_empty() {
            *token = format!("[EMPTY_{id}]");
        }
    }
    vocabulary
}

/// Gemma's runs of blanks are user-defined and stand in files as blanks; among its merges they are `▁`.
fn blanks_respelled(vocabulary: &Vocabulary) -> Vocabulary {
    let mut respelled = vocabulary.clone();
    let taken: std::collections::HashSet<&str> =
        vocabulary.tokens.iter().map(String::as_str).collect();
    for (id, token) in (0_u32..).zip(&mut respelled.tokens) {
        let blanks = !token.is_empty() && token.bytes().all(|byte| byte == b' ');
        if blanks && vocabulary.kind(id) == USER_DEFINED {
            let marks = BLANK.to_string().repeat(token.len());
            if !taken.contains(marks.as_str()) {
                *token = marks;
            }
        }
    }
    respelled
}

fn scored(vocabulary: &Vocabulary, ids: &HashMap<&str, u32>) -> Result<Vec<Merge>> {
    if vocabulary.scores.is_empty() {
        return Err(Error::failed(
            "tokenizer.ggml.scores is missing: give a tokenizer with --tokenizer DIR",
        ));
    }
    let odd = vocabulary.scores.iter().position(|score| score.is_nan());
    if let Some(id) = odd {
        return Err(Error::failed(format!(
            "tokenizer.ggml.scores: that of token {id} is no number: give a tokenizer with --tokenizer DIR"
        )));
    }
    let pieces = vocabulary.tokens.iter().zip(&vocabulary.scores);
    let pieces = (0_u32..).zip(pieces).map(|(id, (text, score))| Piece {
        id,
        text,
        kind: vocabulary.kind(id),
        score: *score,
    });
    let kept = pieces.filter(|piece| !is_padding(piece.id, piece.text, piece.kind));
    let longest = vocabulary.add_space_prefix == Some(false);
    Ok(merges::of_scores(&kept.collect::<Vec<_>>(), ids, longest))
}

/// The token for what has none: with bytes as tokens nothing needs one.
fn unknown_of(vocabulary: &Vocabulary, characters: bool) -> Option<&str> {
    if !characters {
        return None;
    }
    let first = || (0_u32..).zip(&vocabulary.types).find(|t| *t.1 == UNKNOWN);
    let id = vocabulary.unknown.or_else(|| Some(first()?.0))?;
    Some(vocabulary.token(id)).filter(|token| !is_padding(id, token, vocabulary.kind(id)))
}

/// Merges as a file has them: a text each, or pairs where a token has a blank in it.
fn listed(vocabulary: &Vocabulary, merges: &[Merge]) -> Value {
    let parts = |merge: &Merge| (vocabulary.token(merge.left), vocabulary.token(merge.right));
    let plain = merges.iter().all(|merge| {
        let (left, right) = parts(merge);
        // A line that begins so is a remark to tokenizers.
        !left.contains(' ') && !right.contains(' ') && !left.starts_with("#version")
    });
    let list = merges.iter().map(|merge| {
        let (left, right) = parts(merge);
        match plain {
            true => Value::String(format!("{left} {right}")),
            false => json!([left, right]),
        }
    });
    Value::Array(list.collect())
}

fn table(ids: &HashMap<&str, u32>) -> Value {
    let mut sorted: Vec<(&str, u32)> = ids.iter().map(|(token, id)| (*token, *id)).collect();
    sorted.sort_unstable_by_key(|entry| entry.1);
    let entries = sorted.into_iter().map(|(t, id)| (t.to_string(), id.into()));
    Value::Object(entries.collect())
}
