//! What a run's model is made of, beside the run's settings.

use crate::adapting::{self, Adapting, base_of_saved};
use crate::saved::Saved;
use aios_base::config::{TrainConfig, WeightsDtype};
use aios_base::error::{Error, Result};
use aios_base::terminal;
use aios_bundle::TensorFile;
use aios_data::{Tokenizer, Watch};
use aios_hf::{CONFIG_FILE, Folder, FolderFile, Hub, Weights, is_of_a_folder, read_config};
use aios_metrics::Fallback;
use aios_models::Model;
use aios_models::actv1::ModelConfig;
use aios_models::decoder::{DecoderConfig, HfModel, dropouts, is_nf4, passed_over};
use serde_json::Value;

/// Where a model's architecture comes from.
pub enum Blueprint {
    /// The flags.
    ActV1,
    /// A config.json, and the folder that it lies in, if it has weights.
    Decoder {
        config: Value,
        /// What it says.
        decoder: Box<DecoderConfig>,
        folder: Option<Box<Folder>>,
        /// What travels along into a saved model.
        passengers: Vec<FolderFile>,
        /// What is trained in its place.
        adapting: Option<Box<Adapting>>,
        /// Tokens that it is given, its own included; its own where that is fewer.
        vocabulary: usize,
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
            let (json, adapting) = (folder.config().clone(), Adapting::of(config, &folder)?);
            return Self::decoder(json, Some(Box::new(folder)), passengers, adapting);
        }
        match &config.model_config {
            None => Ok(Self::ActV1),
            Some(path) => Self::decoder(read_config(path)?, None, Vec::new(), None),
        }
    }

    /// Of a new run that is planned. Of a model of the Hub that is not here its config.json is enough, which alone is
    /// downloaded.
    ///
    /// # Errors
    /// As [`Blueprint::of`].
    pub fn planned(config: &TrainConfig, watch: &mut Watch) -> Result<Self> {
        let spec = config.pretrained.as_deref();
        let alone = spec.map(|spec| Hub::from_env().config_alone(spec, watch));
        match alone.transpose()?.flatten() {
            Some(json) => {
                let adapting = Adapting::described(config, &json);
                Self::decoder(json, None, Vec::new(), adapting)
            }
            None => Self::of(config, watch),
        }
    }

    /// Of a saved run. The model that an adapter is of is where the settings say.
    ///
    /// # Errors
    /// A file that cannot be read, or a model that is not what it was.
    pub fn of_saved(saved: &Saved, config: &TrainConfig, watch: &mut Watch) -> Result<Self> {
        let model = match &saved.state.model {
            Model::ActV1(_) => return Ok(Self::ActV1),
            Model::Decoder(model) => model,
        };
        let Some(adapting) = Adapting::of_saved(model) else {
            let passengers = Folder::open(saved.bundle.path())?.load_passengers()?;
            return Self::decoder(model.config().clone(), None, passengers, None);
        };
        let folder = base_of_saved(config, model, watch)?;
        let passengers = folder.load_passengers()?;
        let mut blueprint = Self::decoder(
            folder.config().clone(),
            Some(Box::new(folder)),
            passengers,
            Some(adapting),
        )?;
        blueprint.grow(model.decoder.vocab_size, config);
        Ok(blueprint)
    }

    /// Tokens of the tokenizer that sets a model's vocabulary; 0 for a decoder, which has one of its own.
    ///
    /// # Errors
    /// A tokenizer that cannot be loaded.
    pub fn vocabulary(&self, config: &TrainConfig, watch: &mut Watch) -> Result<usize> {
        match self {
            Self::ActV1 => Ok(Tokenizer::load_watched(&config.model, watch)?.vocab_size()),
            Self::Decoder { .. } => Ok(0),
        }
    }

    fn decoder(
        config: Value,
        folder: Option<Box<Folder>>,
        passengers: Vec<FolderFile>,
        adapting: Option<Adapting>,
    ) -> Result<Self> {
        if adapting.is_none() && is_nf4(&config)? {
            return Err(Error::invalid(
                "config.json: the weights are in nf4 (quantization_config), and weights of few bits are not trained \
                 themselves: give --lora-rank 16 to train an adapter beside them",
            ));
        }
        let decoder = Box::new(DecoderConfig::read(&config)?);
        Ok(Self::Decoder {
            vocabulary: decoder.vocab_size,
            decoder,
            config,
            folder,
            passengers,
            adapting: adapting.map(Box::new),
        })
    }

    /// Tokens of a decoder's own vocabulary.
    pub fn decoder_vocabulary(&self) -> Option<usize> {
        match self {
            Self::ActV1 => None,
            Self::Decoder { decoder, .. } => Some(decoder.vocab_size),
        }
    }

    /// Give it so many tokens, if it has fewer, whose rows are trained as the settings say.
    pub fn grow(&mut self, tokens: usize, settings: &TrainConfig) {
        if let Self::Decoder {
            vocabulary,
            adapting,
            ..
        } = self
        {
            *vocabulary = tokens;
            if let Some(adapting) = adapting {
                adapting.train_whole(settings);
            }
        }
    }

    /// The model for a run's lengths, and for a tokenizer of so many tokens.
    ///
    /// # Errors
    /// A configuration that is not supported, or lengths that it does not allow.
    pub fn model(&self, config: &TrainConfig, vocabulary: usize) -> Result<Model> {
        match self {
            Self::ActV1 => Ok(Model::ActV1(ModelConfig::of(config, vocabulary))),
            Self::Decoder {
                config: json,
                decoder,
                adapting,
                vocabulary,
                ..
            } => {
                let (length, window) = (config.max_seq_len, config.window_size);
                let (json, decoder) = (json.clone(), (**decoder).clone());
                let model = HfModel::of(json, decoder, length, window)?.grown(*vocabulary)?;
                Ok(Model::Decoder(match adapting {
                    Some(adapting) => adapting.model(model)?,
                    None => model,
                }))
            }
        }
    }

    /// Where the model's own files are, if it has weights.
    pub fn folder(&self) -> Option<&Folder> {
        match self {
            Self::ActV1 => None,
            Self::Decoder { folder, .. } => folder.as_deref(),
        }
    }

    /// The longest sequence that the model was made for, in tokens; `None` if it sets none.
    pub fn longest(&self) -> Option<usize> {
        match self {
            Self::ActV1 => None,
            Self::Decoder { decoder, .. } => Some(decoder.max_positions),
        }
    }

    /// Shorten sequences of the default length that the model has no positions for.
    pub fn shorten(&self, config: &mut TrainConfig) {
        let Self::Decoder { decoder, .. } = self else {
            return;
        };
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
    }

    /// What its training goes without that its config.json asks for.
    ///
    /// # Errors
    /// A value that makes no sense; or if `strict`, anything.
    pub fn without(&self, strict: bool) -> Result<Option<Fallback>> {
        let Self::Decoder { config, .. } = self else {
            return Ok(None);
        };
        let found = dropouts(config)?;
        if found.is_empty() {
            return Ok(None);
        }
        let named: Vec<String> = (found.iter())
            .map(|(name, share)| format!("{name} {share}"))
            .collect();
        let named = named.join(", ");
        match strict {
            true => Err(Error::failed(format!(
                "--strict: config.json asks for dropout ({named}), and training here has none: set it to 0 there, or leave \
                 out --strict"
            ))),
            false => Ok(Some(Fallback {
                feature: "dropout".to_string(),
                wanted: format!("that of config.json ({named})"),
                used: "none".to_string(),
                reason: "models are trained without it here".to_string(),
            })),
        }
    }

    /// What of its config.json means nothing here, in a line each.
    ///
    /// # Errors
    /// A value that makes no sense.
    pub fn passed_over(&self) -> Result<Vec<String>> {
        match self {
            Self::ActV1 => Ok(Vec::new()),
            Self::Decoder { config, .. } => passed_over(config),
        }
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

    /// The weights of an adapter to begin with, if they are not drawn.
    ///
    /// # Errors
    /// A file that is damaged or missing.
    pub fn adapter_tensors(&self) -> Result<Option<TensorFile>> {
        match self {
            Self::Decoder {
                adapting: Some(adapting),
                ..
            } => adapting.tensors(),
            _ => Ok(None),
        }
    }

    /// What makes a checkpoint of a model a folder that other programs load, beside the weights.
    ///
    /// # Errors
    /// A tokenizer that cannot be written.
    pub fn folder_files(
        &self,
        tokenizer: &Tokenizer,
        model: &Model,
        weights: WeightsDtype,
    ) -> Result<Vec<FolderFile>> {
        let (
            Self::Decoder {
                passengers, folder, ..
            },
            Some(decoder),
        ) = (self, model.as_decoder())
        else {
            return Ok(Vec::new());
        };
        // The tokenizer may have tokens by now that the one of the model's files has not.
        let mut files = with_tokenizer(passengers.clone(), tokenizer)?;
        let base = folder.as_ref().map(|folder| folder.name());
        if let Some(file) = adapting::config_file(decoder, base)? {
            // That of the model is where the model is.
            files.retain(|file| file.name != "generation_config.json");
            files.push(file);
            return Ok(files);
        }
        files.push(FolderFile {
            name: CONFIG_FILE.to_string(),
            bytes: config_in(weights, decoder.config())?,
        });
        Ok(files)
    }
}

fn config_in(weights: WeightsDtype, config: &Value) -> Result<Vec<u8>> {
    let name = match weights {
        WeightsDtype::F32 => "float32",
        WeightsDtype::Bf16 => "bfloat16",
    };
    serde_json::to_vec_pretty(&named_format(config.clone(), name))
        .map_err(|cause| Error::failed(format!("cannot write config.json: {cause}")))
}

/// A configuration with the format that the weights are saved in: one that names another would have them rounded as they are
/// loaded.
pub fn named_format(mut config: Value, name: &str) -> Value {
    for key in ["dtype", "torch_dtype"] {
        if let Some(dtype) = config.get_mut(key) {
            *dtype = Value::from(name);
        }
    }
    config
}

/// The files of a model's folder with those of this tokenizer in place of others.
///
/// # Errors
/// They cannot be written aside.
pub fn with_tokenizer(
    mut files: Vec<FolderFile>,
    tokenizer: &Tokenizer,
) -> Result<Vec<FolderFile>> {
    let own = tokenizer_files(tokenizer)?;
    files.retain(|file| own.iter().all(|own| own.name != file.name));
    files.extend(own);
    Ok(files)
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
