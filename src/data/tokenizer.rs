//! Text to token ids and back: GPT-2 built in, everything else from a `tokenizer.json`.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Name of the tokenizer that needs no file.
const GPT2: &str = "gpt2";
const GPT2_VOCAB_SIZE: usize = 50257;
const GPT2_END_OF_TEXT: u32 = 50256;
/// The tokenizer itself, in the format of Hugging Face's `tokenizers`.
const TOKENIZER_FILE: &str = "tokenizer.json";
/// Names the end-of-text token of a tokenizer from the Hub.
const CONFIG_FILE: &str = "tokenizer_config.json";
/// What [`Tokenizer::save`] adds, since `tokenizer.json` holds neither the name nor the end of text.
const INFO_FILE: &str = "aios_tokenizer.json";
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

/// Turns text into token ids and ids into text.
pub struct Tokenizer {
    kind: Kind,
    name: String,
    vocab_size: usize,
    end_of_text: u32,
    fingerprint: String,
}

enum Kind {
    /// Parsed on first use, so that a start from the token cache does not pay for it.
    Gpt2,
    Json {
        tokenizer: Box<tokenizers::Tokenizer>,
        /// The file as read, for [`Tokenizer::save`].
        json: Vec<u8>,
    },
}

/// Content of [`INFO_FILE`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    name: String,
    end_of_text: String,
}

impl Tokenizer {
    /// Loads `gpt2` (built in), a folder that holds a `tokenizer.json`, the path of such a file, or
    /// a Hugging Face Hub id, which is taken from the Hub's local cache and else downloaded to it.
    ///
    /// # Errors
    /// Names `model` and what to do if it is neither, cannot be read or downloaded, or has no
    /// end-of-text token.
    pub fn load(model: &str) -> Result<Self> {
        if model == GPT2 {
            return Ok(Self::gpt2());
        }
        let path = Path::new(model);
        if path.is_dir() {
            Self::from_directory(path)
        } else if path.is_file() {
            Self::from_file(path, path.parent().unwrap_or(Path::new("")), model)
        } else if is_hub_id(model) {
            let file = hub_file(model)?;
            Self::from_file(&file, file.parent().unwrap_or(Path::new("")), model)
        } else {
            Err(Error::invalid(format!(
                "tokenizer {model} was not found: give gpt2, a folder with {TOKENIZER_FILE}, the path of such a file, or a Hub id like org/name"
            )))
        }
    }

    fn gpt2() -> Self {
        Self {
            kind: Kind::Gpt2,
            name: GPT2.to_string(),
            vocab_size: GPT2_VOCAB_SIZE,
            end_of_text: GPT2_END_OF_TEXT,
            fingerprint: hex_hash(&[b"built-in", GPT2.as_bytes()]),
        }
    }

    fn from_directory(directory: &Path) -> Result<Self> {
        let shown = directory.display().to_string();
        let name = match read_info(directory)? {
            Some(info) if info.name == GPT2 && !directory.join(TOKENIZER_FILE).exists() => {
                return Ok(Self::gpt2());
            }
            Some(info) => info.name,
            None => shown.clone(),
        };
        let file = directory.join(TOKENIZER_FILE);
        if !file.is_file() {
            return Err(Error::invalid(format!(
                "tokenizer folder {shown} holds no {TOKENIZER_FILE}: save the tokenizer there in the fast (tokenizers) format"
            )));
        }
        Self::from_file(&file, directory, &name)
    }

    /// `directory` is where the companions of `file` lie.
    fn from_file(file: &Path, directory: &Path, name: &str) -> Result<Self> {
        let json = std::fs::read(file).map_err(|error| Error::io(file, "read", error))?;
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(&json).map_err(|error| {
            Error::failed(format!(
                "{} is not a tokenizer file: {error}",
                file.display()
            ))
        })?;
        // A window is cut and packed here; the file's own ideas about lengths would lose text.
        tokenizer
            .with_truncation(None)
            .map_err(|error| Error::failed(format!("{}: {error}", file.display())))?
            .with_padding(None);
        // Text that happens to spell a control token must not become one.
        tokenizer.set_encode_special_tokens(true);
        let vocab = tokenizer.get_vocab(true);
        let vocab_size = vocab.values().max().map_or(0, |&id| id as usize + 1);
        let end_of_text = end_of_text_id(&tokenizer, directory, file)?;
        let fingerprint = hex_hash(&[&json, &end_of_text.to_le_bytes()]);
        Ok(Self {
            kind: Kind::Json {
                tokenizer: Box::new(tokenizer),
                json,
            },
            name: name.to_string(),
            vocab_size,
            end_of_text,
            fingerprint,
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

    /// Ids of `text`, without a token at its beginning or end; names of control tokens in the text
    /// are ordinary text.
    ///
    /// # Errors
    /// If the tokenizer has no id for something in `text` and none for unknown text either.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Gpt2 => Ok(super::gpt2::encode(text)),
            Kind::Json { tokenizer, .. } => tokenizer
                .encode_fast(text, false)
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|error| {
                    Error::failed(format!(
                        "tokenizer {} cannot encode the text: {error}",
                        self.name
                    ))
                }),
        }
    }

    /// Text of `ids`. Control tokens and ids outside the vocabulary give no text; bytes that are
    /// not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.kind {
            Kind::Gpt2 => {
                let core = tiktoken_rs::r50k_base_singleton();
                let mut bytes = Vec::new();
                for &id in ids.iter().filter(|&&id| id < GPT2_END_OF_TEXT) {
                    bytes.extend(core.decode_bytes(&[id]).unwrap_or_default());
                }
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Kind::Json { tokenizer, .. } => tokenizer.decode(ids, true).unwrap_or_default(),
        }
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
        if let Kind::Json { tokenizer, json } = &self.kind {
            write_file(&directory.join(TOKENIZER_FILE), json)?;
            end_of_text = tokenizer.id_to_token(self.end_of_text).unwrap_or_default();
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
        StreamDecoder {
            tokenizer: self,
            ids: Vec::new(),
            finished: 0,
            sent: 0,
        }
    }
}

/// Turns ids that come one at a time into text, never showing half a character.
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids since the last but one complete text: some tokenizers drop a leading space, so a token
    /// is decoded together with the one before it.
    ids: Vec<u32>,
    /// How many of `ids` are shown in full.
    finished: usize,
    /// Bytes of the text of `ids` that are shown.
    sent: usize,
}

impl StreamDecoder<'_> {
    /// More unfinished ids than any character has bytes: what is not UTF-8 by now will never be.
    const MAX_UNFINISHED: usize = 16;

    /// Takes the next id; gives the text that is complete with it, if any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids);
        let stable = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        if stable.len() == text.len() {
            let new = self.unsent(&text);
            self.ids.drain(..self.finished);
            self.finished = self.ids.len();
            self.sent = self.tokenizer.decode(&self.ids).len();
            new
        } else if self.ids.len() - self.finished >= Self::MAX_UNFINISHED {
            self.finish()
        } else {
            let new = self.unsent(stable);
            self.sent = self.sent.max(stable.len());
            new
        }
    }

    /// The rest, with U+FFFD for bytes that never became a character. Ready for a new text after.
    pub fn finish(&mut self) -> Option<String> {
        let rest = self.unsent(&self.tokenizer.decode(&self.ids));
        self.ids.clear();
        self.finished = 0;
        self.sent = 0;
        rest
    }

    fn unsent(&self, text: &str) -> Option<String> {
        let new = text.get(self.sent..).unwrap_or_default();
        (!new.is_empty()).then(|| new.to_string())
    }
}

/// Hexadecimal SHA-256 of `parts`, each with its length so that no two lists collide.
pub(super) fn hex_hash(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// Lower-case hexadecimal digits of `bytes`.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| Error::io(path, "write", error))
}

fn read_info(directory: &Path) -> Result<Option<Info>> {
    let path = directory.join(INFO_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read(&path).map_err(|error| Error::io(&path, "read", error))?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| Error::failed(format!("{} is damaged: {error}", path.display())))
}

/// The token that a companion file names, else the first well-known one that the vocabulary has.
fn end_of_text_id(tokenizer: &tokenizers::Tokenizer, directory: &Path, file: &Path) -> Result<u32> {
    let named = match read_info(directory)? {
        Some(info) => Some(info.end_of_text),
        None => configured_end_of_text(&directory.join(CONFIG_FILE)),
    };
    named
        .iter()
        .map(String::as_str)
        .chain(KNOWN_END_OF_TEXT)
        .find_map(|token| tokenizer.token_to_id(token))
        .ok_or_else(|| {
            Error::failed(format!(
                "{} has no end-of-text token: name one of its tokens as \"eos_token\" in a {CONFIG_FILE} beside it",
                file.display()
            ))
        })
}

/// `eos_token` of a `tokenizer_config.json`: a string, or an object with `content`.
fn configured_end_of_text(path: &Path) -> Option<String> {
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let token = config.get("eos_token")?;
    let token = token.get("content").unwrap_or(token);
    token.as_str().map(str::to_string)
}

/// `name` or `owner/name`, in the characters the Hub allows.
fn is_hub_id(model: &str) -> bool {
    let parts: Vec<&str> = model.split('/').collect();
    parts.len() <= 2
        && parts.iter().all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        })
}

/// Path of the tokenizer file of Hub model `id` in the shared cache, downloaded if need be.
fn hub_file(id: &str) -> Result<PathBuf> {
    let repo = Repo::new(id.to_string(), RepoType::Model);
    if let Some(path) = Cache::from_env().repo(repo.clone()).get(TOKENIZER_FILE) {
        return Ok(path);
    }
    if std::env::var_os("HF_HUB_OFFLINE").is_some_and(|value| !value.is_empty() && value != "0") {
        return Err(hub_error(id, "HF_HUB_OFFLINE forbids the download"));
    }
    let api = ApiBuilder::from_env()
        .with_progress(false)
        .build()
        .map_err(|error| hub_error(id, &error.to_string()))?
        .repo(repo);
    // Before the tokenizer, so that an interruption does not leave a cached one without it. Many
    // tokenizers have no such file; what matters is whether an end of text is found at load.
    if let Err(error) = api.get(CONFIG_FILE) {
        tracing::debug!("{id} has no {CONFIG_FILE}: {error}");
    }
    api.get(TOKENIZER_FILE)
        .map_err(|error| hub_error(id, &error.to_string()))
}

fn hub_error(id: &str, cause: &str) -> Error {
    let cause = cause.lines().next().unwrap_or_default();
    Error::failed(format!(
        "tokenizer {id} is neither a local path nor in the Hugging Face cache, and could not be downloaded ({cause}): check the id and the network, or use --model gpt2, which is built in"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word-level tokenizer of the given tokens, written to `directory`.
    fn write_words(directory: &Path, tokens: &[&str]) {
        let vocab: serde_json::Map<_, _> = tokens
            .iter()
            .enumerate()
            .map(|(id, token)| (token.to_string(), id.into()))
            .collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst",
                "stride": 0, "direction": "Right"},
            "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
        });
        std::fs::write(directory.join(TOKENIZER_FILE), json.to_string()).unwrap();
    }

    fn load(directory: &Path) -> Result<Tokenizer> {
        Tokenizer::load(directory.to_str().unwrap())
    }

    #[test]
    fn gpt2_gives_the_published_ids() {
        let gpt2 = Tokenizer::load("gpt2").unwrap();
        assert_eq!(gpt2.encode("Hello world").unwrap(), [15496, 995]);
        assert_eq!((gpt2.vocab_size(), gpt2.end_of_text()), (50257, 50256));
    }

    #[test]
    fn gpt2_takes_the_separator_in_text_literally() {
        let gpt2 = Tokenizer::load("gpt2").unwrap();
        let ids = gpt2.encode("<|endoftext|>").unwrap();
        assert!(!ids.contains(&gpt2.end_of_text()));
        assert_eq!(gpt2.decode(&ids), "<|endoftext|>");
    }

    #[test]
    fn decode_skips_control_and_unknown_ids() {
        let gpt2 = Tokenizer::load("gpt2").unwrap();
        assert_eq!(gpt2.decode(&[15496, 50256, 60000, 995]), "Hello world");
    }

    #[test]
    fn gpt2_survives_a_save() {
        let directory = tempfile::tempdir().unwrap();
        let gpt2 = Tokenizer::load("gpt2").unwrap();
        gpt2.save(directory.path()).unwrap();
        let back = load(directory.path()).unwrap();
        assert_eq!(
            (back.name(), back.fingerprint()),
            ("gpt2", gpt2.fingerprint())
        );
    }

    #[test]
    fn a_json_tokenizer_survives_a_save() {
        let [source, copy] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        write_words(source.path(), &["[UNK]", "cat", "dog", "stop"]);
        std::fs::write(
            source.path().join(CONFIG_FILE),
            r#"{"eos_token":{"content":"stop"}}"#,
        )
        .unwrap();
        let tokenizer = load(source.path()).unwrap();
        tokenizer.save(copy.path()).unwrap();
        let back = load(copy.path()).unwrap();
        assert_eq!(back.end_of_text(), 3);
        assert_eq!(back.fingerprint(), tokenizer.fingerprint());
        assert_eq!(back.name(), tokenizer.name());
    }

    #[test]
    fn a_json_tokenizer_is_not_truncated() {
        let directory = tempfile::tempdir().unwrap();
        write_words(directory.path(), &["[UNK]", "cat", "dog", "</s>"]);
        let tokenizer = load(&directory.path().join(TOKENIZER_FILE)).unwrap();
        assert_eq!(tokenizer.encode("cat dog cat eel").unwrap(), [1, 2, 1, 0]);
        assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (4, 3));
    }

    #[test]
    fn no_end_of_text_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        write_words(directory.path(), &["[UNK]", "cat"]);
        let error = load(directory.path()).err().unwrap().to_string();
        assert!(error.contains("no end-of-text token"), "{error}");
    }

    #[test]
    fn a_folder_without_a_tokenizer_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = load(directory.path()).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("holds no tokenizer.json"));
    }

    #[test]
    fn what_can_be_neither_path_nor_hub_id_is_refused_at_once() {
        let error = Tokenizer::load("./no/such/place").err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("./no/such/place"));
    }

    #[test]
    fn a_failed_download_names_the_id_and_the_way_out() {
        let error = hub_error("org/name", "no route\nto host").to_string();
        assert!(error.contains("org/name") && error.contains("--model gpt2"));
        assert!(!error.contains('\n'));
    }

    #[test]
    fn hub_ids() {
        assert!(is_hub_id("org/name-1.5_b") && is_hub_id("bert"));
        for bad in ["", "a/b/c", "../x", "a b", "/x", "x/"] {
            assert!(!is_hub_id(bad), "{bad}");
        }
    }

    #[test]
    fn a_stream_holds_back_half_characters() {
        let gpt2 = Tokenizer::load("gpt2").unwrap();
        let text = "naïve 🦀 日本語!";
        let mut decoder = gpt2.stream_decoder();
        let parts: Vec<String> = gpt2
            .encode(text)
            .unwrap()
            .into_iter()
            .filter_map(|id| decoder.push(id))
            .collect();
        assert_eq!(parts.concat(), text);
        assert!(parts.iter().all(|part| !part.contains('\u{FFFD}')));
        assert_eq!(decoder.finish(), None);
    }

    #[test]
    fn a_stream_of_broken_bytes_comes_out_in_the_end() {
        let gpt2 = Tokenizer::load("gpt2").unwrap();
        let crab = gpt2.encode("🦀").unwrap();
        let mut decoder = gpt2.stream_decoder();
        let shown: Vec<_> = (0..40).filter_map(|_| decoder.push(crab[0])).collect();
        assert!(!shown.is_empty());
        assert!(decoder.finish().unwrap().contains('\u{FFFD}'));
    }
}
