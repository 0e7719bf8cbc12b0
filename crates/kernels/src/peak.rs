//! What the processor can do at most: multiply-adds on registers alone.

use crate::matmul::bf16;
use crate::team;
use pulp::{Arch, Simd, WithSimd};
use std::hint::black_box;
use std::time::Instant;

/// Sums that are independent of one another, more than any processor's units take to be busy.
const SUMS: usize = 12;
/// Multiply-adds of each sum in a round.
const ROUND: usize = 1 << 20;
/// Rounds, of which the fastest counts.
const ROUNDS: usize = 12;

/// f32 operations a second of all threads together, a multiply-add counted as two.
pub fn flops_per_second() -> f64 {
    let lanes = Arch::new().dispatch(Sums);
    fastest(SUMS * lanes * 2 * ROUND, || {
        black_box(Arch::new().dispatch(Sums));
    })
}

/// The same of products in bf16, if there are instructions for them.
pub fn flops_per_second_in_bf16() -> Option<f64> {
    let work = bf16::spin(ROUND / SUMS)?;
    Some(fastest(work, || {
        black_box(bf16::spin(ROUND / SUMS));
    }))
}

/// Operations a second of the fastest of some rounds, of so many on each thread.
fn fastest(operations: usize, f: impl Fn() + Sync) -> f64 {
    let work = (team::threads() * operations) as f64;
    let round = |_| {
        let started = Instant::now();
        team::on_each(&f);
        work / started.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(round).fold(0.0, f64::max)
}

struct Sums;

impl WithSimd for Sums {
    /// Numbers of a register.
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        let [factor, summand] = [0.999_f32, 1e-9].map(|x| simd.splat_f32s(black_box(x)));
        let mut sums = [simd.splat_f32s(1.0); SUMS];
        for _ in 0..ROUND {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, factor, summand);
            }
        }
        black_box(sums);
        S::F32_LANES
    }
}

#[cfg(test)]
mod tests {
    use crate::matmul::bf16;

    #[test]
    fn a_processor_does_something() {
        let peak = super::flops_per_second();
        assert!(peak.is_finite() && peak > 1e8, "{peak}");
        let in_bf16 = super::flops_per_second_in_bf16();
        assert_eq!(in_bf16.is_some(), bf16::unit().is_some());
        assert!(in_bf16.is_none_or(|peak| peak.is_finite() && peak > 1e8));
    }
}
