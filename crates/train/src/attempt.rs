//! One try at a step, and what is done when memory runs out in it.

use crate::gauge::{CLOSE_STEPS, Gauge};
use crate::recipe::recipe;
use crate::trainer::Trainer;
use aios_base::error::Result;
use aios_base::meter::host_share_in_use;
use aios_base::micro_batch::MicroBatch;
use aios_engine::{Denominators, LossSums, StepPart, Update};
use aios_plan::fit;
use aios_process::stop::StopReason;

/// What became of a try at a step.
pub(crate) enum Attempt {
    Done(Tried),
    /// Given up between two micro-batches, with nothing changed.
    Stopped(StopReason),
}

/// A step's losses and update.
pub(crate) struct Tried {
    pub sums: LossSums,
    pub loss_scale: f64,
    pub update: Update,
}

impl Trainer {
    /// All micro-batches and the update.
    pub(crate) fn attempt(
        &mut self,
        number: u64,
        windows: &MicroBatch,
        denominators: Denominators,
        learning_rate: f64,
    ) -> Result<Attempt> {
        // First, so that memory cannot run out in the middle of the update.
        let prepared = self.compute.engine.prepare();
        self.in_step(prepared)?;
        let loss_scale = self.at.scaler.scale();
        let (plan, config) = (&self.form.plan, &self.form.config);
        let recipe = recipe(plan, config, &*self.compute.model, loss_scale);
        let mut sums = LossSums::default();
        let mut left = windows.split(config.batch_size).peekable();
        while let Some(batch) = left.next() {
            if let Some(reason) = self.stop.requested() {
                self.compute.engine.discard();
                return Ok(Attempt::Stopped(reason));
            }
            let gauge = Gauge {
                meter: &self.journal.meter,
                close: plan.kind.is_gpu() && self.form.steps_alike < CLOSE_STEPS,
                limit: config.memory_limit.map(|limit| limit.0),
            };
            let part = StepPart {
                step: number,
                denominators,
                last: left.peek().is_none(),
            };
            let engine = &mut self.compute.engine;
            let done = engine.micro_batch(&batch, &recipe, part, &gauge);
            sums.add(&self.in_step(done)?);
        }
        // The pools of a GPU report what is held now: this is when the gradients are.
        self.journal.meter.sample()?;
        let update = self.compute.engine.update(learning_rate, loss_scale);
        Ok(Attempt::Done(Tried {
            sums,
            loss_scale,
            update: self.in_step(update)?,
        }))
    }

    /// Go on with a smaller micro-batch and more of them; the step, its order and its result stay.
    pub(crate) fn back_off(&mut self, number: u64, cause: &str) -> Result<()> {
        let (config, plan) = (&mut self.form.config, &mut self.form.plan);
        let back_off = fit::back_off(config, plan, &*self.compute.model, number, cause)?;
        self.note_form();
        self.form.steps_alike = 0;
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
