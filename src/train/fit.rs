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
use crate::ops::{AttentionPath, LossPath, Precision, SLICE_BYTES};

/// How far a prediction may be off: what is this much beyond the memory there is, is not tried.
const MARGIN: f64 = 1.1;
/// What a smaller form has to take at the most, of what did not fit: a try costs a step.
const WORTH_A_TRY: f64 = 0.99;

/// Sizes of the loss's slices, each half of the one before. The first three cost a step less than
/// a quarter of its speed (at 20 and 10 MiB the loss takes 1.1 and 1.3 times as long with a hidden
/// size of 128, 1.2 and 1.6 times with 512), the others are for when nothing else is left.
const SLICES: [usize; 6] = [
    SLICE_BYTES,
    SLICE_BYTES / 2,
    SLICE_BYTES / 4,
    SLICE_BYTES / 8,
    SLICE_BYTES / 16,
    SLICE_BYTES / 32,
];
/// The smallest that is still quick.
pub const QUICK_SLICE: usize = SLICES[2];

/// How a step is computed, as far as it does not matter for its result: but for rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    split: Split,
    loss_path: LossPath,
}

impl Form {
    fn of(config: &TrainConfig, plan: &Plan) -> Self {
        Self {
            split: Split::of(config),
            loss_path: plan.loss_path,
        }
    }

    fn apply(self, config: &mut TrainConfig, plan: &mut Plan) {
        self.split.apply(config);
        plan.loss_path = self.loss_path;
    }

    fn run<'a>(self, plan: &Plan, config: &TrainConfig, model: &'a ModelConfig) -> Run<'a> {
        Run {
            batch_size: self.split.batch_size,
            accumulation: self.split.accumulation,
            loss_path: self.loss_path,
            ..plan.run(config, model)
        }
    }

    /// Forms that may take less, the quickest first: smaller slices, then smaller micro-batches, then
    /// still smaller slices.
    fn smaller(self) -> Vec<Self> {
        let splits: Vec<Split> = std::iter::once(self.split)
            .chain(self.split.smaller())
            .collect();
        let with = |split, slice_bytes: Option<usize>| Self {
            split,
            loss_path: match slice_bytes {
                Some(slice_bytes) => LossPath::Fused { slice_bytes },
                None => self.loss_path,
            },
        };
        let Some(now) = self.loss_path.slice_bytes() else {
            let smaller = splits.into_iter().skip(1);
            return smaller.map(|split| with(split, None)).collect();
        };
        let less = SLICES.into_iter().filter(|&bytes| bytes < now);
        let sizes: Vec<usize> = std::iter::once(now).chain(less).collect();
        let (quick, slow): (Vec<usize>, Vec<usize>) = sizes
            .into_iter()
            .partition(|&bytes| bytes == now || bytes >= QUICK_SLICE);
        let quickly = splits
            .iter()
            .flat_map(|&split| quick.iter().map(move |&bytes| (split, bytes)));
        let slowly = slow
            .iter()
            .flat_map(|&bytes| splits.iter().map(move |&split| (split, bytes)));
        quickly
            .chain(slowly)
            .skip(1)
            .map(|(split, bytes)| with(split, Some(bytes)))
            .collect()
    }

    /// What is different from `before`, in words.
    fn instead_of(self, before: Self) -> String {
        let slices = |form: Self| form.loss_path.slice_bytes();
        match (slices(self), slices(before)) {
            (Some(now), Some(then)) if now != then => format!(
                " with the loss in slices of {} instead of {}",
                format_bytes(now as u64),
                format_bytes(then as u64)
            ),
            _ => String::new(),
        }
    }
}

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
    model: &ModelConfig,
) -> Result<Option<OomBackoff>> {
    let budget = Budget::of(config, selection);
    let largest = largest_tensor_bytes(selection, plan.precision)?;
    let before = Form::of(config, plan);
    let needed = |form: Form| form.run(plan, config, model).estimate().total;
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
    if least > budget.bytes {
        let least = format_bytes(least);
        tracing::warn!("about {least} will be needed and {}", budget.says);
    }
    if after == before {
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
        "{reason}; {}{} takes about {}",
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
    model: &ModelConfig,
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
pub fn could_back_off(config: &TrainConfig, plan: &Plan, model: &ModelConfig) -> bool {
    less(config, plan, model).is_some()
}

fn less(config: &TrainConfig, plan: &Plan, model: &ModelConfig) -> Option<Form> {
    let before = Form::of(config, plan);
    let needed = |form: &Form| form.run(plan, config, model).estimate().total;
    let most = WORTH_A_TRY * needed(&before) as f64;
    let mut smaller = before.smaller().into_iter();
    smaller.find(|form| needed(form) as f64 <= most)
}

/// The micro-batch for a process that takes up the run of one that died, which takes the loss in
/// slices of [`QUICK_SLICE`] at the most: a smaller one, the same if only its slices are smaller, or 0
/// if nothing is predicted to take less.
pub fn after_a_death(config: &TrainConfig, plan: &Plan, model: &ModelConfig) -> usize {
    let before = Form::of(config, plan);
    let needed = |form: &Form| form.run(plan, config, model).estimate().total;
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
    pub fn refuse(&self, plan: &Plan, config: &TrainConfig, model: &ModelConfig) -> Result<()> {
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

/// A flag that saves memory, and what it does to a run.
struct Saving<'a> {
    flag: String,
    turn_on: Box<dyn Fn(Run<'a>) -> Run<'a> + 'a>,
}

/// Which flags would save how much, most first; and of `room`, if it is known, which would do.
pub fn advice(plan: &Plan, config: &TrainConfig, model: &ModelConfig, room: Option<u64>) -> String {
    let now = plan.run(config, model);
    let peak = now.estimate().total;
    let half_length = ModelConfig {
        max_seq_len: config.max_seq_len.div_ceil(2),
        ..model.clone()
    };
    let mut savings: Vec<(u64, Saving)> = savings(plan, config, &half_length)
        .into_iter()
        .map(|saving| {
            let then = (saving.turn_on)(now).estimate().total;
            (peak.saturating_sub(then), saving)
        })
        .filter(|(saved, _)| *saved > peak / 100)
        .collect();
    savings.sort_by_key(|(saved, _)| std::cmp::Reverse(*saved));
    let mut parts: Vec<String> = savings
        .iter()
        .map(|(saved, s)| format!("{} would save about {}", s.flag, format_bytes(*saved)))
        .collect();
    parts.push("a smaller --hidden-size saves most".to_string());
    let enough = room.and_then(|room| enough(&savings, now, room));
    parts.extend(enough.map(|(flags, bytes)| {
        let bytes = format_bytes(bytes);
        format!("with {flags} about {bytes} would be needed, which fits")
    }));
    parts.join(", ")
}

/// The fewest flags with which a run fits, and what it then takes: one alone, or those that save most.
fn enough<'a>(savings: &[(u64, Saving<'a>)], now: Run<'a>, room: u64) -> Option<(String, u64)> {
    let needed = |run: Run| run.estimate().total;
    let alone = savings.iter().find_map(|(_, saving)| {
        let bytes = needed((saving.turn_on)(now));
        (bytes <= room).then(|| (saving.flag.clone(), bytes))
    });
    let together = || {
        let (mut run, mut flags) = (now, Vec::new());
        for (_, saving) in savings {
            run = (saving.turn_on)(run);
            flags.push(saving.flag.as_str());
            if needed(run) <= room {
                return Some((flags.join(" "), needed(run)));
            }
        }
        None
    };
    alone.or_else(together)
}

/// What could be turned on or lowered.
fn savings<'a>(plan: &Plan, config: &TrainConfig, half_length: &'a ModelConfig) -> Vec<Saving<'a>> {
    let mut savings: Vec<Saving> = Vec::new();
    let mut add = |flag: &str, turn_on: Box<dyn Fn(Run<'a>) -> Run<'a> + 'a>| {
        let flag = flag.to_string();
        savings.push(Saving { flag, turn_on });
    };
    let seq_len = half_length.max_seq_len;
    add(
        &format!("--max-seq-len {seq_len}"),
        Box::new(move |run| Run {
            model: half_length,
            seq_len,
            ..run
        }),
    );
    if config.batch_size > 1 {
        let one = move |run| Run {
            batch_size: 1,
            ..run
        };
        add("--batch-size 1", Box::new(one));
    }
    if config.gradient_accumulation_steps > 1 {
        let accumulation = config.gradient_accumulation_steps / 2;
        let flag = format!("--gradient-accumulation-steps {accumulation}");
        add(
            &flag,
            Box::new(move |run| Run {
                accumulation,
                ..run
            }),
        );
    }
    if plan.keep == Keep::Everything {
        let keep = Keep::EACH_INPUT;
        let turn_on = move |run| Run { keep, ..run };
        add("--gradient-checkpointing", Box::new(turn_on));
    }
    if plan.loss_path == LossPath::Plain {
        let loss_path = LossPath::Fused {
            slice_bytes: QUICK_SLICE,
        };
        let turn_on = move |run| Run { loss_path, ..run };
        add("--fused-cross-entropy", Box::new(turn_on));
    }
    if plan.path == AttentionPath::Sdpa && config.use_flash_attn == Some(false) {
        let path = AttentionPath::Flash;
        add("--use-flash-attn", Box::new(move |run| Run { path, ..run }));
    }
    let (seq, size) = (config.max_seq_len, config.chunk_size);
    let in_chunks = TrainConfig {
        use_chunked_training: true,
        ..config.clone()
    };
    match plan.chunking {
        Chunking::Off if size < seq && in_chunks.validate_model().is_ok() => {
            let chunking = in_chunks.chunking();
            let turn_on = move |run| Run { chunking, ..run };
            add("--use-chunked-training", Box::new(turn_on));
        }
        Chunking::Off => {}
        Chunking::Truncated { .. } | Chunking::Exact { .. } => {
            let chunking = plan.chunking.halved();
            let flag = format!("--chunk-size {}", size.div_ceil(2));
            add(&flag, Box::new(move |run| Run { chunking, ..run }));
        }
    }
    if plan.kind != Kind::Cpu && plan.place == Place::Device {
        let place = Place::Host;
        add("--cpu-offload", Box::new(move |run| Run { place, ..run }));
    }
    if plan.moments == Moments::F32 {
        let moments = Moments::EightBit {
            f32_embedding: false,
        };
        let turn_on = move |run| Run { moments, ..run };
        add("--use-8bit-optimizer", Box::new(turn_on));
    }
    if plan.precision == Precision::F32 && plan.kind == Kind::Cpu {
        let precision = Precision::Bf16;
        let turn_on = move |run| Run { precision, ..run };
        add("--amp-dtype bf16", Box::new(turn_on));
    } else if config.amp == Some(false) {
        let precision = Precision::F16;
        add("--amp", Box::new(move |run| Run { precision, ..run }));
    }
    savings
}

/// The largest tensor that grows with the micro-batch: its name and bytes.
fn largest_tensor(
    plan: &Plan,
    config: &TrainConfig,
    model: &ModelConfig,
    split: Split,
) -> Option<(&'static str, u64)> {
    let run = Run {
        batch_size: split.batch_size,
        accumulation: split.accumulation,
        ..plan.run(config, model)
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::select;
    use crate::config::{DeviceChoice, MemorySize};
    use crate::train::setup::model_config;

    /// A run with its plan and its model.
    struct Case {
        config: TrainConfig,
        plan: Plan,
        model: ModelConfig,
        selection: Selection,
    }

    impl Case {
        fn new(config: TrainConfig, vocabulary: usize) -> Self {
            let selection = select(&DeviceChoice::Cpu).unwrap();
            Self {
                plan: Plan::new(&config, &selection.adapter).unwrap(),
                model: model_config(&config, vocabulary),
                config,
                selection,
            }
        }

        /// Narrow, with a large vocabulary: the loss's slices are most of what changes.
        fn narrow(batch_size: usize, accumulation: usize, max_seq_len: usize) -> Self {
            let config = TrainConfig {
                hidden_size: 16,
                num_heads: 2,
                batch_size,
                gradient_accumulation_steps: accumulation,
                max_seq_len,
                ..TrainConfig::default()
            };
            Self::new(config, 50_257)
        }

        fn predicted(&self) -> u64 {
            let run = self.plan.run(&self.config, &self.model);
            run.estimate().total
        }

        fn within(mut self, limit: u64) -> (Self, Result<Option<OomBackoff>>) {
            self.config.memory_limit = Some(MemorySize(limit));
            let (config, plan) = (&mut self.config, &mut self.plan);
            let outcome = batch(config, &self.selection, plan, &self.model);
            (self, outcome)
        }

        fn slice(&self) -> usize {
            self.plan.loss_path.slice_bytes().unwrap()
        }
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let case = Case::narrow(4, 1, 128);
        let (form, limit) = (Form::of(&case.config, &case.plan), case.predicted());
        let (case, outcome) = case.within(limit);
        assert!(outcome.unwrap().is_none());
        assert_eq!(Form::of(&case.config, &case.plan), form);
    }

    #[test]
    fn slices_shrink_before_micro_batches_do() {
        let case = Case::narrow(4, 1, 128);
        let limit = case.predicted() - (10 << 20);
        let (case, outcome) = case.within(limit);
        let event = outcome.unwrap().unwrap();
        assert_eq!((event.from, event.to), (4, 4));
        assert_eq!(case.slice(), SLICE_BYTES / 2);
        for words in ["--memory-limit", "slices of 20.00 MiB", "--batch-size 4"] {
            assert!(event.reason.contains(words), "{}", event.reason);
        }
        assert!(case.predicted() <= limit);
    }

    #[test]
    fn the_step_stays_the_same_and_fits_whatever_the_limit() {
        for (batch, accumulation) in [(16, 1), (12, 2), (7, 1), (1, 4)] {
            let most = Case::narrow(batch, accumulation, 100).predicted();
            for part in (30..100).step_by(2) {
                let limit = most / 100 * part;
                let (case, outcome) = Case::narrow(batch, accumulation, 100).within(limit);
                if outcome.is_ok() {
                    let split = Split::of(&case.config);
                    assert_eq!(split.effective(), batch * accumulation);
                    assert!(
                        case.predicted() <= most,
                        "{split:?} takes more than what was asked for"
                    );
                    // Beyond it by no more than a prediction may be off, with nothing smaller left.
                    let fits = case.predicted() <= limit;
                    assert!(fits || !could_back_off(&case.config, &case.plan, &case.model));
                }
            }
        }
    }

    /// 246 tokens make two slices of 123, a part of them one slice of 164.
    #[test]
    fn what_would_take_more_is_never_taken() {
        let case = Case::narrow(6, 2, 41);
        let larger = Form {
            split: Split {
                batch_size: 4,
                accumulation: 3,
            },
            loss_path: case.plan.loss_path,
        };
        let needed = |form: Form| {
            let run = form.run(&case.plan, &case.config, &case.model);
            run.estimate().total
        };
        let now = Form::of(&case.config, &case.plan);
        assert!(needed(larger) > needed(now));
        let less = less(&case.config, &case.plan, &case.model).unwrap();
        assert!(less != larger && needed(less) < needed(now));
        let limit = needed(now) - 1000;
        let (case, outcome) = case.within(limit);
        outcome.unwrap().unwrap();
        assert!(case.predicted() <= limit);
    }

    #[test]
    fn an_error_names_what_would_fit() {
        let mut case = Case::narrow(2, 1, 128);
        case.config.gradient_checkpointing = false;
        let least = {
            let mut small = Case::narrow(1, 2, 128);
            small.plan.slice_at_most(Some(SLICES[5]));
            small.predicted()
        };
        let (_, outcome) = case.within(least / 5 * 4);
        let error = outcome.unwrap_err().to_string();
        for words in [
            "one sequence in a micro-batch",
            "--memory-limit allows",
            "--use-8bit-optimizer would save about",
            "which fits",
        ] {
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn backing_off_takes_less_each_time_and_ends() {
        let mut case = Case::narrow(8, 1, 128);
        let mut before = case.predicted();
        let mut steps = 0;
        let error = loop {
            let (config, plan) = (&mut case.config, &mut case.plan);
            match back_off(config, plan, &case.model, 7, "out of memory") {
                Ok(event) => assert!(event.reason.contains("step 7"), "{}", event.reason),
                Err(error) => break error.to_string(),
            }
            assert!((case.predicted() as f64) <= WORTH_A_TRY * before as f64);
            before = case.predicted();
            steps += 1;
        };
        assert!((3..20).contains(&steps), "{steps}");
        assert!(error.contains("out of memory, in step 7"), "{error}");
        assert!(error.contains("--use-8bit-optimizer"), "{error}");
    }

    #[test]
    fn what_follows_a_death_is_smaller_or_nothing() {
        let case = Case::narrow(8, 1, 128);
        assert_eq!(after_a_death(&case.config, &case.plan, &case.model), 4);
        // With one sequence its slices are what is left to shrink, once.
        let mut alone = Case::narrow(1, 1, 256);
        assert_eq!(after_a_death(&alone.config, &alone.plan, &alone.model), 1);
        alone.plan.slice_at_most(Some(QUICK_SLICE));
        assert_eq!(after_a_death(&alone.config, &alone.plan, &alone.model), 0);
    }
}
