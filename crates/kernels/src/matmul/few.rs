//! A few rows times a weight of `[outputs, inputs]`: as fast as the weight is read, which is read once.

use super::pack::{Bf16, F16, Kept};
use super::{Numbers, Product, on_threads};
use crate::half::Half;
use crate::simd::dispatch;

/// Rows that are multiplied this way at most.
pub const FEW: usize = 4;
/// Partial sums of an element.
const LANES: usize = 32;
/// Numbers of the weight that are worth a task.
const TASK: usize = 1 << 16;

/// Rows of the left factor.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    rows: usize,
    stride: usize,
}

/// `x wᵀ`, where the columns of x are adjacent and there are few rows, by so many threads.
pub fn product(product: &Product, threads: usize) {
    let (outputs, inputs, finish) = (product.b.cols, product.a.cols, product.finish);
    let x = Rows {
        data: product.left,
        rows: product.a.rows,
        stride: product.a.row_stride,
    };
    let each = (TASK / inputs.max(1)).max(1);
    let tasks = outputs.div_ceil(each);
    on_threads(threads, tasks, |task| {
        for j in task * each..outputs.min((task + 1) * each) {
            let sums = dispatch(
                #[inline(always)]
                || {
                    let first = j * product.b.col_stride;
                    let row = first..first + inputs;
                    match product.b.numbers {
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
                let out = unsafe { &mut *product.out.get().add(i * product.out_stride + j) };
                *out = match finish.add {
                    true => sum.mul_add(finish.scale, *out),
                    false => sum * finish.scale,
                };
            }
        }
    });
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
