//! A model's folder on the disk, or a GGUF file that says what such a folder says.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aios_gguf::GgufFile;
use serde_json::Value;

use aios_base::background::Watch;
use aios_base::error::{Error, Result, dangling, shown};
use aios_base::files::{open_file, read_limited, stays_inside};

use crate::generation::Generation;
use crate::gguf::{self, InGguf};
use crate::hub::{Hub, Model};
use crate::json::object;
use crate::names::{
    CONFIG_FILE, GENERATION_FILE, MORE_CHAT_TEMPLATES, PASSENGERS, TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE, chat_template_name, is_template,
};
use crate::template;

/// Longest settings, in bytes; the longest known of a model have a tenth.
const LONGEST_CONFIG: u64 = 16 << 20;
/// Longest file that travels along; the largest known has 33 MB.
const LONGEST_PASSENGER: u64 = 128 << 20;
/// More chat templates than anybody has.
const MOST_TEMPLATES: usize = 64;

/// A folder with a `config.json`, and what the small files in it say.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    /// The path without links, which no file in it leads out of.
    real: PathBuf,
    name: String,
    config: Value,
    generation: Generation,
    /// In place of files, what a GGUF file says.
    gguf: Option<Arc<InGguf>>,
}

/// A file of such a folder, in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderFile {
    /// Path within the folder, with `/` on every system.
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Folder {
    /// Opens a folder on the disk, or a GGUF file; also a folder that has nothing but one model in GGUF.
    ///
    /// # Errors
    /// One without a `config.json`, or whose settings are not what they should be: names the file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, &shown(path))
    }

    /// Opens a folder on the disk, or one of the Hugging Face Hub by its id, `OWNER/NAME` or `OWNER/NAME@REVISION`: out of
    /// the cache that the Hub's other tools share, or downloaded into it. `watch` is told the bytes so far and in all.
    ///
    /// # Errors
    /// In one line with what to do, if it is not to be had; as [`Folder::open`]; or what `watch` gives, at once.
    pub fn locate(spec: &str, watch: &mut Watch) -> Result<Self> {
        Self::locate_in(&Hub::from_env(), spec, watch)
    }

    pub(crate) fn locate_in(hub: &Hub, spec: &str, watch: &mut Watch) -> Result<Self> {
        let path = Path::new(spec);
        match (fs::metadata(path), Model::parse(spec)) {
            (Ok(_), _) => Self::open(path),
            (Err(_), Some(model)) => Self::open_as(&hub.model_folder(&model, watch)?, spec),
            (Err(_), None) => Err(not_found(spec)),
        }
    }

    /// Opens the folder of an adapter, for its chat templates and its tokenizer's settings: of the model there is no
    /// `config.json`.
    ///
    /// # Errors
    /// No folder.
    pub fn of_adapter(path: &Path) -> Result<Self> {
        Self::bare(path, &shown(path))
    }

    fn open_as(path: &Path, name: &str) -> Result<Self> {
        if let Some(file) = gguf::model_at(path)? {
            return Self::of_gguf(&file, name);
        }
        let mut folder = Self::bare(path, name)?;
        let Some(config) = folder.object(CONFIG_FILE)? else {
            return Err(Error::failed(folder.no_config()));
        };
        let generation = folder.object(GENERATION_FILE)?;
        folder.generation = Generation::parse(path, generation.as_ref(), &config)?;
        folder.config = config;
        Ok(folder)
    }

    fn of_gguf(path: &Path, name: &str) -> Result<Self> {
        let gguf = InGguf::open(path)?;
        let config = gguf.json(CONFIG_FILE).unwrap_or(Value::Null);
        let generation = gguf.json(GENERATION_FILE);
        Ok(Self {
            real: path.to_path_buf(),
            name: name.to_string(),
            generation: Generation::parse(path, generation.as_ref(), &config)?,
            config,
            gguf: Some(Arc::new(gguf)),
            path: path.to_path_buf(),
        })
    }

    /// Without anything read.
    fn bare(path: &Path, name: &str) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|cause| Error::io(path, "read", cause))?;
        if !metadata.is_dir() {
            return Err(Error::failed(format!(
                "{} is not a folder: give the folder of the model, with its {CONFIG_FILE}, or a GGUF file",
                shown(path)
            )));
        }
        let real = path.canonicalize();
        Ok(Self {
            path: path.to_path_buf(),
            real: real.map_err(|cause| Error::io(path, "read", cause))?,
            name: name.to_string(),
            config: Value::Null,
            generation: Generation::default(),
            gguf: None,
        })
    }

    fn no_config(&self) -> String {
        let adapter = "adapter_config.json";
        let (path, has) = (shown(&self.path), |name: &str| {
            self.path.join(name).exists()
        });
        match has(adapter) {
            true => format!(
                "{path} has no {CONFIG_FILE} but {adapter}: it is an adapter; give the model that it is for, which that file \
                 names"
            ),
            false => format!(
                "{path} has no {CONFIG_FILE}: give the folder of a model of the Hugging Face Hub's kind"
            ),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was asked for as: a path, or an id of the Hub.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What stands in `config.json`, which is an object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Ids of control tokens and settings of sampling.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The file, if it is in GGUF.
    pub(crate) fn gguf(&self) -> Option<&Arc<GgufFile>> {
        self.gguf.as_ref().map(|gguf| &gguf.file)
    }

    /// Whether it is a GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.gguf.is_some()
    }

    /// The tokenizer's two files, `tokenizer.json` and its settings, as far as there are such.
    ///
    /// # Errors
    /// A file that cannot be read, or in GGUF a tokenizer that has no such form.
    pub fn tokenizer(&self) -> Result<[Option<Vec<u8>>; 2]> {
        if let Some(gguf) = &self.gguf {
            gguf.require_tokenizer()?;
        }
        Ok([
            self.read(TOKENIZER_FILE, LONGEST_PASSENGER)?,
            self.read(TOKENIZER_CONFIG_FILE, LONGEST_CONFIG)?,
        ])
    }

    /// The chat template's text, in Jinja; none if the model has none. Where there are several, it is the one called
    /// `default`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn chat_template(&self) -> Result<Option<String>> {
        let mut all = self.chat_templates()?.into_iter();
        Ok(all
            .find(|(name, _)| name == template::DEFAULT)
            .map(|(_, text)| text))
    }

    /// All chat templates with their names, as `default` and `tool_use`. They come from one place: the files of today, else
    /// the tokenizer's settings, else the file between those two.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn chat_templates(&self) -> Result<Vec<(String, String)>> {
        template::all(self)
    }

    /// Control tokens by the names under which templates ask for them, as `bos_token`; from the tokenizer's settings.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn control_tokens(&self) -> Result<Vec<(String, String)>> {
        template::control_tokens(self)
    }

    /// Every file that has to travel along into a saved copy, those of the tokenizer first of all: not the tensors and not
    /// `config.json`. In memory, since the folder may be gone when they are needed.
    ///
    /// # Errors
    /// One that cannot be read, or leads outside of the folder.
    pub fn load_passengers(&self) -> Result<Vec<FolderFile>> {
        let mut files = Vec::new();
        for name in self.passenger_names() {
            if let Some(bytes) = self.read(&name, LONGEST_PASSENGER)? {
                files.push(FolderFile { name, bytes });
            }
        }
        Ok(files)
    }

    /// The files with its chat templates, if it has such files.
    ///
    /// # Errors
    /// As [`Folder::load_passengers`].
    pub fn load_templates(&self) -> Result<Vec<FolderFile>> {
        let mut files = self.load_passengers()?;
        files.retain(|file| is_template(&file.name));
        Ok(files)
    }

    fn passenger_names(&self) -> Vec<String> {
        let names = PASSENGERS.iter().map(|name| name.to_string());
        let names = names.filter(|name| match &self.gguf {
            Some(gguf) => gguf.files.contains_key(name),
            None => self.path.join(name).exists(),
        });
        names.chain(self.more_templates()).collect()
    }

    /// Names of the files that hold more chat templates.
    pub(crate) fn more_templates(&self) -> Vec<String> {
        if let Some(gguf) = &self.gguf {
            let names = gguf.files.keys().cloned();
            return names
                .filter(|name| chat_template_name(name).is_some())
                .collect();
        }
        let entries = fs::read_dir(self.path.join(MORE_CHAT_TEMPLATES));
        let entries = entries.into_iter().flatten().flatten();
        let names = entries.map(|entry| {
            let name = entry.file_name();
            format!("{MORE_CHAT_TEMPLATES}/{}", name.to_string_lossy())
        });
        let mut names: Vec<String> = names
            .filter(|name| chat_template_name(name).is_some())
            .take(MOST_TEMPLATES)
            .collect();
        names.sort();
        names
    }

    /// The object in a JSON file; none if there is no such file.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Value>> {
        let text = self.read(name, LONGEST_CONFIG)?;
        text.map(|text| object(&self.path.join(name), &text))
            .transpose()
    }

    /// The text in a file; none if there is no such file.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read(name, LONGEST_CONFIG)? else {
            return Ok(None);
        };
        let path = self.path.join(name);
        let text = String::from_utf8(bytes);
        text.map(Some)
            .map_err(|_| Error::failed(format!("{} is not UTF-8 text", shown(&path))))
    }

    /// All of a file of at most `limit` bytes; none if there is no such file.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        if let Some(gguf) = &self.gguf {
            return Ok(gguf.files.get(name).cloned());
        }
        let Some(path) = self.find(name)? else {
            return Ok(None);
        };
        let bytes = open_file(&path).and_then(|file| read_limited(file, limit));
        bytes
            .map(Some)
            .map_err(|cause| Error::io(&path, "read", cause))
    }

    /// Where a file is, which is in the folder, or, where the folder is a snapshot in the Hub's cache, among the files of
    /// that repository; none if there is none.
    ///
    /// # Errors
    /// A name or a link that leads elsewhere.
    pub(crate) fn find(&self, name: &str) -> Result<Option<PathBuf>> {
        if !stays_inside(name) {
            return Err(Error::failed(format!(
                "{}: {name:?} is not the name of a file in it",
                shown(&self.path)
            )));
        }
        let path = self.path.join(name);
        let real = match path.canonicalize() {
            Ok(real) => real,
            // A link to nothing is worth a word.
            Err(cause) if is_absent(&cause) && dangling(&path).is_none() => return Ok(None),
            Err(cause) => return Err(Error::io(path, "read", cause)),
        };
        let in_cache = || self.blobs().is_some_and(|blobs| real.starts_with(blobs));
        match real.starts_with(&self.real) || in_cache() {
            true => Ok(Some(path)),
            false => Err(Error::failed(format!(
                "{} is a link to {}, outside of the model's folder: put the file itself there",
                shown(&path),
                shown(&real)
            ))),
        }
    }

    /// Where the cache keeps the files that the links in a snapshot lead to.
    fn blobs(&self) -> Option<PathBuf> {
        let snapshots = self.real.parent()?;
        let repository = snapshots.parent()?;
        let name = repository.file_name()?.to_string_lossy();
        let is_cache = snapshots.ends_with("snapshots") && name.starts_with("models--");
        is_cache.then(|| repository.join("blobs").canonicalize().ok())?
    }
}

/// The object in a config.json, given by its own path or by that of its folder.
///
/// # Errors
/// No such file, or something else in it: names it.
pub fn read_config(path: &Path) -> Result<Value> {
    let inside = path.join(CONFIG_FILE);
    let path = if path.is_dir() { &inside } else { path };
    let text = open_file(path).and_then(|file| read_limited(file, LONGEST_CONFIG));
    let text = text.map_err(|cause| Error::io(path, "read", cause))?;
    object(path, &text)
}

/// There is no such model: for every command that takes one.
fn not_found(spec: &str) -> Error {
    Error::failed(match dangling(Path::new(spec)) {
        Some(why) => format!("model {spec}: {why}"),
        None => format!(
            "model {spec} was not found: there is no such file or folder; give a bundle's directory, a folder with {CONFIG_FILE} \
             or a GGUF file, or an id of the Hugging Face Hub like OWNER/NAME or OWNER/NAME@REVISION"
        ),
    })
}

fn is_absent(cause: &std::io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests;
