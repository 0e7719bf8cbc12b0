//! The same, sixteen numbers at a time.

use super::{Bf16, F16, Right};
use crate::matmul::square::{SIDE, first, turned};
use std::arch::x86_64::*;
use std::ops::Range;

/// A number that sixteen of are read at once.
pub trait Wide: Copy {
    /// Those that are not masked, in f32, and zeros.
    ///
    /// # Safety
    /// What is not masked is there.
    unsafe fn sixteen(from: *const Self, mask: __mmask16) -> __m512i;
}

impl Wide for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn sixteen(from: *const f32, mask: __mmask16) -> __m512i {
        // SAFETY: as the caller vouches.
        unsafe { _mm512_maskz_loadu_epi32(mask, from.cast()) }
    }
}

impl Wide for Bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn sixteen(from: *const Bf16, mask: __mmask16) -> __m512i {
        // SAFETY: as the caller vouches.
        let bits = unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) };
        _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits))
    }
}

impl Wide for F16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn sixteen(from: *const F16, mask: __mmask16) -> __m512i {
        // SAFETY: as the caller vouches.
        let bits = unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) };
        _mm512_castps_si512(_mm512_cvtph_ps(bits))
    }
}

/// As [`super::transposed`], with zeros beyond the last column.
///
/// # Safety
/// As there; the width is a multiple of sixteen, and the processor has what is asked for here.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn transposed<T: Wide>(panel: *mut f32, width: usize, from: *const T, right: Right) {
    let Right {
        col, depth, cols, ..
    } = right;
    // Up to where sixteen numbers that do not straddle two lines of the cache begin, if that is the same for all columns.
    let ahead = from.align_offset(SIDE * size_of::<T>()).min(SIDE) % SIDE;
    for j in (0..width).step_by(SIDE) {
        let lines = cols.saturating_sub(j).min(SIDE);
        let mut k = 0;
        while k < depth {
            let deep = if k == 0 && ahead > 0 { ahead } else { SIDE };
            let deep = deep.min(depth - k);
            let mask = first(deep);
            let mut square = [_mm512_setzero_si512(); SIDE];
            for (i, row) in square.iter_mut().enumerate().take(lines) {
                let from = from.wrapping_add((j + i) * col + k);
                // SAFETY: as the caller vouches; what is masked is not read.
                *row = unsafe { T::sixteen(from, mask) };
            }
            for (i, row) in turned(square).into_iter().enumerate().take(deep) {
                // SAFETY: row k + i is one of the depth, and as wide.
                unsafe { _mm512_storeu_si512(panel.add((k + i) * width + j).cast(), row) };
            }
            k += deep;
        }
    }
}

/// As [`super::left`].
///
/// # Safety
/// As there; no tile has more than sixteen rows, and the processor has what is asked for here.
#[target_feature(enable = "avx512f")]
pub unsafe fn left(
    to: *mut f32,
    tiles: impl Iterator<Item = Range<usize>> + Clone,
    from: *const f32,
    stride: usize,
    depth: usize,
) {
    for k in 0..depth {
        for tile in tiles.clone() {
            let mask = first(tile.len());
            // SAFETY: as the caller vouches; what is masked is neither read nor written.
            unsafe {
                let row = _mm512_maskz_loadu_ps(mask, from.add(k * stride + tile.start));
                _mm512_mask_storeu_ps(to.add(tile.start * depth + k * tile.len()), mask, row);
            }
        }
    }
}
