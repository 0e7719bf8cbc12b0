//! AdamW's state in 8 bits.

use crate::record::{Contents, MOMENTS, Record, RecordTensor, SavedMoment, suffix};
use aios_nn::Param;
use aios_tensor::adamw_8bit::{Codes, Moment, State8bit};
use aios_tensor::{AdamWStep, Ops, floats};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// Both moments as codes.
pub(crate) struct EightBit<B: Backend>(State8bit<B>);

impl<B: Ops> EightBit<B> {
    pub fn zeros(elements: usize, device: &B::Device) -> Self {
        Self(State8bit::zeros(elements, device))
    }

    pub fn restored(parameter: &Param<B>, [m, v]: [SavedMoment; 2]) -> Self {
        let device = parameter.device();
        let saved = [(m, Moment::Mean), (v, Moment::Square)];
        let [m, v] = saved.map(|(saved, moment)| match saved {
            SavedMoment::Codes { codes, absmax } => Codes::from_bytes(&codes, absmax, &device),
            SavedMoment::F32(values) => Codes::quantized(&values, moment, &device),
        });
        Self(State8bit { m, v })
    }
}

impl<B: Ops> Record<B> for EightBit<B> {
    fn step(
        self: Box<Self>,
        value: Tensor<B, 2>,
        gradient: Tensor<B, 2>,
        step: &AdamWStep,
    ) -> (Tensor<B, 2>, Box<dyn Record<B>>) {
        let (value, state) = B::adamw_8bit(value, gradient, self.0, step);
        (value, Box::new(Self(state)))
    }

    fn into_moments(self: Box<Self>) -> Result<[Tensor<B, 2>; 2], Box<dyn Record<B>>> {
        Err(self)
    }

    fn bytes(&self) -> u64 {
        let elements = [&self.0.m, &self.0.v].map(|c| c.codes.dims()[0] + c.absmax.dims()[0]);
        // Floats, or integers as large.
        4 * elements.iter().sum::<usize>() as u64
    }

    /// Codes of one byte in the parameter's shape, and absmaxes, `[blocks]`.
    fn tensors<'a>(&'a self, shape: &[usize]) -> Vec<RecordTensor<'a>> {
        let elements = shape.iter().product();
        let each = MOMENTS.into_iter().zip([&self.0.m, &self.0.v]);
        each.flat_map(|(moment, codes)| {
            let name = suffix(moment);
            [
                RecordTensor {
                    suffix: name.to_string(),
                    shape: shape.to_vec(),
                    contents: Contents::U8(Box::new(move || codes.bytes(elements))),
                },
                RecordTensor {
                    suffix: format!("{name}.absmax"),
                    shape: codes.absmax.dims().to_vec(),
                    contents: Contents::F32(Box::new(|| floats(codes.absmax.clone()))),
                },
            ]
        })
        .collect()
    }
}
