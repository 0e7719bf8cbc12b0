//! A model that is trained together with other ranks.

use crate::buckets::{Layout, Travelling, sum_of_squares};
use crate::optimizer::{AdamW, Update};
use crate::outer::Outer;
use aios_base::error::Result;
use aios_bundle::Dtype;
use aios_distributed::World;
use aios_hf::encode;
use aios_models::Objective;
use aios_nn::{Param, Visit};
use aios_tensor::{Ops, floats};
use burn::tensor::{Tensor, TensorData};
use std::cell::RefCell;

/// What ranks add up, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The gradients of each step.
    Gradients,
    /// The same, but each rank has a part of the optimizer's state and updates that part of the weights: ZeRO's first
    /// stage (Rajbhandari et al. 2020, <https://arxiv.org/abs/1910.02054>).
    OptimizerParts,
    /// Nothing in a step: see [`crate::Engine::outer_step`].
    Weights,
}

/// The other ranks of a model.
pub(crate) struct Ranked<B: Ops> {
    pub world: World,
    pub layout: Layout,
    pub sharing: Sharing,
    pub outer: Outer,
    travelling: RefCell<Option<Travelling<B>>>,
}

impl<B: Ops> Ranked<B> {
    pub fn new(world: &World, sharing: Sharing, model: &dyn Objective<B>) -> Self {
        Self {
            world: world.clone(),
            layout: Layout::of(&model.as_they_become_final()),
            sharing,
            outer: Outer::default(),
            travelling: RefCell::new(None),
        }
    }

    /// Whether other ranks have optimizer state that this one has not.
    pub fn has_states(&self) -> bool {
        self.sharing != Sharing::Gradients
    }

    fn shares_gradients(&self) -> bool {
        self.sharing != Sharing::Weights
    }

    /// The last micro-batch of a step begins.
    pub fn begin(&self, loss_scale: f64) {
        let parted = self.sharing == Sharing::OptimizerParts;
        let travelling = Travelling::new(&self.world, &self.layout, parted, loss_scale);
        *self.travelling.borrow_mut() = self.shares_gradients().then_some(travelling);
    }

    /// Takes a gradient that is final.
    pub fn is_final(&self, parameter: &Param<B>, gradient: &mut Option<Tensor<B, 2>>) {
        if let Some(travelling) = &mut *self.travelling.borrow_mut()
            && let Some(gradient) = gradient.take()
        {
            travelling.is_final(parameter, gradient);
        }
    }

    /// Whatever became of this rank's micro-batches, the others get what they wait for.
    pub fn complete(&self) {
        if self.travelling.borrow().is_none() {
            self.begin(1.0);
        }
        if let Some(travelling) = &mut *self.travelling.borrow_mut() {
            travelling.complete();
        }
    }

    /// Forget the step.
    pub fn discard(&self) {
        *self.travelling.borrow_mut() = None;
    }

    /// Change the weights by the sums of all ranks; `None` where each goes by its own.
    pub fn update(
        &self,
        model: &dyn Visit<B>,
        optimizer: &mut AdamW<B>,
        learning_rate: f64,
    ) -> Result<Option<Update>> {
        let Some(travelling) = self.travelling.take() else {
            return Ok(None);
        };
        let sums = travelling.sums()?;
        if self.sharing == Sharing::OptimizerParts {
            let update = crate::parted::update(self, model, optimizer, sums, learning_rate)?;
            return Ok(Some(update));
        }
        let norm = sum_of_squares(&sums).sqrt();
        let mut sums = self.layout.by_parameter(sums);
        let take = &mut |parameter: &Param<B>| {
            let data = TensorData::new(sums.remove(&parameter.index)?, parameter.dims());
            Some(Tensor::from_data(data, &parameter.device()))
        };
        Ok(Some(optimizer.step_by(
            model,
            norm,
            learning_rate,
            1.0,
            take,
        )))
    }

    /// All ranks get the weights of rank 0.
    pub fn share_weights(&self, model: &dyn Visit<B>) -> Result<()> {
        let parameters = by_index(model);
        for slot in self.layout.buckets.iter().flatten() {
            let parameter = parameters[slot.index];
            let own = encode(&floats(parameter.value()), Dtype::F32)?;
            let shared = self.world.broadcast(own, 0).wait()?;
            if !self.world.is_first() {
                set(parameter, floats_of(&shared).collect());
            }
        }
        if self.sharing == Sharing::Weights {
            self.begin_outer(model);
        }
        Ok(())
    }
}

/// A model's parameters in the order of their numbers.
pub(crate) fn by_index<B: Ops>(model: &dyn Visit<B>) -> Vec<&Param<B>> {
    let mut parameters = model.params();
    parameters.sort_by_key(|parameter| parameter.index);
    parameters
}

/// Give a parameter other numbers, in the format that it has.
pub(crate) fn set<B: Ops>(parameter: &Param<B>, values: Vec<f32>) {
    let (device, dims) = (parameter.device(), parameter.dims());
    parameter.change(|old| {
        let format = old.dtype();
        // Freed before the new one is made.
        drop(old);
        let data = TensorData::new(values, dims).convert_dtype(format);
        (Tensor::from_data(data, (&device, format)), ())
    });
}

/// Bytes as floats, little-endian.
pub(crate) fn floats_of(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let each = bytes.as_chunks().0.iter();
    each.map(|bytes| f32::from_le_bytes(*bytes))
}
