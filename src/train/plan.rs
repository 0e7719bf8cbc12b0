//! Which of the features asked for will run on this device, and what stands in for the others.

mod precision;

use super::metrics::{AttentionChoice, Fallback, PrecisionChoice};
use super::optimizer::AdamW;
use super::supervision::Recipe;
use crate::backend::{Adapter, Kind, confirmed};
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::memory::checkpoint::Keep;
use crate::memory::estimate::Run;
use crate::model::{ActV1, ModelConfig};
use crate::ops::{AttentionPath, LossPath, Ops, Precision, self_check};

/// What will run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub kind: Kind,
    pub path: AttentionPath,
    pub attention: AttentionChoice,
    pub precision: Precision,
    /// The same in words.
    pub precision_choice: PrecisionChoice,
    pub keep: Keep,
    pub loss_path: LossPath,
    /// Everything slower or larger than what was asked for.
    pub fallbacks: Vec<Fallback>,
}

impl Plan {
    /// Decide for this device.
    ///
    /// # Errors
    /// With `--strict`, the first fallback.
    pub fn new(config: &TrainConfig, adapter: &Adapter) -> Result<Self> {
        let kind = adapter.kind;
        let mut fallbacks = Vec::new();
        let (path, attention) = attention(config, kind, &mut fallbacks);
        let (precision, precision_choice) = precision::choose(config, adapter, &mut fallbacks);
        let plan = Self {
            kind,
            path,
            attention,
            precision,
            precision_choice,
            keep: match config.gradient_checkpointing {
                true => Keep::Inputs {
                    every: config.checkpoint_every,
                },
                false => Keep::Everything,
            },
            loss_path: match config.fused_cross_entropy {
                true => LossPath::Fused,
                false => LossPath::Plain,
            },
            fallbacks,
        };
        let plan = plan.with_memory_features(config);
        plan.checked(config)?;
        Ok(plan)
    }

    /// Do without what the device turns out to compute wrongly.
    ///
    /// # Errors
    /// It cannot even compute in f32; or, with `--strict`, a fallback.
    pub fn check_device<B: Ops>(&mut self, config: &TrainConfig, device: &B::Device) -> Result<()> {
        if self.kind == Kind::Cpu {
            return Ok(());
        }
        let check = |precision| confirmed::<B, _>(device, || self_check::<B>(device, precision))?;
        check(Precision::F32)?;
        if self.precision == Precision::F32 {
            return Ok(());
        }
        let Err(cause) = check(self.precision) else {
            return Ok(());
        };
        let (wanted, reason) = (self.precision.as_str(), cause.to_string());
        self.fallbacks
            .push(fallback("mixed precision", wanted, "f32", &reason));
        self.precision = Precision::F32;
        self.precision_choice = PrecisionChoice {
            compute: "f32".to_string(),
            reason,
        };
        self.checked(config)
    }

    /// How the segments of a step are run.
    pub fn recipe(&self, config: &TrainConfig, loss_scale: f64) -> Recipe {
        Recipe {
            halt_max_steps: config.halt_max_steps,
            reward: config.halt_reward,
            exploration: config.halt_exploration,
            keep: self.keep,
            path: self.path,
            loss_path: self.loss_path,
            precision: self.precision,
            loss_scale,
            seed: config.seed,
        }
    }

    fn with_memory_features(mut self, config: &TrainConfig) -> Self {
        if config.use_8bit_optimizer {
            self.fall_back(
                "8-bit optimizer",
                "adamw8bit",
                "adamw",
                "this version has no 8-bit state",
            );
        }
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

    fn fall_back(&mut self, feature: &str, wanted: &str, used: &str, reason: &str) {
        self.fallbacks.push(fallback(feature, wanted, used, reason));
    }

    fn checked(&self, config: &TrainConfig) -> Result<()> {
        match self.fallbacks.first() {
            Some(f) if config.strict => Err(Error::failed(format!(
                "--strict: {} would fall back from {} to {}: {}; leave out {} or --strict",
                f.feature,
                f.wanted,
                f.used,
                f.reason,
                flag(&f.feature)
            ))),
            _ => Ok(()),
        }
    }

    /// The optimizer, without state yet.
    pub fn optimizer<B: Ops>(&self, config: &TrainConfig, model: &ActV1<B>) -> AdamW<B> {
        AdamW::new(model.params().len(), config.weight_decay, config.grad_clip)
    }

    /// What a step's memory is predicted from.
    pub fn run<'a>(&self, config: &TrainConfig, model: &'a ModelConfig) -> Run<'a> {
        Run {
            model,
            kind: self.kind,
            batch_size: config.batch_size,
            seq_len: config.max_seq_len,
            accumulation: config.gradient_accumulation_steps,
            halt_max_steps: config.halt_max_steps,
            keep: self.keep,
            path: self.path,
            loss_path: self.loss_path,
            precision: self.precision,
            optimizer_bytes: 8 * model.parameters() as u64,
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
        "mixed precision" => "--amp and --amp-dtype (--no-amp turns it off)",
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
