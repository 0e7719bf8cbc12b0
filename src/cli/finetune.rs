//! `aios finetune` and `aios pretrain`: training of Hugging Face decoders.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::train_flags::{
    AdapterFlags, OptimizeFlags, RecordFlags, RowFlags, SharedFlags, set, set_some,
};
use aios_base::config::{Overlay, Subject, TrainConfig};
use aios_base::error::Result;

/// Flags of both commands.
#[derive(Debug, Clone, Default, Args)]
pub struct DecoderFlags {
    /// Configuration file; flags override what it says
    ///
    /// A TOML file whose keys are the flags below in snake case, such as `batch_size = 4`; `aios init` writes one. The name of a
    /// built-in one, such as conservative-vram, will do as well.
    #[arg(long, value_name = "FILE.toml|NAME")]
    pub config: Option<PathBuf>,
    /// Looking for what fits.
    #[command(flatten)]
    pub optimize: OptimizeFlags,
    /// Tokens in a training sequence [default: 512]
    #[arg(
        long,
        value_name = "TOKENS",
        allow_negative_numbers = true,
        help_heading = "Model"
    )]
    pub max_seq_len: Option<usize>,
    /// Tokens that a token may attend to at most, itself included; 0 = as many as the model says
    /// [default: 0]
    #[arg(
        long,
        value_name = "TOKENS",
        allow_negative_numbers = true,
        help_heading = "Model"
    )]
    pub window_size: Option<usize>,
    /// Tokens that the tokenizer and the model get beside their own, with commas between, such as '<think>,</think>'
    ///
    /// Those that the tokenizer has are left as they are. What stands between <| and |> is a control token, which gives no
    /// text. The rows of the embedding and of the head begin as the mean of the others, and are trained: beside an adapter
    /// this is --train-embeddings. What is saved has them in tokenizer.json, config.json and the weights. Tokens that a
    /// tokenizer has by name beyond the model's vocabulary get their rows without this flag.
    #[arg(
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        help_heading = "Model"
    )]
    pub add_tokens: Vec<String>,
    /// Records of conversations.
    #[command(flatten)]
    pub records: RecordFlags,
    /// Rows of tokens.
    #[command(flatten)]
    pub rows: RowFlags,
    /// What every training has.
    #[command(flatten)]
    pub training: SharedFlags,
}

impl DecoderFlags {
    fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.max_seq_len, &self.max_seq_len);
        set(&mut config.window_size, &self.window_size);
        if !self.add_tokens.is_empty() {
            config.add_tokens.clone_from(&self.add_tokens);
        }
        self.records.apply(config);
        self.rows.apply(config);
        self.training.apply(config);
    }
}

/// Flags of `aios finetune`.
#[derive(Debug, Clone, Default, Args)]
#[command(
    args_override_self = true,
    after_help = "Every switch has an opposite, --no-...; --help lists them. The last one counts."
)]
pub struct FinetuneFlags {
    /// Model to go on training: a folder with config.json and safetensors, a GGUF file, or a Hugging Face Hub id
    ///
    /// Such as HuggingFaceTB/SmolLM2-135M, which is taken from the Hub's cache or downloaded (HF_TOKEN for
    /// gated ones). A bundle that this command saved is such a folder too. With --resume it says where the run is, unless
    /// --bundle-dir or --save-dir does.
    #[arg(long, value_name = "DIR|FILE.gguf|ID", help_heading = "Model")]
    pub model: Option<String>,
    /// Another tokenizer than the model's own
    #[arg(long, value_name = "NAME|PATH|ID", help_heading = "Model")]
    pub tokenizer: Option<String>,
    /// What is trained in place of the model.
    #[command(flatten)]
    pub adapter: AdapterFlags,
    /// What both commands share.
    #[command(flatten)]
    pub shared: DecoderFlags,
}

impl Overlay for FinetuneFlags {
    fn config_file(&self) -> Option<&Path> {
        self.shared.config.as_deref()
    }

    fn subject(&self) -> Subject {
        Subject::Pretrained
    }

    fn apply(&self, config: &mut TrainConfig) {
        set_some(&mut config.pretrained, &self.model);
        set(&mut config.model, &self.model);
        // In a file `model` is the model too, and its tokenizer is its own unless another one is given.
        let unsaid = TrainConfig::default().model;
        match &config.pretrained {
            Some(model) if config.model == unsaid => config.model.clone_from(model),
            None if config.model != unsaid && config.model_config.is_none() => {
                config.pretrained = Some(config.model.clone())
            }
            _ => {}
        }
        set(&mut config.model, &self.tokenizer);
        self.adapter.apply(config);
        self.shared.apply(config);
    }
}

/// Flags of `aios pretrain`.
#[derive(Debug, Clone, Default, Args)]
#[command(
    args_override_self = true,
    after_help = "Every switch has an opposite, --no-...; --help lists them. The last one counts."
)]
pub struct PretrainFlags {
    /// The config.json of the model, of which the weights are drawn anew
    ///
    /// With --resume it says where the run is, unless --bundle-dir or --save-dir does.
    #[arg(long, value_name = "FILE.json", help_heading = "Model")]
    pub model_config: Option<PathBuf>,
    /// Tokenizer [default: gpt2]
    ///
    /// `gpt2` is built in; else a directory with a tokenizer.json, the path of one, or a Hugging
    /// Face Hub id. Its tokens have to be in the model's vocabulary.
    #[arg(long, value_name = "NAME|PATH|ID", help_heading = "Model")]
    pub tokenizer: Option<String>,
    /// What both commands share.
    #[command(flatten)]
    pub shared: DecoderFlags,
}

impl Overlay for PretrainFlags {
    fn config_file(&self) -> Option<&Path> {
        self.shared.config.as_deref()
    }

    fn subject(&self) -> Subject {
        Subject::Decoder
    }

    fn apply(&self, config: &mut TrainConfig) {
        set_some(&mut config.model_config, &self.model_config);
        set(&mut config.model, &self.tokenizer);
        self.shared.apply(config);
    }
}

/// Train, or find what fits; returns the exit code.
pub fn run(flags: &dyn Overlay, shared: &DecoderFlags) -> Result<u8> {
    let request = shared.optimize.request(&shared.training.memory);
    aios_train::run(flags, request)
}
