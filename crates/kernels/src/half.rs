//! 16-bit floats as a way to keep numbers: widened to f32 for arithmetic, rounded to nearest (ties
//! to even) when kept.

use crate::buffer::uninit;
use crate::simd::dispatch;
use crate::team::Each;
use rayon::prelude::*;

/// Which 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// IEEE binary16: 11 bits of precision, up to 65,504.
    F16,
    /// bfloat16: 8 bits of precision, the range of f32.
    Bf16,
}

/// The numbers in f32.
pub fn widen(bits: &[u16], format: Half) -> Vec<f32> {
    let mut out = uninit(bits.len());
    out.par_chunks_mut(crate::GRAIN)
        .zip(bits.par_chunks(crate::GRAIN))
        .each(|(out, bits)| {
            dispatch(
                #[inline(always)]
                || match format {
                    Half::F16 => map(out, bits, from_f16),
                    Half::Bf16 => map(out, bits, from_bf16),
                },
            );
        });
    out
}

/// Round `values` into `out`; what is too large becomes infinity, NaN stays NaN.
///
/// # Panics
/// If the lengths differ.
pub fn narrow_into(out: &mut [u16], values: &[f32], format: Half) {
    assert_eq!(out.len(), values.len());
    out.par_chunks_mut(crate::GRAIN)
        .zip(values.par_chunks(crate::GRAIN))
        .each(|(out, values)| {
            dispatch(
                #[inline(always)]
                || match format {
                    Half::F16 => map(out, values, to_f16),
                    Half::Bf16 => map(out, values, to_bf16),
                },
            );
        });
}

/// [`narrow_into`] a buffer of its own.
pub fn narrow(values: &[f32], format: Half) -> Vec<u16> {
    let mut out = uninit(values.len());
    narrow_into(&mut out, values, format);
    out
}

#[inline(always)]
fn map<A: Copy, B>(out: &mut [B], from: &[A], f: impl Fn(A) -> B) {
    for (out, &from) in out.iter_mut().zip(from) {
        *out = f(from);
    }
}

#[inline(always)]
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[inline(always)]
pub(crate) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    // Half of the last kept bit, less one where that bit is even; a carry rounds up the exponent.
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // The carry would turn some NaNs into zero or infinity: keep their top bits and stay quiet.
    let nan = (bits >> 16) | 0x40;
    (if value.is_nan() { nan } else { rounded }) as u16
}

/// Without branches, so that it vectorises, and without arithmetic on subnormal f32s, which takes a hundred cycles: the number
/// is moved by the difference of the exponents' biases, and one that was subnormal gets its exponent from a subtraction.
#[inline(always)]
pub(crate) fn from_f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let normal = magnitude + (112 << 23);
    // 2^-14, the smallest normal f16.
    const LEAST: u32 = 113 << 23;
    let subnormal = f32::from_bits(magnitude + LEAST) - f32::from_bits(LEAST);
    let value = match bits & 0x7c00 == 0 {
        true => subnormal.to_bits(),
        false => normal,
    };
    let value = match bits & 0x7c00 == 0x7c00 {
        true => magnitude | 0x7f80_0000,
        false => value,
    };
    f32::from_bits(value | (u32::from(bits & 0x8000) << 16))
}

#[inline(always)]
pub(crate) fn to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Normal: shift the bias and round; a carry runs into the exponent, up to infinity.
    let normal = magnitude.wrapping_sub(112 << 23);
    let normal = normal.wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Below 2^-14: adding 0.5 lets the hardware round at the last place of a subnormal.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0x3f00_0000);
    let half = if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    let half = if magnitude >= 0x4780_0000 {
        0x7c00
    } else {
        half
    };
    let half = if magnitude > 0x7f80_0000 {
        0x7e00
    } else {
        half
    };
    (sign | half) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All values that occur around every rounding boundary of either format.
    fn values() -> Vec<f32> {
        let around = |bits: u32| [bits.wrapping_sub(1), bits, bits.wrapping_add(1)];
        let mut all: Vec<f32> = (0..=0xffff_u32)
            .flat_map(|top| [top << 16, (top << 16) | 0x8000, (top << 16) | 0x1000])
            .flat_map(around)
            .map(f32::from_bits)
            .collect();
        let halves = (0..=0xffff_u16).map(|h| half::f16::from_bits(h).to_f32().to_bits());
        let steps = halves.flat_map(|b| [b, b.wrapping_add(0x1000), b.wrapping_sub(0x1000)]);
        all.extend(steps.flat_map(around).map(f32::from_bits));
        all
    }

    #[test]
    fn rounding_is_that_of_the_standard() {
        let values = values();
        let (f16, bf16) = (narrow(&values, Half::F16), narrow(&values, Half::Bf16));
        for ((&v, &f), &b) in values.iter().zip(&f16).zip(&bf16) {
            let (want_f, want_b) = (half::f16::from_f32(v), half::bf16::from_f32(v));
            match v.is_nan() {
                true => {
                    assert!(half::f16::from_bits(f).is_nan() && half::bf16::from_bits(b).is_nan())
                }
                false => assert_eq!((f, b), (want_f.to_bits(), want_b.to_bits()), "{v:e}"),
            }
        }
    }

    #[test]
    fn widening_loses_nothing() {
        let bits: Vec<u16> = (0..=0xffff).collect();
        let (f16, bf16) = (widen(&bits, Half::F16), widen(&bits, Half::Bf16));
        for &b in &bits {
            let (want_f, want_b) = (half::f16::from_bits(b), half::bf16::from_bits(b));
            let (f, b) = (f16[b as usize], bf16[b as usize]);
            match want_f.is_nan() {
                true => assert!(f.is_nan()),
                false => assert_eq!(f.to_bits(), want_f.to_f32().to_bits()),
            }
            match want_b.is_nan() {
                true => assert!(b.is_nan()),
                false => assert_eq!(b.to_bits(), want_b.to_f32().to_bits()),
            }
        }
    }
}
