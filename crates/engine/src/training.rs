//! A model and its optimizer on one backend.

use crate::eval::{EvalOptions, Score, evaluate};
use crate::generate::{Sampling, generate};
use crate::optimizer::{AdamW, Update, source};
use crate::supervision::{Denominators, LossSums, Recipe, Supervisor};
use crate::{Engine, Observer, On, Settings, Weights, weights};
use aios_base::error::Result;
use aios_base::micro_batch::{MicroBatch, Tokens};
use aios_bundle::{TensorFile, TensorSource};
use aios_models::actv1::ActV1;
use aios_nn::Gradients;
use aios_nn::watch::{Point, Watch};
use aios_tensor::{Ops, confirmed};

pub struct Training<B: Ops> {
    device: B::Device,
    model: ActV1<B>,
    optimizer: AdamW<B>,
    grads: Option<Gradients<B>>,
}

impl<B: Ops> Training<B> {
    pub fn new(device: &B::Device, settings: &Settings, weights: Weights) -> Result<Self> {
        let (shape, positions) = (&settings.model, settings.positions);
        let model = confirmed::<B, _>(device, || match weights {
            Weights::Seed(seed) => ActV1::init(shape, seed, device),
            Weights::File(file) => weights::load_for(shape, file, positions, device),
        })??;
        let (decay, clip) = (settings.weight_decay, settings.grad_clip);
        let optimizer = AdamW::new(model.params().len(), decay, clip);
        Ok(Self {
            device: device.clone(),
            optimizer: optimizer.with_moments(settings.moments),
            model,
            grads: None,
        })
    }
}

/// An observer who is told of one device.
struct Observed<'a, B: Ops> {
    observer: &'a dyn Observer,
    device: On<B>,
}

impl<B: Ops> Watch for Observed<'_, B> {
    fn at(&self, point: Point) {
        self.observer.at(point, &self.device);
    }
}

impl<B: Ops> Engine for Training<B> {
    fn prepare(&mut self) -> Result<()> {
        confirmed::<B, _>(&self.device, || self.optimizer.prepare(&self.model))
    }

    fn restore(&mut self, updates: u64, state: &mut TensorFile) -> Result<()> {
        self.optimizer.updates = updates;
        let mut read = |name: &str| match state.shape(name) {
            Some(_) => state.read(name).map(Some),
            None => Ok(None),
        };
        confirmed::<B, _>(&self.device, || {
            self.optimizer.restore(&self.model, &mut read)
        })?
    }

    fn micro_batch(
        &mut self,
        batch: &MicroBatch,
        recipe: &Recipe,
        denominators: Denominators,
        step: u64,
        observer: &dyn Observer,
    ) -> Result<LossSums> {
        // Out of `self`, so that an error leaves nothing of it.
        let grads = self.grads.take();
        let mut grads = grads.unwrap_or_else(|| self.model.gradients());
        let supervisor = Supervisor {
            model: &self.model,
            recipe,
            denominators,
            step,
            watch: &Observed {
                observer,
                device: On::<B>(self.device.clone()),
            },
        };
        let sums = confirmed::<B, _>(&self.device, || supervisor.run(batch, &mut grads))?;
        self.grads = Some(grads);
        Ok(sums)
    }

    fn settle(&mut self) -> Result<()> {
        let Some(mut grads) = self.grads.take() else {
            return Ok(());
        };
        confirmed::<B, _>(&self.device, || self.model.settle(&mut grads))?;
        self.grads = Some(grads);
        Ok(())
    }

    fn update(&mut self, learning_rate: f64, loss_scale: f64) -> Result<Update> {
        let grads = self.grads.take();
        let grads = grads.unwrap_or_else(|| self.model.gradients());
        let (model, optimizer) = (&mut self.model, &mut self.optimizer);
        confirmed::<B, _>(&self.device, || {
            optimizer.step(model, grads, learning_rate, loss_scale)
        })
    }

    fn discard(&mut self) {
        self.grads = None;
    }

    fn updates(&self) -> u64 {
        self.optimizer.updates
    }

    fn evaluate(
        &self,
        tokens: &dyn Tokens,
        options: &EvalOptions,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Score>> {
        let work = || evaluate(&self.model, tokens, options, stopped);
        confirmed::<B, _>(&self.device, work)?
    }

    fn generate(
        &self,
        prompt: &[u32],
        most: usize,
        sampling: &Sampling,
        token: &mut dyn FnMut(u32) -> bool,
    ) -> Result<()> {
        confirmed::<B, _>(&self.device, || {
            generate(&self.model, prompt, most, sampling, token);
        })
    }

    fn weights_are_finite(&self) -> Result<bool> {
        confirmed::<B, _>(&self.device, || {
            let params = self.model.params();
            let values: Vec<_> = params.iter().map(|p| &p.value).collect();
            B::sum_of_squares(&values).is_finite()
        })
    }

    fn weights(&self) -> Vec<TensorSource<'_>> {
        let params = self.model.params().into_iter();
        params
            .map(|p| source(p.info.name.clone(), &p.info.shape, &p.value))
            .collect()
    }

    fn optimizer_state(&self) -> Vec<TensorSource<'_>> {
        self.optimizer.tensors(&self.model)
    }
}
