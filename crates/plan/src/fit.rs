//! Whether a run fits its device, what is done about it before anything is allocated, and what to
//! advise when nothing helps.

mod advice;
mod form;
#[cfg(test)]
mod tests;

pub use advice::advice;
pub use form::QUICK_SLICE;

use crate::Plan;
use crate::estimate::Run;
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};
use aios_base::meter::format_bytes;
use aios_device::{Selection, device_memory, largest_buffer_bytes};
use aios_metrics::OomBackoff;
use aios_models::Architecture;
use aios_process::split::Split;
use aios_tensor::attention::GPU_INDEXABLE;
use aios_tensor::{AttentionPath, LossPath, Precision};
use form::Form;

/// How far a prediction may be off: what is this much beyond the memory there is, is not tried.
const MARGIN: f64 = 1.1;
/// What a smaller form has to take at the most, of what did not fit: a try costs a step.
const WORTH_A_TRY: f64 = 0.99;

/// Take smaller slices of the loss, then smaller micro-batches, until the prediction fits what the
/// run may take, and each tensor a buffer of the device. What is predicted to take more than what is
/// asked for is never taken.
///
/// # Errors
/// It does not fit whatever is taken, by more than a prediction may be off; or a tensor is larger than
/// a buffer, whose failure would be silent.
pub fn batch(
    config: &mut TrainConfig,
    selection: &Selection,
    plan: &mut Plan,
    model: &dyn Architecture,
) -> Result<Option<OomBackoff>> {
    let budget = Budget::of(config, selection);
    let largest = largest_tensor_bytes(selection, plan.precision)?;
    let before = Form::of(config, plan);
    let needed = |form: Form| form.needed(plan, config, model);
    let too_large =
        |form: Form| largest_tensor(plan, config, model, form.split).is_some_and(|t| t.1 > largest);
    let fits = |form: &Form| needed(*form) <= budget.bytes && !too_large(*form);
    let most = match too_large(before) {
        true => u64::MAX,
        false => needed(before),
    };
    let forms = std::iter::once(before).chain(before.smaller());
    let forms: Vec<Form> = forms.filter(|form| needed(*form) <= most).collect();
    let least = |form: &&Form| (too_large(**form), needed(**form));
    let chosen = forms.iter().find(|form| fits(form));
    let after = *chosen
        .or_else(|| forms.iter().min_by_key(least))
        .unwrap_or(&before);
    check_buffers(plan, config, model, after.split, largest)?;
    let (wanted, least) = (needed(before), needed(after));
    if least as f64 > MARGIN * budget.hard as f64 {
        after.apply(config, plan);
        return Err(Error::failed(format!(
            "about {} would be needed even with {}{}, and {}: {}",
            format_bytes(least),
            in_a_micro_batch(after.split),
            after.instead_of(before),
            budget.says,
            advice(plan, config, model, Some(budget.bytes))
        )));
    }
    let tried = match least > budget.bytes {
        true => ", and is tried, since predictions may be off by a tenth",
        false => "",
    };
    if after == before {
        if !tried.is_empty() {
            tracing::warn!(
                "{}: {} takes about {}, the least there is{tried}",
                budget.says,
                after.split.flags(),
                format_bytes(least)
            );
        }
        return Ok(None);
    }
    let reason = match wanted > budget.bytes {
        true => format!(
            "about {} would be needed, and {}",
            format_bytes(wanted),
            budget.says
        ),
        false => format!(
            "the largest tensor that this device takes is {}",
            format_bytes(largest)
        ),
    };
    let reason = format!(
        "{reason}; {}{} takes about {}{tried}",
        after.split.flags(),
        after.instead_of(before),
        format_bytes(least)
    );
    after.apply(config, plan);
    Ok(Some(event(before, after, 0, reason)))
}

/// How many sequences the micro-batches of an error have.
fn in_a_micro_batch(split: Split) -> String {
    match split.batch_size {
        1 => "one sequence in a micro-batch".to_string(),
        n => format!("{n} sequences in a micro-batch"),
    }
}

fn event(before: Form, after: Form, step: u64, reason: String) -> OomBackoff {
    OomBackoff {
        from: before.split.batch_size as u64,
        to: after.split.batch_size as u64,
        accumulation: after.split.accumulation as u64,
        step,
        reason,
    }
}

/// Go on with less after memory ran out in a step: the quickest form that is predicted to take less by
/// more than a prediction says nothing about.
///
/// # Errors
/// Nothing is: what flags would save.
pub fn back_off(
    config: &mut TrainConfig,
    plan: &mut Plan,
    model: &dyn Architecture,
    step: u64,
    cause: &str,
) -> Result<OomBackoff> {
    let before = Form::of(config, plan);
    let Some(after) = less(config, plan, model) else {
        let limit = config.memory_limit.map(|limit| limit.0);
        let nothing_smaller = match before.split.batch_size {
            1 => "",
            _ => ", and smaller ones would take no less",
        };
        return Err(Error::failed(format!(
            "{cause}, in step {step} with {}{nothing_smaller}: {}",
            in_a_micro_batch(before.split),
            advice(plan, config, model, limit)
        )));
    };
    after.apply(config, plan);
    let reason = format!("step {step}: {cause}{}", after.instead_of(before));
    Ok(event(before, after, step, reason))
}

/// Whether [`back_off`] would find anything.
pub fn could_back_off(config: &TrainConfig, plan: &Plan, model: &dyn Architecture) -> bool {
    less(config, plan, model).is_some()
}

fn less(config: &TrainConfig, plan: &Plan, model: &dyn Architecture) -> Option<Form> {
    let before = Form::of(config, plan);
    let needed = |form: &Form| form.needed(plan, config, model);
    let most = WORTH_A_TRY * needed(&before) as f64;
    let mut smaller = before.smaller().into_iter();
    smaller.find(|form| needed(form) as f64 <= most)
}

/// The micro-batch for a process that takes up the run of one that died, which takes the loss in
/// slices of [`QUICK_SLICE`] at the most: a smaller one, the same if only its slices are smaller, or 0
/// if nothing is predicted to take less.
pub fn after_a_death(config: &TrainConfig, plan: &Plan, model: &dyn Architecture) -> usize {
    let before = Form::of(config, plan);
    let needed = |form: &Form| form.needed(plan, config, model);
    let most = WORTH_A_TRY * needed(&before) as f64;
    let loss_path = match before.loss_path {
        LossPath::Fused { slice_bytes } => LossPath::Fused {
            slice_bytes: slice_bytes.min(QUICK_SLICE),
        },
        LossPath::Plain => LossPath::Plain,
    };
    let mut splits = before.split.smaller();
    splits.push(before.split);
    let mut forms = splits.into_iter().map(|split| Form { split, loss_path });
    let next = forms.find(|form| needed(form) as f64 <= most);
    next.map_or(0, |form| form.split.batch_size)
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

    /// Refuse a run that is predicted to take clearly more: a prediction may be a little off.
    ///
    /// # Errors
    /// Says how much more.
    pub fn refuse(
        &self,
        plan: &Plan,
        config: &TrainConfig,
        model: &dyn Architecture,
    ) -> Result<()> {
        let needed = plan.run(config, model).estimate().total;
        match needed > self.bytes.saturating_add(self.bytes / 10) {
            true => Err(Error::OutOfMemory(format!(
                "about {} needed, there are {}",
                format_bytes(needed),
                format_bytes(self.bytes)
            ))),
            false => Ok(()),
        }
    }

    /// Whether a run is predicted to fit a share of it.
    pub fn fits(
        &self,
        plan: &Plan,
        config: &TrainConfig,
        model: &dyn Architecture,
        share: f64,
    ) -> bool {
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
        // Ranks on the CPU of one host have it together.
        let sharing = match selection.adapter.kind.is_gpu() {
            true => 1,
            false => config.ranks_here as u64,
        };
        let [free, total] = [memory.free_bytes, memory.total_bytes].map(|of| Some(of? / sharing));
        let free = free.or(total);
        // A driver that tells nothing sets no bound: what does not fit then fails.
        let least = |sizes: [Option<u64>; 2]| sizes.into_iter().flatten().min().unwrap_or(u64::MAX);
        let bytes = least([limit, free]);
        let shown = format_bytes(bytes);
        Self {
            bytes,
            hard: least([limit, total]),
            says: match (limit == Some(bytes), sharing) {
                (true, _) => format!("--memory-limit allows {shown}"),
                (false, 1) => format!("{device} has {shown} free"),
                (false, ranks) => format!("{device} has {shown} free for each of {ranks} ranks"),
            },
        }
    }
}

/// Say loudly that less is computed at a time from now on.
pub fn say(back_off: &OomBackoff) {
    let OomBackoff {
        from, to, reason, ..
    } = back_off;
    match from == to {
        true => tracing::warn!("{reason}: the result stays the same but for rounding"),
        false => tracing::warn!(
            "{reason}: micro-batches of {to} instead of {from}, {} of them a step: the result stays \
             the same",
            back_off.accumulation
        ),
    }
}

/// The largest tensor that grows with the micro-batch: its name and bytes.
fn largest_tensor(
    plan: &Plan,
    config: &TrainConfig,
    model: &dyn Architecture,
    split: Split,
) -> Option<(&'static str, u64)> {
    let run = Run {
        batch_size: split.batch_size,
        accumulation: split.accumulation,
        ..plan.run(config, model)
    };
    // In chunks, of their tokens; the projection in exact ones is of whole sequences.
    let taped = plan.decoration.chunking.at_once(config.max_seq_len);
    let (batch, seq) = (split.batch_size as u64, taped as u64);
    let sdpa = plan.path == AttentionPath::Sdpa;
    let scores = sdpa.then(|| ("the attention scores", run.scores_bytes()));
    let block = model.block();
    let wide = match plan.decoration.chunking.tile(config.max_seq_len) {
        Some(_) => block.hidden.max(block.qkv),
        None => block.hidden.max(block.qkv).max(block.up),
    } as u64;
    let wide = plan.precision.bytes() as u64 * batch * seq * wide;
    let widest = [("the activations of a block", wide)];
    let logits = (plan.loss_path == LossPath::Plain)
        .then_some(("the logits", 4 * batch * seq * model.vocabulary() as u64));
    let seen =
        (taped < config.max_seq_len).then(|| ("the keys that a chunk sees", run.seen_bytes()));
    let all = widest.into_iter().chain(scores).chain(logits).chain(seen);
    all.max_by_key(|t| t.1)
}

fn check_buffers(
    plan: &Plan,
    config: &TrainConfig,
    model: &dyn Architecture,
    split: Split,
    largest: u64,
) -> Result<()> {
    let head = 4 * (model.vocabulary() * model.block().hidden) as u64;
    let smaller = format!("take {}", config.smaller_model());
    let weights = ("the embedding's weights", head, smaller.as_str());
    let batch = largest_tensor(plan, config, model, split)
        .map(|(name, bytes)| (name, bytes, "a lower --max-seq-len"));
    for (what, bytes, advice) in [weights].into_iter().chain(batch) {
        if bytes > largest {
            return Err(Error::failed(format!(
                "{what} take {} and the largest that this device takes is {}: {advice} would fit",
                format_bytes(bytes),
                format_bytes(largest)
            )));
        }
    }
    Ok(())
}
