//! An adapter of a run: from flags, from PEFT's files, or as it was saved.

use crate::held::{beside_adapter, formats_in, read_beside_adapter};
use aios_adapters::peft::AdapterConfig;
use aios_adapters::{Frozen, Lora, Targets, linear_modules, names};
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result, shown};
use aios_base::storage::{Quantize, Storage};
use aios_bundle::TensorFile;
use aios_data::{Tokenizer, Watch};
use aios_hf::{ADAPTER_CONFIG_FILE, ADAPTER_FILE, Folder, FolderFile, TOKENIZER_FILE, Weights};
use aios_models::decoder::{Adapted, HfModel, Naming, is_nf4};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What a run trains beside a frozen model.
#[derive(Clone, Debug)]
pub struct Adapting {
    adapted: Adapted,
    /// It is as the flags describe it, not yet as the model's modules are called.
    is_new: bool,
    /// Where it goes on from; `None` if it is drawn anew.
    from: Option<PathBuf>,
}

impl Adapting {
    /// As a run's settings say, for the model in a folder.
    ///
    /// # Errors
    /// No such adapter, or one that cannot be gone on with.
    pub fn of(config: &TrainConfig, folder: &Folder) -> Result<Option<Self>> {
        if !config.trains_adapter() {
            return Ok(None);
        }
        let lora = match &config.adapter {
            None => new_lora(config),
            Some(path) => {
                let found = AdapterConfig::open(path)?.lora;
                Lora {
                    dropout: config.lora_dropout.unwrap_or(found.dropout),
                    ..found
                }
            }
        };
        let weights = Weights::open(folder)?;
        let formats = formats_in(&weights);
        let quantize = match (is_nf4(folder.config())?, config.quantize) {
            (true, None | Some(Quantize::Nf4)) => Some(Quantize::Nf4),
            (false, Some(quantize)) if !formats.is_empty() => {
                return Err(Error::invalid(format!(
                    "--quantize {}: the model's file has its linear layers in {} already: leave --quantize out",
                    Storage::from(quantize).as_str(),
                    formats.join(", ")
                )));
            }
            (false, quantize) => quantize,
            (true, Some(other)) => {
                return Err(Error::invalid(format!(
                    "--quantize {}: the model's files have its linear layers in nf4 already: leave --quantize out",
                    Storage::from(other).as_str()
                )));
            }
        };
        let model = HfModel::new(folder.config().clone(), 1, 0)?;
        let frozen = Frozen {
            quantize,
            ..beside_adapter(&model, &weights)
        };
        Ok(Some(Self {
            adapted: Adapted { lora, frozen },
            is_new: config.adapter.is_none(),
            from: config.adapter.clone(),
        }))
    }

    /// As flags say, for a model of which only the configuration is known: its `dtype` is taken for its files'.
    pub fn described(config: &TrainConfig, json: &Value) -> Option<Self> {
        let dtype = ["dtype", "torch_dtype"]
            .iter()
            .find_map(|key| json.get(key));
        let storage = match dtype.and_then(Value::as_str) {
            Some("bfloat16") => Storage::Bf16,
            Some("float16") => Storage::F16,
            _ => Storage::F32,
        };
        let in_files = is_nf4(json).unwrap_or(false).then_some(Quantize::Nf4);
        let frozen = Frozen::new(storage, in_files.or(config.quantize));
        let lora = new_lora(config);
        config.lora_rank.map(|_| Self {
            adapted: Adapted { lora, frozen },
            is_new: true,
            from: None,
        })
    }

    /// That of a saved model, if it has one.
    pub fn of_saved(model: &HfModel) -> Option<Self> {
        Some(Self {
            adapted: model.adapted()?.clone(),
            is_new: false,
            from: None,
        })
    }

    /// Train embedding and head as a whole beside it, if the settings say so by now.
    pub fn train_whole(&mut self, config: &TrainConfig) {
        if self.is_new {
            self.adapted.lora.whole = new_lora(config).whole;
        }
    }

    /// The model with it.
    ///
    /// # Errors
    /// Modules that the model does not have.
    pub fn model(&self, model: HfModel) -> Result<HfModel> {
        let mut adapted = self.adapted.clone();
        let lora = &mut adapted.lora;
        if self.is_new {
            let layout = model.adaptable();
            let modules = linear_modules(&layout);
            lora.targets.require_each(&modules)?;
            let meant = lora.targets.of(&modules)?;
            lora.targets = lora.targets.written(&modules, &meant);
            for name in &mut lora.whole {
                *name = whole_module(name, &model).to_string();
            }
            if model.decoder.tied {
                lora.whole.truncate(1);
                lora.tied = !lora.whole.is_empty();
            }
        }
        model.with_adapter(adapted)
    }

    /// The tokenizer beside what it goes on from, if that has rows for the tokens.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        match &self.from {
            Some(folder) if !self.adapted.lora.whole.is_empty() => tokenizer_beside(folder),
            _ => Ok(None),
        }
    }

    /// Its tensors, if it goes on from some.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn tensors(&self) -> Result<Option<TensorFile>> {
        let path = self.from.as_ref().map(|folder| folder.join(ADAPTER_FILE));
        path.map(|path| TensorFile::open(&path)).transpose()
    }
}

/// A new one, as the flags describe it.
fn new_lora(config: &TrainConfig) -> Lora {
    let whole = match config.train_embeddings {
        true => vec!["embed_tokens".to_string(), "lm_head".to_string()],
        false => Vec::new(),
    };
    Lora {
        rank: config.lora_rank.unwrap_or_default(),
        alpha: config.lora_alpha,
        rslora: config.rslora,
        dora: config.dora,
        targets: Targets::of_flag(&config.lora_targets),
        exclude: None,
        ranks: Vec::new(),
        alphas: Vec::new(),
        whole,
        dropout: config.lora_dropout.unwrap_or_default(),
        tied: false,
    }
}

fn whole_module<'a>(name: &'a str, model: &HfModel) -> &'a str {
    match (name, model.decoder.naming) {
        ("embed_tokens", Naming::Gpt2) => "wte",
        _ => name,
    }
}

/// The file that says what an adapter is, for PEFT; `base` is what its model was asked for as.
///
/// # Errors
/// None that is known of.
pub fn config_file(model: &HfModel, base: Option<&str>) -> Result<Option<FolderFile>> {
    let Some(adapted) = model.adapted() else {
        return Ok(None);
    };
    let (base, revision) = match base {
        Some(base) if aios_hf::is_hub_id(base) && !Path::new(base).exists() => {
            match base.split_once('@') {
                Some((id, revision)) => (Some(id), Some(revision)),
                None => (Some(base), None),
            }
        }
        base => (base, None),
    };
    let config = AdapterConfig {
        lora: adapted.lora.clone(),
        base: base.map(str::to_string),
        revision: revision.map(str::to_string),
    };
    Ok(Some(FolderFile {
        name: ADAPTER_CONFIG_FILE.to_string(),
        bytes: config.to_json(model.is_transposed())?,
    }))
}

/// The folder of the model that a saved adapter is of.
///
/// # Errors
/// It is not where it was, or is another model now.
pub fn base_of_saved(config: &TrainConfig, model: &HfModel, watch: &mut Watch) -> Result<Folder> {
    let Some(spec) = &config.pretrained else {
        return Err(Error::failed(
            "config.toml does not say which model the adapter is of (pretrained): give it as --model",
        ));
    };
    let folder = Folder::locate(spec, watch);
    let folder = folder.map_err(|error| {
        Error::failed(format!(
            "the adapter's model: {error}; --model says where it is"
        ))
    })?;
    // The adapter has the rows of tokens that were added.
    let mut config = folder.config().clone();
    if let (Some(rows), Some(own)) = (model.grown_from(), config.get_mut("vocab_size"))
        && own.as_u64() == Some(rows as u64)
    {
        *own = Value::from(model.decoder.vocab_size);
    }
    match config == *model.config() {
        true => Ok(folder),
        false => Err(Error::failed(format!(
            "model {spec} has another config.json than the one that the adapter was trained on: give that model as --model"
        ))),
    }
}

/// The error of a model that only an adapter's files name.
pub fn named_by_adapter(error: &Error, adapter: &Path) -> Error {
    Error::failed(format!(
        "{error}; {} names it: say by --model where it is",
        shown(&adapter.join(ADAPTER_CONFIG_FILE))
    ))
}

/// The model that an adapter of PEFT says it is for.
///
/// # Errors
/// It says none.
pub fn base_of(config: &AdapterConfig, adapter: &Path) -> Result<String> {
    let Some(base) = &config.base else {
        return Err(Error::invalid(format!(
            "{} does not say which model it is for (base_model_name_or_path): give it as --model",
            shown(&adapter.join(ADAPTER_CONFIG_FILE))
        )));
    };
    Ok(match &config.revision {
        Some(revision) if !Path::new(base).exists() => format!("{base}@{revision}"),
        _ => base.clone(),
    })
}

/// A model with an adapter of PEFT, to be used as it is; and its tensors.
///
/// # Errors
/// An adapter that is not of this model or not supported.
pub fn applied(model: HfModel, base: &Weights, adapter: &Path) -> Result<(HfModel, TensorFile)> {
    let config = AdapterConfig::open(adapter)?;
    let tensors = TensorFile::open(&adapter.join(ADAPTER_FILE))?;
    let model = match vocabulary_in(&model, &tensors) {
        Some(vocabulary) => model.grown(vocabulary)?,
        None => model,
    };
    let frozen = read_beside_adapter(&model, base);
    let lora = config.lora;
    let place = shown(&adapter.join(ADAPTER_CONFIG_FILE)).to_string();
    let model = model.with_adapter(Adapted { lora, frozen });
    let model = model.map_err(|error| error.of_file(place))?;
    Ok((model, tensors))
}

/// Tokens of the embedding that an adapter has as a whole.
fn vocabulary_in(model: &HfModel, tensors: &TensorFile) -> Option<usize> {
    let table = model.layout().into_iter().next()?.0;
    tensors
        .shape(&names::in_file(&table.name))?
        .first()
        .copied()
}

/// The tokenizer beside an adapter, where it has tokens of its own.
///
/// # Errors
/// It cannot be read.
pub fn tokenizer_of(model: &HfModel, adapter: &Path) -> Result<Option<Tokenizer>> {
    match model.grown_from() {
        Some(_) => tokenizer_beside(adapter),
        None => Ok(None),
    }
}

fn tokenizer_beside(adapter: &Path) -> Result<Option<Tokenizer>> {
    match adapter.join(TOKENIZER_FILE).is_file() {
        true => Tokenizer::load_directory(adapter, &mut |_, _| Ok(())).map(Some),
        false => Ok(None),
    }
}
