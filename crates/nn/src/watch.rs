//! What looks on as a step is computed: at its memory, where something large has just been made, and at gradients that
//! nothing is added to any more.

use crate::param::{Gradients, Param};
use aios_tensor::Ops;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before the head and its loss: of the logits there is nothing yet.
    LossBegins,
    /// After them: the logits are gone again.
    LossEnds,
    /// A group of blocks is about to go backward: what they saved is there.
    Backward,
}

/// Looks on.
///
/// An implementation may panic with `aios_kernels::buffer::OutOfMemory` to end the step.
pub trait Watch<B: Backend> {
    /// The step is here.
    fn at(&self, _: Point) {}

    /// This sum of the step is complete. Called for every trained parameter that has one, in the order of the backward
    /// pass, so that others can begin to use it while that goes on; who has another place for it takes it out.
    fn gradient_is_final(&self, _: &Param<B>, _: &mut Option<Tensor<B, 2>>) {}
}

/// Nothing is added to these gradients any more.
pub fn are_final<'p, B: Ops>(
    watch: &dyn Watch<B>,
    grads: &mut Gradients<B>,
    parameters: impl IntoIterator<Item = &'p Param<B>>,
) {
    for parameter in parameters {
        let slot = grads.slot(parameter);
        if slot.is_some() {
            watch.gradient_is_final(parameter, slot);
        }
    }
}

/// Looks at nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl<B: Backend> Watch<B> for Unwatched {}
