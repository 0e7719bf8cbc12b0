//! Stochastic rounding to bfloat16 in plain tensor operations, as `aios_kernels::stochastic` has it.

use crate::Ops;
use burn::tensor::{DType, ElementConversion, FloatDType, Int, Tensor};

pub use aios_kernels::stochastic::Key as RoundingKey;

/// Rows of as many numbers are rounded at once: their random bits are integers of 32 bits or more.
const AT_ONCE: usize = 1 << 22;

/// Adding a whole number of f32's last places, evenly drawn between minus and plus half of bfloat16's, before rounding to
/// nearest: the same neighbour as the kernel's but where the sum ends exactly half-way.
pub(super) fn reference<B: Ops>(values: Tensor<B, 2>, key: RoundingKey) -> Tensor<B, 2> {
    let [rows, cols] = values.dims();
    let step = (AT_ONCE / cols.max(1)).max(1);
    let pieces = (0..rows).step_by(step).map(|first| {
        let count = step.min(rows - first);
        let piece = values.clone().narrow(0, first, count);
        let noise = noise(first * cols, count * cols, key, &piece);
        // Away from zero or towards it.
        let moved = noise.reshape([count, cols]) * last_place(piece.clone()) * piece.clone().sign();
        let moved = piece + moved;
        B::convert(moved, FloatDType::from(DType::BF16))
    });
    Tensor::cat(pieces.collect(), 0)
}

/// Whole numbers from -32767 to 32767, for places from `first` on.
fn noise<B: Ops>(
    first: usize,
    count: usize,
    key: RoundingKey,
    like: &Tensor<B, 2>,
) -> Tensor<B, 1> {
    let places = first as i64..(first + count) as i64;
    let places = Tensor::<B, 1, Int>::arange(places, &like.device());
    let half = |places: Tensor<B, 1, Int>| places.bitwise_and_scalar(0xffff.elem());
    let l = half(places.clone().bitwise_right_shift_scalar(16.elem()));
    let drawn = drawn(l, half(places), key);
    // Short of half of a last place on either side, so that what is held exactly stays.
    (drawn.float() - 32_768.0).clamp_min(-32_767.0)
}

/// 16 random bits for each place, whose upper and lower 16 bits are given.
pub(crate) fn drawn<B: Ops, const D: usize>(
    mut l: Tensor<B, D, Int>,
    mut r: Tensor<B, D, Int>,
    key: RoundingKey,
) -> Tensor<B, D, Int> {
    for (multiplier, summand) in key.rounds() {
        let mixed = r.clone() * multiplier as i32 + summand as i32;
        let mixed = mixed.bitwise_right_shift_scalar(7.elem());
        (l, r) = (r, l.bitwise_xor(mixed.bitwise_and_scalar(0xffff.elem())));
    }
    r
}

/// f32's last place at each value: 2^-23 of its power of two, or 2^-149 below the normal numbers.
fn last_place<B: Ops>(values: Tensor<B, 2>) -> Tensor<B, 2> {
    let smallest = f32::MIN_POSITIVE;
    let exponent = values.abs().clamp_min(smallest).log() * std::f32::consts::LOG2_E;
    let exponent = exponent.floor();
    // In two factors, since a power below 2^-126 by itself may be flushed to zero.
    let power = (exponent.clone() * 0.5).floor();
    let two = |n: Tensor<B, 2>| (n * std::f32::consts::LN_2).exp();
    two(power.clone()) * two(exponent - power) * 2.0_f32.powi(-23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CpuBackend, floats};
    use burn::tensor::TensorData;

    #[test]
    fn the_kernel_rounds_as_tensor_operations_do() {
        // Large and small, of both signs, and ragged.
        let value = |i: usize| (i as f32 * 0.7).sin() * 10.0_f32.powi(i as i32 % 61 - 30);
        let values: Vec<f32> = (0..997 * 13).map(value).collect();
        let data = TensorData::new(values.clone(), [997, 13]);
        let tensor: Tensor<CpuBackend, 2> = Tensor::from_data(data, &Default::default());
        let key = RoundingKey::of(3, 1, 4);
        let own = floats(CpuBackend::rounded_stochastically(tensor.clone(), key));
        let plain = floats(reference::<CpuBackend>(tensor, key));
        let differ = (0..values.len()).filter(|&i| own[i] != plain[i]).count();
        // Sums that end exactly half-way, and powers of two that a logarithm takes for the one below.
        assert!(differ * 1000 < values.len(), "{differ} of {}", values.len());
        for ((own, plain), value) in own.iter().zip(&plain).zip(&values) {
            let ulp = value.abs() * 2.0_f32.powi(-7);
            assert!((own - value).abs() <= ulp && (plain - value).abs() <= ulp);
        }
    }
}
