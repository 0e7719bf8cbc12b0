//! One try at a step, and what is done when memory runs out in it.

use crate::gauge::{CLOSE_STEPS, Gauge};
use crate::operations::Recorder;
use crate::ranks::{self, About, Outcome, Said};
use crate::recipe::recipe;
use crate::trainer::Trainer;
use aios_base::error::{Error, Result};
use aios_base::meter::{host_share_in_use, peak_bytes};
use aios_base::micro_batch::MicroBatch;
use aios_engine::{Denominators, LossSums, StepPart, Update};
use aios_plan::fit;
use aios_process::stop::StopReason;
use std::time::Instant;

/// What became of a try at a step.
pub(crate) enum Attempt {
    Done(Tried),
    /// Given up between two micro-batches, with nothing changed.
    Stopped(StopReason),
}

/// What became of this rank's part of a step.
enum Part {
    Done(LossSums),
    Stopped(StopReason),
}

/// A step's losses and update.
pub(crate) struct Tried {
    /// Over all ranks.
    pub sums: LossSums,
    pub loss_scale: f64,
    pub update: Update,
    /// Bytes in use on this rank's device when the gradients were complete.
    pub before_update: u64,
    /// Memory was looked at within the step.
    pub watched: bool,
    /// How each rank fared.
    pub ranks: Vec<About>,
}

/// A step's windows, and what its gradients are divided by.
#[derive(Clone, Copy)]
pub(crate) struct Windows<'a> {
    /// Of this rank.
    pub own: &'a MicroBatch,
    pub denominators: Denominators,
}

impl Trainer {
    /// All micro-batches and the update, together with the other ranks.
    pub(crate) fn attempt(
        &mut self,
        number: u64,
        windows: Windows,
        learning_rate: f64,
    ) -> Result<Attempt> {
        let started = Instant::now();
        self.journal.meter.begin_lap();
        let loss_scale = self.at.scaler.scale();
        let (outcome, sums) = match self.micro_batches(number, windows) {
            Ok(Part::Done(sums)) => (Outcome::Done, sums),
            Ok(Part::Stopped(reason)) => (Outcome::Stopped(reason), LossSums::default()),
            Err(Error::OutOfMemory(cause)) => (Outcome::OutOfMemory(cause), LossSums::default()),
            Err(error) => return Err(error),
        };
        let completed = self.compute.engine.complete();
        self.for_all(completed)?;
        let said = self.said(outcome, &sums, started)?;
        let before_update = said.about.in_use_bytes;
        let all = self.world.gather(&said)?;
        match ranks::agreed(&all) {
            Outcome::Done => {}
            Outcome::OutOfMemory(cause) => return Err(Error::OutOfMemory(cause)),
            Outcome::Stopped(reason) => {
                self.compute.engine.discard();
                return Ok(Attempt::Stopped(reason));
            }
        }
        self.checkpoints_are_overdue = all.first().is_some_and(|said| said.overdue);
        // The heap counts everything by itself.
        let watched = !self.form.plan.kind.is_gpu() || self.form.steps_alike < CLOSE_STEPS;
        let update = self.compute.engine.update(learning_rate, loss_scale);
        Ok(Attempt::Done(Tried {
            sums: ranks::sums(&all),
            loss_scale,
            update: self.for_all(update)?,
            before_update,
            watched,
            ranks: all.iter().map(|said| said.about).collect(),
        }))
    }

    /// What the other ranks do as well, so that one alone cannot try it again.
    fn for_all<T>(&self, outcome: Result<T>) -> Result<T> {
        let outcome = self.in_step(outcome);
        outcome.map_err(|error| match error {
            Error::OutOfMemory(cause) if self.world.has_others() => Error::failed(format!(
                "{cause}, between ranks: lower --batch-size or set --memory-limit"
            )),
            error => error,
        })
    }

    /// What this rank tells the others of its part.
    fn said(&self, outcome: Outcome, sums: &LossSums, started: Instant) -> Result<Said> {
        // The pools of a GPU report what is held now: this is when the gradients are. A device that has just run out is not
        // asked.
        let memory = match outcome {
            Outcome::Done => self.journal.meter.sample()?,
            _ => Default::default(),
        };
        let about = About {
            seconds: started.elapsed().as_secs_f64(),
            in_use_bytes: memory.in_use_bytes,
            peak_bytes: memory.peak_bytes,
            host_peak_bytes: peak_bytes(),
        };
        let overdue = self.checkpoints.is_overdue();
        Ok(Said::new(outcome, sums, about, overdue))
    }

    /// Forward and backward of this rank's part; the reason to stop, if there is one.
    fn micro_batches(&mut self, number: u64, windows: Windows) -> Result<Part> {
        // First, so that memory cannot run out in the middle of the update.
        let prepared = self.compute.engine.prepare();
        self.in_step(prepared)?;
        let loss_scale = self.at.scaler.scale();
        let (plan, config) = (&self.form.plan, &self.form.config);
        let recipe = recipe(plan, config, &*self.compute.model, loss_scale);
        let mut left = windows.own.split(config.batch_size).peekable();
        while let Some(batch) = left.next() {
            if let Some(reason) = self.stop.requested() {
                return Ok(Part::Stopped(reason));
            }
            let gauge = Gauge {
                meter: &self.journal.meter,
                close: plan.kind.is_gpu() && self.form.steps_alike < CLOSE_STEPS,
                limit: config.memory_limit.map(|limit| limit.0),
            };
            let part = StepPart {
                step: number,
                denominators: windows.denominators,
                last: left.peek().is_none(),
            };
            let engine = &mut self.compute.engine;
            let done = engine.micro_batch(&batch, &recipe, part, &gauge);
            self.in_step(done)?;
            self.world.progress();
        }
        // The one wait of a step: a lack of memory shows here, before anything is changed.
        let sums = self.compute.engine.losses();
        Ok(Part::Done(self.in_step(sums)?))
    }

    /// Go on with a smaller micro-batch and more of them; the step, its order and its result stay.
    pub(crate) fn back_off(&mut self, number: u64, cause: &str) -> Result<()> {
        let (config, plan) = (&mut self.form.config, &mut self.form.plan);
        let back_off = fit::back_off(config, plan, &*self.compute.model, number, cause)?;
        self.note_form();
        self.form.steps_alike = 0;
        self.recorder = Recorder::default();
        self.journal.status(&self.status(number));
        self.compute.engine.discard();
        self.compute.device.release_memory();
        self.journal.backed_off(back_off);
        Ok(())
    }

    /// How steps are computed from now on, as far as others have to know.
    pub(crate) fn note_form(&mut self) {
        let form = &mut self.form;
        form.after_a_death = fit::after_a_death(&form.config, &form.plan, &*self.compute.model);
        self.at.state.loss_slice_bytes = form.plan.loss_path.slice_bytes().unwrap_or(0);
    }

    /// `--sys-mem-cap-pct`: take less before the system has nothing left to give.
    pub(crate) fn mind_the_host(&mut self, number: u64) -> Result<()> {
        let (config, plan) = (&self.form.config, &self.form.plan);
        let cap = f64::from(config.sys_mem_cap_pct) / 100.0;
        if cap == 0.0 {
            return Ok(());
        }
        let share = host_share_in_use();
        if share <= cap || !fit::could_back_off(config, plan, &*self.compute.model) {
            return Ok(());
        }
        let percent = 100.0 * share;
        self.back_off(
            number,
            &format!("{percent:.0} % of the host's memory is in use"),
        )
    }
}
