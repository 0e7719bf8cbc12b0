//! Copies, sums and results by AVX-512: what AMX is given is made here as well.

use super::{BLOCK, DEEP, Lines, SIDE, Start, Sums, TILE, Target};
use crate::half::Half;
use crate::matmul::Numbers;
use crate::matmul::pack::{Bf16, F16};
use crate::matmul::square::{Square as Tile, first, turned};
use std::arch::x86_64::*;
use std::hint::black_box;

/// Whether the processor has dot products in bf16, and all else that is used here.
pub fn is_here() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// As [`super::Product::copy`].
///
/// # Safety
/// As there, where [`is_here`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn copy(to: *mut u16, from: Lines, lines: usize, depth: usize, pairs: bool) {
    // SAFETY: as the caller vouches; both formats are 16 bits of which every pattern is a number.
    unsafe {
        match from.numbers {
            Numbers::F32(all) => copy_of(to, all.as_ptr(), from, lines, depth, pairs),
            Numbers::Half(all, Half::Bf16) => {
                copy_of(to, all.as_ptr().cast::<Bf16>(), from, lines, depth, pairs);
            }
            Numbers::Half(all, Half::F16) => {
                copy_of(to, all.as_ptr().cast::<F16>(), from, lines, depth, pairs);
            }
        }
    }
}

/// # Safety
/// As [`copy`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn copy_of<T: Read>(
    to: *mut u16,
    from: *const T,
    Lines {
        first,
        line,
        depth: stride,
        ..
    }: Lines,
    lines: usize,
    depth: usize,
    pairs: bool,
) {
    let from = from.wrapping_add(first);
    let along = stride == 1;
    let [tops, deeps] = [lines.div_ceil(SIDE), depth.div_ceil(DEEP)];
    for i in 0..tops * deeps {
        // As they lie in memory.
        let (top, deep) = match along {
            true => (i / deeps, i % deeps),
            false => (i % tops, i / tops),
        };
        let (line_of, k) = (top * SIDE, deep * DEEP);
        let height = SIDE.min(lines - line_of);
        let count = DEEP.min(depth - k);
        let from = from.wrapping_add(line_of * line + k * stride);
        let to = to.wrapping_add((top * deeps + deep) * TILE);
        // SAFETY: these lines and this depth are there, and a tile has room.
        unsafe {
            let mut tile = match along {
                true => along_depth(from, line, height, count),
                false => across_depth(from, stride, height, count),
            };
            // Lines of pairs are what pairs of lines are, turned.
            if along == pairs {
                tile = turned(tile);
            }
            for (i, row) in tile.into_iter().enumerate() {
                _mm512_store_si512(to.add(i * DEEP).cast(), row);
            }
        }
    }
}

/// A line in each register.
///
/// # Safety
/// They are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn along_depth<T: Read>(from: *const T, line: usize, lines: usize, depth: usize) -> Tile {
    let mut tile = [_mm512_setzero_si512(); SIDE];
    let [low, high] = [depth, depth.saturating_sub(SIDE)].map(first);
    for (i, row) in tile.iter_mut().enumerate().take(lines) {
        let from = from.wrapping_add(i * line);
        // SAFETY: as the caller vouches; what is masked is not read.
        *row = unsafe { T::both(from, low, from.wrapping_add(SIDE), high) };
    }
    tile
}

/// A pair of summands of all lines in each register.
///
/// # Safety
/// As [`along_depth`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn across_depth<T: Read>(from: *const T, stride: usize, lines: usize, depth: usize) -> Tile {
    #[rustfmt::skip]
    let alternate = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
        23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
    );
    let mut tile = [_mm512_setzero_si512(); SIDE];
    let lines = first(lines);
    for (i, row) in tile.iter_mut().enumerate().take(depth.div_ceil(2)) {
        let from = from.wrapping_add(2 * i * stride);
        let second = if 2 * i + 1 < depth { lines } else { 0 };
        // SAFETY: as the caller vouches; what is masked is not read.
        let both = unsafe { T::both(from, lines, from.wrapping_add(stride), second) };
        *row = _mm512_permutexvar_epi16(alternate, both);
    }
    tile
}

/// A number as it is kept.
trait Read: Copy {
    /// Sixteen numbers from either place on, in bf16, and zeros for those that are masked.
    ///
    /// # Safety
    /// What is not masked is there.
    unsafe fn both(
        low: *const Self,
        low_mask: __mmask16,
        high: *const Self,
        high_mask: __mmask16,
    ) -> __m512i;
}

impl Read for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn both(
        low: *const f32,
        low_mask: __mmask16,
        high: *const f32,
        high_mask: __mmask16,
    ) -> __m512i {
        // SAFETY: as the caller vouches; a __m512bh is 512 bits.
        unsafe {
            let low = _mm512_maskz_loadu_ps(low_mask, low);
            let high = _mm512_maskz_loadu_ps(high_mask, high);
            std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
        }
    }
}

impl Read for Bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn both(
        low: *const Bf16,
        low_mask: __mmask16,
        high: *const Bf16,
        high_mask: __mmask16,
    ) -> __m512i {
        // SAFETY: as the caller vouches.
        unsafe {
            let low = _mm256_maskz_loadu_epi16(low_mask, low.cast());
            let high = _mm256_maskz_loadu_epi16(high_mask, high.cast());
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }
}

impl Read for F16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn both(
        low: *const F16,
        low_mask: __mmask16,
        high: *const F16,
        high_mask: __mmask16,
    ) -> __m512i {
        // SAFETY: as the caller vouches; a __m512bh is 512 bits.
        unsafe {
            let low = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(low_mask, low.cast()));
            let high = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(high_mask, high.cast()));
            std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
        }
    }
}

/// Rows of a tile that are summed at once, with two registers of columns each.
const ROWS: usize = 8;

/// Sums of `sides` tiles of rows and columns, over so many tiles of summands.
///
/// # Safety
/// The left factor holds `sides[0] * tiles` tiles, the panel `sides[1] * tiles`. Where [`is_here`].
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn sums(
    sums: &mut Sums,
    left: *const u16,
    panel: *const u16,
    tiles: usize,
    sides: [usize; 2],
) {
    for (i, sums) in sums.0[..sides[0] * SIDE].chunks_exact_mut(ROWS).enumerate() {
        let row = i * ROWS;
        let left = left.wrapping_add(row / SIDE * tiles * TILE + row % SIDE * DEEP);
        // SAFETY: as the caller vouches.
        unsafe {
            match sides[1] {
                1 => rows_of::<1>(sums, left, panel, tiles),
                _ => rows_of::<2>(sums, left, panel, tiles),
            }
        }
    }
}

/// # Safety
/// As [`sums`].
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows_of<const COLS: usize>(
    sums: &mut [[f32; BLOCK]],
    left: *const u16,
    panel: *const u16,
    tiles: usize,
) {
    let mut all = [[_mm512_setzero_ps(); COLS]; ROWS];
    for tile in 0..tiles {
        for k in 0..DEEP / 2 {
            // SAFETY: as the caller vouches: a pair of each row, and a register of pairs of each tile of columns.
            unsafe {
                let right: [__m512bh; COLS] = std::array::from_fn(|j| {
                    let at = panel.add((j * tiles + tile) * TILE + k * DEEP);
                    std::mem::transmute(_mm512_load_si512(at.cast()))
                });
                for (i, sums) in all.iter_mut().enumerate() {
                    let pair = left.add(tile * TILE + i * DEEP + 2 * k).cast::<i32>();
                    let pair = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*pair));
                    for (sum, &right) in sums.iter_mut().zip(&right) {
                        *sum = _mm512_dpbf16_ps(*sum, pair, right);
                    }
                }
            }
        }
    }
    for (to, all) in sums.iter_mut().zip(all) {
        for (to, sum) in to.chunks_exact_mut(SIDE).zip(all) {
            // SAFETY: sixteen numbers.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sum) };
        }
    }
}

/// So many rounds of dot products on registers alone; operations of a round.
///
/// # Safety
/// Where [`is_here`].
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn spin(rounds: usize) -> usize {
    let mut sums = [_mm512_setzero_ps(); 12];
    // SAFETY: as wide.
    let factor: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(black_box(0))) };
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, factor, factor);
        }
    }
    let operations = sums.len() * 2 * DEEP;
    black_box(sums);
    operations
}

/// Have so many rows and columns of the result on their way while their sums are made.
pub fn prefetch(out: Target, rows: usize, cols: usize) {
    for i in 0..rows {
        let Target { start, stride, .. } = out;
        match start {
            Start::F32(start) => {
                let row = start.wrapping_add(i * stride);
                crate::simd::prefetch(row);
                crate::simd::prefetch(row.wrapping_add(SIDE));
                crate::simd::prefetch(row.wrapping_add(cols - 1));
            }
            Start::Bf16(start) => {
                let row = start.wrapping_add(i * stride);
                crate::simd::prefetch(row);
                crate::simd::prefetch(row.wrapping_add(cols - 1));
            }
        }
    }
}

/// Put so many rows and columns of the sums where they go.
///
/// # Safety
/// They are there, and nobody else writes them. Where [`is_here`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn finish(out: Target, sums: &Sums, rows: usize, cols: usize) {
    let masks = [cols, cols.saturating_sub(SIDE)].map(first);
    let scale = _mm512_set1_ps(out.scale);
    for (i, sums) in sums.0[..rows].iter().enumerate() {
        for (j, mask) in masks.into_iter().enumerate() {
            let at = i * out.stride + j * SIDE;
            // SAFETY: what is not masked is there, and the rest is not touched.
            unsafe {
                let sum = _mm512_load_ps(sums.as_ptr().add(j * SIDE));
                let finished = |there: __m512| match out.add {
                    true => _mm512_fmadd_ps(sum, scale, there),
                    false => _mm512_mul_ps(sum, scale),
                };
                match out.start {
                    Start::F32(start) => {
                        let to = start.wrapping_add(at);
                        let there = _mm512_maskz_loadu_ps(if out.add { mask } else { 0 }, to);
                        _mm512_mask_storeu_ps(to, mask, finished(there));
                    }
                    Start::Bf16(start) => {
                        let to = start.wrapping_add(at).cast::<i16>();
                        let there = _mm256_maskz_loadu_epi16(if out.add { mask } else { 0 }, to);
                        let there = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(
                            _mm512_cvtepu16_epi32(there),
                        ));
                        let bits = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(
                            finished(there),
                        ));
                        _mm256_mask_storeu_epi16(to, mask, bits);
                    }
                }
            }
        }
    }
}
