//! `--optimize`: the longest sequence, or the largest micro-batch, that fits the device.
//!
//! The prediction finds it, with one memory feature after the other turned on, the cheapest first; one
//! real step confirms it. What was turned off by a flag stays off.

use crate::blueprint::Blueprint;
use crate::devices::{self, Ready};
use crate::step::{Trial, TrialStep};
use aios_base::config::{AmpDtype, ChunkGradients, Overlay, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::execution::{Kind, Precision};
use aios_base::meter::{self, format_bytes};
use aios_base::terminal::{self, to_json_line, write_stdout};
use aios_base::waiting::waiting;
use aios_data::{Watch, telling};
use aios_device::{MemoryMeter, Selection, select};
use aios_engine::OpenDevice;
use aios_memory::checkpoint::Keep;
use aios_memory::moments::Moments;
use aios_models::{Architecture, Model};
use aios_plan::Plan;
use aios_plan::fit::Room;
use serde::Serialize;

/// What is to be as large as possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// The length of one sequence.
    Context,
    /// Sequences of a micro-batch, up to those of an update.
    Batch,
}

impl Goal {
    fn in_words(self) -> &'static str {
        match self {
            Self::Context => "tokens of a sequence",
            Self::Batch => "sequences of a micro-batch",
        }
    }
}

/// Lengths are multiples of this.
const TOKENS: usize = 64;
/// No longer sequences are looked for.
const LONGEST: usize = 1 << 22;
/// Share of the room that a prediction may fill: it is off by some percent.
const CAUTION: f64 = 0.95;
/// What is left of a size whose step did not fit, and how often that is tried.
const RETREAT: f64 = 0.93;
const TRIES: usize = 5;

/// The best that a rung can do; 0 if nothing fits.
#[derive(Clone, Debug, Serialize)]
struct Best {
    flags: String,
    size: usize,
    predicted: u64,
}

/// Rungs, what each of those that were tried can do, and which one is taken.
struct Climbed {
    rungs: Vec<TrainConfig>,
    with: Vec<Best>,
    chosen: usize,
}

/// Settings that fit a device, as far as a prediction says.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// With the largest micro-batch, and the memory features that it takes.
    pub config: TrainConfig,
    /// Names and values of what was turned on, as flags; empty if nothing had to be.
    pub turned_on: String,
    /// Bytes at the peak.
    pub predicted: u64,
    /// Bytes that the device has free, or that are allowed.
    pub room: u64,
    /// The device in words.
    pub device: String,
}

/// All that was found.
#[derive(Clone, Debug, Serialize)]
struct Found {
    goal: Goal,
    device: String,
    room_bytes: u64,
    with: Vec<Best>,
    size: usize,
    predicted: u64,
    /// Of one real step; `None` with `--dry-run`.
    measured: Option<Trial>,
    flags: String,
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub goal: Goal,
    /// Only predict.
    pub dry_run: bool,
    pub off: Off,
}

/// Features that a flag turns off, which therefore stay off.
#[derive(Clone, Copy, Debug)]
pub struct Off {
    pub chunks: bool,
    pub eight_bit: bool,
    pub offload: bool,
}

/// Find it, try it, and write what was found to standard output. Of a pretrained model the shape counts alone: the step
/// is tried on weights that are drawn, which takes the same memory.
///
/// # Errors
/// Nothing fits, or the device does not say how much it has and no limit is given.
pub fn run(flags: &dyn Overlay, request: Request) -> Result<()> {
    let mut config = TrainConfig::of_flags(flags)?;
    config.validate_model()?;
    if config.resumes() {
        return Err(Error::invalid(
            "--optimize plans a new run: leave out --resume",
        ));
    }
    config.validate_subject()?;
    let default = TrainConfig::defaults(config.subject).max_seq_len;
    if request.goal == Goal::Context && config.max_seq_len != default {
        tracing::warn!("--max-seq-len has no effect with --optimize context, which looks for it");
    }
    let selection = select(&config.device)?;
    let mut tell = telling(&format!("downloading {}", config.model), config.quiet);
    let blueprint = Blueprint::of(&config, &mut tell)?;
    let vocabulary = blueprint.vocabulary(&config, &mut tell)?;
    if request.goal == Goal::Batch {
        blueprint.shorten(&mut config);
    }
    let longest = blueprint
        .longest()
        .map_or(LONGEST, |most| most.min(LONGEST));
    let shortest = TrainConfig {
        max_seq_len: config.max_seq_len.min(longest),
        ..config.clone()
    };
    let shape = blueprint.model(&shortest, vocabulary)?;
    // What the device computes wrongly is not planned with.
    let everything = TrainConfig {
        use_8bit_optimizer: !request.off.eight_bit,
        strict: false,
        ..config.clone()
    };
    let plan = Plan::new(&everything, &selection.adapter, shape.attention())?;
    let ready = waiting("trying the device", config.quiet, || {
        devices::ready(&everything, selection, plan.loss_path, &shape)
    })?;
    let room = Room::of(&config, &ready.selection)?;
    let Ready {
        selection,
        plan,
        device,
    } = ready;
    let search = Search {
        request,
        config,
        selection,
        blueprint,
        vocabulary,
        longest,
        room,
    };
    search.run(&plan, &*device)
}

/// The settings with the largest micro-batch that is predicted to fit, of the same sequences an update. Nothing is tried.
///
/// # Errors
/// Nothing fits ([`Error::OutOfMemory`]), the device does not say how much it has and no limit is given, or there is no
/// such model. Of one of the Hub that is not here the config.json alone is downloaded.
pub fn fitted(config: &TrainConfig, watch: &mut Watch) -> Result<Fitted> {
    config.validate_model()?;
    let selection = select(&config.device)?;
    let blueprint = Blueprint::planned(config, watch)?;
    let vocabulary = blueprint.vocabulary(config, watch)?;
    let mut config = config.clone();
    blueprint.shorten(&mut config);
    let shape = blueprint.model(&config, vocabulary)?;
    let plan = Plan::new(&config, &selection.adapter, shape.attention())?;
    let off = Off {
        chunks: false,
        eight_bit: false,
        offload: false,
    };
    let search = Search {
        request: Request {
            goal: Goal::Batch,
            dry_run: true,
            off,
        },
        room: Room::of(&config, &selection)?,
        config,
        selection,
        longest: blueprint.longest().unwrap_or(LONGEST),
        blueprint,
        vocabulary,
    };
    let Climbed {
        rungs,
        with,
        chosen,
    } = waiting("planning", search.config.quiet, || search.climb(&plan))?;
    Ok(Fitted {
        config: search.sized(&rungs[chosen], with[chosen].size),
        turned_on: with[chosen].flags.clone(),
        predicted: with[chosen].predicted,
        room: search.room.bytes,
        device: search.selection.adapter.in_words(),
    })
}

struct Search {
    request: Request,
    config: TrainConfig,
    selection: Selection,
    blueprint: Blueprint,
    /// Of ACT-v1; a decoder has one of its own.
    vocabulary: usize,
    /// The longest sequence to look for.
    longest: usize,
    room: Room,
}

impl Search {
    fn run(&self, checked: &Plan, device: &dyn OpenDevice) -> Result<()> {
        let Climbed {
            rungs,
            with,
            chosen,
        } = waiting("planning", self.config.quiet, || self.climb(checked))?;
        let mut found = Found {
            goal: self.request.goal,
            device: self.selection.adapter.name.clone(),
            room_bytes: self.room.bytes,
            size: with[chosen].size,
            predicted: with[chosen].predicted,
            with,
            measured: None,
            flags: String::new(),
        };
        if !self.request.dry_run {
            self.confirm(&rungs[chosen], checked, device, &mut found)?;
        }
        let config = self.sized(&rungs[chosen], found.size);
        found.flags = self.equivalent(&config);
        let text = match self.config.json {
            true => to_json_line(&found)?,
            false => found.render(),
        };
        write_stdout(text.as_bytes())
    }

    /// What each rung makes possible, up to the first that needs no more.
    ///
    /// # Errors
    /// Nothing fits.
    fn climb(&self, checked: &Plan) -> Result<Climbed> {
        let goal = self.request.goal;
        let rungs = self.rungs(checked);
        let mut with = Vec::new();
        for rung in &rungs {
            let size = self.largest(rung, checked)?;
            with.push(Best {
                flags: self.turned_on(rung),
                size,
                predicted: self.predicted(rung, checked, size)?,
            });
            // A larger micro-batch than an update has sequences is of no use, nor a sequence beyond the model's
            // positions.
            let most = match goal {
                Goal::Batch => self.config.effective_batch(),
                Goal::Context => self.longest / self.unit() * self.unit(),
            };
            if size == most {
                break;
            }
        }
        let best = with.iter().map(|best| best.size).max().unwrap_or(0);
        let chosen = with.iter().position(|with| with.size == best).unwrap_or(0);
        if best == 0 {
            return Err(Error::OutOfMemory(format!(
                "nothing fits {}, whatever is turned on: at least {} would be needed; {} saves most",
                format_bytes(self.room.bytes),
                format_bytes(with.iter().map(|b| b.predicted).min().unwrap_or(0)),
                self.config.smaller_model()
            )));
        }
        Ok(Climbed {
            rungs,
            with,
            chosen,
        })
    }

    /// Cheapest first, each with all that the ones before have.
    fn rungs(&self, checked: &Plan) -> Vec<TrainConfig> {
        let mut config = self.config.clone();
        if self.request.goal == Goal::Context {
            // The update keeps its sequences.
            config.gradient_accumulation_steps = config.effective_batch();
            config.batch_size = 1;
        }
        let mut rungs = vec![config.clone()];
        let mut add = |change: &dyn Fn(&mut TrainConfig)| {
            let before = config.clone();
            change(&mut config);
            if config != before {
                rungs.push(config.clone());
            }
        };
        let splits =
            self.request.goal == Goal::Context && checked.decoration.keep != Keep::Everything;
        let splits = splits && !self.request.off.chunks;
        if splits {
            // A few percent of speed, and the same gradients.
            add(&|c| {
                if !c.use_chunked_training {
                    c.use_chunked_training = true;
                    if c.chunk_gradients == ChunkGradients::Auto {
                        c.chunk_gradients = ChunkGradients::Exact;
                    }
                }
            });
        }
        // No speed, and next to no change of the loss.
        if checked.moments != Moments::F32 {
            add(&|c| c.use_8bit_optimizer = true);
        }
        if checked.kind == Kind::Cpu {
            // Rounded activations, and some speed.
            add(&|c| {
                if c.amp != Some(false) && checked.precision == Precision::F32 {
                    c.amp_dtype = AmpDtype::Bf16;
                }
            });
        } else if !self.request.off.offload {
            // Copies to the host and back.
            add(&|c| c.cpu_offload = true);
        }
        if splits && self.config.window_size > 0 {
            // Other gradients, last: but memory that hardly grows with the sequence.
            add(&|c| {
                if self.config.chunk_gradients != ChunkGradients::Exact {
                    c.chunk_gradients = ChunkGradients::Truncated;
                }
            });
        }
        rungs
    }

    /// A rung's configuration at a size.
    fn sized(&self, rung: &TrainConfig, size: usize) -> TrainConfig {
        let mut config = rung.clone();
        match self.request.goal {
            Goal::Context => config.max_seq_len = size,
            Goal::Batch => {
                let sequences = self.config.effective_batch();
                config.batch_size = size;
                config.gradient_accumulation_steps = sequences / size.max(1);
            }
        }
        config
    }

    fn plan(&self, config: &TrainConfig, checked: &Plan) -> Result<Plan> {
        let classes = self.model(config)?.attention();
        let plan = Plan::new(config, &self.selection.adapter, classes)?;
        Ok(match checked.kind.is_gpu() {
            false => plan,
            true => Plan {
                path: checked.path,
                precision: checked.precision,
                moments: match checked.moments {
                    Moments::F32 => Moments::F32,
                    Moments::EightBit { .. } => plan.moments,
                },
                ..plan
            },
        })
    }

    fn model(&self, config: &TrainConfig) -> Result<Model> {
        self.blueprint.model(config, self.vocabulary)
    }

    fn predicted(&self, rung: &TrainConfig, checked: &Plan, size: usize) -> Result<u64> {
        let config = self.sized(rung, size.max(self.unit()));
        let model = self.model(&config)?;
        let plan = self.plan(&config, checked)?;
        Ok(plan.run(&config, &model).estimate().total)
    }

    fn fits(&self, rung: &TrainConfig, checked: &Plan, size: usize) -> Result<bool> {
        let config = self.sized(rung, size);
        if config.validate_model().is_err() {
            return Ok(false);
        }
        let model = self.model(&config)?;
        let plan = self.plan(&config, checked)?;
        Ok(self.room.fits(&plan, &config, &model, CAUTION))
    }

    /// The smallest size, and the step between two.
    fn unit(&self) -> usize {
        match self.request.goal {
            Goal::Context => TOKENS.min(self.longest),
            Goal::Batch => 1,
        }
    }

    /// The largest size that is predicted to fit; 0 if none does.
    fn largest(&self, rung: &TrainConfig, checked: &Plan) -> Result<usize> {
        let fits = |size: usize| self.fits(rung, checked, size);
        match self.request.goal {
            // The same sequences make up an update.
            Goal::Batch => {
                let sequences = self.config.effective_batch();
                let mut size = sequences;
                while size > 0 && !fits(size)? {
                    size = divisor(sequences, size - 1);
                }
                Ok(size)
            }
            // A whole sequence may take more than a longer one in chunks.
            Goal::Context => {
                let unit = self.unit();
                let (chunk, end) = (rung.chunk_size / unit, self.longest / unit);
                match last(chunk + 1, end, |n| fits(n * unit))? {
                    Some(longest) => Ok(longest * unit),
                    None => Ok(last(1, chunk.min(end), |n| fits(n * unit))?.unwrap_or(0) * unit),
                }
            }
        }
    }

    /// One real step at the size found, or at a smaller one if it turns out not to fit.
    fn confirm(
        &self,
        rung: &TrainConfig,
        checked: &Plan,
        device: &dyn OpenDevice,
        found: &mut Found,
    ) -> Result<()> {
        let meter = MemoryMeter::new(self.selection.adapter.selected.clone());
        if !checked.kind.is_gpu() {
            meter::set_limit(Some(self.room.bytes));
        }
        for _ in 0..TRIES {
            let mut config = self.sized(rung, found.size);
            let model = self.model(&config)?;
            let plan = self.plan(&config, checked)?;
            let predicted = |config: &TrainConfig| plan.run(config, &model).estimate().total;
            found.predicted = predicted(&config);
            // From the second micro-batch on a step takes the same memory, but for what waits.
            config.gradient_accumulation_steps = config.gradient_accumulation_steps.min(2);
            let more = found.predicted.saturating_sub(predicted(&config));
            self.announce(&config, found.size);
            let step = TrialStep {
                config: &config,
                model: &model,
                plan: &plan,
                meter: &meter,
                device,
            };
            let problem = match waiting("the step", self.config.quiet, || step.trial()) {
                Ok(step) if step.peak + more <= self.room.bytes => {
                    let peak = step.peak + more;
                    found.measured = Some(Trial { peak, ..step });
                    return Ok(());
                }
                Ok(step) => format!("it took {}", format_bytes(step.peak + more)),
                Err(Error::OutOfMemory(cause)) => cause,
                Err(Error::Device(cause)) => {
                    let less = self.room.bytes / 10 * 9;
                    return Err(Error::failed(format!(
                        "{cause}: {} {} may be too much for this device after all; try \
                         --memory-limit {}MiB",
                        found.size,
                        self.request.goal.in_words(),
                        less >> 20
                    )));
                }
                Err(error) => return Err(error),
            };
            tracing::warn!(
                "{} {} do not fit: {problem}",
                found.size,
                self.request.goal.in_words()
            );
            device.release_memory();
            let smaller = (found.size as f64 * RETREAT) as usize;
            found.size = match self.request.goal {
                Goal::Context => smaller / self.unit() * self.unit(),
                Goal::Batch => divisor(self.config.effective_batch(), smaller),
            };
            if found.size == 0 {
                break;
            }
        }
        Err(Error::failed(
            "what was predicted to fit did not: other programs may be taking memory; give \
             --memory-limit",
        ))
    }

    /// Long steps take long, which is worth knowing beforehand.
    fn announce(&self, config: &TrainConfig, size: usize) {
        let tokens = config.effective_batch() * config.max_seq_len;
        let words = self.request.goal.in_words();
        terminal::say(&format!(
            "trying a step: {size} {words}, {tokens} tokens; Ctrl-C ends it, --dry-run goes without"
        ));
    }

    /// The memory features of a configuration beyond what was given, as flags.
    fn turned_on(&self, config: &TrainConfig) -> String {
        let given = &self.config;
        let mut flags = Vec::new();
        if config.use_chunked_training != given.use_chunked_training {
            flags.push("--use-chunked-training");
        }
        if config.chunk_gradients != given.chunk_gradients {
            flags.push(match config.chunk_gradients {
                ChunkGradients::Truncated => "--chunk-gradients truncated",
                ChunkGradients::Exact | ChunkGradients::Auto => "--chunk-gradients exact",
            });
        }
        if config.use_8bit_optimizer != given.use_8bit_optimizer {
            flags.push("--use-8bit-optimizer");
        }
        if config.amp_dtype != given.amp_dtype {
            flags.push("--amp-dtype bf16");
        }
        if config.cpu_offload != given.cpu_offload {
            flags.push("--cpu-offload");
        }
        flags.join(" ")
    }

    /// What to add to the command line for a configuration.
    fn equivalent(&self, config: &TrainConfig) -> String {
        let sizes = format!(
            "--max-seq-len {} --batch-size {} --gradient-accumulation-steps {} {}",
            config.max_seq_len,
            config.batch_size,
            config.gradient_accumulation_steps,
            self.turned_on(config)
        );
        sizes.trim_end().to_string()
    }
}

/// The largest number of a range for which `holds`, if it holds up to some number and not beyond;
/// `None` if for none.
fn last(
    first: usize,
    end: usize,
    mut holds: impl FnMut(usize) -> Result<bool>,
) -> Result<Option<usize>> {
    if first > end || !holds(first)? {
        return Ok(None);
    }
    let (mut good, mut bad) = (first, end + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match holds(middle)? {
            true => good = middle,
            false => bad = middle,
        }
    }
    Ok(Some(good))
}

/// The largest divisor of `number` that is no larger than `most`; 0 for a `most` of 0.
fn divisor(number: usize, most: usize) -> usize {
    let divides = |size: &usize| number.is_multiple_of(*size);
    (1..=most.min(number)).rev().find(divides).unwrap_or(0)
}

impl Found {
    fn render(&self) -> String {
        let mut text = format!(
            "{} on {}, in {}\n\n| with | {} | predicted peak |\n| --- | ---: | ---: |\n",
            match self.goal {
                Goal::Context => "longest context",
                Goal::Batch => "largest micro-batch",
            },
            self.device,
            format_bytes(self.room_bytes),
            self.goal.in_words()
        );
        for with in &self.with {
            let flags = match with.flags.as_str() {
                "" => "what is given",
                flags => flags,
            };
            let size = match with.size {
                0 => "none fits".to_string(),
                size => size.to_string(),
            };
            text += &format!("| {flags} | {size} | {} |\n", format_bytes(with.predicted));
        }
        text += &match &self.measured {
            None => format!("\npredicted: {} at the peak", format_bytes(self.predicted)),
            Some(step) => format!(
                "\nmeasured in one step: {} at the peak ({} predicted), {:.0} tokens/s",
                format_bytes(step.peak),
                format_bytes(self.predicted),
                step.tokens_per_second
            ),
        };
        text + &format!("\nadd to the command line: {}\n", self.flags)
    }
}
