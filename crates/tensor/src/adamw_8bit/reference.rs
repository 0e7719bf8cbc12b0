//! The step in plain tensor operations, as `aios_kernels::adamw_8bit` has it.

use super::{BLOCK, Codes, SIGNED, State8bit, UNSIGNED};
use crate::AdamWStep;
use aios_kernels::adamw_8bit::Map;
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, ElementConversion, Int, Tensor, TensorData};

/// Code of 0 in the signed map.
const ZERO: i32 = 127;

/// One AdamW step; the new parameter and state.
pub(crate) fn step<B: Backend>(
    parameter: Tensor<B, 2>,
    gradient: Tensor<B, 2>,
    state: State8bit<B>,
    step: &AdamWStep,
) -> (Tensor<B, 2>, State8bit<B>) {
    let dims = parameter.dims();
    let n = dims[0] * dims[1];
    let device = parameter.device();
    let [signed, unsigned] = [&*SIGNED, &*UNSIGNED].map(|map| Table::<B>::new(map, &device));
    let g = blocks_of(gradient) * step.gradient_scale;
    let p = blocks_of(parameter);

    let before = signed.decoded(&state.m);
    let decayed = before.clone() * step.beta1;
    let m = decayed.clone() + g.clone() * (1.0 - step.beta1);
    let v = unsigned.decoded(&state.v) * step.beta2 + g.clone() * (1.0 - step.beta2) * g;
    // Padding must not count for the absmax.
    let used = blocks_of(Tensor::ones(dims, &device));
    let (m, v) = (m * used.clone(), v * used);
    let (rate, root) = step.corrections();
    let keep = 1.0 - step.learning_rate * step.weight_decay;
    let p = p * keep - m.clone() * rate / (v.clone().sqrt() * root + step.eps);

    // Where the gradient leaves no trace, rounding takes back half of the decay at the most.
    let half_way = (before.abs() + decayed.clone().abs()) * 0.5;
    let traced = m.clone().not_equal(decayed);
    let most = half_way.mask_fill(traced, f32::MAX);
    let state = State8bit {
        m: signed.encoded(m, Some(most)),
        v: unsigned.encoded(v, None),
    };
    let p = p.flatten::<1>(0, 1).narrow(0, 0, n);
    (p.reshape(dims), state)
}

/// `[blocks, 256]`, with zeros after the end.
fn blocks_of<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let flat = x.flatten::<1>(0, 1);
    let (n, device) = (flat.dims()[0], flat.device());
    let blocks = super::blocks(n);
    let padding = Tensor::zeros([blocks * BLOCK - n], &device);
    Tensor::cat(vec![flat, padding], 0).reshape([blocks, BLOCK])
}

/// Four codes an integer. The highest is taken as negative from 128 on, so that the sum is what 32 bits hold, and no
/// backend has to carry it beyond them.
fn packed<B: Backend>(codes: Tensor<B, 2, Int>) -> Tensor<B, 1, Int> {
    let words = codes.dims().iter().product::<usize>() / 4;
    let bytes = codes.reshape([words, 4]);
    let byte = |at| bytes.clone().narrow(1, at, 1).squeeze_dim::<1>(1);
    let highest = byte(3);
    let negative = highest.clone().greater_equal_elem(128);
    let highest = highest.clone().mask_where(negative, highest - 256);
    byte(0) + byte(1) * 256 + byte(2) * 65_536 + highest * 16_777_216
}

/// A dynamic map on a device.
struct Table<B: Backend> {
    values: Tensor<B, 1>,
    /// Ascending: a value's code is the last one whose first cell is not above the value's.
    first_cells: Tensor<B, 1, Int>,
}

impl<B: Backend> Table<B> {
    fn new(map: &Map, device: &B::Device) -> Self {
        let first = map.first_cells().map(|cell| cell as i32).to_vec();
        Self {
            values: Tensor::from_data(TensorData::new(map.values.to_vec(), [256]), device),
            first_cells: Tensor::from_data(TensorData::new(first, [256]), device),
        }
    }

    fn values_of(&self, codes: &Tensor<B, 2, Int>) -> Tensor<B, 2> {
        let flat = codes.clone().flatten::<1>(0, 1);
        self.values.clone().select(0, flat).reshape(codes.dims())
    }

    fn decoded(&self, moment: &Codes<B>) -> Tensor<B, 2> {
        let blocks = moment.absmax.dims()[0];
        let bytes = [0, 8, 16, 24].map(|shift| {
            let word = moment
                .codes
                .clone()
                .bitwise_right_shift_scalar(shift.elem());
            word.bitwise_and_scalar(255.elem())
        });
        let codes = Tensor::stack::<2>(bytes.to_vec(), 1).reshape([blocks, BLOCK]);
        self.values_of(&codes) * moment.absmax.clone().reshape([blocks, 1])
    }

    /// With `most` zero is zero, and no value stands for more than its bound.
    fn encoded(&self, values: Tensor<B, 2>, most: Option<Tensor<B, 2>>) -> Codes<B> {
        let absmax = values.clone().abs().max_dim(1);
        // Below the smallest normal number the reciprocal may be infinite: such a block is zero.
        let none = absmax.clone().lower_elem(f32::MIN_POSITIVE);
        let inverse = absmax.clone().recip().mask_fill(none.clone(), 0.0);
        let absmax = absmax.mask_fill(none, 0.0);
        let scaled = values * inverse;
        let mut codes = self.nearest(((scaled.clone() + 1.0) * 32_767.5 + 0.5).int());
        if let Some(most) = most {
            codes = self.at_most(codes, &most, &absmax);
            codes = codes.mask_fill(scaled.equal_elem(0.0), ZERO);
        }
        Codes {
            codes: packed(codes),
            absmax: absmax.squeeze_dim::<1>(1),
        }
    }

    fn nearest(&self, cells: Tensor<B, 2, Int>) -> Tensor<B, 2, Int> {
        let mut codes = cells.zeros_like();
        for half in [128, 64, 32, 16, 8, 4, 2, 1] {
            let next = codes.clone() + half;
            let flat = next.clone().flatten::<1>(0, 1);
            let first = self
                .first_cells
                .clone()
                .select(0, flat)
                .reshape(cells.dims());
            codes = codes.mask_where(first.lower_equal(cells.clone()), next);
        }
        codes
    }

    fn at_most(
        &self,
        mut codes: Tensor<B, 2, Int>,
        most: &Tensor<B, 2>,
        absmax: &Tensor<B, 2>,
    ) -> Tensor<B, 2, Int> {
        // Steps towards zero; the furthest code is 128 away.
        for _ in 0..128 {
            let over = self.values_of(&codes).abs() * absmax.clone();
            let over: Tensor<B, 2, Bool> = over.greater(most.clone());
            let over = over.bool_and(codes.clone().not_equal_elem(ZERO));
            if !over.clone().any().into_scalar().elem::<bool>() {
                break;
            }
            let above = codes.clone().greater_elem(ZERO);
            let nearer = (codes.clone() + 1).mask_where(above, codes.clone() - 1);
            codes = codes.mask_where(over, nearer);
        }
        codes
    }
}
