//! Weights held in bf16, without a second copy in f32: an update is computed in f32 and rounded stochastically, since
//! rounding to nearest would take back every change smaller than half of a weight's last place.

use crate::record::{Record, RecordTensor};
use aios_nn::Param;
use aios_tensor::{AdamWStep, Ops, RoundingKey, widened};
use burn::tensor::{DType, Tensor};

/// A record around whose update the weight is widened and rounded.
struct Rounded<B: Ops> {
    record: Box<dyn Record<B>>,
    seed: u64,
    parameter: u64,
}

/// Round a parameter's updates if it is held in bf16. What is drawn depends on the seed, the parameter and the update.
pub fn rounded<B: Ops>(
    record: Box<dyn Record<B>>,
    parameter: &Param<B>,
    seed: u64,
) -> Box<dyn Record<B>> {
    match parameter.dtype() {
        DType::BF16 => Box::new(Rounded {
            record,
            seed,
            parameter: parameter.index as u64,
        }),
        _ => record,
    }
}

impl<B: Ops> Record<B> for Rounded<B> {
    fn step(
        self: Box<Self>,
        value: Tensor<B, 2>,
        gradient: Tensor<B, 2>,
        step: &AdamWStep,
    ) -> (Tensor<B, 2>, Box<dyn Record<B>>) {
        let (value, record) = self.record.step(widened(value), gradient, step);
        let key = RoundingKey::of(self.seed, self.parameter, step.step);
        let value = B::rounded_stochastically(value, key);
        (value, Box::new(Self { record, ..*self }))
    }

    fn into_moments(self: Box<Self>) -> Result<[Tensor<B, 2>; 2], Box<dyn Record<B>>> {
        Err(self)
    }

    fn bytes(&self) -> u64 {
        self.record.bytes()
    }

    fn tensors<'a>(&'a self, shape: &[usize]) -> Vec<RecordTensor<'a>> {
        self.record.tensors(shape)
    }
}

/// Bytes that the update of a parameter of so many numbers takes besides: the weight in f32.
pub fn update_bytes(elements: usize) -> u64 {
    4 * elements as u64
}
