//! What the keys `tokenizer.*` of a GGUF say.

use std::collections::HashMap;

use aios_base::error::{Error, Result};

/// Of `tokenizer.ggml.token_type`: an ordinary piece of text.
pub(crate) const NORMAL: i32 = 1;
/// What stands for text that has no token.
pub(crate) const UNKNOWN: i32 = 2;
/// Has a meaning and no text.
pub(crate) const CONTROL: i32 = 3;
/// Text that is one token wherever it stands.
pub(crate) const USER_DEFINED: i32 = 4;
/// A row of the embedding that no text leads to.
pub(crate) const UNUSED: i32 = 5;
/// One byte, `<0x0A>`, for characters without a token.
pub(crate) const BYTE: i32 = 6;

/// Longest token, in bytes: no published one has half of it, and merges are looked for at each of its characters.
const LONGEST: usize = 2048;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const UNKNOWN_ID: &str = "tokenizer.ggml.unknown_token_id";
const PADDING: &str = "tokenizer.ggml.padding_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
const TEMPLATE: &str = "tokenizer.chat_template";
const TEMPLATES: &str = "tokenizer.chat_templates";

/// Names of tokens at which llama.cpp ends a text, whatever the ids in the file.
pub(crate) const ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "<end_of_utterance>",
];

/// A tokenizer as GGUF metadata has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vocabulary {
    /// `tokenizer.ggml.model`: `gpt2` is byte-level BPE, `llama` SentencePiece's BPE.
    pub model: String,
    /// How text is cut before tokens are merged, by llama.cpp's name.
    pub pre: Option<String>,
    /// By id.
    pub tokens: Vec<String>,
    /// By id, 1 to 6; empty where none is said, which is 1 for all.
    pub types: Vec<i32>,
    /// Two tokens and a blank between them, the first to be merged first.
    pub merges: Vec<String>,
    /// By id, the highest to be merged first.
    pub scores: Vec<f32>,
    /// Stands before a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn of a conversation.
    pub eot: Option<u32>,
    /// Stands for what has no token.
    pub unknown: Option<u32>,
    /// Fills up a batch.
    pub padding: Option<u32>,
    /// Whether `bos` is put before a text.
    pub add_bos: Option<bool>,
    /// Whether `eos` is put behind it.
    pub add_eos: Option<bool>,
    /// Whether a blank is put before a text (of `llama`).
    pub add_space_prefix: Option<bool>,
    /// How conversations become text, in Jinja.
    pub chat_template: Option<String>,
    /// Others, by name.
    pub more_templates: Vec<(String, String)>,
}

/// A value of GGUF metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Integers(Vec<i32>),
    U32(u32),
    Bool(bool),
}

impl Vocabulary {
    /// Takes it from a file's metadata: `get` gives a key's value.
    ///
    /// # Errors
    /// Names a key whose value is not of its kind, and one that is missing.
    pub fn read(get: &dyn Fn(&str) -> Option<Entry>) -> Result<Self> {
        let mut more_templates = Vec::new();
        for name in texts(get, TEMPLATES)? {
            if let Some(template) = text(get, &format!("{TEMPLATE}.{name}"))? {
                more_templates.push((name, template));
            }
        }
        let Some(model) = text(get, MODEL)? else {
            return Err(Error::failed(format!(
                "{MODEL} is missing: the file says nothing of a tokenizer, give one with --tokenizer DIR"
            )));
        };
        Ok(Self {
            model,
            pre: text(get, PRE)?,
            tokens: texts(get, TOKENS)?,
            types: match get(TYPES) {
                None => Vec::new(),
                Some(Entry::Integers(types)) => types,
                Some(_) => return wrong(TYPES, "a list of whole numbers"),
            },
            merges: texts(get, MERGES)?,
            scores: match get(SCORES) {
                None => Vec::new(),
                Some(Entry::Floats(scores)) => scores,
                Some(_) => return wrong(SCORES, "a list of numbers"),
            },
            bos: id(get, BOS)?,
            eos: id(get, EOS)?,
            eot: id(get, EOT)?,
            unknown: id(get, UNKNOWN_ID)?,
            padding: id(get, PADDING)?,
            add_bos: truth(get, ADD_BOS)?,
            add_eos: truth(get, ADD_EOS)?,
            add_space_prefix: truth(get, ADD_SPACE)?,
            chat_template: text(get, TEMPLATE)?,
            more_templates,
        })
    }

    /// The same as keys and values, in llama.cpp's order.
    pub fn metadata(&self) -> Vec<(String, Entry)> {
        let mut all = vec![(MODEL.to_string(), Entry::Text(self.model.clone()))];
        let mut put = |key: &str, value: Option<Entry>| {
            all.extend(value.map(|value| (key.to_string(), value)));
        };
        let named = |texts: &Vec<String>| Some(texts.clone()).filter(|texts| !texts.is_empty());
        put(PRE, self.pre.clone().map(Entry::Text));
        put(TOKENS, named(&self.tokens).map(Entry::Texts));
        let scores = Some(&self.scores).filter(|scores| !scores.is_empty());
        put(SCORES, scores.cloned().map(Entry::Floats));
        let types = Some(&self.types).filter(|types| !types.is_empty());
        put(TYPES, types.cloned().map(Entry::Integers));
        put(MERGES, named(&self.merges).map(Entry::Texts));
        put(BOS, self.bos.map(Entry::U32));
        put(EOS, self.eos.map(Entry::U32));
        put(EOT, self.eot.map(Entry::U32));
        put(UNKNOWN_ID, self.unknown.map(Entry::U32));
        put(PADDING, self.padding.map(Entry::U32));
        put(ADD_BOS, self.add_bos.map(Entry::Bool));
        put(ADD_EOS, self.add_eos.map(Entry::Bool));
        put(ADD_SPACE, self.add_space_prefix.map(Entry::Bool));
        if !self.more_templates.is_empty() {
            let names = self.more_templates.iter().map(|(name, _)| name.clone());
            put(TEMPLATES, Some(Entry::Texts(names.collect())));
        }
        for (name, template) in &self.more_templates {
            let key = format!("{TEMPLATE}.{name}");
            put(&key, Some(Entry::Text(template.clone())));
        }
        put(TEMPLATE, self.chat_template.clone().map(Entry::Text));
        all
    }

    /// Ids at which a text ends: `eos`, `eot`, and control tokens that are known by name to end one, as llama.cpp takes
    /// them.
    pub fn ends(&self) -> Vec<u32> {
        let mut ends: Vec<u32> = self.eos.into_iter().chain(self.eot).collect();
        for (id, token) in (0_u32..).zip(&self.tokens) {
            if self.kind(id) == CONTROL && ENDS.contains(&token.as_str()) {
                ends.push(id);
            }
        }
        let mut seen = std::collections::HashSet::new();
        ends.retain(|id| seen.insert(*id));
        ends
    }

    /// The type of a token.
    pub(crate) fn kind(&self, id: u32) -> i32 {
        self.types.get(id as usize).copied().unwrap_or(NORMAL)
    }

    /// The text of a token.
    pub(crate) fn token(&self, id: u32) -> &str {
        self.tokens.get(id as usize).map_or("", String::as_str)
    }

    /// The ids of all tokens, if lengths and ids agree with each other and no token is there twice.
    pub(crate) fn checked(&self) -> Result<HashMap<&str, u32>> {
        let count = self.tokens.len();
        if count == 0 {
            return Err(Error::failed(format!(
                "{TOKENS} is empty: give a tokenizer with --tokenizer DIR"
            )));
        }
        if u32::try_from(count).is_err() {
            return Err(Error::failed(format!(
                "{TOKENS} has {count} tokens, more than ids"
            )));
        }
        let lists = [(TYPES, self.types.len()), (SCORES, self.scores.len())];
        for (key, length) in lists {
            if length != 0 && length != count {
                return Err(Error::failed(format!(
                    "{key} has {length} values for {count} tokens: the file is damaged, give a tokenizer with --tokenizer DIR"
                )));
            }
        }
        for (key, id) in [
            (BOS, self.bos),
            (EOS, self.eos),
            (EOT, self.eot),
            (UNKNOWN_ID, self.unknown),
            (PADDING, self.padding),
        ] {
            if let Some(id) = id.filter(|id| *id as usize >= count) {
                return Err(Error::failed(format!(
                    "{key} is {id}, but there are {count} tokens: the file is damaged, give a tokenizer with --tokenizer DIR"
                )));
            }
        }
        let mut ids = HashMap::with_capacity(count);
        for (id, token) in (0_u32..).zip(&self.tokens) {
            if token.len() > LONGEST {
                return Err(Error::failed(format!(
                    "{TOKENS}: token {id} is {} bytes long, more than {LONGEST}",
                    token.len()
                )));
            }
            if let Some(other) = ids.insert(token.as_str(), id) {
                return Err(Error::failed(format!(
                    "{TOKENS}: {} is there twice, as {other} and {id}: give a tokenizer with --tokenizer DIR",
                    quoted(token)
                )));
            }
        }
        Ok(ids)
    }
}

/// A token for an error.
pub(crate) fn quoted(token: &str) -> String {
    let short: String = token.chars().take(40).collect();
    format!("{short:?}")
}

fn wrong<T>(key: &str, wanted: &str) -> Result<T> {
    Err(Error::failed(format!(
        "{key} is not {wanted}: the file is damaged, give a tokenizer with --tokenizer DIR"
    )))
}

fn text(get: &dyn Fn(&str) -> Option<Entry>, key: &str) -> Result<Option<String>> {
    match get(key) {
        None => Ok(None),
        Some(Entry::Text(text)) => Ok(Some(text)),
        Some(_) => wrong(key, "text"),
    }
}

fn texts(get: &dyn Fn(&str) -> Option<Entry>, key: &str) -> Result<Vec<String>> {
    match get(key) {
        None => Ok(Vec::new()),
        Some(Entry::Texts(texts)) => Ok(texts),
        Some(_) => wrong(key, "a list of texts"),
    }
}

fn id(get: &dyn Fn(&str) -> Option<Entry>, key: &str) -> Result<Option<u32>> {
    match get(key) {
        None => Ok(None),
        Some(Entry::U32(id)) => Ok(Some(id)),
        Some(_) => wrong(key, "an id (a 32-bit whole number)"),
    }
}

fn truth(get: &dyn Fn(&str) -> Option<Entry>, key: &str) -> Result<Option<bool>> {
    match get(key) {
        None => Ok(None),
        Some(Entry::Bool(value)) => Ok(Some(value)),
        Some(_) => wrong(key, "true or false"),
    }
}
