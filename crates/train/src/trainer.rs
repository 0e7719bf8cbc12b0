//! The training loop.

use crate::attempt::{Attempt, Tried, Windows};
use crate::checkpoints::{Checkpoints, Contents};
use crate::form::StepForm;
use crate::journal::{Done, Journal, Totals};
use crate::opening::Opening;
use crate::operations::Recorder;
use crate::ranks;
use crate::schedule::Schedule;
use crate::state::TrainerState;
use aios_base::error::{Error, Result, shortened};
use aios_base::micro_batch::MicroBatch;
use aios_base::terminal;
use aios_base::waiting::waiting;
use aios_data::{Batches, Sequences, Tokenizer};
use aios_distributed::World;
use aios_engine::{Denominators, Engine, OpenDevice, Sharing, Update};
use aios_memory::loss_scale::LossScaler;
use aios_metrics::StepExchange;
use aios_models::Architecture;
use aios_process::stop::{StopReason, StopSignal};
use aios_process::{Status, stop};
use std::time::{Duration, Instant};

/// Steps in a row without a finite gradient after which going on is pointless: nothing changes the
/// weights in a skipped step, so only the data could.
const HOPELESS: u64 = 25;

/// What is trained on, and what it is scored on.
pub struct Text {
    pub tokenizer: Tokenizer,
    pub batches: Batches,
    pub eval: Option<Sequences>,
    pub opening: Opening,
}

/// The model at work on its device.
pub struct Compute {
    pub device: Box<dyn OpenDevice>,
    pub engine: Box<dyn Engine>,
    pub model: Box<dyn Architecture>,
}

/// Where the run is.
pub struct Position {
    /// As of the last finished step.
    pub state: TrainerState,
    pub scaler: LossScaler,
    /// Step this run began at.
    pub began_at: u64,
    /// The last step whose weights all ranks share.
    pub exchanged: u64,
    pub skipped_in_a_row: u64,
}

/// A training run on one device, perhaps one of several ranks.
pub struct Trainer {
    pub form: StepForm,
    pub text: Text,
    pub compute: Compute,
    pub at: Position,
    pub checkpoints: Checkpoints,
    pub journal: Journal,
    /// Takes the first steps apart.
    pub recorder: Recorder,
    pub stop: StopSignal,
    /// The other ranks.
    pub world: World,
    /// A save that failed is to be tried again, as all ranks know.
    pub checkpoints_are_overdue: bool,
    /// What the world has taken by the last step.
    pub times: [Duration; 2],
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

    fn in_words(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::EpochEnd => "stopped at the end of the epoch",
            Self::Stopped(_) => "stopped on request",
        }
    }
}

impl Trainer {
    /// Train until the steps are done or something stops them, and save.
    ///
    /// # Errors
    /// Whatever made going on impossible. The progress made is saved first if the device still
    /// answers.
    pub fn run(&mut self) -> Result<()> {
        self.journal.begins_with(self.at.state.tokens);
        self.nothing_at_stake();
        let ended = self.train().and_then(|ending| {
            stop::ending();
            self.exchange()?;
            self.save_if_new()?;
            Ok(ending)
        });
        stop::ending();
        match ended {
            Ok(ending) => {
                self.journal.finish(ending.as_str(), &self.totals());
                self.journal.summary(ending.in_words(), &self.totals());
                Ok(())
            }
            Err(error) => {
                self.rescue(&error);
                let reason = shortened(&error.to_string());
                self.journal.finish(&reason, &self.totals());
                Err(error)
            }
        }
    }

    fn train(&mut self) -> Result<Ending> {
        loop {
            let ending = self.train_until(self.cycle_end())?;
            if ending != Ending::Done || !self.form.config.iterate {
                return Ok(ending);
            }
        }
    }

    /// Last step of the current cycle: `--steps`, and with `--iterate` every multiple of it.
    fn cycle_end(&self) -> u64 {
        let steps = self.form.config.steps;
        match self.form.config.iterate {
            true => (self.at.state.step / steps + 1) * steps,
            false => steps,
        }
    }

    fn train_until(&mut self, end: u64) -> Result<Ending> {
        self.journal.set_total(end);
        if self.at.state.step >= end {
            let done = self.at.state.step;
            self.journal.note(&format!(
                "step {done} of {end}: nothing left to train; raise --steps or --epochs"
            ));
        }
        let ending = self.steps(end)?;
        if let Ending::Stopped(_) = ending {
            return Ok(ending);
        }
        self.exchange()?;
        // Saved first: whatever happens from here on, the steps are safe.
        self.save_if_new()?;
        self.evaluate()?;
        if self.form.config.samples_at_end() {
            self.sample()?;
        }
        Ok(ending)
    }

    fn steps(&mut self, end: u64) -> Result<Ending> {
        while self.at.state.step < end {
            let epoch = self.text.batches.epoch();
            if let Some(reason) = self.step_or_wait()? {
                return Ok(Ending::Stopped(reason));
            }
            if self.form.config.stop_after_epoch && self.text.batches.epoch() > epoch {
                return Ok(Ending::EpochEnd);
            }
            if self.at.state.step < end {
                self.between_steps()?;
            }
        }
        Ok(Ending::Done)
    }

    /// What is due after a step that is not the last.
    fn between_steps(&mut self) -> Result<()> {
        let step = self.at.state.step;
        let local = self
            .form
            .config
            .local_steps
            .filter(|_| self.world.has_others());
        let passed = step - self.at.exchanged;
        if passed < local.unwrap_or(1) {
            return Ok(());
        }
        self.exchange()?;
        // By the steps since the last time that anything could be done.
        let due = |every: u64| every > 0 && step % every < passed;
        let config = &self.form.config;
        let (save, evaluate) = (due(config.save_every), due(config.eval_every));
        let sample = due(config.sample_every);
        if save || self.checkpoints_are_overdue {
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

    /// With `--local-steps`: all ranks take up what each has learnt since the last time.
    fn exchange(&mut self) -> Result<()> {
        let step = self.at.state.step;
        if self.form.config.local_steps.is_some() && step > self.at.exchanged {
            let exchanged = self.compute.engine.outer_step();
            self.in_step(exchanged)?;
        }
        self.at.exchanged = step;
        Ok(())
    }

    /// One optimizer update; or the reason why it was abandoned half-way, with nothing changed.
    /// The first step compiles and tunes kernels; a bar on a terminal says that it is waited for.
    fn step_or_wait(&mut self) -> Result<Option<StopReason>> {
        let quiet = self.form.config.quiet || terminal::is_capable();
        match self.at.state.step == self.at.began_at {
            true => waiting("the first step", quiet, || self.step()),
            false => self.step(),
        }
    }

    fn step(&mut self) -> Result<Option<StopReason>> {
        let started = Instant::now();
        let number = self.at.state.step + 1;
        self.mind_the_host(number)?;
        self.journal.status(&self.status(number));
        let windows = self.draw()?;
        let own = self.own(&windows);
        let own = own.as_ref().unwrap_or(&windows);
        let divided_by = match self.form.config.local_steps {
            None => &windows,
            Some(_) => own,
        };
        let denominators = Denominators::of(std::slice::from_ref(divided_by));
        let planned = Schedule::of(&self.form.config).at_step(number);
        let rewarm = self.at.state.rewarm;
        let learning_rate = rewarm.map_or(planned, |rewarm| rewarm.at(number, planned));

        // Until its update a step changes nothing, so that it can be tried again in smaller parts.
        let tried = loop {
            let windows = Windows { own, denominators };
            let mut recorder = std::mem::take(&mut self.recorder);
            let tried = recorder.step(|| self.attempt(number, windows, learning_rate));
            self.recorder = recorder;
            match tried {
                Ok(Attempt::Done(tried)) => break tried,
                Ok(Attempt::Stopped(reason)) => return Ok(Some(reason)),
                Err(Error::OutOfMemory(cause)) => self.back_off(number, &cause)?,
                Err(error) => return Err(error),
            }
        };

        let tokens = [windows.tokens(), windows.valid_tokens()];
        self.advance(number, &tried.update, tokens[0]);
        stop::steps_at_stake();
        self.report(&tried, learning_rate, tokens, started)?;
        self.give_up_if_hopeless(tried.update)?;
        Ok(None)
    }

    /// This rank's part of a step, if that is not all of it.
    fn own(&self, windows: &MicroBatch) -> Option<MicroBatch> {
        let (rank, size) = (self.world.rank(), self.world.size());
        let sequences = windows.sequences() / size;
        let own = || windows.part(rank * sequences..(rank + 1) * sequences);
        self.world.has_others().then(own)
    }

    /// Everything is saved: alone, this process may end at any moment.
    fn nothing_at_stake(&self) {
        if !self.world.has_others() {
            self.journal.nothing_at_stake(&self.totals());
        }
    }

    /// The step's windows, of all ranks, in order.
    fn draw(&mut self) -> Result<MicroBatch> {
        let sequences = self.form.config.effective_batch();
        self.text.batches.next_batch(sequences)
    }

    /// The step is done.
    fn advance(&mut self, number: u64, update: &Update, tokens: u64) {
        let Position { state, scaler, .. } = &mut self.at;
        scaler.update(update.skipped);
        state.step = number;
        state.updates = self.compute.engine.updates();
        state.tokens += tokens;
        state.skipped_steps += u64::from(update.skipped);
        state.loss_scale = scaler.scale();
        state.good_steps = scaler.good_steps();
        state.data = self.text.batches.position();
        self.form.steps_alike += 1;
    }

    /// `tokens`: those that were read, and those that were trained on.
    fn report(
        &mut self,
        tried: &Tried,
        rate: f64,
        [tokens, trained_tokens]: [u64; 2],
        started: Instant,
    ) -> Result<()> {
        let now = self.world.times();
        let before = std::mem::replace(&mut self.times, now);
        let [waited_seconds, seconds] = [0, 1].map(|i| (now[i] - before[i]).as_secs_f64());
        let exchange = StepExchange {
            seconds,
            waited_seconds,
        };
        let step = self.at.state.step;
        self.journal.step(&Done {
            step,
            epoch: self.epoch(),
            sums: &tried.sums,
            update: tried.update,
            learning_rate: rate,
            loss_scales: [tried.loss_scale, self.at.scaler.scale()],
            tokens,
            trained_tokens,
            split: self.form.split(),
            ranks: &tried.ranks,
            exchange,
            started,
            before_update: tried.before_update,
            watched: tried.watched,
        })?;
        if let Some(operations) = self.recorder.take(step) {
            self.journal.operations(operations);
        }
        Ok(())
    }

    /// Passes over the dataset so far.
    fn epoch(&self) -> f64 {
        let (at, windows) = (&self.at.state.data, self.text.batches.windows_per_epoch());
        at.epoch as f64 + at.window as f64 / windows.max(1) as f64
    }

    fn give_up_if_hopeless(&mut self, update: Update) -> Result<()> {
        self.at.skipped_in_a_row = match update.skipped {
            true => self.at.skipped_in_a_row + 1,
            false => 0,
        };
        if self.at.skipped_in_a_row < HOPELESS {
            return Ok(());
        }
        let lr = self.form.config.lr;
        Err(Error::failed(match self.at.scaler.at_floor() {
            // From the largest scale it takes 24 steps to get there.
            true => format!(
                "no finite gradient in the last {HOPELESS} steps, even with a loss scale of {}: f16 \
                 does not do for this run; resume from an earlier checkpoint with --amp-dtype bf16 \
                 or with --no-amp, or with a lower --lr than {lr}",
                self.at.scaler.scale()
            ),
            false => format!(
                "no finite gradient in the last {HOPELESS} steps: resume from an earlier checkpoint \
                 with a lower --lr than {lr}"
            ),
        }))
    }

    /// Where the run is, for whoever has to start it again.
    pub(crate) fn status(&self, step: u64) -> Status {
        let split = self.form.split();
        let saved = self.checkpoints.step;
        Status {
            step,
            batch_size: split.batch_size,
            gradient_accumulation_steps: split.accumulation,
            began_at: self.at.began_at,
            saved_step: (saved > self.at.began_at).then_some(saved),
            next_batch_size: Some(self.form.after_a_death),
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            step: self.at.state.step,
            tokens: self.at.state.tokens,
            skipped_steps: self.at.state.skipped_steps,
            saved_step: self.checkpoints.step,
        }
    }

    /// The step whose work failed stands in the words.
    pub(crate) fn in_step<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| match error {
            Error::Device(cause) => {
                let step = self.at.state.step + 1;
                Error::Device(format!("the device failed in step {step}: {cause}"))
            }
            other => other,
        })
    }

    /// A save in the midst of the run, which goes on whatever becomes of it: there is another one to come.
    pub(crate) fn save_on_the_way(&mut self) -> Result<()> {
        if !self.weights_are_finite()? {
            tracing::warn!("not saved: weights are no longer finite numbers");
            return Ok(());
        }
        match self.save() {
            Err(Error::NotWritten(cause)) => {
                self.checkpoints.note_failure(&cause);
                Ok(())
            }
            saved => saved,
        }
    }

    /// Save unless the newest checkpoint is of this step already.
    fn save_if_new(&mut self) -> Result<()> {
        if self.at.state.step == self.checkpoints.step {
            return Ok(());
        }
        if !self.weights_are_finite()? {
            let way_out = match self.checkpoints.step {
                0 => "start again".to_string(),
                step => format!("resume from step {step}"),
            };
            return Err(Error::failed(format!(
                "the weights of step {} are no longer finite numbers and are not saved: {way_out} \
                 with a lower --lr than {}",
                self.at.state.step, self.form.config.lr
            )));
        }
        self.save()
    }

    fn weights_are_finite(&self) -> Result<bool> {
        self.in_step(self.compute.engine.weights_are_finite())
    }

    /// Rank 0 writes, the others give it what it has not; what came of it is known to all.
    fn save(&mut self) -> Result<()> {
        let written = match self.world.is_first() {
            true => self.write(),
            false => self.compute.engine.serve(),
        };
        let failed = match written {
            Ok(()) => None,
            Err(Error::NotWritten(cause)) => Some(cause),
            Err(error) => return Err(error),
        };
        match self.world.share(&failed)? {
            Some(cause) => Err(Error::NotWritten(cause)),
            None => {
                self.checkpoints.step = self.at.state.step;
                Ok(())
            }
        }
    }

    fn write(&mut self) -> Result<()> {
        let saved = self.checkpoints.save(&Contents {
            engine: &*self.compute.engine,
            state: &self.at.state,
            config: &self.form.config,
            asked: self.form.asked,
            tokenizer: &self.text.tokenizer,
            progress: &|| self.world.progress(),
        });
        self.compute.engine.served()?;
        let saved = saved?;
        let step = self.at.state.step;
        self.journal.status(&self.status(step));
        self.journal.saved(step, &saved);
        self.nothing_at_stake();
        Ok(())
    }

    /// Whether a checkpoint can be written without other ranks.
    fn has_all(&self) -> bool {
        let alone = !self.world.has_others();
        alone || (self.world.is_first() && ranks::sharing(&self.form.config) == Sharing::Gradients)
    }

    /// After an error: save what was done, if the device still answers and it is worth saving.
    fn rescue(&mut self, error: &Error) {
        let unsaved = self.at.state.step > self.checkpoints.step;
        // It was just tried; or, after a failure of the device, the weights may be half updated.
        let cannot = matches!(error, Error::NotWritten(_) | Error::Device(_)) || !self.has_all();
        if !unsaved || cannot || !self.weights_are_finite().unwrap_or(false) {
            return;
        }
        let step = self.at.state.step;
        match self.write() {
            Ok(()) => tracing::warn!("saved step {step} before giving up"),
            Err(second) => tracing::warn!("step {step} could not be saved: {second}"),
        }
    }
}
