//! Flags about the device and about what a step keeps in memory.

use clap::Args;

use crate::cli::train_flags::{set, switch};
use aios_base::config::{AmpDtype, ChunkGradients, DeviceChoice, TrainConfig, WeightsDtype};

/// Device and memory features.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Device and memory")]
pub struct MemoryFlags {
    /// Where to compute: `auto`, `cpu`, `cuda[:INDEX]`, `wgpu[:INDEX]` or `ndarray` [default: auto]
    ///
    /// `auto` takes CUDA, else a GPU through wgpu (Vulkan, Metal, DX12), else the CPU, and goes on to the
    /// next where one cannot be opened or computes wrongly, to `ndarray` at last: the CPU by plain
    /// tensor operations, to compare with. `aios devices` lists what there is.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceChoice>,
    /// Compute attention without storing its scores [default: where it runs]
    #[arg(long, overrides_with_all = ["no_flash_attn", "use_flash_attn"])]
    pub use_flash_attn: bool,
    /// Compute attention with plain tensor operations
    #[arg(
        long,
        alias = "no-use-flash-attn",
        hide_short_help = true,
        overrides_with_all = ["use_flash_attn", "no_flash_attn"]
    )]
    pub no_flash_attn: bool,
    /// Compute activations again in the backward pass instead of keeping them [default: on]
    #[arg(long, overrides_with_all = ["no_gradient_checkpointing", "gradient_checkpointing"])]
    pub gradient_checkpointing: bool,
    /// Keep all activations: faster, and larger
    #[arg(
        long,
        hide_short_help = true,
        overrides_with_all = ["gradient_checkpointing", "no_gradient_checkpointing"]
    )]
    pub no_gradient_checkpointing: bool,
    /// Recompute this many blocks together, keeping one input for all of them [default: 1]
    #[arg(long, value_name = "BLOCKS", allow_negative_numbers = true)]
    pub checkpoint_every: Option<usize>,
    /// Keep blocks' inputs in bf16 for the backward pass, while computing in f32 [default: off]
    ///
    /// Halves what --gradient-checkpointing keeps; gradients are of rounded inputs.
    #[arg(long, overrides_with_all = ["no_bf16_inputs", "bf16_inputs"])]
    pub bf16_inputs: bool,
    /// Keep blocks' inputs as they are
    #[arg(long, hide_short_help = true, overrides_with_all = ["bf16_inputs", "no_bf16_inputs"])]
    pub no_bf16_inputs: bool,
    /// Compute head and loss over slices of tokens, never all logits at once [default: on]
    #[arg(long, overrides_with_all = ["no_fused_cross_entropy", "fused_cross_entropy"])]
    pub fused_cross_entropy: bool,
    /// Compute all logits at once: larger by two or three times tokens x vocabulary x 4 bytes
    #[arg(
        long,
        hide_short_help = true,
        overrides_with_all = ["fused_cross_entropy", "no_fused_cross_entropy"]
    )]
    pub no_fused_cross_entropy: bool,
    /// Compute in half precision, with f32 weights [default: where the device is faster in it; a CPU fine-tunes in f32]
    #[arg(long, overrides_with_all = ["no_amp", "amp"])]
    pub amp: bool,
    /// Compute in f32
    #[arg(long, hide_short_help = true, overrides_with_all = ["amp", "no_amp"])]
    pub no_amp: bool,
    /// Format of half precision: bf16 where the device is fast in it, else f16 [default: auto]
    ///
    /// Naming one asks for --amp, also where it is slower: a CPU computes products in bf16 if it has instructions for them (AMX,
    /// or AVX-512 BF16 of AMD), else it halves the activations and computes in f32. f16 scales the loss (from 65536, as
    /// PyTorch's GradScaler).
    #[arg(long, value_name = "FORMAT")]
    pub amp_dtype: Option<AmpDtype>,
    /// Hold weights in f32 or bf16 [default: f32]
    ///
    /// bf16 halves what weights take, in memory and in saves, without a copy in f32: an update is computed in f32 and
    /// rounded stochastically, so that on average no change is lost, however small. Vectors (biases, weights of norms) stay
    /// in f32. A run repeats: what is drawn depends on --seed, the weight and the update.
    #[arg(long, value_name = "FORMAT")]
    pub weights_dtype: Option<WeightsDtype>,
    /// Keep the optimizer's state in 8 bits: 2 bytes per parameter instead of 8 [default: off]
    #[arg(long, overrides_with_all = ["no_8bit_optimizer", "use_8bit_optimizer"])]
    pub use_8bit_optimizer: bool,
    /// Keep the optimizer's state in f32
    #[arg(
        long,
        alias = "no-use-8bit-optimizer",
        hide_short_help = true,
        overrides_with_all = ["use_8bit_optimizer", "no_8bit_optimizer"]
    )]
    pub no_8bit_optimizer: bool,
    /// With --use-8bit-optimizer, keep the embedding's state in f32 [default: off]
    #[arg(long, overrides_with_all = ["no_f32_embedding_state", "f32_embedding_state"])]
    pub f32_embedding_state: bool,
    /// With --use-8bit-optimizer, keep the embedding's state in 8 bits too
    #[arg(
        long,
        hide_short_help = true,
        overrides_with_all = ["f32_embedding_state", "no_f32_embedding_state"]
    )]
    pub no_f32_embedding_state: bool,
    /// Process long sequences in chunks of --chunk-size [default: off]
    ///
    /// Each chunk goes forward and backward by itself, at its place in the sequence and seeing the
    /// earlier chunks' keys and values (those within --window-size), and gradients add up to one
    /// update: the losses are those of the whole sequence. See --chunk-gradients for the gradients. A
    /// chunk may be longer or shorter than the window; a sequence no longer than a chunk is processed
    /// whole.
    #[arg(long, overrides_with_all = ["no_chunked_training", "use_chunked_training"])]
    pub use_chunked_training: bool,
    /// Process sequences whole
    #[arg(
        long,
        alias = "no-use-chunked-training",
        hide_short_help = true,
        overrides_with_all = ["use_chunked_training", "no_chunked_training"]
    )]
    pub no_chunked_training: bool,
    /// Tokens per chunk with --use-chunked-training [default: 2048]
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true)]
    pub chunk_size: Option<usize>,
    /// Gradients of chunks: `exact`, `truncated` or `auto` [default: auto]
    ///
    /// `truncated` ends them at a chunk's borders: memory is that of one chunk, the keys and values
    /// within the window, and two states a token. `exact` has the gradients of the whole sequence:
    /// all but attention works on a chunk at a time, and the blocks' inputs of all tokens are kept.
    /// `auto` truncates where there is a window shorter than the sequence.
    #[arg(long, value_name = "KIND")]
    pub chunk_gradients: Option<ChunkGradients>,
    /// Keep in host memory what waits for the backward pass or a later chunk [default: off]
    ///
    /// That is the blocks' inputs with --gradient-checkpointing, and with --use-chunked-training the
    /// states, keys and values of other chunks. On a CPU everything is in host memory anyway.
    #[arg(long, overrides_with_all = ["no_cpu_offload", "cpu_offload"])]
    pub cpu_offload: bool,
    /// Keep everything on the device
    #[arg(long, hide_short_help = true, overrides_with_all = ["cpu_offload", "no_cpu_offload"])]
    pub no_cpu_offload: bool,
}

impl MemoryFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.device, &self.device);
        if self.use_flash_attn || self.no_flash_attn {
            config.use_flash_attn = Some(self.use_flash_attn);
        }
        switch(
            &mut config.gradient_checkpointing,
            self.gradient_checkpointing,
            self.no_gradient_checkpointing,
        );
        set(&mut config.checkpoint_every, &self.checkpoint_every);
        switch(
            &mut config.bf16_inputs,
            self.bf16_inputs,
            self.no_bf16_inputs,
        );
        switch(
            &mut config.fused_cross_entropy,
            self.fused_cross_entropy,
            self.no_fused_cross_entropy,
        );
        if self.amp || self.no_amp {
            config.amp = Some(self.amp);
        }
        set(&mut config.amp_dtype, &self.amp_dtype);
        set(&mut config.weights_dtype, &self.weights_dtype);
        switch(
            &mut config.use_8bit_optimizer,
            self.use_8bit_optimizer,
            self.no_8bit_optimizer,
        );
        switch(
            &mut config.f32_embedding_state,
            self.f32_embedding_state,
            self.no_f32_embedding_state,
        );
        switch(
            &mut config.use_chunked_training,
            self.use_chunked_training,
            self.no_chunked_training,
        );
        set(&mut config.chunk_size, &self.chunk_size);
        set(&mut config.chunk_gradients, &self.chunk_gradients);
        switch(
            &mut config.cpu_offload,
            self.cpu_offload,
            self.no_cpu_offload,
        );
    }
}
