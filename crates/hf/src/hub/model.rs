//! A model's folder: which files it takes, and all of them in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde_json::Value;

use aios_base::background::{Watch, watched};
use aios_base::error::{Error, Result};
use aios_base::files::{open_file, read_limited};
use aios_base::meter::format_bytes;

use super::request::is_name;
use super::{GivesUp, Hub, MAIN, Progress, Trouble, is_hub_id};
use crate::index::{self, LONGEST_INDEX};
use crate::json::object;
use crate::names::{CONFIG_FILE, INDEX_FILE, MODEL_FILE, TOKENIZERS, is_of_a_folder, no_weights};

/// A repository at a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    id: String,
    revision: String,
}

/// What the Hub says of a repository.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    /// In bytes.
    size: Option<u64>,
}

/// Why a model's folder is not to be had.
pub(super) enum Missing {
    /// A request was not answered as it should be.
    Trouble(Trouble),
    /// The repository has not what is needed, in words.
    Lacks(String),
    /// Something here failed.
    Here(Error),
}

impl Model {
    /// `OWNER/NAME` or `OWNER/NAME@REVISION`.
    pub(crate) fn parse(spec: &str) -> Option<Self> {
        let (id, revision) = spec.split_once('@').unwrap_or((spec, MAIN));
        let plain = |part: &str| is_name(part) && !part.starts_with('-');
        let is_model = is_hub_id(id) && id.contains('/') && !id.contains("..");
        (is_model && revision.split('/').all(plain)).then(|| Self {
            id: id.to_string(),
            revision: revision.to_string(),
        })
    }
}

impl Hub {
    /// The folder of a model, out of the cache if all of it is there, else downloaded.
    pub(crate) fn model_folder(&self, model: &Model, watch: &mut Watch) -> Result<PathBuf> {
        let Model { id, revision } = model;
        let cached = self.commit(id, revision);
        let cached = cached.map(|commit| self.snapshot(id, &commit));
        let cached = cached.filter(|folder| has_model(folder));
        if let Some(folder) = cached.as_ref().filter(|folder| has_tokenizer(folder)) {
            return Ok(folder.clone());
        }
        if self.offline {
            let none = || no_model(model, "HF_HUB_OFFLINE forbids the download");
            return cached.ok_or_else(none);
        }
        let progress = Arc::new(Progress::default());
        let _gives_up = GivesUp(Arc::clone(&progress));
        let (hub, asked, told) = (self.clone(), model.clone(), Arc::clone(&progress));
        let fetched = watched(
            &format!("model {id}"),
            watch,
            || progress.shown(),
            move || Ok(hub.fetch_model(&asked, &told)),
        )?;
        match (fetched, cached) {
            (Ok(folder), _) => Ok(folder),
            (Err(Missing::Here(error)), _) => Err(error),
            (Err(Missing::Trouble(trouble)), Some(folder)) if trouble.may_pass() => {
                tracing::warn!(
                    "model {id}: the Hub cannot be asked for the tokenizer's files ({}): what is in the cache is used",
                    self.cause(id, &trouble)
                );
                Ok(folder)
            }
            (Err(Missing::Trouble(trouble)), _) => Err(no_model(model, &self.cause(id, &trouble))),
            (Err(Missing::Lacks(cause)), _) => {
                Err(Error::failed(format!("model {id} on the Hub: {cause}")))
            }
        }
    }

    /// The config.json alone of a model that is neither on the disk nor whole in the cache: enough to plan with, before
    /// gigabytes are downloaded. `None` of any other, of a repository that has none, and where nothing may be downloaded.
    ///
    /// # Errors
    /// In one line with what to do, if there is no such repository; or what `watch` gives, at once.
    pub fn config_alone(&self, spec: &str, watch: &mut Watch) -> Result<Option<Value>> {
        let Some(model) = Model::parse(spec).filter(|_| !Path::new(spec).exists()) else {
            return Ok(None);
        };
        let Model { id, revision } = &model;
        let cached = self.commit(id, revision);
        let cached = cached.is_some_and(|commit| has_model(&self.snapshot(id, &commit)));
        if cached || self.offline {
            return Ok(None);
        }
        match self.download(id, revision, CONFIG_FILE, watch)? {
            Ok(file) => object(Path::new(spec), &file.bytes).map(Some),
            Err(Trouble::Refused(404, code)) if code == "EntryNotFound" => Ok(None),
            Err(trouble) => Err(no_model(&model, &self.cause(id, &trouble))),
        }
    }

    pub(super) fn fetch_model(
        &self,
        model: &Model,
        progress: &Progress,
    ) -> Result<PathBuf, Missing> {
        let Model { id, revision } = model;
        let listing = self.list(model).map_err(Missing::Trouble)?;
        let commit = &listing.sha;
        let folder = self.snapshot(id, commit);
        let small = listing.small().map_err(Missing::Lacks)?;
        progress.all.store(listing.bytes(&small), Ordering::Relaxed);
        for name in &small {
            self.fetch_small(id, commit, name, progress)?;
        }
        let large = listing.large(&folder).map_err(Missing::Lacks)?;
        let large: Vec<&str> = large.iter().map(String::as_str).collect();
        let wanted = listing.bytes(&large);
        progress.all.fetch_add(wanted, Ordering::Relaxed);
        let missing = large.iter().filter(|name| !folder.join(name).is_file());
        let missing: Vec<&str> = missing.copied().collect();
        self.require_room(listing.bytes(&missing))?;
        progress
            .done
            .fetch_add(wanted - listing.bytes(&missing), Ordering::Relaxed);
        for name in missing {
            let got = self.fetch_large(id, commit, name, progress);
            got.map_err(Missing::Here)?.map_err(Missing::Trouble)?;
        }
        // Last, so that an interruption leaves nothing that looks whole.
        self.note_commit(id, revision, commit)
            .map_err(Missing::Here)?;
        Ok(folder)
    }

    fn list(&self, model: &Model) -> Result<Listing, Trouble> {
        let Model { id, revision } = model;
        let revision = revision.replace('/', "%2F");
        let url = format!(
            "{}/api/models/{id}/revision/{revision}?blobs=true",
            self.endpoint
        );
        let answer = self.request(url, 0)?;
        let text = self.body(answer.response, &Progress::default())?;
        let listing = serde_json::from_slice::<Listing>(&text).ok();
        let listing = listing.filter(|listing| is_name(&listing.sha));
        listing.ok_or_else(|| {
            Trouble::Failed(format!("{} does not answer as the Hub does", self.endpoint))
        })
    }

    fn fetch_small(
        &self,
        id: &str,
        commit: &str,
        name: &str,
        progress: &Progress,
    ) -> Result<(), Missing> {
        if self.snapshot(id, commit).join(name).is_file() {
            return Ok(());
        }
        let file = self.fetch(self.file_url(id, commit, name), progress);
        let mut file = file.map_err(Missing::Trouble)?;
        // All files of the folder are of the one that was listed.
        file.commit = commit.to_string();
        self.keep(id, name, &file).map(drop).map_err(Missing::Here)
    }

    fn require_room(&self, bytes: u64) -> Result<(), Missing> {
        // A file system that does not say how much it has is taken at its word when it is full.
        let _ = fs::create_dir_all(&self.cache);
        let Ok(free) = fs4::available_space(&self.cache) else {
            return Ok(());
        };
        match bytes <= free {
            true => Ok(()),
            false => Err(Missing::Here(Error::failed(format!(
                "the model's files take {}, and the disk of the Hugging Face cache {} has {} free: free some disk space or \
                 set HF_HOME to a folder on another disk",
                format_bytes(bytes),
                self.cache.display(),
                format_bytes(free)
            )))),
        }
    }
}

impl Listing {
    fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.siblings.iter().map(|file| file.rfilename.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.names().any(|there| there == name)
    }

    /// Length of files together, as far as it is known.
    fn bytes(&self, names: &[&str]) -> u64 {
        let files = self.siblings.iter();
        let files = files.filter(|file| names.contains(&file.rfilename.as_str()));
        let sizes = files.filter_map(|file| file.size);
        sizes.fold(0, u64::saturating_add)
    }

    /// All files but the tensors'.
    fn small(&self) -> Result<Vec<&str>, String> {
        let has_weights = self.has(MODEL_FILE) || self.has(INDEX_FILE);
        if !has_weights {
            return Err(no_weights(self.names()));
        }
        if !self.has(CONFIG_FILE) {
            return Err(format!(
                "it has no {CONFIG_FILE}: it is no model of the kind that transformers loads"
            ));
        }
        let is_index = |name: &str| name == INDEX_FILE && !self.has(MODEL_FILE);
        let names = self.names();
        Ok(names
            .filter(|name| is_of_a_folder(name) || is_index(name))
            .collect())
    }

    /// The tensors' files.
    fn large(&self, folder: &Path) -> Result<Vec<String>, String> {
        if self.has(MODEL_FILE) {
            return Ok(vec![MODEL_FILE.to_string()]);
        }
        let shards = shards(folder).map_err(|cause| format!("{INDEX_FILE}: {cause}"))?;
        match shards.iter().find(|name| !self.has(name)) {
            None => Ok(shards),
            Some(name) => Err(format!("{INDEX_FILE} names {name}, which it has not")),
        }
    }
}

/// Files that the index in `folder` names.
fn shards(folder: &Path) -> Result<Vec<String>, String> {
    let file = open_file(&folder.join(INDEX_FILE));
    let json = file.and_then(|file| read_limited(file, LONGEST_INDEX));
    let json = json.map_err(|cause| cause.to_string())?;
    Ok(index::parse(&json)?.into_keys().collect())
}

/// Whether a folder in the cache has architecture and tensors.
fn has_model(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let has_shards = || shards(folder).is_ok_and(|shards| shards.iter().all(|name| has(name)));
    has(CONFIG_FILE) && (has(MODEL_FILE) || has_shards())
}

fn has_tokenizer(folder: &Path) -> bool {
    TOKENIZERS.iter().any(|name| folder.join(name).is_file())
}

fn no_model(model: &Model, cause: &str) -> Error {
    let Model { id, revision } = model;
    let name = match revision == MAIN {
        true => id.clone(),
        false => format!("{id}@{revision}"),
    };
    Error::failed(format!(
        "model {name} is neither a local folder nor whole in the Hugging Face cache, and could not be downloaded ({cause}): \
         check the id and the network, or give a folder"
    ))
}
