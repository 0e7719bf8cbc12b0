//! What a run's model is made of, beside the run's settings.

use crate::saved::Saved;
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result, shown};
use aios_base::files::{open_file, read_limited};
use aios_base::terminal;
use aios_data::{Tokenizer, Watch};
use aios_hf::{CONFIG_FILE, Folder, FolderFile, Weights, is_of_a_folder};
use aios_models::Model;
use aios_models::actv1::ModelConfig;
use aios_models::decoder::{DecoderConfig, HfModel};
use serde_json::Value;
use std::path::Path;

/// A config.json is no larger.
const LONGEST_CONFIG: u64 = 16 << 20;

/// Where a model's architecture comes from.
pub enum Blueprint {
    /// The flags.
    ActV1,
    /// A config.json, and the folder that it lies in, if it has weights.
    Decoder {
        config: Value,
        folder: Option<Box<Folder>>,
        /// What travels along into a saved model.
        passengers: Vec<FolderFile>,
    },
}

impl Blueprint {
    /// Of a new run. A model of the Hub is downloaded; `watch` is told how far that is.
    ///
    /// # Errors
    /// No such model, or one that is not supported.
    pub fn of(config: &TrainConfig, watch: &mut Watch) -> Result<Self> {
        if let Some(spec) = &config.pretrained {
            let folder = Folder::locate(spec, watch)?;
            let mut passengers = folder.load_passengers()?;
            // Another tokenizer's files take the place of the model's own.
            if config.model != *spec {
                passengers.retain(|file| file.name == "generation_config.json");
            }
            return Ok(Self::Decoder {
                config: folder.config().clone(),
                passengers,
                folder: Some(Box::new(folder)),
            });
        }
        match &config.model_config {
            None => Ok(Self::ActV1),
            Some(path) => Ok(Self::Decoder {
                config: read_config(path)?,
                folder: None,
                passengers: Vec::new(),
            }),
        }
    }

    /// Of a saved run.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of_saved(saved: &Saved) -> Result<Self> {
        match &saved.state.model {
            Model::ActV1(_) => Ok(Self::ActV1),
            Model::Decoder(model) => Ok(Self::Decoder {
                config: model.config().clone(),
                folder: None,
                passengers: Folder::open(saved.bundle.path())?.load_passengers()?,
            }),
        }
    }

    /// The model for a run's lengths, and for a tokenizer of so many tokens.
    ///
    /// # Errors
    /// A configuration that is not supported, or lengths that it does not allow.
    pub fn model(&self, config: &TrainConfig, vocabulary: usize) -> Result<Model> {
        match self {
            Self::ActV1 => Ok(Model::ActV1(ModelConfig::of(config, vocabulary))),
            Self::Decoder { config: json, .. } => {
                let (length, window) = (config.max_seq_len, config.window_size);
                Ok(Model::Decoder(HfModel::new(json.clone(), length, window)?))
            }
        }
    }

    /// Shorten sequences of the default length that the model has no positions for.
    ///
    /// # Errors
    /// A configuration that is not supported.
    pub fn shorten(&self, config: &mut TrainConfig) -> Result<()> {
        let Self::Decoder { config: json, .. } = self else {
            return Ok(());
        };
        let decoder = DecoderConfig::read(json)?;
        let default = TrainConfig::defaults(config.subject).max_seq_len;
        let longest = decoder.max_positions;
        if !decoder.learned_positions && config.max_seq_len > longest {
            tracing::warn!(
                "sequences of {} tokens are longer than the {longest} that this model was made for \
                 (max_position_embeddings)",
                config.max_seq_len
            );
        }
        if decoder.learned_positions && config.max_seq_len == default && longest < default {
            config.max_seq_len = longest;
            if !config.quiet {
                terminal::say(&format!(
                    "sequences of {longest} tokens: this model has positions for no more"
                ));
            }
        }
        Ok(())
    }

    /// The weights to begin with, if they are not drawn.
    ///
    /// # Errors
    /// Files that are damaged or missing.
    pub fn weights(&self) -> Result<Option<Weights>> {
        match self {
            Self::Decoder {
                folder: Some(folder),
                ..
            } => Weights::open(folder).map(Some),
            _ => Ok(None),
        }
    }

    /// What makes a checkpoint a folder that other programs load, beside the weights.
    ///
    /// # Errors
    /// A tokenizer that cannot be written.
    pub fn folder_files(&self, tokenizer: &Tokenizer) -> Result<Vec<FolderFile>> {
        let Self::Decoder {
            config, passengers, ..
        } = self
        else {
            return Ok(Vec::new());
        };
        let mut files = passengers.clone();
        if !files.iter().any(|file| file.name == "tokenizer.json") {
            files.extend(tokenizer_files(tokenizer)?);
        }
        files.push(FolderFile {
            name: CONFIG_FILE.to_string(),
            bytes: config_in_f32(config)?,
        });
        Ok(files)
    }
}

/// Weights are saved in f32, and a configuration that says otherwise would have them rounded as they are loaded.
fn config_in_f32(config: &Value) -> Result<Vec<u8>> {
    let mut config = config.clone();
    for key in ["dtype", "torch_dtype"] {
        if let Some(dtype) = config.get_mut(key) {
            *dtype = Value::from("float32");
        }
    }
    serde_json::to_vec_pretty(&config)
        .map_err(|cause| Error::failed(format!("cannot write config.json: {cause}")))
}

fn tokenizer_files(tokenizer: &Tokenizer) -> Result<Vec<FolderFile>> {
    let failed = |cause: std::io::Error| {
        Error::failed(format!("cannot write the tokenizer's files: {cause}"))
    };
    let folder = tempfile::tempdir().map_err(failed)?;
    tokenizer.save(folder.path())?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder.path()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_of_a_folder(&name) {
            let bytes = std::fs::read(entry.path()).map_err(failed)?;
            files.push(FolderFile { name, bytes });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// A config.json by itself.
fn read_config(path: &Path) -> Result<Value> {
    let wrong = |cause: &dyn std::fmt::Display| {
        Error::invalid(format!("--model-config {}: {cause}", shown(path)))
    };
    let file = path.join(CONFIG_FILE);
    let path = if path.is_dir() { &file } else { path };
    let text = open_file(path).and_then(|file| read_limited(file, LONGEST_CONFIG));
    let text = text.map_err(|cause| wrong(&cause))?;
    serde_json::from_slice(&text).map_err(|cause| wrong(&cause))
}
