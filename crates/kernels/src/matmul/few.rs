//! A few rows times a weight of `[outputs, inputs]`: as fast as the weight is read, which is read once.

use super::pack::{Bf16, F16, Kept};
use super::{Numbers, Threads};
use crate::half::Half;
use crate::simd::dispatch;

/// Rows that are multiplied this way at most.
pub const FEW: usize = 4;
/// Partial sums of an element.
const LANES: usize = 32;
/// Numbers of the weight that are worth a task.
const TASK: usize = 1 << 16;

/// Rows of the left factor, whose columns are adjacent.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub stride: usize,
}

/// Where the result goes: rows `stride` apart.
pub struct Out<'a> {
    pub data: &'a mut [f32],
    pub stride: usize,
}

/// `out = scale * x wᵀ`, or added to it. `w` has `outputs` rows of `inputs`, `stride` apart.
pub fn product(
    out: Out,
    x: Rows,
    w: Numbers,
    (outputs, inputs, stride): (usize, usize, usize),
    finish: super::tile::Finish,
    threads: Threads,
) {
    let each = (TASK / inputs.max(1)).max(1);
    let tasks = outputs.div_ceil(each);
    let to = super::Shared(out.data.as_mut_ptr());
    let task = |task: usize| {
        for j in task * each..outputs.min((task + 1) * each) {
            let sums = dispatch(
                #[inline(always)]
                || {
                    let row = j * stride..j * stride + inputs;
                    match w {
                        Numbers::F32(all) => sums(x, &all[row]),
                        // SAFETY: both are 16 bits of which every pattern is a number.
                        Numbers::Half(all, Half::Bf16) => {
                            sums(x, unsafe { kept::<Bf16>(&all[row]) })
                        }
                        Numbers::Half(all, Half::F16) => sums(x, unsafe { kept::<F16>(&all[row]) }),
                    }
                },
            );
            for (i, sum) in sums[..x.rows].iter().enumerate() {
                // SAFETY: `matmul` checked that row i has column j, which no other task writes.
                let out = unsafe { &mut *to.get().add(i * out.stride + j) };
                *out = match finish.add {
                    true => sum.mul_add(finish.scale, *out),
                    false => sum * finish.scale,
                };
            }
        }
    };
    match threads {
        Threads::All => crate::team::run(tasks, task),
        Threads::One => (0..tasks).for_each(task),
    }
}

/// # Safety
/// `T` is a wrapper of 16 bits.
#[inline(always)]
unsafe fn kept<T: Kept>(bits: &[u16]) -> &[T] {
    // SAFETY: of the same size, as the caller vouches.
    unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
}

/// The products of one row of the weight with each row of `x`.
#[inline(always)]
fn sums<T: Kept>(x: Rows, w: &[T]) -> [f32; FEW] {
    let row = |i: usize| &x.data[i * x.stride..][..w.len()];
    match x.rows {
        1 => lanes([row(0)], w),
        2 => lanes([row(0), row(1)], w),
        3 => lanes([row(0), row(1), row(2)], w),
        _ => lanes([row(0), row(1), row(2), row(3)], w),
    }
}

#[inline(always)]
fn lanes<T: Kept, const ROWS: usize>(x: [&[f32]; ROWS], w: &[T]) -> [f32; FEW] {
    let mut parts = [[0.0_f32; LANES]; ROWS];
    let (groups, rest) = w.as_chunks::<LANES>();
    for (g, w) in groups.iter().enumerate() {
        let w = w.map(Kept::f32);
        for (parts, x) in parts.iter_mut().zip(&x) {
            let x = &x[g * LANES..][..LANES];
            for ((part, &x), &w) in parts.iter_mut().zip(x).zip(&w) {
                *part = x.mul_add(w, *part);
            }
        }
    }
    let mut all = [0.0; FEW];
    let first = w.len() - rest.len();
    for ((all, parts), x) in all.iter_mut().zip(&parts).zip(&x) {
        *all = parts.iter().sum();
        for (x, w) in x[first..].iter().zip(rest) {
            *all = x.mul_add(w.f32(), *all);
        }
    }
    all
}
