//! Arguments of the commands that do not train.

use std::io::Read;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::bench::attention::Request;
use crate::cli::measured::BlueprintArgs;
use crate::cli::named;
use crate::cli::rows::{ContextForms, MemoryRows, OfRows, OneStep};
use crate::cli::sampling::SamplingFlags;
use crate::cli::train_flags::{
    AdapterFlags, LimitFlags, MemoryFlags, ModelFlags, RecordFlags, RowFlags, SequenceFlags,
    SharedFlags, TextFlags, TrainFlags,
};
use aios_base::config::{DeviceChoice, MemorySize, Quantize, Subject, TrainConfig};
use aios_base::error::{Error, Result};
use aios_tensor::{AttentionPath, Precision};

/// What a training step's memory depends on.
#[derive(Debug, Clone, Default, Args)]
pub struct ShapeArgs {
    /// Configuration file; flags override what it says
    ///
    /// Keys without a flag here play no part.
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Sequences per forward and backward pass [default: 8]
    #[arg(long, value_name = "SEQUENCES", allow_negative_numbers = true)]
    pub batch_size: Option<usize>,
    /// Micro-batches that make up one optimizer update [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub gradient_accumulation_steps: Option<usize>,
    /// Shape of the model.
    #[command(flatten)]
    pub model: ModelFlags,
    /// Device and memory features.
    #[command(flatten)]
    pub memory: MemoryFlags,
}

impl ShapeArgs {
    /// The configuration to describe over some defaults, checked as far as shapes go; it needs no
    /// dataset.
    pub fn to_config(&self, defaults: TrainConfig, limits: &LimitFlags) -> Result<TrainConfig> {
        let mut flags = TrainFlags {
            config: self.config.clone(),
            model: self.model.clone(),
            shared: SharedFlags {
                memory: self.memory.clone(),
                limits: limits.clone(),
                ..SharedFlags::default()
            },
            ..TrainFlags::default()
        };
        flags.shared.run.batch_size = self.batch_size;
        flags.shared.run.gradient_accumulation_steps = self.gradient_accumulation_steps;
        let config = defaults.overlay_flags(&flags)?;
        config.validate_model()?;
        Ok(config)
    }
}

/// Arguments of `aios hrm-hf arch-summary`.
#[derive(Debug, Clone, Default, Args)]
#[command(args_override_self = true)]
pub struct ArchSummaryArgs {
    /// A model that there is: a config.json, a folder with one, a Hub id, or a bundle
    ///
    /// Of the flags about the model's shape, --max-seq-len and --window-size then count. Of a bundle of ACT-v1 everything is
    /// as it was trained unless flags say otherwise.
    #[arg(value_name = "DIR|FILE|ID", conflicts_with_all = [
        "model", "hidden_size", "num_heads", "expansion", "h_layers", "l_layers", "h_cycles", "l_cycles", "pos_encodings",
        "tie_embeddings", "no_tie_embeddings", "halt_max_steps",
    ])]
    pub decoder: Option<String>,
    /// What is to be described.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// Describe the training of a LoRA adapter of this rank
    #[arg(
        long,
        value_name = "R",
        requires = "decoder",
        allow_negative_numbers = true
    )]
    pub lora_rank: Option<usize>,
    /// Modules that have it, as for aios finetune [default: all-linear]
    #[arg(long, value_name = "NAMES|REGEX", requires = "decoder")]
    pub lora_targets: Option<String>,
    /// Hold the frozen weights of linear layers in fewer bits; with an adapter of rank 16 unless --lora-rank says otherwise
    #[arg(long, value_name = "FORMAT", requires = "decoder")]
    pub quantize: Option<Quantize>,
    /// Write the figures as JSON
    #[arg(long)]
    pub json: bool,
}

/// Rank of the adapter beside quantized weights, if it is not said.
const USUAL_RANK: usize = 16;

impl ArchSummaryArgs {
    /// The configuration to describe.
    pub fn to_config(&self) -> Result<TrainConfig> {
        self.over(match self.decoder {
            Some(_) => TrainConfig::defaults(Subject::Pretrained),
            None => TrainConfig::default(),
        })
    }

    /// What was given over these settings.
    pub fn over(&self, defaults: TrainConfig) -> Result<TrainConfig> {
        let mut config = self.shape.to_config(defaults, &LimitFlags::default())?;
        let usual = self.quantize.map(|_| USUAL_RANK);
        let adapter = AdapterFlags {
            lora_rank: self.lora_rank.or(usual),
            lora_targets: self.lora_targets.clone(),
            quantize: self.quantize,
            ..AdapterFlags::default()
        };
        adapter.apply(&mut config);
        config.validate_adapter()?;
        Ok(config)
    }
}

/// Arguments of `aios bench memory`.
#[derive(Debug, Clone, Default, Args)]
#[command(args_override_self = true)]
pub struct BenchMemoryArgs {
    /// What is to be measured.
    #[command(flatten)]
    pub shape: OfRows<MemoryRows>,
    /// Another model than ACT-v1.
    #[command(flatten)]
    pub blueprint: BlueprintArgs,
    /// What it may take and fall back to.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// Steps to time in each row [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Only these rows, such as plain,all [default: all that the device can run]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Write the figures as JSON
    #[arg(long)]
    pub json: bool,
    /// Draw the table into this file
    #[arg(long, value_name = "FILE.svg|png")]
    pub chart: Option<PathBuf>,
    /// Measure in this process, as the flags say, and write one line of JSON
    #[arg(long, hide = true)]
    pub single: bool,
}

impl BenchMemoryArgs {
    /// The configuration that all rows start from: 8 sequences of 512 tokens unless told otherwise.
    pub fn to_config(&self) -> Result<TrainConfig> {
        let rows = |defaults| TrainConfig {
            max_seq_len: 512,
            ..defaults
        };
        (self.blueprint).to_config(&self.shape.args, &self.limits, self.single, rows)
    }
}

/// Arguments of `aios bench step`.
#[derive(Debug, Clone, Default, Args)]
#[command(args_override_self = true)]
pub struct BenchStepArgs {
    /// What is to be measured.
    #[command(flatten)]
    pub shape: OfRows<OneStep>,
    /// Another model than ACT-v1.
    #[command(flatten)]
    pub blueprint: BlueprintArgs,
    /// What it may take and fall back to.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// Steps to time [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Write the figures as JSON
    #[arg(long)]
    pub json: bool,
}

impl BenchStepArgs {
    /// The configuration of the step: that of a training without flags unless told otherwise.
    pub fn to_config(&self) -> Result<TrainConfig> {
        let same = |defaults| defaults;
        (self.blueprint).to_config(&self.shape.args, &self.limits, false, same)
    }
}

/// Arguments of `aios bench context`.
#[derive(Debug, Clone, Default, Args)]
#[command(args_override_self = true)]
pub struct BenchContextArgs {
    /// What is to be measured; --window-size and --chunk-size hold for the forms that have them.
    #[command(flatten)]
    pub shape: OfRows<ContextForms>,
    /// Another model than ACT-v1.
    #[command(flatten)]
    pub blueprint: BlueprintArgs,
    /// What it may take and fall back to.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// Lengths, in tokens, from short to long [default: 512 to 32768, each twice the one before, as far as
    /// a Hugging Face model was made for them]
    #[arg(long, value_name = "TOKENS", action = ArgAction::Set, num_args = 1, value_delimiter = ',', value_parser = at_least_one, allow_negative_numbers = true)]
    pub seq_lens: Option<Vec<usize>>,
    /// Only these forms, such as flash,chunked [default: all that the device can run]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub forms: Vec<String>,
    /// Write the figures as JSON
    #[arg(long)]
    pub json: bool,
    /// Draw the table into this file
    #[arg(long, value_name = "FILE.svg|png")]
    pub chart: Option<PathBuf>,
    /// Measure in this process, as the flags say, and write one line of JSON
    #[arg(long, hide = true)]
    pub single: bool,
}

impl BenchContextArgs {
    /// The configuration that all rows start from: one sequence.
    pub fn to_config(&self) -> Result<TrainConfig> {
        let rows = |defaults| TrainConfig {
            batch_size: 1,
            ..defaults
        };
        (self.blueprint).to_config(&self.shape.args, &self.limits, self.single, rows)
    }
}

/// Arguments of `aios bench attention`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct BenchAttentionArgs {
    /// Where to compute: `auto`, `cpu`, `cuda[:INDEX]`, `wgpu[:INDEX]` or `ndarray`
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Sequences
    #[arg(long, value_name = "SEQUENCES", default_value_t = 1, value_parser = at_least_one, allow_negative_numbers = true)]
    pub batch_size: usize,
    /// Attention heads
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one, allow_negative_numbers = true)]
    pub heads: usize,
    /// Sequence lengths, in tokens
    #[arg(long, value_name = "TOKENS", action = ArgAction::Set, num_args = 1, value_delimiter = ',', default_value = "512,1024,2048,4096,8192,16384", value_parser = at_least_one, allow_negative_numbers = true)]
    pub seq_lens: Vec<usize>,
    /// Sizes of a head
    #[arg(long, value_name = "SIZES", action = ArgAction::Set, num_args = 1, value_delimiter = ',', default_value = "64,128", value_parser = at_least_one, allow_negative_numbers = true)]
    pub head_dims: Vec<usize>,
    /// Tokens that a token sees in the windowed cases, itself included; 0 = no windowed cases
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 256,
        allow_negative_numbers = true
    )]
    pub window: usize,
    /// Paths to measure: `flash`, `sdpa` or both
    #[arg(long, value_name = "NAMES", action = ArgAction::Set, num_args = 1, value_delimiter = ',', default_value = "flash,sdpa", value_parser = attention_path)]
    pub paths: Vec<AttentionPath>,
    /// Timed runs of each case, after one to warm up; fewer once they have taken 10 seconds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one, allow_negative_numbers = true)]
    pub repeats: usize,
    /// Number format: `f32`, `f16` or `bf16`
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = precision)]
    pub dtype: Precision,
    /// Cases that are predicted to take more are not run, and on the CPU more is refused
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<MemorySize>,
    /// Write the figures as JSON
    #[arg(long)]
    pub json: bool,
    /// Draw time and memory over the sequence length into this file
    #[arg(long, value_name = "FILE.svg|png")]
    pub chart: Option<PathBuf>,
}

impl BenchAttentionArgs {
    /// What to measure.
    pub fn to_request(&self) -> Request {
        Request {
            device: self.device,
            batch: self.batch_size,
            heads: self.heads,
            seq_lens: self.seq_lens.clone(),
            head_dims: self.head_dims.clone(),
            window: self.window,
            paths: self.paths.clone(),
            repeats: self.repeats,
            precision: self.dtype,
            memory_limit: self.memory_limit.map(|limit| limit.0),
        }
    }
}

/// Arguments of `aios report`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct ReportArgs {
    /// What to show: metrics files (aios train --log-file), brain bundles' directories or brains'
    /// names; each file's runs are drawn over one another
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// The page to write; nothing but an earlier report is written over
    #[arg(
        short,
        long,
        value_name = "FILE.html",
        default_value = "report.html",
        conflicts_with = "watch"
    )]
    pub output: PathBuf,
    /// Serve the page to this machine's browsers (127.0.0.1) instead, and follow the training
    #[arg(long)]
    pub watch: bool,
    /// Port to serve on with --watch; 0 = any free one
    #[arg(long, value_name = "N", default_value_t = 8600, requires = "watch")]
    pub port: u16,
    /// Directory of the brain bundles that are meant by name
    #[arg(long, value_name = "DIR", default_value = ReportArgs::BUNDLE_DIR)]
    pub bundle_dir: PathBuf,
}

impl ReportArgs {
    /// Where brains are, unless it is said.
    pub const BUNDLE_DIR: &str = "artifacts/brains/actv1";
}

/// Arguments of `aios devices`.
#[derive(Debug, Clone, Default, Args)]
pub struct DevicesArgs {
    /// Compute a little on every device, attention and the 8-bit optimizer too, and compare with
    /// the CPU; exit with 1 if a result is wrong. Under mpirun, measure sums over all ranks instead
    #[arg(long)]
    pub check: bool,
    /// Write the list as JSON
    #[arg(long)]
    pub json: bool,
}

/// Which model to read.
#[derive(Debug, Clone, Args)]
pub struct BundleArgs {
    /// Directory of the brain bundle, or a Hugging Face model as for --model, in place of --bundle-dir
    /// and --brain-name
    #[arg(value_name = "BUNDLE|DIR|FILE.gguf|ID", conflicts_with_all = ["brain_name", "bundle_dir"])]
    pub bundle: Option<PathBuf>,
    /// Hugging Face model: a folder with config.json and safetensors, a GGUF file, or a Hub id; a bundle will do too
    #[arg(long, value_name = "DIR|FILE.gguf|ID", conflicts_with_all = ["bundle", "brain_name", "bundle_dir"])]
    pub model: Option<String>,
    /// Adapter to apply to that model, or to the one that the adapter names: a folder with adapter_config.json and
    /// adapter_model.safetensors, as PEFT writes it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["brain_name", "bundle_dir"])]
    pub adapter: Option<PathBuf>,
    /// Another tokenizer than the one of that model
    #[arg(long, value_name = "NAME|PATH|ID", conflicts_with_all = ["brain_name", "bundle_dir"])]
    pub tokenizer: Option<String>,
    /// Name of the brain bundle inside --bundle-dir
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub brain_name: String,
    /// Directory of the brain bundles; that of a Hugging Face model trained here is artifacts/brains/NAME
    #[arg(long, value_name = "DIR", default_value = "artifacts/brains/actv1")]
    pub bundle_dir: PathBuf,
}

impl BundleArgs {
    /// Whether it is said by a brain's name rather than a path or an id.
    pub fn is_by_name(&self) -> bool {
        self.model.is_none() && self.bundle.is_none()
    }

    /// Directory of the bundle; of a name alone, that of the brain that has it.
    pub fn path(&self) -> PathBuf {
        match (&self.model, &self.bundle) {
            (Some(model), _) => model.into(),
            (None, Some(bundle)) => named::bundle(bundle).unwrap_or_else(|| bundle.clone()),
            (None, None) => self.bundle_dir.join(&self.brain_name),
        }
    }

    /// The model that an adapter is to be applied to, if it is said.
    pub fn base(&self) -> Option<String> {
        let bundle = self.bundle.as_ref();
        let bundle = bundle.map(|path| path.to_string_lossy().into_owned());
        self.model.clone().or(bundle)
    }
}

/// Arguments of `aios generate`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct GenerateArgs {
    /// Where the model is.
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// Text to go on from, or - to read it from standard input; without it a new document begins
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub prompt: String,
    /// Question to answer, by the model's chat template; only the answer is written
    ///
    /// It ends where the template ends an answer, or where the model ends texts.
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with = "prompt"
    )]
    pub chat: Option<String>,
    /// With --chat, what the system message says; without it the template's own, if it has one
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        requires = "chat"
    )]
    pub system: Option<String>,
    /// Most tokens to generate; a token that the model ends texts with ends it earlier
    #[arg(
        long,
        value_name = "N",
        default_value_t = 128,
        allow_negative_numbers = true
    )]
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    #[command(flatten)]
    pub sampling: SamplingFlags,
    /// Where to compute: `auto`, `cpu`, `cuda[:INDEX]`, `wgpu[:INDEX]` or `ndarray`
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Write prompt, text and token count as one line of JSON instead of streaming the text
    #[arg(long)]
    pub json: bool,
}

impl GenerateArgs {
    /// The prompt itself, read from standard input if it was given as `-`, without the line break
    /// at its end.
    pub fn prompt_text(&self) -> Result<String> {
        if self.prompt != "-" {
            return Ok(self.prompt.clone());
        }
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|cause| Error::io("standard input", "read the prompt from", cause))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_string())
    }
}

/// Arguments of `aios eval`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct EvalArgs {
    /// Where the model is.
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// Text to measure: a file, a directory of files, or - for standard input
    ///
    /// Text, JSON objects (.jsonl, .json) and tables with a header (.csv, .tsv), also compressed by gzip
    /// or zstd, Parquet files, and hf:OWNER/NAME or hf:OWNER/NAME:SPLIT in the Hugging Face cache.
    #[arg(long, value_name = "PATH")]
    pub file: PathBuf,
    /// Batches to measure; 0 = the whole text
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub batches: u64,
    /// Sequences per batch
    #[arg(
        long,
        value_name = "SEQUENCES",
        default_value_t = 8,
        value_parser = at_least_one,
        allow_negative_numbers = true
    )]
    pub batch_size: usize,
    /// Where to compute: `auto`, `cpu`, `cuda[:INDEX]`, `wgpu[:INDEX]` or `ndarray`
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Write the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// How the text is read.
    #[command(flatten)]
    pub text: TextFlags,
    /// Records of conversations, for Hugging Face models.
    #[command(flatten)]
    pub records: RecordFlags,
    /// How it becomes sequences.
    #[command(flatten)]
    pub sequences: SequenceFlags,
    /// How rows of tokens do.
    #[command(flatten)]
    pub rows: RowFlags,
    /// Tokens in a sequence, of a Hugging Face model [default: 512, or that of its training here]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one, allow_negative_numbers = true)]
    pub max_seq_len: Option<usize>,
}

fn attention_path(text: &str) -> Result<AttentionPath, String> {
    let paths = [AttentionPath::Flash, AttentionPath::Sdpa];
    let found = paths.into_iter().find(|path| path.as_str() == text);
    found.ok_or_else(|| "use flash or sdpa".into())
}

fn precision(text: &str) -> Result<Precision, String> {
    let formats = [Precision::F32, Precision::F16, Precision::Bf16];
    let found = formats.into_iter().find(|format| format.as_str() == text);
    found.ok_or_else(|| "use f32, f16 or bf16".into())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(value) if value >= 1 => Ok(value),
        _ => Err("use a whole number of at least 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command, HrmHfCommand};
    use super::*;

    fn generate(arguments: &[&str]) -> Result<GenerateArgs, clap::Error> {
        let line = ["aios", "generate"].iter().chain(arguments);
        match Cli::try_parse_from(line)?.command {
            Some(Command::Generate(args)) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bundle_is_a_path_or_a_name() {
        let path = |arguments: &[&str]| generate(arguments).unwrap().bundle.path();
        assert_eq!(path(&["out/b"]), PathBuf::from("out/b"));
        assert_eq!(path(&[]), TrainConfig::default().bundle_path());
        assert_eq!(
            path(&["--bundle-dir", "d", "--brain-name", "n"]),
            PathBuf::from("d").join("n")
        );
        assert!(generate(&["out/b", "--brain-name", "n"]).is_err());
    }

    #[test]
    fn prompt_may_begin_with_a_hyphen() {
        let args = generate(&["b", "--prompt", "- one"]).unwrap();
        assert_eq!(args.prompt_text().unwrap(), "- one");
    }

    #[test]
    fn summary_needs_no_dataset_and_checks_the_shape() {
        let config = |line: &str| match Cli::parse_from(line.split_whitespace()).command {
            Some(Command::HrmHf(HrmHfCommand::ArchSummary(args))) => args.to_config(),
            other => panic!("{other:?}"),
        };
        let small = config("aios hrm-hf arch-summary --hidden-size 64 --batch-size 2").unwrap();
        assert_eq!((small.hidden_size, small.batch_size), (64, 2));
        assert!(config("aios hrm-hf arch-summary --num-heads 7").is_err());
        assert!(config("aios hrm-hf arch-summary --batch-size 0").is_err());
    }
}
