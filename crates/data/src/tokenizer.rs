//! Text to token ids and back: GPT-2 built in, everything else from a `tokenizer.json`.

mod added;
mod bounds;
mod files;
mod offsets;
mod pipeline;
mod stream;
mod whole;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::builtin;
use crate::gpt2::Gpt2;
use crate::hash::hex_hash;
use crate::telling::telling;
use aios_base::background::{Watch, watched};
use aios_base::config::BUILT_IN;
use aios_base::error::{Error, Result, shown};
use aios_base::fault::contained;
use aios_hf::{Folder, Hub, is_gguf, is_hub_id};
use files::{INFO_FILE, Info, TOKENIZER_BYTES, TOKENIZER_FILE};
use pipeline::Pipeline;
pub use stream::StreamDecoder;

/// Name of the tokenizer that needs no file.
const GPT2: &str = "gpt2";
const GPT2_VOCAB_SIZE: usize = 50257;
const GPT2_END_OF_TEXT: u32 = 50256;

/// Turns text into token ids and ids into text. A clone is the same tokenizer and costs nothing.
#[derive(Clone)]
pub struct Tokenizer {
    kind: Arc<Kind>,
    name: String,
    vocab_size: usize,
    end_of_text: u32,
    fingerprint: String,
    /// Their names in a text are these tokens.
    control_tokens: bool,
}

enum Kind {
    Gpt2(Gpt2),
    Json {
        pipeline: Box<Pipeline>,
        /// The file as read, for [`Tokenizer::save`].
        json: Vec<u8>,
        /// Where it was read, for errors.
        file: PathBuf,
    },
}

impl Tokenizer {
    /// Loads `gpt2` or `builtin:stories` (both built in), a folder that holds a `tokenizer.json`, the path of such a file, or
    /// a Hugging Face Hub id, which is taken from the Hub's local cache and else downloaded to it,
    /// which is said if it takes long.
    ///
    /// # Errors
    /// Names `model` and what to do if it is neither, cannot be read or downloaded, or has no
    /// end-of-text token.
    pub fn load(model: &str) -> Result<Self> {
        Self::load_watched(model, &mut telling(&format!("downloading {model}"), false))
    }

    /// [`Tokenizer::load`] that tells `watch` the bytes downloaded so far and in all, and ends when that says so.
    ///
    /// # Errors
    /// As there, and what `watch` gives.
    pub fn load_watched(model: &str, watch: &mut Watch) -> Result<Self> {
        if model == GPT2 {
            return Ok(Self::gpt2());
        }
        if let Some(name) = model.strip_prefix(BUILT_IN) {
            let json = builtin::tokenizer(name)?;
            return Self::of_json(json, Ok(None), Path::new(model), model);
        }
        let path = Path::new(model);
        if path.is_dir() {
            return match is_gguf(path) && !path.join(TOKENIZER_FILE).exists() {
                true => Self::of_folder(&Folder::open(path)?),
                false => Self::load_directory(path, watch),
            };
        }
        let file = match std::fs::metadata(path) {
            Ok(_) => path.to_path_buf(),
            Err(_) if is_hub_id(model) => Hub::from_env().tokenizer_file(model, watch)?,
            Err(_) => {
                return Err(Error::invalid(format!(
                    "tokenizer {model} was not found: give gpt2, builtin:stories, a folder with {TOKENIZER_FILE}, the path of such a file, or a Hub id like org/name"
                )));
            }
        };
        let name = model.to_string();
        if is_gguf(&file) {
            return watched(
                &subject(&file),
                watch,
                || (0, 0),
                move || Self::of_folder(&Folder::open(&file)?),
            );
        }
        watched(
            &subject(&file),
            watch,
            || (0, 0),
            move || {
                let directory = file.parent().unwrap_or(Path::new(""));
                Self::from_file(&file, directory, &name)
            },
        )
    }

    /// Loads the tokenizer in a folder that holds a `tokenizer.json` or was written by [`Tokenizer::save`].
    ///
    /// # Errors
    /// As for [`Tokenizer::load`], and what `watch` gives.
    pub fn load_directory(directory: &Path, watch: &mut Watch) -> Result<Self> {
        let directory = directory.to_path_buf();
        let subject = subject(&directory.join(TOKENIZER_FILE));
        watched(
            &subject,
            watch,
            || (0, 0),
            move || Self::from_directory(&directory),
        )
    }

    fn gpt2() -> Self {
        Self {
            kind: Arc::new(Kind::Gpt2(Gpt2::default())),
            name: GPT2.to_string(),
            vocab_size: GPT2_VOCAB_SIZE,
            end_of_text: GPT2_END_OF_TEXT,
            fingerprint: hex_hash(&[b"built-in", GPT2.as_bytes()]),
            control_tokens: false,
        }
    }

    fn from_directory(directory: &Path) -> Result<Self> {
        let name = match files::read_info(directory)? {
            Some(info) if info.name == GPT2 && !directory.join(TOKENIZER_FILE).exists() => {
                return Ok(Self::gpt2());
            }
            Some(info) => info.name,
            None => shown(directory),
        };
        let file = directory.join(TOKENIZER_FILE);
        if !file.is_file() {
            return Err(Error::invalid(format!(
                "tokenizer folder {} holds no {TOKENIZER_FILE}: save the tokenizer there in the fast (tokenizers) format",
                shown(directory)
            )));
        }
        Self::from_file(&file, directory, &name)
    }

    /// `directory` is where the companions of `file` lie.
    fn from_file(file: &Path, directory: &Path, name: &str) -> Result<Self> {
        let json = files::read(file, TOKENIZER_BYTES)?;
        Self::of_json(json, files::named_end_of_text(directory), file, name)
    }

    /// That of a model, in its folder or in its GGUF file.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn of_folder(folder: &Folder) -> Result<Self> {
        if !folder.is_gguf() {
            return Self::load_directory(folder.path(), &mut |_, _| Ok(()));
        }
        let [json, settings] = folder.tokenizer()?;
        let json = json.unwrap_or_default();
        let settings = settings.unwrap_or_default();
        let settings: serde_json::Value = serde_json::from_slice(&settings).unwrap_or_default();
        let named = files::end_of_text_in(&settings).map(|token| (token, "it"));
        Self::of_json(json, Ok(named), folder.path(), folder.name())
    }

    /// Of the text of a tokenizer.json, which is `file`'s; `named` gives the end-of-text token that is named beside it.
    fn of_json(
        json: Vec<u8>,
        named: Result<Option<(String, &'static str)>>,
        file: &Path,
        name: &str,
    ) -> Result<Self> {
        let (pipeline, vocab_size, remark) = pipeline::parse(&json).map_err(|cause| {
            Error::failed(format!("{} is not a tokenizer file: {cause}", shown(file)))
        })?;
        if let Some(remark) = remark {
            tracing::warn!("tokenizer {}: {remark}", shown(file));
        }
        let end_of_text = files::end_of_text_id(&pipeline, named?, file)?;
        if pipeline.get_decoder().is_none() {
            tracing::warn!(
                "tokenizer {} has no decoder: its text comes out as its tokens, with blanks between them",
                shown(file)
            );
        }
        let fingerprint = hex_hash(&[&json, &end_of_text.to_le_bytes()]);
        Ok(Self {
            kind: Arc::new(Kind::Json {
                pipeline: Box::new(pipeline),
                json,
                file: file.to_path_buf(),
            }),
            name: name.to_string(),
            vocab_size,
            end_of_text,
            fingerprint,
            control_tokens: false,
        })
    }

    /// What it was loaded as: `gpt2`, a path or a Hub id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Highest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id that stands after each document.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// Hexadecimal hash that changes whenever the ids of a text might.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Lets go of tables that are made again where they are needed: for a training they are idle.
    pub fn release(&self) {
        if let Kind::Gpt2(tables) = &*self.kind {
            tables.release();
        }
    }

    /// Ids of `text`, without a token at its beginning or end; names of control tokens in the text
    /// are ordinary text.
    ///
    /// # Errors
    /// If the tokenizer has no id for something in `text` and none for unknown text either, or its
    /// file is made so that it cannot be used.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = contained(|| match &*self.kind {
            Kind::Gpt2(tables) if self.control_tokens => {
                let encode = |text: &str| tables.encode(text);
                Ok(Self::gpt2_with_control_tokens(&encode, text))
            }
            Kind::Gpt2(tables) => Ok(tables.encode(text)),
            Kind::Json { pipeline, .. } => pipeline
                .encode_fast(text, false)
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|error| pipeline::cause(&error)),
        });
        let cause = match encoded {
            Ok(Ok(ids)) => return Ok(ids),
            Ok(Err(cause)) | Err(cause) => cause,
        };
        let name = match &*self.kind {
            Kind::Gpt2(_) => self.name.clone(),
            Kind::Json { file, .. } => shown(file),
        };
        Err(Error::failed(format!(
            "tokenizer {name} cannot encode the text: {cause}"
        )))
    }

    /// Control tokens that the tokenizer puts before a text, such as one where it begins.
    pub fn before_a_text(&self) -> &[u32] {
        match &*self.kind {
            Kind::Gpt2(_) => &[],
            Kind::Json { pipeline, .. } => {
                let before = pipeline.get_post_processor();
                before.map_or(&[], |before| before.0.as_slice())
            }
        }
    }

    /// Text of `ids`. Control tokens and ids outside the vocabulary give no text; bytes that are
    /// not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// If the tokenizer's rules make unreasonably much of a token.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut decoder = self.stream_decoder();
        let mut text = String::new();
        for &id in ids {
            text.extend(decoder.push(id)?);
        }
        text.extend(decoder.finish()?);
        Ok(text)
    }

    /// The token of an id as its decoder takes it; nothing for control tokens and unknown ids.
    fn token(&self, id: u32) -> Option<String> {
        let Kind::Json { pipeline, .. } = &*self.kind else {
            return None;
        };
        let added = pipeline.get_added_vocabulary();
        let token = added
            .simple_id_to_token(id)
            .or_else(|| contained(|| pipeline.id_to_token(id)).ok().flatten());
        token.filter(|token| !added.is_special_token(token))
    }

    /// Writes to the folder `directory` what [`Tokenizer::load`] needs to give this tokenizer back,
    /// under the same name.
    ///
    /// # Errors
    /// If the folder cannot be made or written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)
            .map_err(|error| Error::io(directory, "create", error))?;
        let mut end_of_text = "<|endoftext|>".to_string();
        if let Kind::Json { pipeline, json, .. } = &*self.kind {
            write_file(&directory.join(TOKENIZER_FILE), json)?;
            end_of_text = pipeline.id_to_token(self.end_of_text).unwrap_or_default();
        }
        let info = Info {
            name: self.name.clone(),
            end_of_text,
        };
        let text = serde_json::to_string_pretty(&info)
            .map_err(|error| Error::failed(format!("cannot write {INFO_FILE}: {error}")))?;
        write_file(&directory.join(INFO_FILE), text.as_bytes())
    }

    /// Decoder for ids that come one at a time.
    pub fn stream_decoder(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }
}

/// What a message about a file begins with.
fn subject(file: &Path) -> String {
    format!("tokenizer {}", shown(file))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| Error::io(path, "write", error))
}

#[cfg(test)]
mod tests;
