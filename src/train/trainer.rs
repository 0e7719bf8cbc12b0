//! The training loop.

use super::appended::Trouble;
use super::backoff::Split;
use super::bundle::{Best, BundleContents, BundleWriter};
use super::eval::{EvalOptions, evaluate};
use super::fit;
use super::gauge::{CLOSE_STEPS, Gauge};
use super::generate::{Sampling, generate};
use super::metrics::{Checkpoint, End, Eval, Event, MetricsLog, Sample, Step, StepMemory};
use super::micro_batch::MicroBatch;
use super::optimizer::{AdamW, Update, source};
use super::plan::Plan;
use super::process::{Status, Supervised};
use super::progress::{Progress, StepLine};
use super::schedule::Schedule;
use super::state::TrainerState;
use super::stop::{self, StopReason, StopSignal};
use super::supervision::{Denominators, LossSums, Supervisor};
use crate::backend::{MemoryMeter, confirmed};
use crate::config::TrainConfig;
use crate::data::{Batches, TokenCache, Tokenizer};
use crate::error::{Error, Result, shortened};
use crate::memory::meter::{self, format_bytes, host_share_in_use, peak_bytes};
use crate::memory::precision::LossScaler;
use crate::model::ActV1;
use crate::numbers::readable;
use crate::ops::{Ops, SLICE_BYTES};
use crate::terminal;
use burn::tensor::backend::Backend;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Steps in a row without a finite gradient after which going on is pointless: nothing changes the
/// weights in a skipped step, so only the data could.
const HOPELESS: u64 = 25;

/// Tokens of a sample during training.
const SAMPLE_TOKENS: usize = 64;

/// How long after a save that failed it is tried again, if no other is due before.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// A training run on one device.
pub struct Trainer<B: Backend> {
    /// How steps were to be divided before any back-off: what is saved, and what evaluations go by.
    pub asked: Split,
    pub config: TrainConfig,
    pub plan: Plan,
    pub log: MetricsLog,
    pub writer: BundleWriter,
    pub tokenizer: Tokenizer,
    pub batches: Batches,
    pub eval: Option<Arc<TokenCache>>,
    pub stop: StopSignal,
    pub supervised: Supervised,
    pub meter: MemoryMeter,
    pub progress: Progress,
    pub device: B::Device,
    pub model: ActV1<B>,
    pub optimizer: AdamW<B>,
    pub scaler: LossScaler,
    /// As of the last finished step.
    pub state: TrainerState,
    /// Step this run began at.
    pub began_at: u64,
    /// Step of the newest checkpoint.
    pub saved_step: u64,
    /// Its folder, if there is one.
    pub saved_path: Option<PathBuf>,
    /// Where an earlier part of the run was logged to: metrics and TensorBoard's files. A bundle remembers it, so that
    /// `aios report` finds it.
    pub logged: [Option<PathBuf>; 2],
    /// When a save failed for want of a disk, until one works, and when that was spoken of.
    pub save_failed: Option<Instant>,
    pub save_trouble: Trouble,
    /// When this run began.
    pub started: Instant,
    pub last_loss: f64,
    pub skipped_in_a_row: u64,
    /// Tokens trained on before this run began.
    pub tokens_before: u64,
    /// The bundle holds another run, to be put aside when this one has something to save.
    pub starting_over: bool,
    /// Nothing on the device can be believed any more.
    pub device_failed: bool,
    /// Micro-batch for a process that takes up the run if this one dies; 0 if none would do.
    pub after_a_death: usize,
    /// Steps of this shape so far: the first ones are where memory is watched closely.
    pub steps_alike: u64,
}

/// What became of a try at a step.
enum Attempt {
    Done(Tried),
    /// Given up between two micro-batches, with nothing changed.
    Stopped(StopReason),
}

/// A step's losses and update.
struct Tried {
    sums: LossSums,
    loss_scale: f64,
    update: Update,
}

/// Why the loop ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Done,
    EpochEnd,
    Stopped(StopReason),
}

impl Ending {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::EpochEnd => "epoch_end",
            Self::Stopped(reason) => reason.as_str(),
        }
    }
}

impl<B: Ops> Trainer<B> {
    /// Train until the steps are done or something stops them, and save.
    ///
    /// # Errors
    /// Whatever made going on impossible. The progress made is saved first if the device still
    /// answers.
    pub fn run(&mut self) -> Result<()> {
        self.tokens_before = self.state.tokens;
        self.nothing_at_stake();
        let ended = self.train().and_then(|ending| {
            stop::ending();
            self.save_if_new()?;
            Ok(ending)
        });
        stop::ending();
        let seconds = self.started.elapsed().as_secs_f64();
        match ended {
            Ok(ending) => {
                self.finish(ending.as_str(), seconds);
                self.summary(ending, seconds);
                Ok(())
            }
            Err(error) => {
                self.device_failed |= matches!(error, Error::Device(_));
                self.rescue(&error);
                self.finish(&shortened(&error.to_string()), seconds);
                Err(error)
            }
        }
    }

    fn train(&mut self) -> Result<Ending> {
        loop {
            let end = self.cycle_end();
            let ending = self.train_until(end)?;
            if ending != Ending::Done || !self.config.iterate {
                return Ok(ending);
            }
        }
    }

    /// Last step of the current cycle: `--steps`, and with `--iterate` every multiple of it.
    fn cycle_end(&self) -> u64 {
        let steps = self.config.steps;
        match self.config.iterate {
            true => (self.state.step / steps + 1) * steps,
            false => steps,
        }
    }

    fn train_until(&mut self, end: u64) -> Result<Ending> {
        self.progress.set_total(end);
        if self.state.step >= end {
            let done = self.state.step;
            self.progress.note(&format!(
                "step {done} of {end}: nothing left to train; raise --steps"
            ));
        }
        let ending = self.steps(end)?;
        if let Ending::Stopped(_) = ending {
            return Ok(ending);
        }
        // Saved first: whatever happens from here on, the steps are safe.
        self.save_if_new()?;
        self.evaluate()?;
        if self.config.samples_at_end() {
            self.sample()?;
        }
        Ok(ending)
    }

    fn steps(&mut self, end: u64) -> Result<Ending> {
        while self.state.step < end {
            let epoch = self.batches.epoch();
            if let Some(reason) = self.step()? {
                return Ok(Ending::Stopped(reason));
            }
            if self.config.stop_after_epoch && self.batches.epoch() > epoch {
                return Ok(Ending::EpochEnd);
            }
            if self.state.step < end {
                self.between_steps()?;
            }
        }
        Ok(Ending::Done)
    }

    /// What is due after a step that is not the last.
    fn between_steps(&mut self) -> Result<()> {
        let due = |every: u64| every > 0 && self.state.step.is_multiple_of(every);
        let (evaluate, sample) = (due(self.config.eval_every), due(self.config.sample_every));
        let again = self.save_failed.is_some_and(|at| at.elapsed() > TRY_AGAIN);
        if due(self.config.save_every) || again {
            self.save_on_the_way()?;
        }
        if evaluate {
            self.evaluate()?;
        }
        if sample {
            self.sample()?;
        }
        Ok(())
    }

    /// A save in the midst of the run, which goes on whatever becomes of it: there is another one to come.
    fn save_on_the_way(&mut self) -> Result<()> {
        if !self.weights_are_finite()? {
            tracing::warn!("not saved: weights are no longer finite numbers");
            return Ok(());
        }
        match self.save() {
            Err(Error::NotWritten(cause)) => {
                let now = Instant::now();
                if self.save_trouble.failed(now).is_some() {
                    tracing::warn!(
                        "{cause}; training goes on, and saving is tried again in a minute at the latest"
                    );
                }
                self.save_failed = Some(now);
                Ok(())
            }
            saved => saved,
        }
    }

    /// One optimizer update; or the reason why it was abandoned half-way, with nothing changed.
    fn step(&mut self) -> Result<Option<StopReason>> {
        let started = Instant::now();
        let number = self.state.step + 1;
        self.mind_the_host(number)?;
        self.supervised.report(&self.status(number));
        let windows = self.draw()?;
        let denominators = Denominators::of(std::slice::from_ref(&windows));
        let planned = Schedule::of(&self.config).at_step(number);
        let rewarm = self.state.rewarm;
        let learning_rate = rewarm.map_or(planned, |rewarm| rewarm.at(number, planned));

        // Until its update a step changes nothing, so that it can be tried again in smaller parts.
        let tried = loop {
            match self.attempt(number, &windows, denominators, learning_rate) {
                Ok(Attempt::Done(tried)) => break tried,
                Ok(Attempt::Stopped(reason)) => return Ok(Some(reason)),
                Err(Error::OutOfMemory(cause)) => self.back_off(number, &cause)?,
                Err(error) => return Err(error),
            }
        };

        self.scaler.update(tried.update.skipped);
        self.steps_alike += 1;
        self.state.step = number;
        self.state.updates = self.optimizer.updates;
        self.state.tokens += denominators.tokens;
        self.state.skipped_steps += u64::from(tried.update.skipped);
        self.state.loss_scale = self.scaler.scale();
        self.state.good_steps = self.scaler.good_steps();
        self.state.data = self.batches.position();
        stop::steps_at_stake();
        self.report(&tried, learning_rate, denominators.tokens, started)?;
        self.give_up_if_hopeless(tried.update)?;
        Ok(None)
    }

    /// All micro-batches and the update.
    fn attempt(
        &mut self,
        number: u64,
        windows: &MicroBatch,
        denominators: Denominators,
        learning_rate: f64,
    ) -> Result<Attempt> {
        // First, so that memory cannot run out in the middle of the update.
        self.on_device(|this| this.optimizer.prepare(&this.model))?;
        // Gradients of all micro-batches add up in one set, whatever their number.
        let mut grads = self.model.gradients();
        let mut sums = LossSums::default();
        let (plan, scale) = (&self.plan, self.scaler.scale());
        let recipe = plan.recipe(&self.config, &self.model.config, scale);
        for batch in windows.split(self.config.batch_size) {
            if let Some(reason) = self.stop.requested() {
                return Ok(Attempt::Stopped(reason));
            }
            sums.add(&self.on_device(|this| {
                let supervisor = Supervisor {
                    model: &this.model,
                    recipe: &recipe,
                    denominators,
                    step: number,
                    watch: &this.gauge(),
                };
                supervisor.run(&batch, &mut grads)
            })?);
        }
        // The pools of a GPU report what is held now: this is when the gradients are.
        self.meter.sample()?;
        let scale = self.scaler.scale();
        let update = self.on_device(|this| {
            this.optimizer
                .step(&mut this.model, grads, learning_rate, scale)
        })?;
        Ok(Attempt::Done(Tried {
            sums,
            loss_scale: scale,
            update,
        }))
    }

    fn gauge(&self) -> Gauge<'_, B> {
        Gauge {
            device: &self.device,
            meter: &self.meter,
            kind: self.plan.kind,
            close: self.steps_alike < CLOSE_STEPS,
            limit: self.config.memory_limit.map(|limit| limit.0),
        }
    }

    /// Where the run is, for whoever has to start it again.
    fn status(&self, step: u64) -> Status {
        Status {
            step,
            batch_size: self.config.batch_size,
            gradient_accumulation_steps: self.config.gradient_accumulation_steps,
            began_at: self.began_at,
            saved_step: (self.saved_step > self.began_at).then_some(self.saved_step),
            next_batch_size: Some(self.after_a_death),
        }
    }

    /// Go on with a smaller micro-batch and more of them; the step, its order and its result stay.
    fn back_off(&mut self, number: u64, cause: &str) -> Result<()> {
        let (config, plan) = (&mut self.config, &mut self.plan);
        let back_off = fit::back_off(config, plan, &self.model.config, number, cause)?;
        self.note_form();
        self.steps_alike = 0;
        self.supervised.report(&self.status(number));
        B::memory_cleanup(&self.device);
        fit::say(&back_off);
        self.log.write(&Event::OomBackoff(back_off));
        Ok(())
    }

    /// How steps are computed from now on, as far as others have to know.
    pub fn note_form(&mut self) {
        let (config, plan, model) = (&self.config, &self.plan, &self.model.config);
        self.after_a_death = fit::after_a_death(config, plan, model);
        self.state.loss_slice_bytes = plan.loss_path.slice_bytes().unwrap_or(0);
    }

    /// `--sys-mem-cap-pct`: take less before the system has nothing left to give.
    fn mind_the_host(&mut self, number: u64) -> Result<()> {
        let cap = f64::from(self.config.sys_mem_cap_pct) / 100.0;
        if cap == 0.0 {
            return Ok(());
        }
        let share = host_share_in_use();
        if share <= cap || !fit::could_back_off(&self.config, &self.plan, &self.model.config) {
            return Ok(());
        }
        let percent = 100.0 * share;
        self.back_off(
            number,
            &format!("{percent:.0} % of the host's memory is in use"),
        )
    }

    /// The step's windows, in order.
    fn draw(&mut self) -> Result<MicroBatch> {
        let sequences = self.config.effective_batch();
        let mut windows = MicroBatch::with_room(sequences, self.config.max_seq_len)?;
        for _ in 0..sequences {
            self.batches
                .next_window(&mut windows.inputs, &mut windows.labels);
        }
        Ok(windows)
    }

    /// Do device work and believe its result only if the device confirms it.
    fn on_device<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Result<T> {
        let device = self.device.clone();
        confirmed::<B, T>(&device, || work(self)).map_err(|error| match error {
            Error::Device(cause) => {
                let step = self.state.step + 1;
                Error::Device(format!("the device failed in step {step}: {cause}"))
            }
            other => other,
        })
    }

    fn report(
        &mut self,
        tried: &Tried,
        learning_rate: f64,
        tokens: u64,
        started: Instant,
    ) -> Result<()> {
        let Tried {
            sums,
            loss_scale,
            update,
        } = tried;
        let memory = self.meter.sample()?;
        let seconds = started.elapsed().as_secs_f64();
        let tokens_per_second = tokens as f64 / seconds;
        self.last_loss = sums.loss();
        self.progress.step(&StepLine {
            step: self.state.step,
            loss: self.last_loss,
            tokens_per_second,
            memory_now: memory.in_use_bytes,
            memory_peak: memory.peak_bytes,
        });
        if update.skipped {
            let step = self.state.step;
            let scale = match self.scaler.scale() == *loss_scale {
                true => String::new(),
                false => format!("; the loss scale is now {}", self.scaler.scale()),
            };
            tracing::warn!("step {step} skipped: its gradient is not finite{scale}");
        }
        self.log.write(&Event::Step(Box::new(Step {
            step: self.state.step,
            loss: self.last_loss,
            ce: sums.mean_ce(),
            q_halt_loss: sums.mean_halt(),
            q_continue_loss: sums.mean_go_on(),
            learning_rate,
            grad_norm: update.grad_norm,
            tokens,
            tokens_per_second,
            seconds,
            batch_size: self.config.batch_size as u64,
            gradient_accumulation_steps: self.config.gradient_accumulation_steps as u64,
            loss_scale: *loss_scale,
            segments: sums.segments as f64 / self.config.effective_batch() as f64,
            skipped: update.skipped,
            memory: StepMemory {
                in_use_bytes: memory.in_use_bytes,
                reserved_bytes: memory.reserved_bytes,
                peak_bytes: memory.peak_bytes,
                host_peak_bytes: peak_bytes(),
            },
        })));
        Ok(())
    }

    fn give_up_if_hopeless(&mut self, update: Update) -> Result<()> {
        self.skipped_in_a_row = match update.skipped {
            true => self.skipped_in_a_row + 1,
            false => 0,
        };
        if self.skipped_in_a_row < HOPELESS {
            return Ok(());
        }
        let lr = self.config.lr;
        Err(Error::failed(match self.scaler.at_floor() {
            // From the largest scale it takes 24 steps to get there.
            true => format!(
                "no finite gradient in the last {HOPELESS} steps, even with a loss scale of {}: f16 \
                 does not do for this run; resume from an earlier checkpoint with --amp-dtype bf16 \
                 or with --no-amp, or with a lower --lr than {lr}",
                self.scaler.scale()
            ),
            false => format!(
                "no finite gradient in the last {HOPELESS} steps: resume from an earlier checkpoint \
                 with a lower --lr than {lr}"
            ),
        }))
    }

    fn evaluate(&mut self) -> Result<()> {
        let Some(cache) = self.eval.clone() else {
            return Ok(());
        };
        let mut options = EvalOptions {
            segments: self.config.halt_max_steps,
            way: self.plan.way(),
            slice_bytes: self.plan.loss_path.slice_bytes().unwrap_or(SLICE_BYTES),
            batch_size: self.asked.batch_size,
            at_once: self.config.batch_size,
            batches: self.config.eval_batches,
        };
        let evaluated = loop {
            let outcome = self.on_device(|this| {
                evaluate(&this.model, &cache, &options, &|| {
                    this.stop.requested().is_some()
                })
            });
            match outcome {
                Err(Error::OutOfMemory(cause)) if options.at_once > 1 => {
                    options.at_once /= 2;
                    tracing::warn!("evaluating {} sequences at once: {cause}", options.at_once);
                }
                Err(Error::OutOfMemory(cause)) => {
                    tracing::warn!("no evaluation: {cause}, with one sequence at once");
                    return Ok(());
                }
                outcome => break outcome??,
            }
        };
        let Some(score) = evaluated else {
            return Ok(());
        };
        self.progress.note(&format!(
            "step {}: evaluation loss {}, perplexity {}, {} bits per byte",
            self.state.step,
            readable(score.loss, 4),
            readable(score.perplexity(), 2),
            readable(score.bits_per_byte, 3)
        ));
        self.log.write(&Event::Eval(Eval {
            step: self.state.step,
            loss: score.loss,
            perplexity: score.perplexity(),
            bits_per_byte: score.bits_per_byte,
            tokens: score.tokens,
            seconds: score.seconds,
        }));
        let seq = self.model.config.max_seq_len;
        let evaluated = format!("{} {} {seq}", cache.fingerprint(), score.tokens);
        self.keep_if_best(score.loss, evaluated)
    }

    /// `--keep-best`: the checkpoint of this step, if its evaluation is the best so far.
    fn keep_if_best(&mut self, loss: f64, evaluated: String) -> Result<()> {
        let comparable = |best: &Best| !self.starting_over && best.evaluated == evaluated;
        let best = self.writer.best().filter(comparable);
        let better = best.is_none_or(|best| loss < best.loss);
        if !self.config.keep_best || !loss.is_finite() || !better {
            return Ok(());
        }
        let step = self.state.step;
        if self.saved_step != step {
            self.save_on_the_way()?;
        }
        let Some(checkpoint) = self.saved_path.clone().filter(|_| self.saved_step == step) else {
            return Ok(());
        };
        let best = Best {
            step,
            loss,
            evaluated,
        };
        match self.writer.keep_best(&checkpoint, best) {
            Ok(place) => self.progress.note(&format!(
                "step {step}: the best evaluation so far, kept in {}",
                place.display()
            )),
            Err(cause) => tracing::warn!("{cause}"),
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<()> {
        let prompt = self.config.sample_prompt.clone().unwrap_or_default();
        let end = self.tokenizer.end_of_text();
        let mut ids = vec![end];
        ids.extend(self.tokenizer.encode(&prompt)?);
        self.tokenizer.release();
        let sampling = Sampling {
            segments: self.config.halt_max_steps,
            way: self.plan.way(),
            chunk: self.config.chunk_size,
            temperature: 0.8,
            top_k: 50,
            top_p: 1.0,
            seed: self.config.seed,
        };
        let mut drawn = Vec::new();
        let generated = self.on_device(|this| {
            generate(&this.model, &ids, SAMPLE_TOKENS, &sampling, |id| {
                drawn.push(id);
                id != end && this.stop.requested().is_none()
            });
        });
        let decoded = match generated {
            Ok(()) => self.tokenizer.decode(&drawn),
            Err(error @ Error::OutOfMemory(_)) => Err(error),
            Err(error) => return Err(error),
        };
        self.tokenizer.release();
        let text = match decoded {
            Ok(text) => format!("{prompt}{text}"),
            // No reason to end a training.
            Err(error) => {
                tracing::warn!("no sample: {error}");
                return Ok(());
            }
        };
        self.progress.note(&format!(
            "step {}, sample: {}",
            self.state.step,
            text.trim_end()
        ));
        let step = self.state.step;
        self.log.write(&Event::Sample(Sample { step, text }));
        Ok(())
    }

    /// Save unless the newest checkpoint is of this step already.
    fn save_if_new(&mut self) -> Result<()> {
        if self.state.step == self.saved_step {
            return Ok(());
        }
        if !self.weights_are_finite()? {
            let way_out = match self.saved_step {
                0 => "start again".to_string(),
                step => format!("resume from step {step}"),
            };
            return Err(Error::failed(format!(
                "the weights of step {} are no longer finite numbers and are not saved: {way_out} \
                 with a lower --lr than {}",
                self.state.step, self.config.lr
            )));
        }
        self.save()
    }

    fn weights_are_finite(&mut self) -> Result<bool> {
        self.on_device(|this| {
            let params = this.model.params();
            let values: Vec<_> = params.iter().map(|p| &p.value).collect();
            B::sum_of_squares(&values).is_finite()
        })
    }

    fn save(&mut self) -> Result<()> {
        self.set_earlier_run_aside()?;
        let params = self.model.params();
        let model = params
            .iter()
            .map(|p| source(p.info.name.clone(), &p.info.shape, &p.value))
            .collect();
        let mut config = self.config.clone();
        self.asked.apply(&mut config);
        let [log, tensorboard] = self.logged.clone();
        config.log_file = config.log_file.or(log);
        config.tensorboard = config.tensorboard.or(tensorboard);
        let trainer = serde_json::to_value(&self.state)
            .map_err(|cause| Error::failed(format!("cannot record the state: {cause}")))?;
        let contents = BundleContents {
            step: self.state.step,
            model,
            optimizer: self.optimizer.tensors(&self.model),
            trainer,
            config_toml: config.to_toml()?,
            tokenizer: &|dir| self.tokenizer.save(dir),
        };
        let saved = self.writer.save(&contents)?;
        drop(contents);
        self.save_failed = None;
        if self.save_trouble.worked().is_some() {
            tracing::warn!("step {} is saved: saving works again", self.state.step);
        }
        self.saved_step = self.state.step;
        self.supervised.report(&self.status(self.state.step));
        self.log.write(&Event::Checkpoint(Checkpoint {
            step: self.state.step,
            path: saved.path.display().to_string(),
            bytes: saved.bytes,
            seconds: saved.seconds,
        }));
        self.saved_path = Some(saved.path);
        self.nothing_at_stake();
        Ok(())
    }

    fn set_earlier_run_aside(&mut self) -> Result<()> {
        if !self.starting_over {
            return Ok(());
        }
        let aside = self.writer.set_earlier_run_aside();
        let aside = aside.map_err(|cause| Error::NotWritten(cause.to_string()))?;
        self.starting_over = false;
        if let Some(run) = aside {
            tracing::warn!(
                "the earlier run in this bundle, of {} steps, is kept in {} ({})",
                run.step,
                run.path.display(),
                format_bytes(run.bytes)
            );
        }
        Ok(())
    }

    /// Everything is saved, or there is nothing to save: the process may end at any moment, with these last words.
    fn nothing_at_stake(&mut self) {
        let log = self.log.epilogue();
        let peak = self.meter.sample().unwrap_or_default().peak_bytes;
        let seconds = self.started.elapsed().as_secs_f64();
        let end = Event::End(self.end(StopReason::Interrupt.as_str(), seconds, peak));
        let quiet = self.config.quiet;
        let words = format!("stopped on request: {}", self.what_is_saved());
        stop::nothing_at_stake(0, move || {
            log.write(&end);
            if !quiet {
                terminal::say(&words);
            }
        });
    }

    /// After an error: save what was done, if the device still answers and it is worth saving.
    fn rescue(&mut self, error: &Error) {
        let unsaved = self.state.step > self.saved_step;
        // It was just tried.
        let cannot = matches!(error, Error::NotWritten(_));
        // After a failure of the device the weights may be half updated.
        if !unsaved || cannot || self.device_failed || !self.weights_are_finite().unwrap_or(false) {
            return;
        }
        let step = self.state.step;
        match self.save() {
            Ok(()) => tracing::warn!("saved step {step} before giving up: {error}"),
            Err(second) => tracing::warn!("step {step} could not be saved: {second}"),
        }
    }

    fn finish(&mut self, reason: &str, seconds: f64) {
        let peak = self.meter.sample().unwrap_or_default().peak_bytes;
        let end = self.end(reason, seconds, peak);
        self.log.write(&Event::End(end));
    }

    fn end(&self, reason: &str, seconds: f64, peak_bytes: u64) -> End {
        End {
            reason: reason.to_string(),
            step: self.state.step,
            loss: self.last_loss,
            tokens: self.state.tokens - self.tokens_before,
            seconds,
            skipped_steps: self.state.skipped_steps,
            peak_bytes,
            host_peak_bytes: meter::peak_bytes(),
        }
    }

    fn summary(&mut self, ending: Ending, seconds: f64) {
        self.progress.finish();
        let tokens = self.state.tokens - self.tokens_before;
        if tokens > 0 {
            let ending = match ending {
                Ending::Done => "done",
                Ending::EpochEnd => "stopped at the end of the epoch",
                Ending::Stopped(_) => "stopped on request",
            };
            let peak = self.meter.sample().unwrap_or_default().peak_bytes;
            let skipped = match self.state.skipped_steps {
                0 => String::new(),
                n => format!(", {n} steps skipped"),
            };
            self.progress.note(&format!(
                "{ending}: step {}, loss {}, {tokens} tokens in {seconds:.1} s ({:.0} tokens/s), \
                 peak memory {}{skipped}",
                self.state.step,
                readable(self.last_loss, 4),
                tokens as f64 / seconds,
                format_bytes(peak),
            ));
        }
        self.progress.note(&self.what_is_saved());
    }

    fn what_is_saved(&self) -> String {
        match self.saved_step {
            0 => "nothing was saved: no step was finished".to_string(),
            step => {
                let bundle = quoted(&self.config.bundle_path());
                format!(
                    "step {step} is saved in {bundle}; try: aios generate {bundle} --prompt \"The\""
                )
            }
        }
    }
}

/// A path as it can be pasted into a shell.
fn quoted(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    match text.contains(char::is_whitespace) {
        true => format!("\"{text}\""),
        false => text,
    }
}
