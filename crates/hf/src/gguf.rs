//! A GGUF file as the small files of a Hugging Face folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aios_gguf::{Array, GgufFile, Value as Gguf, model};
use aios_gguf_tokenizer::{Entry, Vocabulary, tokenizer_config, tokenizer_json, vocabulary_of};
use serde_json::Value;

use aios_base::error::{Error, Result, shown};

use crate::folder::FolderFile;
use crate::json::object;
use crate::names::{
    CHAT_TEMPLATE_FILE, CONFIG_FILE, GENERATION_FILE, MORE_CHAT_TEMPLATES, TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
};
use crate::template;

const EXTENSION: &str = "gguf";

/// A file, and what it says in the words of a folder.
#[derive(Debug)]
pub(crate) struct InGguf {
    pub file: Arc<GgufFile>,
    /// By their names in such a folder.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Why there is no tokenizer among them.
    without_tokenizer: Option<String>,
}

/// Whether a path is of a model in GGUF.
pub fn is_gguf(path: &Path) -> bool {
    !matches!(model_at(path), Ok(None))
}

/// The GGUF file that is meant by a path: itself, or all that a folder has of models.
///
/// # Errors
/// A folder with several of them.
pub(crate) fn model_at(path: &Path) -> Result<Option<PathBuf>> {
    let is_gguf = |path: &Path| {
        path.extension()
            .is_some_and(|own| own.eq_ignore_ascii_case(EXTENSION))
    };
    if !path.is_dir() {
        return Ok(is_gguf(path).then(|| path.to_path_buf()));
    }
    if path.join(CONFIG_FILE).exists() {
        return Ok(None);
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let files = entries
        .map(|entry| entry.path())
        .filter(|path| is_gguf(path) && path.is_file());
    let mut files: Vec<PathBuf> = files
        .filter(|path| aios_gguf::is_first_part(path))
        .collect();
    files.sort();
    match files.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, ..] => Err(Error::invalid(format!(
            "{} has {} models in GGUF: give one of the files, such as {}",
            shown(path),
            files.len(),
            shown(first)
        ))),
    }
}

impl InGguf {
    /// # Errors
    /// No GGUF file of a model that is supported. That its tokenizer is not is no error yet.
    pub fn open(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        let mut files = BTreeMap::new();
        let mut put = |name: &str, json: &Value| {
            files.insert(name.to_string(), json.to_string().into_bytes());
        };
        put(CONFIG_FILE, &model::config(&file)?);
        let mut generation = model::generation_config(&file)?;
        let tokenizer = vocabulary(&file).and_then(|vocabulary| {
            put(TOKENIZER_FILE, &tokenizer_json(&vocabulary)?);
            put(TOKENIZER_CONFIG_FILE, &tokenizer_config(&vocabulary));
            Ok(vocabulary)
        });
        if let Ok(vocabulary) = &tokenizer {
            generation["eos_token_id"] = vocabulary.ends().into();
        }
        put(GENERATION_FILE, &generation);
        if let Ok(vocabulary) = &tokenizer {
            files.extend(templates(vocabulary));
        }
        Ok(Self {
            files,
            without_tokenizer: tokenizer
                .err()
                .map(|cause| cause.of_file(shown(path)).to_string()),
            file: Arc::new(file),
        })
    }

    /// What is in one of its files.
    pub fn json(&self, name: &str) -> Option<Value> {
        serde_json::from_slice(self.files.get(name)?).ok()
    }

    /// # Errors
    /// Why there is no tokenizer.
    pub fn require_tokenizer(&self) -> Result<()> {
        match &self.without_tokenizer {
            None => Ok(()),
            Some(why) => Err(Error::failed(why)),
        }
    }
}

/// What the file says of its tokenizer.
fn vocabulary(file: &GgufFile) -> Result<Vocabulary> {
    let metadata = file.metadata();
    // Texts that are no UTF-8 would be other tokens.
    for (key, value) in metadata.iter() {
        if key.starts_with("tokenizer.") && matches!(value, Gguf::Array(Array::Text(_))) {
            metadata.texts(key)?;
        }
    }
    Vocabulary::read(&|key| metadata.get(key).and_then(entry))
}

fn entry(value: &Gguf) -> Option<Entry> {
    Some(match value {
        Gguf::Text(text) => Entry::Text(text.clone()),
        Gguf::Bool(flag) => Entry::Bool(*flag),
        Gguf::Array(Array::Text(texts)) => Entry::Texts(texts.clone()),
        Gguf::Array(Array::F32(numbers)) => Entry::Floats(numbers.clone()),
        Gguf::Array(array) => {
            let numbers = array.integers()?.into_iter();
            let numbers = numbers.map(|number| i32::try_from(number).ok());
            Entry::Integers(numbers.collect::<Option<_>>()?)
        }
        number => Entry::U32(u32::try_from(number.integer()?).ok()?),
    })
}

/// What a GGUF file says of the tokenizer among a folder's files, for an embedding of so many rows.
///
/// # Errors
/// No such file, or a tokenizer that has no place in GGUF.
pub fn tokenizer_in_gguf(files: &[FolderFile], rows: usize) -> Result<Vec<(String, Gguf)>> {
    let find = |name: &str| files.iter().find(|file| file.name == name);
    let json = |name: &str| -> Result<Option<Value>> {
        let file = find(name).map(|file| object(Path::new(name), &file.bytes));
        file.transpose()
    };
    let tokenizer = json(TOKENIZER_FILE)?.ok_or_else(|| {
        Error::failed(format!(
            "the model has no {TOKENIZER_FILE}, and a GGUF file has the tokenizer in it: save it in the fast (tokenizers) format"
        ))
    })?;
    let settings = json(TOKENIZER_CONFIG_FILE)?;
    let template = chat_template(find(CHAT_TEMPLATE_FILE), settings.as_ref());
    let vocabulary = vocabulary_of(
        &tokenizer,
        settings.as_ref(),
        json(GENERATION_FILE)?.as_ref(),
        template.as_deref(),
        rows,
    )?;
    let pairs = vocabulary.metadata().into_iter();
    Ok(pairs.map(|(key, entry)| (key, value(entry))).collect())
}

/// Of its own file, else of the tokenizer's settings.
fn chat_template(file: Option<&FolderFile>, settings: Option<&Value>) -> Option<String> {
    if let Some(file) = file {
        return Some(String::from_utf8_lossy(&file.bytes).into_owned());
    }
    let all = template::of_settings(settings?)?;
    let usual = all.into_iter().find(|(name, _)| name == template::DEFAULT);
    usual.map(|(_, text)| text)
}

/// The reverse of [`entry`].
fn value(entry: Entry) -> Gguf {
    match entry {
        Entry::Text(text) => Gguf::Text(text),
        Entry::Texts(texts) => Gguf::Array(Array::Text(texts)),
        Entry::Floats(numbers) => Gguf::Array(Array::F32(numbers)),
        Entry::Integers(numbers) => Gguf::Array(Array::I32(numbers)),
        Entry::U32(number) => Gguf::U32(number),
        Entry::Bool(flag) => Gguf::Bool(flag),
    }
}

/// The files of its chat templates.
fn templates(vocabulary: &Vocabulary) -> impl Iterator<Item = (String, Vec<u8>)> {
    let usual = vocabulary.chat_template.iter();
    let usual = usual.map(|text| (CHAT_TEMPLATE_FILE.to_string(), text));
    let more = vocabulary.more_templates.iter();
    let more = more.map(|(name, text)| (format!("{MORE_CHAT_TEMPLATES}/{name}.jinja"), text));
    usual
        .chain(more)
        .map(|(name, text)| (name, text.clone().into_bytes()))
}
