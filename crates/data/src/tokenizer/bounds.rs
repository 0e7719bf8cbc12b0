//! Rules of a tokenizer file that rewrite text, run one by one with an eye on what they make of it: a file of a few
//! kilobytes can tell rules that make gigabytes of a word.

use std::panic::resume_unwind;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value;
use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::tokenizer::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};
use tokenizers::utils::SysRegex;

/// How many times as long as the text its normalized form may be. The longest form that Unicode itself gives a character
/// is eleven times as long.
const MOST_TIMES: usize = 16;
/// The same for what is done between normalizing and the model: bytes as letters, blanks before words.
const MOST_TIMES_SPLIT: usize = 8;
/// What short texts may have besides.
const ROOM_BYTES: usize = 4096;
/// Longest text that a table of characters has for one of them without being watched at work.
const ORDINARY_BYTES: usize = 64;
/// How much of a text is normalized to see how long it gets.
const TRIED_BYTES: usize = 1024;
/// Blanks in a row that regular expressions are given: they give up at about 900,000 steps back.
pub(super) const MOST_BLANKS: usize = 200_000;

/// Longest text that rules may make of `length` bytes.
pub(super) fn most(length: usize) -> usize {
    MOST_TIMES.saturating_mul(length).saturating_add(ROOM_BYTES)
}

/// The rules make too much of a text.
pub(super) fn too_much(length: usize) -> String {
    format!(
        "its rules make more than {} bytes of {length}",
        most(length)
    )
}

/// What a `Replace` rule does.
#[derive(Debug)]
pub(super) struct Rule {
    /// The text that is replaced, if it is not a regular expression.
    pub literal: Option<String>,
    pub content: String,
    regex: SysRegex,
}

impl Rule {
    /// # Errors
    /// If the pattern is none.
    pub(super) fn of(replace: &Replace) -> Result<Self, String> {
        let value = serde_json::to_value(replace).map_err(|error| error.to_string())?;
        let pattern = &value["pattern"];
        let literal = pattern["String"].as_str().map(str::to_string);
        let regex = match &literal {
            Some(literal) => SysRegex::new(&fancy_escape(literal)),
            None => SysRegex::new(pattern["Regex"].as_str().unwrap_or_default()),
        };
        Ok(Self {
            literal: literal.filter(|literal| !literal.is_empty()),
            content: replace.content.clone(),
            regex: regex.map_err(|error| error.to_string())?,
        })
    }

    /// Length of `text` after the rule.
    fn length_of(&self, text: &str) -> usize {
        let grown = self.content.len();
        let most = (text.len() + 1).saturating_mul(grown + 1);
        if most <= ROOM_BYTES {
            return most;
        }
        let matches = self.regex.find_iter(text);
        matches.fold(text.len(), |length, (start, end)| {
            length + grown - (end - start)
        })
    }

    /// `text` after the rule, which is to be no longer than `most`.
    ///
    /// # Errors
    /// If it is.
    pub(super) fn apply(&self, text: &str, most: usize) -> Result<String, ()> {
        let mut new = String::new();
        let mut last = 0;
        if text.is_empty() {
            return Ok(new);
        }
        for (start, end) in self.regex.find_iter(text) {
            new.push_str(&text[last..start]);
            new.push_str(&self.content);
            last = end;
            if new.len() > most {
                return Err(());
            }
        }
        new.push_str(&text[last..]);
        Ok(new)
    }
}

fn fancy_escape(literal: &str) -> String {
    let mut escaped = String::new();
    for character in literal.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// One rule that changes text before it is split.
#[derive(Debug)]
enum Step {
    /// It makes a character at most so much longer as Unicode does.
    Plain(NormalizerWrapper),
    Prepend(NormalizerWrapper, usize),
    Replace(NormalizerWrapper, Rule),
    /// A table of characters with long texts in it.
    Table(NormalizerWrapper),
}

/// The normalizer of a tokenizer file.
#[derive(Debug)]
pub(super) struct BoundedNormalizer(Vec<Step>);

impl BoundedNormalizer {
    fn add(&mut self, normalizer: &NormalizerWrapper, longest: usize) -> Result<(), String> {
        let own = normalizer.clone();
        self.0.push(match normalizer {
            NormalizerWrapper::Sequence(sequence) => {
                let mut inner = sequence.as_ref().iter();
                return inner.try_for_each(|normalizer| self.add(normalizer, longest));
            }
            NormalizerWrapper::Prepend(prepend) => Step::Prepend(own, prepend.prepend.len()),
            NormalizerWrapper::Replace(replace) => Step::Replace(own, Rule::of(replace)?),
            NormalizerWrapper::Precompiled(_) if longest > ORDINARY_BYTES => Step::Table(own),
            _ => Step::Plain(own),
        });
        Ok(())
    }
}

impl<'de> Deserialize<'de> for BoundedNormalizer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let longest = check_tables(&value).map_err(D::Error::custom)?;
        let normalizer: NormalizerWrapper =
            serde_json::from_value(value).map_err(D::Error::custom)?;
        let mut bounded = Self(Vec::new());
        bounded
            .add(&normalizer, longest)
            .map_err(D::Error::custom)?;
        Ok(bounded)
    }
}

impl Normalizer for BoundedNormalizer {
    /// Unwinds if the text gets too long: the library passes over an error here.
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        let length = text.get_original().len();
        let most = most(length);
        let check = |reached: usize| {
            if reached > most {
                resume_unwind(Box::new(too_much(length)));
            }
        };
        for step in &self.0 {
            match step {
                Step::Plain(normalizer) => normalizer.normalize(text)?,
                Step::Prepend(normalizer, added) => {
                    check(text.len() + added);
                    normalizer.normalize(text)?;
                }
                Step::Replace(normalizer, rule) => {
                    check(rule.length_of(text.get()));
                    normalizer.normalize(text)?;
                }
                Step::Table(normalizer) => {
                    check_parts(normalizer, text.get(), &check)?;
                    normalizer.normalize(text)?;
                }
            }
            check(text.len());
        }
        Ok(())
    }
}

/// Normalizes a text part by part, to see how long it gets.
fn check_parts(
    normalizer: &NormalizerWrapper,
    text: &str,
    check: &impl Fn(usize),
) -> tokenizers::Result<()> {
    let mut rest = text;
    let mut reached = 0;
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.floor_char_boundary(TRIED_BYTES));
        let mut part = NormalizedString::from(part);
        normalizer.normalize(&mut part)?;
        reached += part.len();
        check(reached);
        rest = after;
    }
    Ok(())
}

/// Looks at the tables of characters (`precompiled_charsmap`) anywhere in a normalizer; gives the length of the longest
/// text in one.
///
/// # Errors
/// If a table says that it has more entries than it is long: the library would make room for them.
fn check_tables(value: &Value) -> Result<usize, String> {
    match value {
        Value::Array(values) => longest(values.iter()),
        Value::Object(values) => match values.get("precompiled_charsmap") {
            Some(Value::String(table)) => check_table(table),
            _ => longest(values.values()),
        },
        _ => Ok(0),
    }
}

fn longest<'a>(values: impl Iterator<Item = &'a Value>) -> Result<usize, String> {
    let mut lengths = values.map(check_tables);
    lengths.try_fold(0, |longest, length| Ok(longest.max(length?)))
}

fn check_table(table: &str) -> Result<usize, String> {
    let damaged = || "its precompiled_charsmap is damaged".to_string();
    let table = STANDARD.decode(table).map_err(|_| damaged())?;
    let (length, rest) = table.split_first_chunk().ok_or_else(damaged)?;
    let texts = rest
        .get(u32::from_le_bytes(*length) as usize..)
        .ok_or_else(damaged)?;
    Ok(texts
        .split(|&byte| byte == 0)
        .map(<[u8]>::len)
        .max()
        .unwrap_or(0))
}

/// The pre-tokenizer of a tokenizer file.
#[derive(Debug)]
pub(super) struct BoundedPreTokenizer(Vec<PreTokenizerWrapper>);

impl BoundedPreTokenizer {
    fn add(&mut self, pre_tokenizer: &PreTokenizerWrapper) {
        match pre_tokenizer {
            PreTokenizerWrapper::Sequence(sequence) => {
                sequence.as_ref().iter().for_each(|inner| self.add(inner));
            }
            other => self.0.push(other.clone()),
        }
    }
}

impl<'de> Deserialize<'de> for BoundedPreTokenizer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bounded = Self(Vec::new());
        bounded.add(&PreTokenizerWrapper::deserialize(deserializer)?);
        Ok(bounded)
    }
}

impl PreTokenizer for BoundedPreTokenizer {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        let grows = |step: &&PreTokenizerWrapper| {
            matches!(
                step,
                PreTokenizerWrapper::ByteLevel(_) | PreTokenizerWrapper::Metaspace(_)
            )
        };
        let repeated = self.0.iter().filter(grows).count() > 1;
        let before = if repeated { length_of(text) } else { 0 };
        let most = MOST_TIMES_SPLIT.saturating_mul(before) + ROOM_BYTES;
        for step in &self.0 {
            if is_regex(step) {
                check_blanks(text)?;
            }
            step.pre_tokenize(text)?;
            if repeated && length_of(text) > most {
                return Err(format!("its rules make more than {most} bytes of {before}").into());
            }
        }
        Ok(())
    }
}

fn is_regex(step: &PreTokenizerWrapper) -> bool {
    match step {
        PreTokenizerWrapper::ByteLevel(step) => step.use_regex,
        PreTokenizerWrapper::Split(step) => matches!(step.pattern, SplitPattern::Regex(_)),
        _ => false,
    }
}

/// Regular expressions here look back from the end of a run of blanks, one by one, and the library leaves the rest of a text
/// in one piece where they give up.
fn check_blanks(text: &PreTokenizedString) -> tokenizers::Result<()> {
    for (split, ..) in text.get_splits(OffsetReferential::Normalized, OffsetType::None) {
        if split.len() <= MOST_BLANKS {
            continue;
        }
        let mut run = 0;
        for char in split.chars() {
            run = if char.is_whitespace() { run + 1 } else { 0 };
            if run > MOST_BLANKS {
                return Err(format!(
                    "it has more than {MOST_BLANKS} blanks in a row, which its regular expression gives up at"
                )
                .into());
            }
        }
    }
    Ok(())
}

fn length_of(text: &PreTokenizedString) -> usize {
    let splits = text.get_splits(OffsetReferential::Normalized, OffsetType::None);
    splits.iter().map(|(split, _, _)| split.len()).sum()
}
