//! The real training step on made-up tokens, with its memory taken apart.

use crate::backend::{Kind, MemoryMeter, confirmed};
use crate::config::TrainConfig;
use crate::error::Result;
use crate::memory::meter::{live_bytes, peak_bytes, reset_peak};
use crate::memory::watch::{Point, Unwatched, Watch};
use crate::model::{ActV1, Gradients, ModelConfig};
use crate::ops::Ops;
use crate::train::micro_batch::MicroBatch;
use crate::train::optimizer::AdamW;
use crate::train::plan::Plan;
use crate::train::supervision::{Denominators, Recipe, Supervisor};
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
    /// All of it at the worst moment; on a GPU what the pools took from the device.
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

/// Run one step as the configuration says, on one device; on a GPU after one that compiles.
///
/// # Errors
/// An impossible configuration, or a device that fails.
pub fn trial<B: Ops>(
    config: &TrainConfig,
    model: &ModelConfig,
    plan: &Plan,
    meter: &MemoryMeter,
    device: &B::Device,
) -> Result<Trial> {
    Bench::<B>::new(config, model, plan, meter, device)?.trial(config, model)
}

/// Run a few steps as the configuration says, on one device.
///
/// # Errors
/// An impossible configuration, or a device that fails.
pub fn measure<B: Ops>(
    config: &TrainConfig,
    model: &ModelConfig,
    plan: &Plan,
    meter: &MemoryMeter,
    device: &B::Device,
    steps: u64,
) -> Result<Measured> {
    Bench::<B>::new(config, model, plan, meter, device)?.run(config, model, steps)
}

/// A fixed walk through the vocabulary: the work does not depend on what the tokens are.
fn tokens(config: &TrainConfig, vocabulary: usize) -> Result<MicroBatch> {
    let n = config.effective_batch() * config.max_seq_len;
    let id = |i: usize| (i * 7919 % vocabulary) as i32;
    let mut batch = MicroBatch::with_room(config.effective_batch(), config.max_seq_len)?;
    batch.inputs.extend((0..n).map(id));
    batch.labels.extend((1..=n).map(id));
    Ok(batch)
}

struct Bench<'a, B: Ops> {
    plan: &'a Plan,
    meter: &'a MemoryMeter,
    device: &'a B::Device,
    data: MicroBatch,
    size: usize,
    recipe: Recipe,
}

impl<'a, B: Ops> Bench<'a, B> {
    fn new(
        config: &TrainConfig,
        model: &ModelConfig,
        plan: &'a Plan,
        meter: &'a MemoryMeter,
        device: &'a B::Device,
    ) -> Result<Self> {
        Ok(Self {
            plan,
            meter,
            device,
            data: tokens(config, model.vocab_size)?,
            size: config.batch_size,
            // Two segments in every step, so that all ways do the same work.
            recipe: Recipe {
                exploration: 1.0,
                ..plan.recipe(config, model, 1.0)
            },
        })
    }

    fn trial(&self, config: &TrainConfig, shape: &ModelConfig) -> Result<Trial> {
        let empty = self.empty()?;
        let mut model = self.model(config, shape)?;
        let mut optimizer = self.plan.optimizer(config, &model);
        confirmed::<B, _>(self.device, || optimizer.prepare(&model))?;
        if self.plan.kind != Kind::Cpu {
            self.step(&mut model, &mut optimizer, config.lr, 1)?;
        }
        reset_peak();
        let started = Instant::now();
        let loss = self.step(&mut model, &mut optimizer, config.lr, 2)?;
        Ok(Trial {
            peak: self.peak()?.saturating_sub(empty),
            tokens_per_second: self.data.inputs.len() as f64 / started.elapsed().as_secs_f64(),
            loss,
        })
    }

    /// What is in use before anything of the step is, and what products keep is a part of that.
    fn empty(&self) -> Result<u64> {
        self.plan.warm_up();
        Ok(self.in_use()? - self.plan.kept_bytes())
    }

    fn model(&self, config: &TrainConfig, shape: &ModelConfig) -> Result<ActV1<B>> {
        confirmed::<B, _>(self.device, || {
            ActV1::<B>::init(shape, config.seed, self.device)
        })?
    }

    fn peak(&self) -> Result<u64> {
        match self.plan.kind {
            Kind::Cpu => Ok(peak_bytes()),
            Kind::Cuda | Kind::Wgpu => Ok(self.meter.sample()?.reserved_bytes),
        }
    }

    fn run(&self, config: &TrainConfig, shape: &ModelConfig, steps: u64) -> Result<Measured> {
        let empty = self.empty()?;
        let before = self.in_use()?;
        let mut model = self.model(config, shape)?;
        let weights = self.in_use()?;
        let mut optimizer = self.plan.optimizer(config, &model);
        confirmed::<B, _>(self.device, || optimizer.prepare(&model))?;
        let fixed = self.in_use()?;

        // Its passes also warm up: they compile, tune and fill the pools.
        let parts = self.take_apart(&model)?;
        let mut seconds = Vec::new();
        let mut last_loss = 0.0;
        reset_peak();
        for step in 1..=steps {
            let started = Instant::now();
            last_loss = self.step(&mut model, &mut optimizer, config.lr, step)?;
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
    fn step(
        &self,
        model: &mut ActV1<B>,
        optimizer: &mut AdamW<B>,
        rate: f64,
        step: u64,
    ) -> Result<f64> {
        let mut grads = model.gradients();
        let mut loss = 0.0;
        let mut parts = 0;
        for batch in self.data.split(self.size) {
            loss += self.pass(model, &batch, &mut grads, step, &Unwatched)?;
            parts += 1;
        }
        confirmed::<B, _>(self.device, || optimizer.step(model, grads, rate, 1.0))?;
        Ok(loss / f64::from(parts))
    }

    /// What gradients, activations and loss take: measured in a second pass, when the gradients
    /// are all there and do not grow any more.
    fn take_apart(&self, model: &ActV1<B>) -> Result<Parts> {
        let before = self.in_use()?;
        let mut grads = model.gradients();
        let Some(batch) = self.data.split(self.size).next() else {
            return Ok(Parts::default());
        };
        self.pass(model, &batch, &mut grads, 0, &Unwatched)?;
        confirmed::<B, _>(self.device, || model.settle(&mut grads))?;
        let fixed = self.in_use()?;
        let watch = Apart {
            bench: self,
            fixed,
            activations: Cell::new(0),
            loss: Cell::new(0),
            at_loss: Cell::new(0),
        };
        reset_peak();
        self.pass(model, &batch, &mut grads, 0, &watch)?;
        watch.note_activations();
        Ok(Parts {
            gradients: fixed - before,
            activations: watch.activations.get(),
            loss: (self.plan.kind == Kind::Cpu).then(|| watch.loss.get()),
        })
    }

    fn pass(
        &self,
        model: &ActV1<B>,
        batch: &MicroBatch,
        grads: &mut Gradients<B>,
        step: u64,
        watch: &dyn Watch,
    ) -> Result<f64> {
        let supervisor = Supervisor {
            model,
            recipe: &self.recipe,
            denominators: Denominators::of(std::slice::from_ref(&self.data)),
            step,
            watch,
        };
        confirmed::<B, _>(self.device, || supervisor.run(batch, grads).loss())
    }

    fn in_use(&self) -> Result<u64> {
        confirmed::<B, _>(self.device, || self.meter.sample())?.map(|used| used.in_use_bytes)
    }
}

#[derive(Default)]
struct Parts {
    gradients: u64,
    activations: u64,
    loss: Option<u64>,
}

/// Tells the loss from the rest by looking at each side of it.
struct Apart<'a, 'b, B: Ops> {
    bench: &'a Bench<'b, B>,
    fixed: u64,
    activations: Cell<u64>,
    loss: Cell<u64>,
    at_loss: Cell<u64>,
}

impl<B: Ops> Apart<'_, '_, B> {
    /// The most that was in use since the last look, beyond what is always there.
    fn note_activations(&self) {
        let most = match self.bench.plan.kind {
            Kind::Cpu => peak_bytes(),
            Kind::Cuda | Kind::Wgpu => match self.bench.in_use() {
                Ok(bytes) => bytes,
                // Asking took the failure away: pass it on to `confirmed` around the pass.
                Err(error) => panic!("{error}"),
            },
        };
        let activations = most.saturating_sub(self.fixed);
        self.activations
            .set(self.activations.get().max(activations));
    }
}

impl<B: Ops> Watch for Apart<'_, '_, B> {
    fn at(&self, point: Point) {
        match point {
            Point::Backward => self.note_activations(),
            Point::LossBegins => {
                self.note_activations();
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
