//! Stochastic rounding of f32 to bfloat16: to one of the two neighbours, the nearer it is the more likely, so that the
//! expected value is that of what was rounded. A weight moves by it even where every single update is smaller than half of
//! its last place (Gupta et al., "Deep Learning with Limited Numerical Precision").
//!
//! The random bits are a function of a key and of a number's place, so that a run repeats whatever the threads do.

use crate::simd::dispatch;
use crate::team::Each;
use rayon::prelude::*;

/// Odd, and below 2^14: products with 16 bits, and a summand of 23, stay below 2^31, for integers of any width.
const MULTIPLIERS: [u32; ROUNDS] = [15_401, 11_213, 13_597, 9_241, 16_363];
const ROUNDS: usize = 5;

/// What the random bits of one tensor in one update depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u32; ROUNDS]);

impl Key {
    /// Of a run's seed, a parameter's number and an update's.
    pub fn of(seed: u64, parameter: u64, update: u64) -> Self {
        let mut state = seed;
        let mut next = |word: u64| {
            // SplitMix64 (Steele, Lea and Flood).
            state = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            state = z ^ (z >> 31);
            state
        };
        next(parameter);
        next(update);
        Self([(); ROUNDS].map(|()| (next(0) >> 41) as u32))
    }

    /// Multiplier and 23-bit summand of each round of a Feistel network over the halves of a 32-bit place:
    /// `(l, r) = (r, l ^ ((r * multiplier + summand) >> 7 & 0xffff))`, of which the last `r` is the result.
    pub fn rounds(self) -> impl Iterator<Item = (u32, u32)> {
        MULTIPLIERS.into_iter().zip(self.0)
    }

    /// 16 random bits for a place.
    #[inline(always)]
    pub(crate) fn bits(self, place: u32) -> u32 {
        let (mut l, mut r) = (place >> 16, place & 0xffff);
        for (multiplier, summand) in MULTIPLIERS.into_iter().zip(self.0) {
            let mixed = (r * multiplier + summand) >> 7;
            (l, r) = (r, l ^ (mixed & 0xffff));
        }
        r
    }
}

/// Round `values` into the bits of bfloat16. What bfloat16 holds stays what it is; NaN stays NaN.
///
/// # Panics
/// If the lengths differ.
pub fn round_into(out: &mut [u16], values: &[f32], key: Key) {
    assert_eq!(out.len(), values.len());
    out.par_chunks_mut(crate::GRAIN)
        .zip(values.par_chunks(crate::GRAIN))
        .enumerate()
        .each(|(chunk, (out, values))| {
            let first = (chunk * crate::GRAIN) as u32;
            dispatch(
                #[inline(always)]
                || {
                    for (i, (out, &value)) in out.iter_mut().zip(values).enumerate() {
                        *out = rounded(value, key.bits(first.wrapping_add(i as u32)));
                    }
                },
            );
        });
}

/// A sum that carries into the bits that are kept goes away from zero.
#[inline(always)]
fn rounded(value: f32, random: u32) -> u16 {
    let bits = value.to_bits();
    let nan = (bits >> 16) | 0x40;
    let sum = bits.wrapping_add(random) >> 16;
    (if value.is_nan() { nan } else { sum }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(values: &[f32], key: Key) -> Vec<f32> {
        let mut out = vec![0; values.len()];
        round_into(&mut out, values, key);
        let wide = |bits: &u16| f32::from_bits(u32::from(*bits) << 16);
        out.iter().map(wide).collect()
    }

    #[test]
    fn the_mean_is_that_of_what_was_rounded() {
        // Neighbours of 1 + 2^-7 / 5 are 1 and 1 + 2^-7.
        for (part, sign) in [(0.2_f32, 1.0), (0.5, -1.0), (0.9, 1.0)] {
            let ulp = 2.0_f32.powi(-7);
            let values = vec![sign * (1.0 + part * ulp); 1 << 20];
            let rounded = round(&values, Key::of(7, 3, 1));
            let is_neighbour = |v: &f32| [1.0, 1.0 + ulp].contains(&(v * sign));
            assert!(rounded.iter().all(is_neighbour));
            let up = rounded.iter().filter(|v| v.abs() > 1.0).count();
            let share = up as f32 / rounded.len() as f32;
            // Five standard deviations.
            assert!((share - part).abs() < 0.0025, "{share} for {part}");
        }
    }

    #[test]
    fn neighbouring_places_know_nothing_of_each_other() {
        let half = vec![1.0 + 2.0_f32.powi(-8); 1 << 20];
        for distance in [1, 2, 64, 576, 65_536] {
            let rounded = round(&half, Key::of(1, 2, 3));
            let same = |i: usize| rounded[i] == rounded[i + distance];
            let n = half.len() - distance;
            let share = (0..n).filter(|&i| same(i)).count() as f64 / n as f64;
            assert!((share - 0.5).abs() < 0.0025, "{share} at {distance}");
        }
    }

    #[test]
    fn seeds_parameters_and_updates_draw_apart() {
        let half = vec![1.0 + 2.0_f32.powi(-8); 1 << 16];
        let base = round(&half, Key::of(1, 2, 3));
        for other in [Key::of(2, 2, 3), Key::of(1, 3, 3), Key::of(1, 2, 4)] {
            let other = round(&half, other);
            let same = base.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!((same as f64 / base.len() as f64 - 0.5).abs() < 0.01);
        }
        assert_eq!(base, round(&half, Key::of(1, 2, 3)));
    }

    #[test]
    fn what_is_held_exactly_stays() {
        let exact = [0.0, -0.0, 1.0, -1.5, 1e-40_f32, f32::INFINITY, -2.0e38];
        let exact = exact.map(|v| f32::from_bits(v.to_bits() & 0xffff_0000));
        let ragged: Vec<f32> = exact.iter().copied().cycle().take(9973).collect();
        let rounded = round(&ragged, Key::of(5, 5, 5));
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        assert!(rounded.iter().zip(&ragged).all(same));
        let nans = [f32::NAN, -f32::NAN, f32::from_bits(0x7fff_ffff)];
        assert!(round(&nans, Key::of(0, 0, 0)).iter().all(|v| v.is_nan()));
        assert!(round(&[], Key::of(0, 0, 0)).is_empty());
    }
}
