//! Whether a run fits its device, what is done about it before anything is allocated, and what to
//! advise when nothing helps.

use super::backoff::Split;
use super::metrics::OomBackoff;
use super::plan::Plan;
use crate::backend::{Kind, Selection, device_memory, largest_buffer_bytes};
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::memory::checkpoint::Keep;
use crate::memory::chunking::Chunking;
use crate::memory::estimate::Run;
use crate::memory::meter::format_bytes;
use crate::memory::moments::Moments;
use crate::memory::offload::Place;
use crate::model::ModelConfig;
use crate::ops::attention::GPU_INDEXABLE;
use crate::ops::{AttentionPath, LossPath, Precision};

/// How far a prediction may be off: what is this much beyond the memory there is, is not tried.
const MARGIN: f64 = 1.1;

/// Halve the micro-batch until the prediction fits what the run may take, and each tensor a buffer
/// of the device.
///
/// # Errors
/// It does not fit with a single sequence, by more than a prediction may be off; or a tensor is
/// larger than a buffer, whose failure would be silent.
pub fn batch(
    config: &mut TrainConfig,
    selection: &Selection,
    plan: &Plan,
    model: &ModelConfig,
) -> Result<Option<OomBackoff>> {
    let budget = Budget::of(config, selection);
    let largest = largest_tensor_bytes(selection, plan.precision)?;
    let before = Split::of(config);
    let needed = |split: Split| with(plan, config, model, split).estimate().total;
    let mut after = before;
    let too_large =
        |split: Split| largest_tensor(plan, config, model, split).is_some_and(|t| t.1 > largest);
    while needed(after) > budget.bytes || too_large(after) {
        match after.halved() {
            Some(smaller) => after = smaller,
            None => break,
        }
    }
    check_buffers(plan, config, model, after, largest)?;
    let least = needed(after);
    if least as f64 > MARGIN * budget.hard as f64 {
        return Err(Error::failed(format!(
            "about {} would be needed even with one sequence in a micro-batch, and {}: {}",
            format_bytes(least),
            budget.says,
            {
                after.apply(config);
                advice(plan, config, model)
            }
        )));
    }
    if least > budget.bytes {
        let least = format_bytes(least);
        tracing::warn!("about {least} will be needed and {}", budget.says);
    }
    if after == before {
        return Ok(None);
    }
    let reason = match needed(before) > budget.bytes {
        true => format!(
            "about {} would be needed, and {}",
            format_bytes(needed(before)),
            budget.says
        ),
        false => format!(
            "the largest tensor that this device takes is {}",
            format_bytes(largest)
        ),
    };
    after.apply(config);
    Ok(Some(OomBackoff {
        from: before.batch_size as u64,
        to: after.batch_size as u64,
        accumulation: after.accumulation as u64,
        step: 0,
        reason,
    }))
}

/// What a run may take.
struct Budget {
    /// More than this is only tried when nothing smaller is left.
    bytes: u64,
    /// More than this there is not.
    hard: u64,
    says: String,
}

/// The largest tensor that a device takes: a buffer, and no more numbers than its kernels count.
fn largest_tensor_bytes(selection: &Selection, precision: Precision) -> Result<u64> {
    Ok(match largest_buffer_bytes(&selection.adapter)? {
        Some(bytes) => bytes.min(precision.bytes() as u64 * GPU_INDEXABLE),
        None => u64::MAX,
    })
}

/// What a run may take, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub bytes: u64,
    /// Of a single tensor.
    largest: u64,
}

impl Room {
    /// Of a device.
    ///
    /// # Errors
    /// It does not say, and no limit is given; or it cannot be started.
    pub fn of(config: &TrainConfig, selection: &Selection) -> Result<Self> {
        let bytes = Budget::of(config, selection).bytes;
        if bytes == u64::MAX {
            return Err(Error::failed(format!(
                "{} does not say how much memory it has: give --memory-limit",
                selection.adapter.flag()
            )));
        }
        // Of the narrowest numbers.
        let largest = largest_tensor_bytes(selection, Precision::F16)?;
        Ok(Self { bytes, largest })
    }

    /// Whether a run is predicted to fit a share of it.
    pub fn fits(&self, plan: &Plan, config: &TrainConfig, model: &ModelConfig, share: f64) -> bool {
        let needed = plan.run(config, model).estimate().total as f64;
        let split = Split::of(config);
        let largest = largest_tensor(plan, config, model, split).map_or(0, |t| t.1);
        needed <= share * self.bytes as f64 && largest <= self.largest
    }
}

impl Budget {
    fn of(config: &TrainConfig, selection: &Selection) -> Self {
        let memory = device_memory(&selection.adapter);
        let device = selection.adapter.flag();
        let limit = config.memory_limit.map(|limit| limit.0);
        let free = memory.free_bytes.or(memory.total_bytes);
        // A driver that tells nothing sets no bound: what does not fit then fails.
        let least = |sizes: [Option<u64>; 2]| sizes.into_iter().flatten().min().unwrap_or(u64::MAX);
        let bytes = least([limit, free]);
        let shown = format_bytes(bytes);
        Self {
            bytes,
            hard: least([limit, memory.total_bytes]),
            says: match limit == Some(bytes) {
                true => format!("--memory-limit allows {shown}"),
                false => format!("{device} has {shown} free"),
            },
        }
    }
}

fn with<'a>(plan: &Plan, config: &TrainConfig, model: &'a ModelConfig, split: Split) -> Run<'a> {
    Run {
        batch_size: split.batch_size,
        accumulation: split.accumulation,
        ..plan.run(config, model)
    }
}

/// Say loudly that micro-batches are smaller from now on.
pub fn say(back_off: &OomBackoff) {
    tracing::warn!(
        "{}: micro-batches of {} instead of {}, {} of them a step: the result stays the same",
        back_off.reason,
        back_off.to,
        back_off.from,
        back_off.accumulation
    );
}

/// Which flags would save how much, most first.
pub fn advice(plan: &Plan, config: &TrainConfig, model: &ModelConfig) -> String {
    let now = plan.run(config, model);
    let peak = now.estimate().total;
    let half_length = ModelConfig {
        max_seq_len: config.max_seq_len.div_ceil(2),
        ..model.clone()
    };
    let flag = format!("--max-seq-len {}", half_length.max_seq_len);
    let smaller = Run {
        batch_size: 1,
        ..now
    };
    let mut options = vec![(
        flag.as_str(),
        Run {
            model: &half_length,
            seq_len: half_length.max_seq_len,
            ..now
        },
    )];
    if config.batch_size > 1 {
        options.push(("--batch-size 1", smaller));
    }
    if plan.keep == Keep::Everything {
        let keep = Keep::EACH_INPUT;
        options.push(("--gradient-checkpointing", Run { keep, ..now }));
    }
    if plan.loss_path == LossPath::Plain {
        let loss_path = LossPath::FUSED;
        options.push(("--fused-cross-entropy", Run { loss_path, ..now }));
    }
    if plan.path == AttentionPath::Sdpa && config.use_flash_attn == Some(false) {
        let path = AttentionPath::Flash;
        options.push(("--use-flash-attn", Run { path, ..now }));
    }
    let (seq, size) = (config.max_seq_len, config.chunk_size);
    let half_chunk = format!("--chunk-size {}", size.div_ceil(2));
    let in_chunks = TrainConfig {
        use_chunked_training: true,
        ..config.clone()
    };
    match plan.chunking {
        Chunking::Off if size < seq && in_chunks.validate_model().is_ok() => {
            let chunking = in_chunks.chunking();
            options.push(("--use-chunked-training", Run { chunking, ..now }));
        }
        Chunking::Off => {}
        Chunking::Truncated { .. } | Chunking::Exact { .. } => {
            let chunking = plan.chunking.halved();
            options.push((&half_chunk, Run { chunking, ..now }));
        }
    }
    if plan.kind != Kind::Cpu && plan.place == Place::Device {
        let place = Place::Host;
        options.push(("--cpu-offload", Run { place, ..now }));
    }
    if plan.moments == Moments::F32 {
        let moments = Moments::EightBit {
            f32_embedding: false,
        };
        options.push(("--use-8bit-optimizer", Run { moments, ..now }));
    }
    if plan.precision == Precision::F32 && plan.kind == Kind::Cpu {
        let precision = Precision::Bf16;
        options.push(("--amp-dtype bf16", Run { precision, ..now }));
    } else if config.amp == Some(false) {
        let precision = Precision::F16;
        options.push(("--amp", Run { precision, ..now }));
    }
    let mut savings: Vec<(u64, &str)> = options
        .iter()
        .map(|(flag, run)| (peak.saturating_sub(run.estimate().total), *flag))
        .filter(|(saved, _)| *saved > peak / 100)
        .collect();
    savings.sort_by_key(|(saved, _)| std::cmp::Reverse(*saved));
    let mut parts: Vec<String> = savings
        .iter()
        .map(|(saved, flag)| format!("{flag} would save about {}", format_bytes(*saved)))
        .collect();
    parts.push("a smaller --hidden-size saves most".to_string());
    parts.join(", ")
}

/// The largest tensor that grows with the micro-batch: its name and bytes.
fn largest_tensor(
    plan: &Plan,
    config: &TrainConfig,
    model: &ModelConfig,
    split: Split,
) -> Option<(&'static str, u64)> {
    let run = with(plan, config, model, split);
    // In chunks, of their tokens; the projection in exact ones is of whole sequences.
    let taped = plan.chunking.taped(config.max_seq_len);
    let (batch, seq) = (split.batch_size as u64, taped as u64);
    let sdpa = plan.path == AttentionPath::Sdpa;
    let scores = sdpa.then(|| ("the attention scores", run.scores_bytes()));
    let wide = match plan.chunking.tile(config.max_seq_len) {
        Some(_) => 3 * model.hidden_size,
        None => (3 * model.hidden_size).max(2 * model.inner_size()),
    } as u64;
    let wide = plan.precision.bytes() as u64 * batch * seq * wide;
    let widest = [("the activations of a block", wide)];
    let logits = (plan.loss_path == LossPath::Plain)
        .then_some(("the logits", 4 * batch * seq * model.vocab_size as u64));
    let seen =
        (taped < config.max_seq_len).then(|| ("the keys that a chunk sees", run.seen_bytes()));
    let all = widest.into_iter().chain(scores).chain(logits).chain(seen);
    all.max_by_key(|t| t.1)
}

fn check_buffers(
    plan: &Plan,
    config: &TrainConfig,
    model: &ModelConfig,
    split: Split,
    largest: u64,
) -> Result<()> {
    let head = 4 * (model.vocab_size * model.hidden_size) as u64;
    let weights = ("the embedding's weights", head, "lower --hidden-size");
    let batch = largest_tensor(plan, config, model, split)
        .map(|(name, bytes)| (name, bytes, "lower --max-seq-len"));
    for (what, bytes, advice) in [weights].into_iter().chain(batch) {
        if bytes > largest {
            return Err(Error::failed(format!(
                "{what} take {} and the largest that this device takes is {}: {advice}",
                format_bytes(bytes),
                format_bytes(largest)
            )));
        }
    }
    Ok(())
}
