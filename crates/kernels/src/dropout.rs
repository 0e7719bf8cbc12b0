//! Dropout (Srivastava et al., 2014), inverted: what is kept is divided by the share that is kept, so that the expected value
//! is that of what was dropped from.
//!
//! What is dropped is a function of a key, a token and a column: the same in a backward pass as in the forward pass, and
//! however the tokens are divided. No mask is kept.

use crate::simd::dispatch;
use crate::stochastic::Key;
use crate::team::Each;
use rayon::prelude::*;

/// Draws are of 16 bits.
const VALUES: u32 = 1 << 16;

/// Which share is dropped, in steps of 2^-16.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Draws below this drop.
    pub below: u32,
    /// Factor of what is kept.
    pub scale: f32,
}

impl Share {
    /// The nearest to a share from 0 to below 1; `None` if that is 0.
    pub fn of(share: f64) -> Option<Self> {
        let below = (share * f64::from(VALUES)).round();
        let below = (below as u32).min(VALUES - 1);
        (below > 0).then(|| Self {
            below,
            scale: VALUES as f32 / (VALUES - below) as f32,
        })
    }
}

/// What stands for a token: its sequence's number in the step and its position, mixed into 32 bits.
pub fn token(sequence: u64, position: u64) -> u32 {
    // SplitMix64's last steps (Steele, Lea and Flood), which map 64 bits one to one.
    let z = (sequence << 32 | position & 0xffff_ffff).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

/// Drop from `[tokens, width]`, in place.
///
/// # Panics
/// If the values are not rows of as many tokens.
pub fn drop_from(values: &mut [f32], tokens: &[u32], key: Key, share: Share) {
    let width = values.len() / tokens.len().max(1);
    assert_eq!(values.len(), width * tokens.len());
    if width == 0 {
        return;
    }
    let rows = crate::rows_per_task(width);
    let tasks = values.par_chunks_mut(rows * width);
    tasks.zip(tokens.par_chunks(rows)).each(|(rows, tokens)| {
        dispatch(
            #[inline(always)]
            || {
                for (row, &token) in rows.chunks_mut(width).zip(tokens) {
                    for (column, value) in row.iter_mut().enumerate() {
                        let drawn = key.bits(token ^ column as u32);
                        *value *= if drawn < share.below {
                            0.0
                        } else {
                            share.scale
                        };
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 576;

    fn masks(key: Key, share: f64) -> Vec<f32> {
        let tokens: Vec<u32> = (0..8)
            .flat_map(|s| (0..128).map(move |p| token(s, p)))
            .collect();
        let mut values = vec![1.0; tokens.len() * WIDTH];
        drop_from(&mut values, &tokens, key, Share::of(share).unwrap());
        values
    }

    #[test]
    fn the_expected_value_stays() {
        for share in [1e-3, 0.05, 0.5, 0.9] {
            let found = masks(Key::of(1, 2, 3), share);
            let n = found.len() as f64;
            let mean = found.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            // Five standard deviations.
            let bound = 5.0 * (share / (1.0 - share) / n).sqrt();
            assert!((mean - 1.0).abs() < bound, "{mean} at {share}");
        }
        assert_eq!(Share::of(0.0), None);
        assert!(Share::of(1.0 - 1e-12).unwrap().scale.is_finite());
    }

    #[test]
    fn tokens_columns_and_keys_draw_apart() {
        let base = masks(Key::of(1, 2, 3), 0.5);
        let apart = |what: &str, a: &[f32], b: &[f32]| {
            let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
            let share = same as f64 / a.len() as f64;
            assert!((share - 0.5).abs() < 0.01, "{share}: {what}");
        };
        for distance in [1, 2, 64, WIDTH, 128 * WIDTH, 129 * WIDTH] {
            let n = base.len() - distance;
            apart(&distance.to_string(), &base[..n], &base[distance..]);
        }
        for key in [Key::of(2, 2, 3), Key::of(1, 3, 3), Key::of(1, 2, 4)] {
            apart(&format!("{key:?}"), &base, &masks(key, 0.5));
        }
        assert_eq!(base, masks(Key::of(1, 2, 3), 0.5));
    }

    #[test]
    fn rows_are_drawn_alike_however_they_are_divided() {
        let tokens: Vec<u32> = (0..100).map(|p| token(3, p)).collect();
        let (key, share) = (Key::of(5, 6, 7), Share::of(0.3).unwrap());
        let values: Vec<f32> = (0..100 * 33).map(|i| i as f32).collect();
        let mut whole = values.clone();
        drop_from(&mut whole, &tokens, key, share);
        let mut parts = values;
        let (first, last) = parts.split_at_mut(41 * 33);
        drop_from(first, &tokens[..41], key, share);
        drop_from(last, &tokens[41..], key, share);
        assert_eq!(whole, parts);
        drop_from(&mut [], &[], key, share);
    }
}
