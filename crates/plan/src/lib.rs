//! Which of the features asked for will run on this device, and what stands in for the others.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod attention_path;
pub mod checks;
pub mod estimate;
pub mod fit;
mod precision;
mod slices;

pub use attention_path::checked_path;

use crate::estimate::Run;
use aios_base::config::{TrainConfig, WeightsDtype};
use aios_base::error::{Error, Result};
use aios_base::execution::{Chunking, Execution, Kind, Place};
use aios_base::storage::Storage;
use aios_device::Adapter;
use aios_kernels::matmul;
use aios_memory::moments::Moments;
use aios_memory::{Decoration, Refusal};
use aios_metrics::{AttentionChoice, Fallback, PrecisionChoice};
use aios_models::Architecture;
use aios_tensor::{AttentionClass, AttentionPath, Check, LossPath, Precision};

/// What will run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub kind: Kind,
    pub path: AttentionPath,
    pub attention: AttentionChoice,
    pub precision: Precision,
    /// The same in words.
    pub precision_choice: PrecisionChoice,
    /// What is put around the model's blocks.
    pub decoration: Decoration,
    pub loss_path: LossPath,
    /// Format of the weights that are trained.
    pub weights: WeightsDtype,
    /// Format of the optimizer's state.
    pub moments: Moments,
    /// Kinds of attention that the model has.
    pub classes: Vec<AttentionClass>,
    /// Everything slower or larger than what was asked for.
    pub fallbacks: Vec<Fallback>,
}

impl Plan {
    /// Decide for this device, and for a model with these kinds of attention ([`Architecture::attention`]); none while
    /// the model is not known yet.
    ///
    /// # Errors
    /// With `--strict`, the first fallback.
    pub fn new(
        config: &TrainConfig,
        adapter: &Adapter,
        classes: Vec<AttentionClass>,
    ) -> Result<Self> {
        let kind = adapter.kind;
        let mut fallbacks = Vec::new();
        let (path, attention) = attention_path::choose(config, kind, &classes, &mut fallbacks);
        let (precision, precision_choice) = precision::choose(config, adapter, &mut fallbacks);
        let (decoration, refusals) = Decoration::of(config, kind, |format| adapter.holds(format));
        let refused = |r: Refusal| fallback(r.feature, r.wanted, r.used, r.reason);
        fallbacks.extend(refusals.into_iter().map(refused));
        let weights = weights(config, adapter, &mut fallbacks);
        let plan = Self {
            kind,
            path,
            attention,
            precision,
            precision_choice,
            decoration,
            loss_path: slices::loss_path(config, adapter),
            weights,
            moments: match config.use_8bit_optimizer {
                false => Moments::F32,
                true => Moments::EightBit {
                    f32_embedding: config.f32_embedding_state,
                },
            },
            classes,
            fallbacks,
        };
        plan.checked(config)?;
        Ok(plan)
    }

    fn check_half_precision(
        &self,
        held: &[Storage],
        check: &mut dyn FnMut(Check) -> Result<()>,
    ) -> Result<()> {
        check(Check::Linear(self.precision))?;
        for storage in held.iter().filter(|held| **held != Storage::F32) {
            check(Check::Adapter(*storage, self.precision))?;
        }
        Ok(())
    }

    /// Do without what the device turns out to compute wrongly, with frozen weights in these formats. `check` tries something on it.
    ///
    /// # Errors
    /// It cannot even compute in f32; or, with `--strict`, a fallback.
    pub fn check_device(
        &mut self,
        config: &TrainConfig,
        held: &[Storage],
        check: &mut dyn FnMut(Check) -> Result<()>,
    ) -> Result<()> {
        computes(self.kind, check)?;
        if self.kind == Kind::Ndarray {
            return Ok(());
        }
        let held: Vec<_> = held.iter().copied().chain(beside_adapter(config)).collect();
        for storage in &held {
            check(Check::Adapter(*storage, Precision::F32))?;
        }
        if self.precision != Precision::F32
            && let Err(cause) = self.check_half_precision(&held, check)
        {
            self.without_half_precision(&cause.to_string());
        }
        if self.path == AttentionPath::Flash
            && let Err(cause) = attention_path::try_all(&self.classes, self.precision, check)
        {
            self.without_flash_attention(&cause.to_string());
        }
        if self.moments != Moments::F32
            && let Err(cause) = check(Check::AdamW8bit)
        {
            self.without_8bit_state(&cause.to_string());
        }
        self.checked(config)
    }

    fn without_half_precision(&mut self, reason: &str) {
        let f32 = Precision::F32;
        self.fall_back(
            "mixed precision",
            self.precision.as_str(),
            f32.as_str(),
            reason,
        );
        self.precision = f32;
        self.precision_choice = PrecisionChoice {
            compute: f32.as_str().to_string(),
            reason: reason.to_string(),
        };
    }

    fn without_flash_attention(&mut self, reason: &str) {
        self.fallbacks
            .push(attention_path::instead_of(self.kind, reason));
        self.path = AttentionPath::Sdpa;
        self.attention = attention_path::chosen("sdpa", reason);
    }

    fn without_8bit_state(&mut self, reason: &str) {
        self.fall_back(
            "8-bit optimizer",
            self.moments.name(),
            Moments::F32.name(),
            reason,
        );
        self.moments = Moments::F32;
    }

    /// How sequences are computed, in words.
    pub fn sequences(&self, config: &TrainConfig) -> String {
        let chunks = |size| config.max_seq_len.div_ceil(size);
        let how = match self.decoration.chunking {
            Chunking::Off => "whole".to_string(),
            Chunking::Truncated { size } => {
                format!("in {} chunks of {size}, gradients truncated", chunks(size))
            }
            Chunking::Exact { size } => {
                format!("in {} chunks of {size}, exact gradients", chunks(size))
            }
        };
        match self.decoration.place {
            Place::Device => how,
            Place::Host => how + ", what waits is in host memory",
        }
    }

    /// How the model runs over sequences.
    pub fn execution(&self) -> Execution {
        Execution {
            chunking: self.decoration.chunking,
            place: self.decoration.place,
            path: self.path,
            precision: self.precision,
        }
    }

    fn fall_back(&mut self, feature: &str, wanted: &str, used: &str, reason: &str) {
        self.fallbacks.push(fallback(feature, wanted, used, reason));
    }

    fn checked(&self, config: &TrainConfig) -> Result<()> {
        match self.fallbacks.first() {
            Some(f) if config.strict => Err(Error::failed(format!(
                "--strict: {} would fall back from {} to {}: {}; {}, or leave out --strict",
                f.feature,
                f.wanted,
                f.used,
                f.reason,
                less(&f.feature)
            ))),
            _ => Ok(()),
        }
    }

    /// A frozen model is held in the format of its files, which a GPU decodes where it has no such format, and in f32 where nothing
    /// does.
    ///
    /// # Errors
    /// With `--strict`, if it has not.
    pub fn hold_frozen(
        &mut self,
        config: &TrainConfig,
        adapter: &Adapter,
        storage: Storage,
    ) -> Result<()> {
        let format = storage.as_str();
        let is_half = matches!(storage, Storage::F16 | Storage::Bf16);
        if !is_half || adapter.holds(format) || self.kind.is_gpu() {
            return Ok(());
        }
        let reason = format!("this device has no {format}: they take twice the memory");
        self.fall_back(FROZEN, format, "f32", &reason);
        self.checked(config)
    }

    /// Take the loss in slices of no more than this.
    pub fn slice_at_most(&mut self, most: Option<usize>) {
        if let (LossPath::Fused { slice_bytes }, Some(most)) = (&mut self.loss_path, most) {
            *slice_bytes = most.min(*slice_bytes);
        }
    }

    /// Take now what products keep for themselves, for it to be there whatever runs first.
    pub fn warm_up(&self) {
        if self.kind == Kind::Cpu {
            matmul::warm_up();
        }
    }

    /// Bytes of that.
    pub fn kept_bytes(&self) -> u64 {
        match self.kind {
            Kind::Cpu => matmul::kept_bytes() as u64,
            Kind::Cuda | Kind::Wgpu | Kind::Ndarray => 0,
        }
    }

    /// What a step's memory is predicted from.
    pub fn run<'a>(&self, config: &TrainConfig, model: &'a dyn Architecture) -> Run<'a> {
        Run {
            model,
            kind: self.kind,
            batch_size: config.batch_size,
            seq_len: config.max_seq_len,
            accumulation: config.gradient_accumulation_steps,
            halt_max_steps: config.halt_max_steps,
            decoration: self.decoration,
            path: self.path,
            loss_path: self.loss_path,
            precision: self.precision,
            weights: self.weights,
            moments: self.moments,
            keeps_exchange: config.local_steps.is_some() && config.ranks > 1,
            parts: match config.shard_optimizer {
                true => config.ranks,
                false => 1,
            },
        }
    }
}

/// The format asked for, if the device holds it.
fn weights(config: &TrainConfig, adapter: &Adapter, fallbacks: &mut Vec<Fallback>) -> WeightsDtype {
    match config.weights_dtype {
        // An adapter is small, and PEFT has it in f32.
        _ if config.trains_adapter() => WeightsDtype::F32,
        WeightsDtype::F32 => WeightsDtype::F32,
        WeightsDtype::Bf16 if adapter.holds("bf16") => WeightsDtype::Bf16,
        WeightsDtype::Bf16 => {
            let reason = "this device has no bf16";
            fallbacks.push(fallback("weights", "bf16", "f32", reason));
            WeightsDtype::F32
        }
    }
}

/// Whether a device can be trusted with a run at all; the reference is what others are compared with. `check` tries
/// something on it.
fn computes(kind: Kind, check: &mut dyn FnMut(Check) -> Result<()>) -> Result<()> {
    match kind {
        Kind::Ndarray => Ok(()),
        Kind::Cpu | Kind::Cuda | Kind::Wgpu => check(Check::Linear(Precision::F32)),
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

/// What an adapter that is trained has beside it.
fn beside_adapter(config: &TrainConfig) -> Option<Storage> {
    let storage = config.quantize.map_or(Storage::F32, Storage::from);
    config.trains_adapter().then_some(storage)
}

/// What is said of the weights beside an adapter.
const FROZEN: &str = "frozen weights";

/// How to ask for less.
fn less(feature: &str) -> &'static str {
    match feature {
        "attention" => "ask for sdpa with --no-flash-attn",
        "mixed precision" => "turn it off with --no-amp",
        "8-bit optimizer" => "leave out --use-8bit-optimizer",
        "weights" => "leave out --weights-dtype",
        FROZEN => "take the model in f32, or another --device",
        _ => "do not ask for it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::config::DeviceChoice;
    use aios_device::select;

    fn config(strict: bool) -> TrainConfig {
        TrainConfig {
            use_8bit_optimizer: true,
            strict,
            ..TrainConfig::default()
        }
    }

    fn without_8bit_state(strict: bool) -> Result<Plan> {
        let config = config(strict);
        let adapter = select(&DeviceChoice::Cpu)?.adapter;
        let mut plan = Plan::new(&config, &adapter, Vec::new())?;
        plan.without_8bit_state("wrong numbers");
        plan.checked(&config).map(|()| plan)
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
    fn a_device_whose_attention_is_wrong_falls_back_and_says_so() {
        let adapter = select(&DeviceChoice::Cpu).unwrap().adapter;
        let mut plan = Plan::new(&TrainConfig::default(), &adapter, Vec::new()).unwrap();
        plan.without_flash_attention("wrong numbers");
        assert_eq!(plan.path, AttentionPath::Sdpa);
        assert_eq!(plan.attention.path, "sdpa");
        assert_eq!(plan.fallbacks[0].reason, "wrong numbers");
        let strict = plan.checked(&config(true)).unwrap_err().to_string();
        assert!(strict.contains("--no-flash-attn"), "{strict}");
    }

    #[test]
    fn strict_refuses_a_device_without_8bit_state() {
        let error = without_8bit_state(true).unwrap_err().to_string();
        assert!(error.contains("--use-8bit-optimizer"), "{error}");
    }
}
