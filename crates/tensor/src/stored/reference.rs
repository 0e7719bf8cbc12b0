//! Decoding in plain tensor operations.

use super::{Absmax, Halves, Nf4, Q8_0};
use aios_kernels::adamw_8bit::SIGNED;
use aios_kernels::{nf4, q8_0};
use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Int, Tensor, TensorData};

/// A matrix of NF4 in f32.
pub(crate) fn nf4_dense<B: Backend>(of: &Nf4<B>, dims: [usize; 2]) -> Tensor<B, 2> {
    let device = of.codes.device();
    let blocks = nf4::blocks(dims[0] * dims[1]);
    let absmax = absmaxes(&of.absmax, blocks);
    // Of two codes in a byte the upper half is the first.
    let codes = parts(&of.codes, &[4, 0, 12, 8, 20, 16, 28, 24], 15);
    let values = table::<B>(&nf4::CODES, &device).select(0, codes);
    let values = values.reshape([blocks, nf4::BLOCK]) * absmax.reshape([blocks, 1]);
    whole(values, dims)
}

/// Those of so many blocks as they are decoded.
fn absmaxes<B: Backend>(of: &Absmax<B>, blocks: usize) -> Tensor<B, 1> {
    let (codes, nested, offset) = match of {
        Absmax::Plain(values) => return values.clone(),
        Absmax::Nested {
            codes,
            nested,
            offset,
        } => (codes, nested, *offset),
    };
    let map = table::<B>(&SIGNED.values, &codes.device());
    let rows = blocks.div_ceil(nf4::NESTED_BLOCK);
    let nested = nested.clone().reshape([rows, 1]);
    let nested = nested.repeat_dim(1, nf4::NESTED_BLOCK);
    let nested = nested.flatten::<1>(0, 1).narrow(0, 0, blocks);
    let codes = parts(codes, &[0, 8, 16, 24], 255).narrow(0, 0, blocks);
    map.select(0, codes) * nested + offset
}

/// A matrix of Q8_0 in f32.
pub(crate) fn q8_0_dense<B: Backend>(of: &Q8_0<B>, dims: [usize; 2]) -> Tensor<B, 2> {
    let blocks = q8_0::blocks(dims[0] * dims[1]);
    let codes = parts(&of.codes, &[0, 8, 16, 24], 255);
    let negative = codes.clone().greater_equal_elem(128);
    let codes = codes.clone().mask_where(negative, codes - 256);
    let values = codes.float().reshape([blocks, q8_0::BLOCK]);
    whole(values * of.scales.clone().reshape([blocks, 1]), dims)
}

/// A matrix of numbers in 16 bits in f32, by way of the host: what has no such format has no way to read it either.
pub(crate) fn halves_dense<B: Backend>(of: &Halves<B>, dims: [usize; 2]) -> Tensor<B, 2> {
    let words = of.words.to_data();
    // Both halves of a word, whatever integers the backend has it in.
    let pairs = words
        .iter::<i64>()
        .flat_map(|word| [word as u16, (word >> 16) as u16]);
    let values = pairs
        .take(dims[0] * dims[1])
        .map(|bits| of.half.value(bits));
    let data = TensorData::new(values.collect::<Vec<f32>>(), dims);
    Tensor::from_data(data, &of.words.device())
}

pub(super) fn table<B: Backend>(values: &[f32], device: &B::Device) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

/// The parts of each integer, one for each shift.
pub(super) fn parts<B: Backend>(
    words: &Tensor<B, 1, Int>,
    shifts: &[i32],
    mask: i32,
) -> Tensor<B, 1, Int> {
    let part = |shift: &i32| {
        let word = words.clone().bitwise_right_shift_scalar(shift.elem());
        word.bitwise_and_scalar(mask.elem())
    };
    Tensor::stack::<2>(shifts.iter().map(part).collect(), 1).flatten(0, 1)
}

/// Without the padding of the last block.
pub(super) fn whole<B: Backend>(blocks: Tensor<B, 2>, dims: [usize; 2]) -> Tensor<B, 2> {
    let values = blocks.flatten::<1>(0, 1);
    values.narrow(0, 0, dims[0] * dims[1]).reshape(dims)
}
