//! Which of the features asked for will run on this device, and what stands in for the others.

use super::metrics::{AttentionChoice, Fallback, PrecisionChoice};
use crate::backend::Kind;
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::memory::checkpoint::Keep;
use crate::memory::estimate::{Estimate, Run};
use crate::memory::moments::Moments;
use crate::model::ModelConfig;
use crate::ops::AttentionPath;

/// What will run.
#[derive(Debug)]
pub struct Plan {
    pub path: AttentionPath,
    pub attention: AttentionChoice,
    pub precision: PrecisionChoice,
    pub keep: Keep,
    /// Format of the optimizer's state.
    pub moments: Moments,
    /// Everything slower or larger than what was asked for.
    pub fallbacks: Vec<Fallback>,
}

impl Plan {
    /// Decide for a device of this kind.
    ///
    /// # Errors
    /// With `--strict`, the first fallback.
    pub fn new(config: &TrainConfig, kind: Kind) -> Result<Self> {
        let mut fallbacks = Vec::new();
        let (path, attention) = attention(config, kind, &mut fallbacks);
        let plan = Self {
            path,
            attention,
            precision: precision(config, kind, &mut fallbacks),
            keep: match config.gradient_checkpointing {
                true => Keep::Inputs,
                false => Keep::Everything,
            },
            moments: match config.use_8bit_optimizer {
                false => Moments::F32,
                true => Moments::EightBit {
                    f32_embedding: config.f32_embedding_state,
                },
            },
            fallbacks,
        };
        plan.with_memory_features(config).checked(config)
    }

    fn with_memory_features(mut self, config: &TrainConfig) -> Self {
        if config.use_chunked_training && config.chunk_size < config.max_seq_len {
            let reason = "this version does not split sequences";
            self.fall_back("chunked training", "chunks", "whole sequences", reason);
        }
        if config.cpu_offload {
            let reason = "this version keeps everything on the device";
            self.fall_back("CPU offload", "host memory", "device memory", reason);
        }
        self
    }

    /// The same with f32 state, because the device cannot do better.
    ///
    /// # Errors
    /// With `--strict`, this fallback.
    pub fn without_8bit_state(mut self, config: &TrainConfig, reason: &str) -> Result<Self> {
        let (wanted, used) = (self.moments.name(), Moments::F32.name());
        self.moments = Moments::F32;
        self.fall_back("8-bit optimizer", wanted, used, reason);
        self.checked(config)
    }

    fn fall_back(&mut self, feature: &str, wanted: &str, used: &str, reason: &str) {
        self.fallbacks.push(fallback(feature, wanted, used, reason));
    }

    fn checked(self, config: &TrainConfig) -> Result<Self> {
        match self.fallbacks.first() {
            Some(f) if config.strict => Err(Error::failed(format!(
                "--strict: {} would fall back from {} to {}: {}; leave out {} or --strict",
                f.feature,
                f.wanted,
                f.used,
                f.reason,
                flag(&f.feature)
            ))),
            _ => Ok(self),
        }
    }

    /// Predicted peak memory of a step.
    pub fn estimate(&self, config: &TrainConfig, model: &ModelConfig, kind: Kind) -> Estimate {
        self.shape(config, model, kind).estimate()
    }

    /// Bytes of activations that a token takes.
    pub fn activation_bytes_per_token(
        &self,
        config: &TrainConfig,
        model: &ModelConfig,
        kind: Kind,
    ) -> u64 {
        self.shape(config, model, kind).activations_per_token()
    }

    fn shape<'a>(&self, config: &TrainConfig, model: &'a ModelConfig, kind: Kind) -> Run<'a> {
        let (slice_bytes, slice_buffers) = match kind {
            Kind::Cpu => (crate::ops::CPU_SLICE_BYTES, 1),
            Kind::Cuda | Kind::Wgpu => (crate::ops::SLICE_BYTES, 3),
        };
        Run {
            model,
            batch_size: config.batch_size,
            seq_len: config.max_seq_len,
            accumulation: config.gradient_accumulation_steps,
            halt_max_steps: config.halt_max_steps,
            keep: self.keep,
            path: self.path,
            moments: self.moments,
            slice_bytes,
            slice_buffers,
        }
    }
}

fn fallback(feature: &str, wanted: &str, used: &str, reason: &str) -> Fallback {
    Fallback {
        feature: feature.to_string(),
        wanted: wanted.to_string(),
        used: used.to_string(),
        reason: reason.to_string(),
    }
}

/// How to ask for less.
fn flag(feature: &str) -> &'static str {
    match feature {
        "attention" => "--use-flash-attn",
        "mixed precision" => "--amp (--no-amp turns it off)",
        "8-bit optimizer" => "--use-8bit-optimizer",
        "chunked training" => "--use-chunked-training",
        _ => "--cpu-offload",
    }
}

/// The attention that a device of this kind does best.
pub fn best_path(kind: Kind) -> AttentionPath {
    match kind {
        Kind::Cpu => AttentionPath::Flash,
        Kind::Cuda | Kind::Wgpu => AttentionPath::Sdpa,
    }
}

fn attention(
    config: &TrainConfig,
    kind: Kind,
    fallbacks: &mut Vec<Fallback>,
) -> (AttentionPath, AttentionChoice) {
    let choice = |path: &str, reason: &str| AttentionChoice {
        path: path.to_string(),
        reason: reason.to_string(),
    };
    if config.use_flash_attn == Some(false) {
        return (AttentionPath::Sdpa, choice("sdpa", "--no-flash-attn"));
    }
    if best_path(kind) == AttentionPath::Flash {
        let reason = "memory linear in the sequence length";
        return (AttentionPath::Flash, choice("flash-cpu", reason));
    }
    let reason = "this version has no fused attention kernel for GPUs";
    if config.use_flash_attn == Some(true) {
        fallbacks.push(fallback("attention", "flash", "sdpa", reason));
    }
    (AttentionPath::Sdpa, choice("sdpa", reason))
}

fn precision(config: &TrainConfig, kind: Kind, fallbacks: &mut Vec<Fallback>) -> PrecisionChoice {
    let choice = |reason: &str| PrecisionChoice {
        compute: "f32".to_string(),
        reason: reason.to_string(),
    };
    if config.amp == Some(false) {
        return choice("--no-amp");
    }
    let reason = match kind {
        Kind::Cpu => "this processor is no faster in half precision",
        Kind::Cuda | Kind::Wgpu => "this version computes in f32 only",
    };
    // Left to itself, the CPU's best choice is f32; a GPU's would be half precision.
    if config.amp == Some(true) || kind != Kind::Cpu {
        fallbacks.push(fallback("mixed precision", "bf16 or f16", "f32", reason));
    }
    choice(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(strict: bool) -> TrainConfig {
        TrainConfig {
            use_8bit_optimizer: true,
            strict,
            ..TrainConfig::default()
        }
    }

    fn without_8bit_state(strict: bool) -> Result<Plan> {
        let config = config(strict);
        Plan::new(&config, Kind::Cpu)?.without_8bit_state(&config, "wrong numbers")
    }

    #[test]
    fn a_device_without_8bit_state_falls_back_and_says_so() {
        let plan = without_8bit_state(false).unwrap();
        assert_eq!(plan.moments, Moments::F32);
        let fallback = &plan.fallbacks[0];
        assert_eq!((&*fallback.wanted, &*fallback.used), ("adamw8bit", "adamw"));
        assert_eq!(fallback.reason, "wrong numbers");
    }

    #[test]
    fn strict_refuses_a_device_without_8bit_state() {
        let error = without_8bit_state(true).unwrap_err().to_string();
        assert!(error.contains("--use-8bit-optimizer"), "{error}");
    }
}
