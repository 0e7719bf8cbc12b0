//! Initial weights, drawn on the host so that every device starts from the same numbers.

use aios_kernels::buffer;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Truncated normal (within two standard deviations) of this standard deviation.
    TruncatedNormal(f64),
    /// Normal of this standard deviation.
    Normal(f64),
    /// Uniform within so much of zero.
    Uniform(f64),
    Constant(f32),
}

/// Standard deviation of a standard normal cut off at ±2: the published initialiser divides by it,
/// so that what remains after the cut has the deviation asked for.
const TRUNCATED_STD: f64 = 0.879_625_661_034_239_8;

/// Values one random stream makes; fixed, so that the weights do not depend on the threads.
const BLOCK: usize = 1 << 18;

impl Init {
    /// `n` values that depend on nothing but `seed`, `name` and `n`.
    ///
    /// # Panics
    /// With `aios_kernels::buffer::OutOfMemory`.
    pub fn values(self, n: usize, seed: u64, name: &str) -> Vec<f32> {
        let mut values = buffer::zeros(n);
        let (factor, most) = match self {
            Self::Constant(value) => {
                values.fill(value);
                return values;
            }
            Self::TruncatedNormal(std) => (std / TRUNCATED_STD, 2.0),
            Self::Normal(std) => (std, f64::INFINITY),
            Self::Uniform(bound) => {
                drawn(&mut values, seed, name, |block, rng| {
                    for value in block {
                        *value = ((2.0 * uniform(rng) - 1.0) * bound) as f32;
                    }
                });
                return values;
            }
        };
        drawn(&mut values, seed, name, |block, rng| {
            fill(block, rng, factor, most);
        });
        values
    }
}

/// Let each block be filled from a random stream of its own.
fn drawn(
    values: &mut [f32],
    seed: u64,
    name: &str,
    fill: impl Fn(&mut [f32], &mut ChaCha8Rng) + Sync,
) {
    let blocks = values.par_chunks_mut(BLOCK).enumerate();
    blocks.for_each(|(i, block)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ hash(name));
        rng.set_stream(i as u64);
        fill(block, &mut rng);
    });
}

/// Box-Muller pairs, drawn again where they are further off than `most` deviations.
fn fill(values: &mut [f32], rng: &mut ChaCha8Rng, factor: f64, most: f64) {
    let mut at = 0;
    while at < values.len() {
        let u = (uniform(rng) + f64::MIN_POSITIVE).ln();
        let (sin, cos) = (std::f64::consts::TAU * uniform(rng)).sin_cos();
        let radius = (-2.0 * u).sqrt();
        for z in [radius * cos, radius * sin] {
            if z.abs() <= most && at < values.len() {
                values[at] = (z * factor) as f32;
                at += 1;
            }
        }
    }
}

/// In [0, 1), 53 bits.
pub fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// FNV-1a: the same on every platform and in every release, which the standard hasher is not.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_normal_has_the_deviation_asked_for_and_no_tail() {
        let x = Init::TruncatedNormal(0.5).values(300_000, 7, "w");
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(
            mean.abs() < 5e-3 && (var.sqrt() - 0.5).abs() < 5e-3,
            "{mean} {var}"
        );
        assert!(x.iter().all(|v| v.abs() <= 0.5 * 2.0 / 0.879 + 1e-6));
    }

    #[test]
    fn uniform_values_fill_their_range() {
        let x = Init::Uniform(0.25).values(100_000, 7, "a");
        let square = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64;
        assert!((square.sqrt() - 0.25 / 3f64.sqrt()).abs() < 1e-3);
        assert!(x.iter().all(|v| v.abs() <= 0.25));
    }

    #[test]
    fn values_depend_on_seed_and_name_only() {
        let init = Init::TruncatedNormal(1.0);
        assert_eq!(init.values(10, 1, "a"), init.values(10, 1, "a"));
        assert_ne!(init.values(10, 1, "a"), init.values(10, 2, "a"));
        assert_ne!(init.values(10, 1, "a"), init.values(10, 1, "b"));
    }
}
