//! `aios chat`.

mod columns;
mod command;
mod input;
mod talk;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::BundleArgs;
use crate::cli::brain::Brain;
use crate::cli::sampling::SamplingFlags;
use crate::cli::speech::{Speaker, Speech, prepared};
use aios_base::config::DeviceChoice;
use aios_base::error::{Error, Result, shown};
use aios_base::execution::Execution;
use aios_engine::{Engine, OpenDevice, Sampling};
use aios_process::stop::CtrlC;
use input::Input;
use talk::{Options, Talk, Voice};

/// The model as it is, where an adapter is asked for.
const NONE: &str = "none";

/// Arguments of `aios chat`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct ChatArgs {
    /// Directory of a brain bundle, or a Hugging Face model as for --model
    #[arg(value_name = "BUNDLE|DIR|FILE.gguf|ID", conflicts_with_all = ["brain_name", "bundle_dir"])]
    pub bundle: Option<PathBuf>,
    /// Hugging Face model: a folder with config.json and safetensors, a GGUF file, or a Hub id; a bundle will do too
    #[arg(long, value_name = "DIR|FILE.gguf|ID", conflicts_with_all = ["bundle", "brain_name", "bundle_dir"])]
    pub model: Option<String>,
    /// Adapter to apply to that model, or to the one that the adapter names; given twice, both answer, side by side
    ///
    /// A folder with adapter_config.json and adapter_model.safetensors, as PEFT writes it, or `none` for the model as it is:
    /// `--adapter none --adapter DIR` is before and after. Both are in memory.
    #[arg(long, value_name = "DIR|none", action = clap::ArgAction::Append, conflicts_with_all = ["brain_name", "bundle_dir"])]
    pub adapter: Vec<PathBuf>,
    /// Another tokenizer than the one of that model
    #[arg(long, value_name = "NAME|PATH|ID", conflicts_with_all = ["brain_name", "bundle_dir"])]
    pub tokenizer: Option<String>,
    /// Name of the brain bundle inside --bundle-dir
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub brain_name: String,
    /// Directory of the brain bundles; that of a Hugging Face model trained here is artifacts/brains/NAME
    #[arg(long, value_name = "DIR", default_value = "artifacts/brains/actv1")]
    pub bundle_dir: PathBuf,
    /// What the system message says; without it the template's own, if it has one
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,
    /// Chat template in Jinja, in place of the model's own
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Most tokens of an answer
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        allow_negative_numbers = true
    )]
    pub max_new_tokens: usize,
    /// Longest conversation, in tokens; beyond, the oldest exchanges are forgotten [default: the model's, but no more than
    /// 8192]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    pub max_seq_len: Option<u32>,
    /// How tokens are drawn.
    #[command(flatten)]
    pub sampling: SamplingFlags,
    /// Where to compute: `auto`, `cpu`, `cuda[:INDEX]`, `wgpu[:INDEX]` or `ndarray`
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Keep no history of the lines that are typed
    #[arg(long)]
    pub no_history: bool,
    /// Write each answer as a line of JSON
    #[arg(long)]
    pub json: bool,
}

impl ChatArgs {
    /// The model with one of the adapters, or without.
    fn bundle(&self, adapter: Option<&Path>) -> BundleArgs {
        BundleArgs {
            bundle: self.bundle.clone(),
            model: self.model.clone(),
            adapter: adapter.map(Path::to_path_buf),
            tokenizer: self.tokenizer.clone(),
            brain_name: self.brain_name.clone(),
            bundle_dir: self.bundle_dir.clone(),
        }
    }

    /// What is to answer, with what it is called if there are two.
    fn models(&self) -> Result<Vec<(String, BundleArgs)>> {
        let is_none = |path: &Path| path == Path::new(NONE);
        match self.adapter.as_slice() {
            [] => Ok(vec![(String::new(), self.bundle(None))]),
            adapters if adapters.len() > 2 => Err(Error::invalid(format!(
                "--adapter is given {} times: two models can answer side by side",
                adapters.len()
            ))),
            adapters => adapters
                .iter()
                .map(|path| match is_none(path) {
                    false => Ok((shown(path), self.bundle(Some(path)))),
                    true => Ok((NONE.to_string(), self.plain(adapters)?)),
                })
                .collect(),
        }
    }

    /// The model that no adapter is applied to: the one that is named, or that the other adapter names.
    fn plain(&self, adapters: &[PathBuf]) -> Result<BundleArgs> {
        if self.model.is_some() || self.bundle.is_some() {
            return Ok(self.bundle(None));
        }
        let other = adapters.iter().find(|path| *path != Path::new(NONE));
        let other = other.ok_or_else(|| {
            Error::invalid("--adapter none: say which model by --model, or give another --adapter")
        })?;
        Ok(BundleArgs {
            model: Some(Brain::base_of_adapter(other)?),
            ..self.bundle(None)
        })
    }
}

/// A model that is loaded.
struct Loaded {
    name: String,
    brain: Brain,
    speech: Speech,
    sampling: Sampling,
}

impl Loaded {
    fn new(args: &ChatArgs, name: String, bundle: &BundleArgs) -> Result<Self> {
        let (brain, sampling) = prepared(bundle, args.max_seq_len, &args.sampling)?;
        Ok(Self {
            name,
            speech: Speech::of(&brain, args.chat_template.as_deref())?,
            sampling,
            brain,
        })
    }

    fn voice<'a>(&'a self, engine: &'a dyn Engine, execution: Execution) -> Voice<'a> {
        let speaker = Speaker::new(&self.brain, engine, execution);
        let mut sampling = self.sampling.clone();
        sampling.stop.extend(self.speech.end);
        Voice::new(&self.name, &self.speech, speaker, sampling)
    }
}

/// Talk.
pub fn run(args: ChatArgs) -> Result<()> {
    let loaded: Vec<Loaded> = (args.models()?.into_iter())
        .map(|(name, bundle)| Loaded::new(&args, name, &bundle))
        .collect::<Result<_>>()?;
    let opened = loaded.iter().map(|one| one.brain.open_device(&args.device));
    let opened: Vec<(Execution, Box<dyn OpenDevice>)> = opened.collect::<Result<_>>()?;
    let engines = (loaded.iter().zip(&opened))
        .map(|(one, (_, device))| one.brain.model(one.brain.config.max_seq_len, &**device));
    let engines: Vec<Box<dyn Engine>> = engines.collect::<Result<_>>()?;
    let voices = loaded.iter().zip(&engines).zip(&opened);
    let voices = voices.map(|((one, engine), (execution, _))| one.voice(&**engine, *execution));

    let stdin = std::io::stdin();
    let at_terminal = stdin.is_terminal() && std::io::stdout().is_terminal() && !args.json;
    let options = Options {
        most: args.max_new_tokens,
        json: args.json,
        at_terminal,
    };
    let ctrl_c = CtrlC::take_over()?;
    let mut talk = Talk::new(voices.collect(), args.system.clone(), options, &ctrl_c);
    let mut input = match at_terminal {
        true => Input::editor(!args.no_history)?,
        false => Input::lines(stdin.lock()),
    };
    talk.run(&mut input)
}
