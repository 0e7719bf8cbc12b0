//! The real training step on made-up tokens, with its memory taken apart.

use crate::recipe::{recipe, settings};
use aios_base::config::TrainConfig;
use aios_base::error::Result;
use aios_base::meter::{keep_freed_pages, live_bytes, peak_bytes, reset_peak};
use aios_base::micro_batch::MicroBatch;
use aios_device::MemoryMeter;
use aios_engine::{
    Denominators, Engine, Observer, OpenDevice, Recipe, StepPart, Unobserved, Weights,
};
use aios_models::{Architecture, Model};
use aios_nn::watch::Point;
use aios_plan::Plan;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::time::Instant;

/// What a step took: bytes, each purpose at its own largest, and time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub weights: u64,
    pub gradients: u64,
    pub optimizer: u64,
    /// With the blocks at work; on a GPU as of the moment before a block goes backward.
    pub activations: u64,
    /// Head and loss; `None` on a GPU, whose pools cannot be asked in the middle of an operation.
    pub loss: Option<u64>,
    /// All of it at the worst moment; on a GPU at the worst of those that can be looked at, which are between operations.
    pub peak: u64,
    /// Median of the measured steps.
    pub tokens_per_second: f64,
    /// Of the last step, to see that every way computes the same.
    pub last_loss: f64,
}

/// What a single step took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// As [`Measured::peak`].
    pub peak: u64,
    pub tokens_per_second: f64,
    pub loss: f64,
}

/// A step to be run on one device.
pub struct TrialStep<'a> {
    pub config: &'a TrainConfig,
    pub model: &'a Model,
    pub plan: &'a Plan,
    pub meter: &'a MemoryMeter,
    pub device: &'a dyn OpenDevice,
}

impl TrialStep<'_> {
    /// Run one step; on a GPU after one that compiles.
    ///
    /// # Errors
    /// An impossible configuration, or a device that fails.
    pub fn trial(&self) -> Result<Trial> {
        Bench::new(self)?.trial()
    }

    /// Run a few steps.
    ///
    /// # Errors
    /// An impossible configuration, or a device that fails.
    pub fn measure(&self, steps: u64) -> Result<Measured> {
        Bench::new(self)?.run(steps)
    }

    /// Hand each of some steps to `around`, which runs it; one before them warms up.
    ///
    /// # Errors
    /// As [`TrialStep::measure`], and what `around` gives.
    pub fn each(&self, steps: u64, around: &mut dyn FnMut(OneStep) -> Result<()>) -> Result<()> {
        let bench = Bench::new(self)?;
        self.plan.warm_up();
        let mut engine = bench.engine()?;
        engine.prepare()?;
        bench.whole(&mut *engine, 1)?;
        for step in 2..=steps + 1 {
            around(&mut || bench.whole(&mut *engine, step).map(drop))?;
        }
        Ok(())
    }
}

/// Runs a step.
pub type OneStep<'a> = &'a mut dyn FnMut() -> Result<()>;

/// A fixed walk through the vocabulary: the work does not depend on what the tokens are.
fn tokens(config: &TrainConfig, vocabulary: usize) -> Result<MicroBatch> {
    let n = config.effective_batch() * config.max_seq_len;
    let id = |i: usize| (i * 7919 % vocabulary) as i32;
    let mut batch = MicroBatch::with_room(config.effective_batch(), config.max_seq_len)?;
    batch.inputs.extend((0..n).map(id));
    batch.labels.extend((1..=n).map(id));
    Ok(batch)
}

struct Bench<'a> {
    step: &'a TrialStep<'a>,
    data: MicroBatch,
    recipe: Recipe,
}

impl<'a> Bench<'a> {
    fn new(step: &'a TrialStep<'a>) -> Result<Self> {
        let TrialStep {
            config,
            model,
            plan,
            ..
        } = *step;
        Ok(Self {
            step,
            data: tokens(config, model.vocabulary())?,
            // Two segments in every step, so that all ways do the same work.
            recipe: Recipe {
                exploration: 1.0,
                ..recipe(plan, config, model, 1.0)
            },
        })
    }

    fn is_gpu(&self) -> bool {
        self.step.plan.kind.is_gpu()
    }

    fn trial(&self) -> Result<Trial> {
        let empty = self.empty()?;
        self.step.meter.begin_lap();
        let mut engine = self.engine()?;
        engine.prepare()?;
        if self.is_gpu() {
            self.watched(&mut *engine)?;
        }
        reset_peak();
        let started = Instant::now();
        let loss = self.whole(&mut *engine, 2)?;
        Ok(Trial {
            peak: self.peak()?.saturating_sub(empty),
            tokens_per_second: self.data.inputs.len() as f64 / started.elapsed().as_secs_f64(),
            loss,
        })
    }

    /// What is in use before anything of the step is, and what products keep is a part of that.
    fn empty(&self) -> Result<u64> {
        self.step.plan.warm_up();
        Ok(self.in_use()? - self.step.plan.kept_bytes())
    }

    fn engine(&self) -> Result<Box<dyn Engine>> {
        let TrialStep {
            config,
            model,
            plan,
            device,
            ..
        } = *self.step;
        let settings = settings(plan, config, model);
        let engine = device.model(&settings, Weights::Seed(config.seed))?;
        keep_freed_pages();
        Ok(engine)
    }

    fn peak(&self) -> Result<u64> {
        match self.is_gpu() {
            false => Ok(peak_bytes()),
            true => {
                self.step.meter.sample()?;
                Ok(self.step.meter.lap_peak_bytes())
            }
        }
    }

    fn run(&self, steps: u64) -> Result<Measured> {
        let empty = self.empty()?;
        let before = self.in_use()?;
        self.step.meter.begin_lap();
        let mut engine = self.engine()?;
        let weights = self.in_use()?;
        engine.prepare()?;
        let fixed = self.in_use()?;

        // Its passes also warm up: they compile, tune and fill the pools.
        let parts = self.take_apart(&mut *engine)?;
        let mut seconds = Vec::new();
        let mut last_loss = 0.0;
        reset_peak();
        for step in 1..=steps {
            let started = Instant::now();
            last_loss = self.whole(&mut *engine, step)?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let peak = self.peak()?;
        Ok(Measured {
            weights: weights - before,
            gradients: parts.gradients,
            optimizer: fixed - weights,
            activations: parts.activations,
            loss: parts.loss,
            peak: peak - empty,
            tokens_per_second: self.data.inputs.len() as f64 / seconds[seconds.len() / 2],
            last_loss,
        })
    }

    /// One step as in training; its loss.
    fn whole(&self, engine: &mut dyn Engine, step: u64) -> Result<f64> {
        let loss = self.passes(engine, step, &Unobserved)?;
        engine.update(self.step.config.lr, 1.0)?;
        self.step.device.confirm()?;
        Ok(loss)
    }

    /// The same on a GPU, with a look at its memory wherever that is possible. Each look waits for the device.
    fn watched(&self, engine: &mut dyn Engine) -> Result<()> {
        self.passes(engine, 1, &Looks(self.step.meter))?;
        self.in_use()?;
        engine.update(self.step.config.lr, 1.0)?;
        self.step.device.confirm()?;
        Ok(())
    }

    /// Forward and backward of all micro-batches, with all gradients there; the mean loss.
    fn passes(&self, engine: &mut dyn Engine, step: u64, observer: &dyn Observer) -> Result<f64> {
        let mut left = self.data.split(self.step.config.batch_size).peekable();
        while let Some(batch) = left.next() {
            let last = left.peek().is_none();
            self.pass(engine, &batch, step, last, observer)?;
        }
        Ok(engine.losses()?.loss())
    }

    /// What gradients, activations and loss take: measured in a second pass, when the gradients
    /// are all there and do not grow any more.
    fn take_apart(&self, engine: &mut dyn Engine) -> Result<Parts> {
        let before = self.in_use()?;
        let Some(batch) = self.data.split(self.step.config.batch_size).next() else {
            return Ok(Parts::default());
        };
        self.pass(engine, &batch, 0, false, &Unobserved)?;
        engine.settle()?;
        let fixed = self.in_use()?;
        let watch = Apart {
            meter: self.step.meter,
            is_gpu: self.is_gpu(),
            fixed,
            activations: Cell::new(0),
            loss: Cell::new(0),
            at_loss: Cell::new(0),
        };
        reset_peak();
        self.pass(engine, &batch, 0, false, &watch)?;
        self.step.device.confirm()?;
        watch.note_activations(self.step.device);
        engine.discard();
        Ok(Parts {
            gradients: fixed - before,
            activations: watch.activations.get(),
            loss: (!self.is_gpu()).then(|| watch.loss.get()),
        })
    }

    fn pass(
        &self,
        engine: &mut dyn Engine,
        batch: &MicroBatch,
        step: u64,
        last: bool,
        observer: &dyn Observer,
    ) -> Result<()> {
        let part = StepPart {
            step,
            denominators: Denominators::of(std::slice::from_ref(&self.data)),
            last,
        };
        engine.micro_batch(batch, &self.recipe, part, observer)
    }

    fn in_use(&self) -> Result<u64> {
        self.step.device.confirm()?;
        Ok(self.step.meter.sample()?.in_use_bytes)
    }
}

/// Looks at a GPU's memory.
struct Looks<'a>(&'a MemoryMeter);

impl Looks<'_> {
    /// Bytes in use. Asking takes a failure away from whoever would ask next: it is passed on, as a panic, which is an error
    /// again around the step's work.
    fn in_use(&self, device: &dyn OpenDevice) -> u64 {
        let sample = device.confirm().and_then(|()| self.0.sample());
        sample
            .unwrap_or_else(|error| panic!("{error}"))
            .in_use_bytes
    }
}

impl Observer for Looks<'_> {
    fn at(&self, _: Point, device: &dyn OpenDevice) {
        self.in_use(device);
    }
}

#[derive(Default)]
struct Parts {
    gradients: u64,
    activations: u64,
    loss: Option<u64>,
}

/// Tells the loss from the rest by looking at each side of it.
struct Apart<'a> {
    meter: &'a MemoryMeter,
    is_gpu: bool,
    fixed: u64,
    activations: Cell<u64>,
    loss: Cell<u64>,
    at_loss: Cell<u64>,
}

impl Apart<'_> {
    /// The most that was in use since the last look, beyond what is always there.
    fn note_activations(&self, device: &dyn OpenDevice) {
        let most = match self.is_gpu {
            false => peak_bytes(),
            true => Looks(self.meter).in_use(device),
        };
        let activations = most.saturating_sub(self.fixed);
        self.activations
            .set(self.activations.get().max(activations));
    }
}

impl Observer for Apart<'_> {
    fn at(&self, point: Point, device: &dyn OpenDevice) {
        match point {
            Point::Backward => self.note_activations(device),
            Point::LossBegins => {
                self.note_activations(device);
                self.at_loss.set(live_bytes());
                reset_peak();
            }
            Point::LossEnds => {
                let loss = peak_bytes().saturating_sub(self.at_loss.get());
                self.loss.set(self.loss.get().max(loss));
                reset_peak();
            }
        }
    }
}
