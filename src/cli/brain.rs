//! A trained model from its bundle, for the commands that use one.

use crate::cli::args::BundleArgs;
use crate::cli::sampling::Defaults;
use aios_adapters::peft::AdapterConfig;
use aios_base::config::{DeviceChoice, Subject, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::execution::{Execution, Place, Precision};
use aios_base::waiting::waiting;
use aios_bundle::{Bundle, TensorFile};
use aios_chat::Template;
use aios_data::{Tokenizer, telling};
use aios_device::{self as devices, select};
use aios_engine::{Adapter, Engine, OpenDevice, Settings, Weights};
use aios_hf::{CONFIG_FILE, Folder, GENERATION_FILE, Generation};
use aios_models::decoder::{DecoderConfig, HfModel, passed_over};
use aios_models::{Architecture, Model};
use aios_plan::checked_path;
use aios_tensor::Check;
use aios_train::adapting::{applied, base_of, base_of_saved, named_by_adapter, tokenizer_of};
use aios_train::devices::first_that_works;
use aios_train::held::for_reading;
use aios_train::idle;
use aios_train::saved::Saved;
use std::path::Path;

/// Everything of a model but the weights, which need a device.
pub struct Brain {
    source: Source,
    shape: Model,
    pub config: TrainConfig,
    pub tokenizer: Tokenizer,
}

/// Where its weights are.
enum Source {
    Bundle(Bundle),
    Folder(Folder),
    /// Of a model and of an adapter beside it.
    Adapter {
        base: Folder,
        tensors: TensorFile,
    },
}

impl Source {
    fn of_saved(model: &Model, config: &TrainConfig, bundle: Bundle) -> Result<Self> {
        match model.as_decoder() {
            Some(decoder) if decoder.adapted().is_some() => {
                let mut tell = telling("downloading the adapter's model", false);
                Ok(Self::Adapter {
                    base: base_of_saved(config, decoder, &mut tell)?,
                    tensors: bundle.model_tensors()?,
                })
            }
            _ => Ok(Self::Bundle(bundle)),
        }
    }
}

impl Brain {
    /// Open the bundle in a directory, which a training may save into meanwhile; or a Hugging Face model there, or of such
    /// an id.
    ///
    /// # Errors
    /// Nothing there, or damage, named with the file.
    pub fn open(args: &BundleArgs) -> Result<Self> {
        let path = args.path();
        if Bundle::exists(&path) {
            return match &args.tokenizer {
                None => Self::of_bundle(&path),
                Some(name) => Err(Error::invalid(format!(
                    "--tokenizer {name}: {} has the tokenizer that it was trained with; leave --tokenizer out",
                    path.display()
                ))),
            };
        }
        if args.is_by_name() && !path.join(CONFIG_FILE).is_file() {
            return Err(missing(&path));
        }
        let spec = path.to_string_lossy();
        let mut tell = telling(&format!("downloading {spec}"), false);
        Self::of_folder(Folder::locate(&spec, &mut tell)?, args.tokenizer.as_deref())
    }

    /// Open what the arguments of a command say.
    ///
    /// # Errors
    /// As [`Brain::open`], or an adapter that is not of the model.
    pub fn of_args(args: &BundleArgs) -> Result<Self> {
        match &args.adapter {
            None => Self::open(args),
            Some(adapter) => Self::with_adapter(args, adapter),
        }
    }

    /// The model that an adapter says it is for.
    ///
    /// # Errors
    /// It says none.
    pub fn base_of_adapter(adapter: &Path) -> Result<String> {
        base_of(&AdapterConfig::open(adapter)?, adapter)
    }

    /// A model with an adapter of PEFT, or the one that the adapter names.
    fn with_adapter(args: &BundleArgs, adapter: &Path) -> Result<Self> {
        let spec = match args.base() {
            Some(model) => model,
            None => Self::base_of_adapter(adapter)?,
        };
        let mut tell = telling(&format!("downloading {spec}"), false);
        let folder = Folder::locate(&spec, &mut tell);
        let folder = match args.base() {
            Some(_) => folder?,
            None => folder.map_err(|error| named_by_adapter(&error, adapter))?,
        };
        let brain = Self::of_folder(folder, args.tokenizer.as_deref())?;
        let (Source::Folder(base), Model::Decoder(model)) = (brain.source, brain.shape) else {
            return Err(Error::failed("adapters are of Hugging Face models"));
        };
        let (model, tensors) = applied(model, &aios_hf::Weights::open(&base)?, adapter)?;
        let tokenizer = tokenizer_of(&model, adapter)?.unwrap_or(brain.tokenizer);
        Ok(Self {
            tokenizer,
            source: Source::Adapter { base, tensors },
            shape: Model::Decoder(model),
            ..brain
        })
    }

    fn of_bundle(path: &Path) -> Result<Self> {
        loop {
            let saved = Saved::open(path).map_err(|error| match Bundle::exists(path) {
                true => error,
                false => missing(path),
            })?;
            let folder = saved.bundle.tokenizer_dir();
            match Tokenizer::load_directory(&folder, &mut |_, _| Ok(())) {
                // The training has gone on, and removed this checkpoint for newer ones.
                Err(_) if !saved.bundle.path().exists() => {}
                tokenizer => {
                    return Ok(Self {
                        tokenizer: tokenizer?,
                        source: Source::of_saved(&saved.state.model, &saved.config, saved.bundle)?,
                        shape: saved.state.model,
                        config: saved.config,
                    });
                }
            }
        }
    }

    fn of_folder(folder: Folder, tokenizer: Option<&str>) -> Result<Self> {
        let mut config = TrainConfig::defaults(Subject::Pretrained);
        let decoder = DecoderConfig::read(folder.config())?;
        idle::warn(&passed_over(folder.config())?);
        config.max_seq_len = config.max_seq_len.min(decoder.max_positions);
        let length = config.max_seq_len;
        let shape = HfModel::of(folder.config().clone(), decoder, length, 0)?;
        let shape = Model::Decoder(shape);
        Ok(Self {
            tokenizer: match tokenizer {
                Some(name) => Tokenizer::load(name)?,
                None => Tokenizer::of_folder(&folder)?,
            },
            shape,
            config,
            source: Source::Folder(folder),
        })
    }

    /// Whether it is a Hugging Face decoder.
    pub fn is_decoder(&self) -> bool {
        self.shape.as_decoder().is_some()
    }

    /// Tokens that the model knows, if these are not its tokenizer's.
    pub fn vocabulary(&self) -> Option<u32> {
        self.shape.own_vocabulary()
    }

    /// Read sequences of another length.
    ///
    /// # Errors
    /// A length that the model has no positions for, or a model that has one length only.
    pub fn set_length(&mut self, length: Option<usize>) -> Result<()> {
        let Some(length) = length else {
            return Ok(());
        };
        let Some(decoder) = self.shape.as_decoder() else {
            return Err(Error::invalid(
                "--max-seq-len is for Hugging Face models: ACT-v1 reads sequences as long as it was trained on",
            ));
        };
        let longest = decoder.decoder.max_positions;
        if length > longest {
            tracing::warn!(
                "texts of {length} tokens are longer than the {longest} that this model was made for \
                 (max_position_embeddings)"
            );
        }
        let mut shape = HfModel::new(decoder.config().clone(), length, self.config.window_size)?;
        if let Some(adapted) = decoder.adapted() {
            shape = shape.with_adapter(adapted.clone())?;
        }
        self.shape = Model::Decoder(shape);
        self.config.max_seq_len = length;
        Ok(())
    }

    /// Positions that a text of so many tokens needs.
    pub fn longest(&self, tokens: usize) -> usize {
        match self.is_decoder() {
            true => tokens.min(self.config.max_seq_len),
            false => tokens,
        }
    }

    /// What the model reads before it goes on: to ACT-v1 every document follows an end of text; a decoder gets what its
    /// tokenizer puts before a text.
    ///
    /// # Errors
    /// A text that cannot be encoded.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let begins = vec![self.tokenizer.end_of_text()];
        match self.is_decoder() {
            false => Ok([begins, self.tokenizer.encode(text)?].concat()),
            true => self.begun(self.tokenizer.encode(text)?),
        }
    }

    /// The same of a text in which the names of control tokens are these tokens.
    ///
    /// # Errors
    /// A text that cannot be encoded.
    pub fn prompt_with_names(&self, text: &str) -> Result<Vec<u32>> {
        match self.is_decoder() {
            false => self.prompt(text),
            true => self.begun(self.tokenizer.with_control_tokens()?.encode(text)?),
        }
    }

    /// After what the tokenizer puts before a text, unless it begins so already.
    fn begun(&self, ids: Vec<u32>) -> Result<Vec<u32>> {
        let before = self.tokenizer.before_a_text();
        let ids = match ids.starts_with(before) {
            true => ids,
            false => [before, ids.as_slice()].concat(),
        };
        Ok(match ids.is_empty() {
            true => vec![self.bos().unwrap_or(self.tokenizer.end_of_text())],
            false => ids,
        })
    }

    /// Its chat template: the one that it was trained by, if it has an adapter, or its own.
    ///
    /// # Errors
    /// A model without one, or one that cannot be read.
    pub fn template(&self) -> Result<Template> {
        if !self.is_decoder() {
            return Err(Error::invalid(
                "conversations are for Hugging Face models, which may have a chat template; ACT-v1 goes on from a text: aios \
                 generate --prompt",
            ));
        }
        let folder = self.folder()?;
        let beside = match &self.source {
            Source::Adapter { tensors, .. } => match tensors.path().parent() {
                Some(folder) => Folder::of_adapter(folder)?.chat_template()?,
                None => None,
            },
            Source::Bundle(_) | Source::Folder(_) => None,
        };
        let source = match beside {
            Some(template) => Some(template),
            None => folder.chat_template()?,
        };
        let source = source.ok_or_else(|| {
            Error::invalid(
                "the model has no chat template: give one by --chat-template FILE, or the text that it is to go on from to \
                 aios generate --prompt",
            )
        })?;
        Template::new(&source, &self.control_tokens()?)
    }

    /// Control tokens by the names under which templates ask for them.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn control_tokens(&self) -> Result<Vec<(String, String)>> {
        self.folder()?.control_tokens()
    }

    /// Let texts be as long as the model's positions allow, but no longer than `most`.
    ///
    /// # Errors
    /// As [`Brain::set_length`].
    pub fn lengthen(&mut self, most: usize) -> Result<()> {
        match self.shape.as_decoder() {
            Some(decoder) => {
                let longest = decoder.decoder.max_positions.min(most);
                self.set_length(Some(longest))
            }
            None => Ok(()),
        }
    }

    /// Positions for a text of so many tokens, as far as the model has learned any: one that was pretrained may have been
    /// fine-tuned on shorter texts than it was made for.
    ///
    /// # Errors
    /// As [`Brain::set_length`].
    pub fn make_room(&mut self, tokens: usize) -> Result<usize> {
        let learned = match self.shape.as_decoder() {
            Some(decoder) if self.config.subject != Subject::Decoder => {
                decoder.decoder.max_positions
            }
            _ => self.config.max_seq_len,
        };
        if self.config.max_seq_len < learned.min(tokens) {
            self.lengthen(tokens)?;
        }
        let longest = self.longest(tokens);
        if longest < tokens {
            tracing::warn!(
                "the prompt and --max-new-tokens may come to {tokens} tokens, and the model reads {longest}: what is beyond \
                 goes by the last of them, and is slow"
            );
        }
        Ok(longest)
    }

    /// The files of a Hugging Face decoder.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn folder(&self) -> Result<Folder> {
        match &self.source {
            Source::Folder(folder) | Source::Adapter { base: folder, .. } => Ok(folder.clone()),
            Source::Bundle(bundle) => Folder::open(bundle.path()),
        }
    }

    fn bos(&self) -> Option<u32> {
        self.generation().ok()?.bos
    }

    fn place(&self) -> &Path {
        match &self.source {
            Source::Folder(folder) | Source::Adapter { base: folder, .. } => folder.path(),
            Source::Bundle(bundle) => bundle.path(),
        }
    }

    fn generation(&self) -> Result<Generation> {
        Ok(self.folder()?.generation().clone())
    }

    /// The model as it is held where it is read alone.
    fn read(&self) -> Result<Model> {
        match (&self.source, &self.shape) {
            (Source::Folder(folder), Model::Decoder(model)) => {
                let weights = aios_hf::Weights::open(folder)?;
                Ok(Model::Decoder(for_reading(model.clone(), &weights)))
            }
            _ => Ok(self.shape.clone()),
        }
    }

    /// The model on a device, for sequences of no more than `positions` tokens.
    ///
    /// # Errors
    /// Damaged weights, or more of them than there is memory for.
    pub fn model(&self, positions: usize, device: &dyn OpenDevice) -> Result<Box<dyn Engine>> {
        waiting("loading the model", false, || {
            self.loaded(positions, device)
        })
    }

    fn loaded(&self, positions: usize, device: &dyn OpenDevice) -> Result<Box<dyn Engine>> {
        let fixed = |shape| Settings::fixed(shape, positions, self.config.chunking());
        let settings = fixed(&self.shape);
        match &self.source {
            Source::Bundle(bundle) => {
                device.model(&settings, Weights::File(&mut bundle.model_tensors()?))
            }
            Source::Folder(folder) => {
                let weights = aios_hf::Weights::open(folder)?;
                device.model(&fixed(&self.read()?), Weights::Folder(&weights))
            }
            Source::Adapter { base, tensors } => {
                let (base, mut file) = (aios_hf::Weights::open(base)?, tensors.try_clone()?);
                let weights = Weights::Adapted {
                    base: &base,
                    adapter: Adapter::File(&mut file),
                };
                device.model(&settings, weights)
            }
        }
    }

    /// How its text is drawn where no flag says otherwise.
    ///
    /// # Errors
    /// A generation_config.json that cannot be read.
    pub fn sampling(&self) -> Result<Defaults> {
        let end = self.tokenizer.end_of_text();
        match self.is_decoder() {
            false => Ok(Defaults::actv1(end)),
            true => {
                let file = self.place().join(GENERATION_FILE);
                Ok(Defaults::of_generation(&self.generation()?, file, end))
            }
        }
    }

    /// A device that works, and how the model runs over sequences on it. With `--device auto` one that does not is left
    /// for the next best, which is said on standard error.
    ///
    /// # Errors
    /// No such device, or none that works.
    pub fn open_device(&self, choice: &DeviceChoice) -> Result<(Execution, Box<dyn OpenDevice>)> {
        let in_files = self.read()?.formats_of_files();
        let mut path = |adapter: &devices::Adapter, device: &dyn OpenDevice| {
            let mut check = |check| device.check(check);
            for storage in &in_files {
                check(Check::Adapter(*storage, Precision::F32))?;
            }
            checked_path(
                adapter.kind,
                &self.config,
                &self.shape.attention(),
                &mut check,
            )
        };
        let found = first_that_works(choice, false, select(choice)?, &mut path)?;
        for fallback in &found.fallbacks {
            tracing::warn!("{fallback}");
        }
        let execution = Execution {
            chunking: self.config.chunking(),
            place: Place::of(self.config.cpu_offload, found.selection.adapter.kind),
            path: found.checked,
            precision: Precision::F32,
        };
        Ok((execution, found.device))
    }
}

/// No bundle in `path`; names those beside it.
pub fn missing(path: &Path) -> Error {
    let beside = path.parent().map(std::fs::read_dir).and_then(Result::ok);
    let mut names: Vec<String> = beside
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| Bundle::exists(path))
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    let advice = match names.is_empty() {
        true => {
            "train one first, or give its path, or a model by --model DIR|FILE.gguf|ID".to_string()
        }
        false => format!("beside it there is {}: use --brain-name", names.join(", ")),
    };
    Error::failed(format!("no bundle in {}: {advice}", path.display()))
}
