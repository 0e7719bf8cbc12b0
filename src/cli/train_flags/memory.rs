//! Flags about the device and about memory.

use clap::Args;

use super::{set, switch};
use crate::config::{DeviceChoice, TrainConfig};

/// Device and memory features.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Device and memory")]
pub struct MemoryFlags {
    /// Where to compute: `auto`, `cpu`, `cuda[:INDEX]` or `wgpu[:INDEX]` [default: auto]
    ///
    /// `auto` takes CUDA, else a GPU through wgpu (Vulkan, Metal, DX12), else the CPU. `aios
    /// devices` lists what there is.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceChoice>,
    /// Fail instead of falling back to a slower or larger way of computing [default: off]
    #[arg(long, overrides_with_all = ["no_strict", "strict"])]
    pub strict: bool,
    /// Fall back where needed, say so and record it
    #[arg(long, hide_short_help = true, overrides_with_all = ["strict", "no_strict"])]
    pub no_strict: bool,
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
    /// Compute in half precision, with f32 weights [default: where the device is faster in it]
    #[arg(long, overrides_with_all = ["no_amp", "amp"])]
    pub amp: bool,
    /// Compute in f32
    #[arg(long, hide_short_help = true, overrides_with_all = ["amp", "no_amp"])]
    pub no_amp: bool,
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
    /// Move what is not needed at once to host memory [default: off]
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
        switch(&mut config.strict, self.strict, self.no_strict);
        if self.use_flash_attn || self.no_flash_attn {
            config.use_flash_attn = Some(self.use_flash_attn);
        }
        switch(
            &mut config.gradient_checkpointing,
            self.gradient_checkpointing,
            self.no_gradient_checkpointing,
        );
        if self.amp || self.no_amp {
            config.amp = Some(self.amp);
        }
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
        switch(
            &mut config.cpu_offload,
            self.cpu_offload,
            self.no_cpu_offload,
        );
    }
}
