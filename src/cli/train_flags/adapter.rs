//! Flags about an adapter that is trained in place of the model.

use std::path::PathBuf;

use clap::Args;

use crate::cli::train_flags::{set, set_some, switch};
use aios_base::config::{Quantize, TrainConfig};

/// LoRA, and how the frozen model is held.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Adapter")]
pub struct AdapterFlags {
    /// Train a LoRA adapter of this rank, such as 16, in place of the model
    ///
    /// The model stays as it is, in the format of its files, and costs neither gradients nor optimizer state. What is saved
    /// is the adapter alone, as PEFT reads it: adapter_config.json and adapter_model.safetensors. aios merge adds it to the
    /// model.
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub lora_rank: Option<usize>,
    /// What the adapter gives counts this over the rank times [default: 32]
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
    pub lora_alpha: Option<f64>,
    /// Drop this share of what the adapter reads, drawn anew in each step [default: 0, or that of --adapter]
    ///
    /// Against overfitting: 0.05 to 0.1 where few examples are seen again and again. What is kept counts 1 / (1 - P) times. With
    /// --dora the model's own product is dropped from as well where magnitudes change it, as PEFT does. eval and generate drop
    /// nothing.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub lora_dropout: Option<f64>,
    /// Modules that get an adapter [default: all-linear]
    ///
    /// all-linear means every linear layer but the head; else names with commas between, such as q_proj,v_proj, or a regular
    /// expression that whole module names match, such as '.*layers\.[0-7]\.mlp.*'.
    #[arg(long, value_name = "NAMES|REGEX")]
    pub lora_targets: Option<String>,
    /// Divide alpha by the root of the rank instead of the rank (rsLoRA): for ranks of 64 and more [default: off]
    #[arg(long, overrides_with_all = ["no_rslora", "rslora"])]
    pub rslora: bool,
    /// Divide alpha by the rank
    #[arg(long, hide_short_help = true, overrides_with_all = ["rslora", "no_rslora"])]
    pub no_rslora: bool,
    /// Train the weights' magnitudes beside their directions (DoRA): learns more at ranks below 16 and takes longer
    /// [default: off]
    #[arg(long, overrides_with_all = ["no_dora", "dora"])]
    pub dora: bool,
    /// Train LoRA alone
    #[arg(long, hide_short_help = true, overrides_with_all = ["dora", "no_dora"])]
    pub no_dora: bool,
    /// Train the embedding and the head as a whole too, and save them with the adapter [default: off]
    #[arg(long, overrides_with_all = ["no_train_embeddings", "train_embeddings"])]
    pub train_embeddings: bool,
    /// Leave embedding and head as they are
    #[arg(
        long,
        hide_short_help = true,
        overrides_with_all = ["train_embeddings", "no_train_embeddings"]
    )]
    pub no_train_embeddings: bool,
    /// Go on training this adapter: a folder with PEFT's adapter_config.json and adapter_model.safetensors
    ///
    /// The run begins at step 0 with a fresh optimizer; to continue a run of this program instead, use --resume.
    #[arg(long, value_name = "DIR", conflicts_with = "lora_rank")]
    pub adapter: Option<PathBuf>,
    /// Hold the frozen weights of linear layers in fewer bits (QLoRA)
    ///
    /// nf4 takes 4.13 bits a weight, in the format of bitsandbytes with double quantization; q8_0 takes 9. They are decoded
    /// one at a time as they are multiplied by. Embedding, head and norms stay as they are in the files. A model whose files
    /// bitsandbytes wrote in nf4 stays in it, without this flag.
    #[arg(long, value_name = "FORMAT")]
    pub quantize: Option<Quantize>,
}

impl AdapterFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        // Of the two the one that was given here takes the place of what a file says.
        if self.lora_rank.is_some() {
            config.adapter = None;
        }
        if self.adapter.is_some() {
            config.lora_rank = None;
        }
        set_some(&mut config.lora_rank, &self.lora_rank);
        set(&mut config.lora_alpha, &self.lora_alpha);
        set_some(&mut config.lora_dropout, &self.lora_dropout);
        set(&mut config.lora_targets, &self.lora_targets);
        switch(&mut config.rslora, self.rslora, self.no_rslora);
        switch(&mut config.dora, self.dora, self.no_dora);
        switch(
            &mut config.train_embeddings,
            self.train_embeddings,
            self.no_train_embeddings,
        );
        set_some(&mut config.adapter, &self.adapter);
        set_some(&mut config.quantize, &self.quantize);
    }
}
