//! What the instructions do, in plain loops: the reference.

use super::{DEEP, Lines, SIDE, Start, Sums, TILE, Target, Unit};
use crate::half::{from_bf16, from_f16, to_bf16};
use crate::matmul::{Half, Numbers};

/// As [`super::Product::copy`].
///
/// # Safety
/// As there.
pub unsafe fn copy(to: *mut u16, from: Lines, lines: usize, depth: usize, pairs: bool) {
    let deep = depth.div_ceil(DEEP);
    for line in 0..lines.next_multiple_of(SIDE) {
        for k in 0..deep * DEEP {
            let at = from.first + line * from.line + k * from.depth;
            let number = match line < lines && k < depth {
                true => number(from.numbers, at),
                false => 0,
            };
            let (i, k, tile) = (line % SIDE, k % DEEP, line / SIDE * deep + k / DEEP);
            let place = match pairs {
                true => k / 2 * DEEP + 2 * i + k % 2,
                false => i * DEEP + k,
            };
            // SAFETY: inside of a tile, of which there is room for all.
            unsafe { *to.add(tile * TILE + place) = number };
        }
    }
}

/// In bf16. The instruction that rounds takes subnormal numbers for zeros.
fn number(numbers: Numbers, at: usize) -> u16 {
    let value = match numbers {
        Numbers::F32(all) => all[at],
        Numbers::Half(all, Half::Bf16) => return all[at],
        Numbers::Half(all, Half::F16) => from_f16(all[at]),
    };
    to_bf16(flushed(value))
}

/// A zero in place of a subnormal number.
fn flushed(value: f32) -> f32 {
    match value.is_subnormal() {
        true => 0.0_f32.copysign(value),
        false => value,
    }
}

/// As [`super::amx::sums`] or [`super::avx512::sums`], by the unit.
///
/// # Safety
/// As there.
pub unsafe fn sums(
    sums: &mut Sums,
    left: *const u16,
    panel: *const u16,
    tiles: usize,
    [rows, cols]: [usize; 2],
    unit: Unit,
) {
    for (i, sums) in sums.0[..rows * SIDE].iter_mut().enumerate() {
        for (j, sum) in sums[..cols * SIDE].iter_mut().enumerate() {
            *sum = 0.0;
            for tile in 0..tiles {
                // SAFETY: as the caller vouches.
                let (left, right) = unsafe {
                    (
                        left.add((i / SIDE * tiles + tile) * TILE + i % SIDE * DEEP),
                        panel.add((j / SIDE * tiles + tile) * TILE + 2 * (j % SIDE)),
                    )
                };
                let product = |k: usize, odd: usize, sum: f32| {
                    // SAFETY: as above.
                    let (a, b) = unsafe { (*left.add(2 * k + odd), *right.add(k * DEEP + odd)) };
                    let [a, b] = [a, b].map(|bits| flushed(from_bf16(bits)));
                    flushed(a.mul_add(b, sum))
                };
                let pairs = 0..DEEP / 2;
                match unit {
                    Unit::LikeAmx | Unit::Amx => {
                        let [even, odd] = [0, 1]
                            .map(|odd| pairs.clone().fold(0.0, |sum, k| product(k, odd, sum)));
                        *sum = flushed(*sum + flushed(even + odd));
                    }
                    Unit::LikeAvx512 | Unit::Avx512 => {
                        *sum = pairs.fold(*sum, |sum, k| product(k, 0, product(k, 1, sum)));
                    }
                }
            }
        }
    }
}

/// As [`super::avx512::finish`].
///
/// # Safety
/// As there.
pub unsafe fn finish(out: Target, sums: &Sums, rows: usize, cols: usize) {
    for (i, sums) in sums.0[..rows].iter().enumerate() {
        for (j, &sum) in sums[..cols].iter().enumerate() {
            let at = i * out.stride + j;
            let finished = |there: f32| match out.add {
                true => sum.mul_add(out.scale, there),
                false => sum * out.scale,
            };
            // SAFETY: as the caller vouches.
            unsafe {
                match out.start {
                    Start::F32(start) => *start.add(at) = finished(*start.add(at)),
                    Start::Bf16(start) => {
                        let there = from_bf16(*start.add(at));
                        *start.add(at) = to_bf16(flushed(finished(there)));
                    }
                }
            }
        }
    }
}
