//! CPU kernels of aios, on plain slices of `f32`.
//!
//! They live in a crate of their own so that they are compiled once, optimised, and are untouched
//! when the trainer is edited. Every kernel is deterministic: work is cut into pieces whose size
//! does not depend on the number of threads, and pieces are combined in order.
//!
//! Matrices are row-major. `T` is the number of tokens, `H` the hidden size.

#![warn(clippy::unwrap_used)]

pub mod activation;
pub mod adamw;
pub mod adamw_8bit;
pub mod attention;
mod blocks;
pub mod buffer;
pub mod cross_entropy;
pub mod dropout;
pub mod few;
pub mod ggml;
pub mod half;
mod lanes;
pub mod matmul;
pub mod nf4;
pub mod norm;
pub mod peak;
pub mod profile;
pub mod q8_0;
pub mod rope;
pub mod rows;
pub mod scaled_norm;
pub mod simd;
pub mod stochastic;
mod sums;
pub mod swiglu;
pub mod team;
#[cfg(test)]
mod testing;

/// Elements a task gets at least, so that the cost of handing it to a thread does not show.
const GRAIN: usize = 16 * 1024;

/// Rows of `width` elements that make up one task.
fn rows_per_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}
