//! Flags that decide the shape of the model.

use clap::Args;

use crate::cli::train_flags::{set, switch};
use aios_base::config::{HaltReward, PosEncodings, TrainConfig};

/// Shape of the model.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags {
    /// Tokenizer, which also sets the vocabulary [default: gpt2]
    ///
    /// `gpt2` and `builtin:stories`, of 1,024 tokens, are built in; else a directory with a tokenizer.json, the path of one, or a Hugging
    /// Face Hub id, which is looked up in the Hub's cache and then downloaded.
    #[arg(long, value_name = "NAME|PATH|ID")]
    pub model: Option<String>,
    /// Width of the model's states [default: 512]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub hidden_size: Option<usize>,
    /// Attention heads; must divide the hidden size [default: 8]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub num_heads: Option<usize>,
    /// Width of the feed-forward layers relative to the hidden size [default: 2.0]
    ///
    /// The inner width is two thirds of expansion times hidden size, rounded up to a multiple of
    /// 256.
    #[arg(long, value_name = "FACTOR", allow_hyphen_values = true)]
    pub expansion: Option<f64>,
    /// Blocks in the slow (H) level [default: 2]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub h_layers: Option<usize>,
    /// Blocks in the fast (L) level [default: 2]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub l_layers: Option<usize>,
    /// Runs of the H level per segment [default: 2]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub h_cycles: Option<usize>,
    /// Runs of the L level per run of the H level [default: 2]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub l_cycles: Option<usize>,
    /// How a token's position enters the model [default: rope]
    #[arg(long, value_name = "KIND")]
    pub pos_encodings: Option<PosEncodings>,
    /// Use the embedding's table as the head too: 16 bytes less for each of its weights [default: off]
    ///
    /// It is another model: weights trained one way do not serve the other.
    #[arg(long, overrides_with_all = ["no_tie_embeddings", "tie_embeddings"])]
    pub tie_embeddings: bool,
    /// Give the head weights of its own
    #[arg(
        long,
        hide_short_help = true,
        overrides_with_all = ["tie_embeddings", "no_tie_embeddings"]
    )]
    pub no_tie_embeddings: bool,
    /// Tokens in a training sequence [default: 128]
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true)]
    pub max_seq_len: Option<usize>,
    /// Tokens that a token may attend to, itself included; 0 = all earlier ones [default: 0]
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true)]
    pub window_size: Option<usize>,
    /// Most segments (deep-supervision passes) per batch [default: 2]
    ///
    /// Each segment is a forward and backward pass over the same sequences that goes on from the
    /// states of the one before. The halting head learns to stop earlier.
    #[arg(long, value_name = "SEGMENTS", allow_negative_numbers = true)]
    pub halt_max_steps: Option<usize>,
}

impl ModelFlags {
    /// A flag that was given and that no other model than ACT-v1 has.
    pub fn of_actv1(&self) -> Option<&'static str> {
        let given = [
            ("hidden-size", self.hidden_size.is_some()),
            ("num-heads", self.num_heads.is_some()),
            ("expansion", self.expansion.is_some()),
            ("h-layers", self.h_layers.is_some()),
            ("l-layers", self.l_layers.is_some()),
            ("h-cycles", self.h_cycles.is_some()),
            ("l-cycles", self.l_cycles.is_some()),
            ("pos-encodings", self.pos_encodings.is_some()),
            ("tie-embeddings", self.tie_embeddings),
            ("no-tie-embeddings", self.no_tie_embeddings),
            ("halt-max-steps", self.halt_max_steps.is_some()),
        ];
        given
            .into_iter()
            .find(|(_, given)| *given)
            .map(|(flag, _)| flag)
    }

    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.model, &self.model);
        set(&mut config.hidden_size, &self.hidden_size);
        set(&mut config.num_heads, &self.num_heads);
        set(&mut config.expansion, &self.expansion);
        set(&mut config.h_layers, &self.h_layers);
        set(&mut config.l_layers, &self.l_layers);
        set(&mut config.h_cycles, &self.h_cycles);
        set(&mut config.l_cycles, &self.l_cycles);
        set(&mut config.pos_encodings, &self.pos_encodings);
        switch(
            &mut config.tie_embeddings,
            self.tie_embeddings,
            self.no_tie_embeddings,
        );
        set(&mut config.max_seq_len, &self.max_seq_len);
        set(&mut config.window_size, &self.window_size);
        set(&mut config.halt_max_steps, &self.halt_max_steps);
    }
}

/// How the model learns when to halt, which changes nothing about its size.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct HaltingFlags {
    /// What the halting head takes for success [default: accuracy]
    #[arg(long, value_name = "KIND")]
    pub halt_reward: Option<HaltReward>,
    /// Share of sequences (0 to 1) that run a random number of segments, 2 at least, before they
    /// may halt [default: 0.1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub halt_exploration: Option<f64>,
}

impl HaltingFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.halt_reward, &self.halt_reward);
        set(&mut config.halt_exploration, &self.halt_exploration);
    }
}
