//! Types of a tensor's elements, and numbers in them as `f32` and back.

use std::fmt;

use rayon::prelude::*;
use safetensors::Dtype as Stored;

use aios_base::error::{Error, Result};

/// Elements that one thread converts at a time.
const AT_ONCE: usize = 1 << 18;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 16-bit brain float.
    BF16,
    /// 8-bit unsigned integer.
    U8,
    /// 32-bit signed integer.
    I32,
    /// 32-bit unsigned integer.
    U32,
    /// Any other that the format knows, of which only the bytes are given.
    Other(Stored),
}

impl Dtype {
    /// Bytes of one element; 0 for those of less than a byte.
    pub fn size(self) -> usize {
        self.bits() / 8
    }

    /// Whether the elements are numbers that `f32` holds too.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes that `elements` take, if that is a whole and possible number.
    pub(crate) fn bytes(self, elements: usize) -> Option<usize> {
        let bits = elements.checked_mul(self.bits())?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    fn bits(self) -> usize {
        self.stored().bitsize()
    }

    pub(crate) fn stored(self) -> Stored {
        match self {
            Self::F32 => Stored::F32,
            Self::F16 => Stored::F16,
            Self::BF16 => Stored::BF16,
            Self::U8 => Stored::U8,
            Self::I32 => Stored::I32,
            Self::U32 => Stored::U32,
            Self::Other(stored) => stored,
        }
    }

    pub(crate) fn from_stored(stored: Stored) -> Self {
        match stored {
            Stored::F32 => Self::F32,
            Stored::F16 => Self::F16,
            Stored::BF16 => Self::BF16,
            Stored::U8 => Self::U8,
            Stored::I32 => Self::I32,
            Stored::U32 => Self::U32,
            other => Self::Other(other),
        }
    }

    /// Index and value of the first element that is what is looked for; none in what are no floats.
    pub(crate) fn position(
        self,
        bytes: &[u8],
        wanted: impl Fn(f32) -> bool,
    ) -> Option<(usize, f32)> {
        let (words, halves) = (bytes.as_chunks().0, bytes.as_chunks().0);
        match self {
            Self::F32 => find(words.iter().map(|w| f32::from_le_bytes(*w)), wanted),
            Self::F16 => find(halves.iter().map(|h| f16(*h)), wanted),
            Self::BF16 => find(halves.iter().map(|h| bf16(*h)), wanted),
            _ => None,
        }
    }

    /// Puts the floats in `bytes` into `values`, as many as both have. What are no floats leaves `values` as they are.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        let (words, halves) = (bytes.as_chunks().0, bytes.as_chunks().0);
        match self {
            Self::F32 => fill(values, words, f32::from_le_bytes),
            Self::F16 => fill(values, halves, f16),
            Self::BF16 => fill(values, halves, bf16),
            _ => {}
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.stored())
    }
}

fn f16(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

fn bf16(bytes: [u8; 2]) -> f32 {
    half::bf16::from_le_bytes(bytes).to_f32()
}

fn find(values: impl Iterator<Item = f32>, wanted: impl Fn(f32) -> bool) -> Option<(usize, f32)> {
    values.enumerate().find(|(_, value)| wanted(*value))
}

fn fill<const N: usize>(values: &mut [f32], bytes: &[[u8; N]], convert: impl Fn([u8; N]) -> f32) {
    for (value, bytes) in values.iter_mut().zip(bytes) {
        *value = convert(*bytes);
    }
}

/// `values` as they are stored in the type `dtype`, little-endian, rounded to the nearest, of two to the even one.
///
/// # Errors
/// A finite number that is beyond the range of `dtype`, named with its index; or a type that is not of floats.
pub fn encode(values: &[f32], dtype: Dtype) -> Result<Vec<u8>> {
    if !dtype.is_float() {
        return Err(Error::failed(format!(
            "weights are not written as {dtype}: use F32, BF16 or F16"
        )));
    }
    let size = dtype.size();
    let mut bytes = vec![0; values.len() * size];
    let pieces = bytes.par_chunks_mut(AT_ONCE * size);
    let pieces = pieces.zip(values.par_chunks(AT_ONCE)).enumerate();
    let lost = pieces.filter_map(|(piece, (bytes, values))| {
        let at = encode_piece(values, dtype, bytes)?;
        Some(piece * AT_ONCE + at)
    });
    match lost.min() {
        None => Ok(bytes),
        Some(at) => Err(Error::failed(format!(
            "element {at} is {}, which is beyond the range of {dtype}: write it as BF16 or F32",
            values[at]
        ))),
    }
}

/// Fills `bytes`; gives the index of the first finite value that has become infinite.
fn encode_piece(values: &[f32], dtype: Dtype, bytes: &mut [u8]) -> Option<usize> {
    let mut lost = None;
    let mut keep = |at: usize, value: f32, stored: f32| {
        if value.is_finite() && !stored.is_finite() {
            lost = lost.or(Some(at));
        }
    };
    match dtype {
        Dtype::F16 => {
            let places = bytes.as_chunks_mut().0.iter_mut();
            for (at, (place, value)) in places.zip(values).enumerate() {
                let half = half::f16::from_f32(*value);
                *place = half.to_le_bytes();
                keep(at, *value, half.to_f32());
            }
        }
        Dtype::BF16 => {
            let places = bytes.as_chunks_mut().0.iter_mut();
            for (at, (place, value)) in places.zip(values).enumerate() {
                let half = half::bf16::from_f32(*value);
                *place = half.to_le_bytes();
                keep(at, *value, half.to_f32());
            }
        }
        _ => {
            let places = bytes.as_chunks_mut().0.iter_mut();
            for (place, value) in places.zip(values) {
                *place = value.to_le_bytes();
            }
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(values: &[f32], dtype: Dtype) -> Vec<f32> {
        let mut back = vec![f32::NAN; values.len()];
        dtype.decode(&encode(values, dtype).unwrap(), &mut back);
        back
    }

    #[test]
    fn halves_are_rounded_to_the_nearest_and_ties_to_even() {
        let ulp = 1.0 / 128.0;
        let ties = [1.0 + ulp / 2.0, 1.0 + 1.5 * ulp, -1.0 - ulp / 2.0];
        assert_eq!(through(&ties, Dtype::BF16), [1.0, 1.0 + 2.0 * ulp, -1.0]);
        let above = f32::from_bits((1.0_f32 + ulp / 2.0).to_bits() + 1);
        assert_eq!(through(&[above], Dtype::BF16), [1.0 + ulp]);
        let ulp = 1.0 / 1024.0;
        let ties = [1.0 + ulp / 2.0, 1.0 + 1.5 * ulp, 6e-8, 65504.0];
        assert_eq!(
            through(&ties, Dtype::F16),
            [1.0, 1.0 + 2.0 * ulp, 5.9604645e-8, 65504.0]
        );
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
            let back = through(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0], dtype);
            assert!(back[0].is_nan() && back[3].is_sign_negative());
            assert_eq!(back[1..], [f32::INFINITY, f32::NEG_INFINITY, 0.0]);
        }
    }

    #[test]
    fn what_a_type_cannot_hold_is_named_with_its_place() {
        let mut values = vec![1.0; AT_ONCE + 9];
        values[AT_ONCE + 7] = -70000.0;
        let error = encode(&values, Dtype::F16).unwrap_err().to_string();
        let place = format!("element {} is -70000", AT_ONCE + 7);
        assert!(error.contains(&place) && error.contains("BF16"), "{error}");
        assert_eq!(
            encode(&values, Dtype::BF16).unwrap().len(),
            2 * values.len()
        );
        assert!(encode(&[f32::MAX], Dtype::BF16).is_err());
        assert!(encode(&[1.0], Dtype::U8).is_err());
    }
}
