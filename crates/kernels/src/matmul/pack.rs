//! Copies of parts of the factors in the order in which they are multiplied.

use super::{Numbers, share};
use crate::half::{Half, from_bf16, from_f16};
use crate::simd::prefetch_far;
#[cfg(target_arch = "x86_64")]
use avx512::Wide;
use pulp::Simd;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
mod avx512;

/// What only some processors read many of at once.
#[cfg(not(target_arch = "x86_64"))]
pub trait Wide: Copy {}
#[cfg(not(target_arch = "x86_64"))]
impl<T: Copy> Wide for T {}

/// A number as it is kept.
pub trait Kept: Wide {
    fn f32(self) -> f32;
}

impl Kept for f32 {
    #[inline(always)]
    fn f32(self) -> f32 {
        self
    }
}

/// bfloat16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Bf16(u16);

impl Kept for Bf16 {
    #[inline(always)]
    fn f32(self) -> f32 {
        from_bf16(self.0)
    }
}

/// IEEE binary16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F16(u16);

impl Kept for F16 {
    #[inline(always)]
    fn f32(self) -> f32 {
        from_f16(self.0)
    }
}

/// What is read of the right factor: element (k, j) of `depth` x `cols` is at `first + k * row + j * col`.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    pub numbers: Numbers<'a>,
    pub first: usize,
    pub row: usize,
    pub col: usize,
    pub depth: usize,
    pub cols: usize,
}

/// Bytes that memory is read in at once.
const LINE: usize = 64;

/// The memory that something will be copied from: `strips` of `each` lines, which are so many bytes `apart`.
#[derive(Clone, Copy)]
pub struct Ahead {
    start: *const u8,
    strips: usize,
    apart: usize,
    each: usize,
}

impl Ahead {
    pub fn of(right: &Right) -> Self {
        let (start, size) = match right.numbers {
            Numbers::F32(all) => (all.as_ptr().cast::<u8>(), size_of::<f32>()),
            Numbers::Half(all, _) => (all.as_ptr().cast::<u8>(), size_of::<u16>()),
        };
        // What is side by side.
        let (strips, apart, length) = match right.col {
            1 => (right.depth, right.row, right.cols),
            apart => (right.cols, apart, right.depth),
        };
        let nothing = right.depth == 0 || right.cols == 0;
        Self {
            start: start.wrapping_add(right.first.wrapping_mul(size)),
            strips: if nothing { 0 } else { strips },
            // Of a single strip it may be anything.
            apart: apart.wrapping_mul(size),
            // One more, where they do not begin with a line.
            each: (length * size).div_ceil(LINE) + 1,
        }
    }

    /// Have part `i` of `parts` of them on their way, while something else is computed.
    #[inline(always)]
    pub fn prefetch(&self, i: usize, parts: usize) {
        let lines = share(self.strips * self.each, i, parts);
        let (mut strip, mut line) = (lines.start / self.each, lines.start % self.each);
        for _ in lines {
            let at = strip.wrapping_mul(self.apart).wrapping_add(line * LINE);
            prefetch_far(self.start.wrapping_add(at));
            line += 1;
            if line == self.each {
                (strip, line) = (strip + 1, 0);
            }
        }
    }
}

/// Into rows of `width` columns, which are zero beyond the last one.
///
/// # Safety
/// The elements are in the numbers, `panel` has room for `depth` rows, and `cols` is no more than `width`. One of the two
/// strides is 1, or there is nothing to stride over.
#[inline(always)]
pub unsafe fn panel<S: Simd>(_: S, panel: *mut f32, width: usize, right: Right) {
    // SAFETY: as the caller vouches; both formats are 16 bits of which every pattern is a number.
    unsafe {
        match right.numbers {
            Numbers::F32(all) => panel_of::<S, _>(panel, width, all.as_ptr(), right),
            Numbers::Half(all, Half::Bf16) => {
                panel_of::<S, _>(panel, width, all.as_ptr().cast::<Bf16>(), right);
            }
            Numbers::Half(all, Half::F16) => {
                panel_of::<S, _>(panel, width, all.as_ptr().cast::<F16>(), right);
            }
        }
    }
}

/// # Safety
/// As [`panel`].
#[inline(always)]
unsafe fn panel_of<S: Simd, T: Kept>(panel: *mut f32, width: usize, from: *const T, right: Right) {
    let Right { depth, cols, .. } = right;
    // Without a depth there is no such number, and none is read.
    let from = from.wrapping_add(right.first);
    #[cfg(target_arch = "x86_64")]
    if right.col != 1 && S::F32_LANES == 16 {
        // SAFETY: as the caller vouches; pulp has such registers where there is AVX-512 with F, BW, CD, DQ and VL.
        return unsafe { avx512::transposed(panel, width, from, right) };
    }
    // SAFETY: as the caller vouches.
    unsafe {
        if cols < width {
            for k in 0..depth {
                std::slice::from_raw_parts_mut(panel.add(k * width + cols), width - cols).fill(0.0);
            }
        }
        match right.col == 1 {
            true => side_by_side(panel, width, from, right),
            false => transposed(panel, width, from, right),
        }
    }
}

/// Rows whose columns are adjacent.
#[inline(always)]
unsafe fn side_by_side<T: Kept>(panel: *mut f32, width: usize, from: *const T, right: Right) {
    let Right {
        row, depth, cols, ..
    } = right;
    for k in 0..depth {
        // SAFETY: as in `panel_of`.
        unsafe {
            let from = std::slice::from_raw_parts(from.add(k * row), cols);
            let to = std::slice::from_raw_parts_mut(panel.add(k * width), cols);
            for (to, &from) in to.iter_mut().zip(from) {
                *to = from.f32();
            }
        }
    }
}

/// Numbers along each side of a square that is transposed at once.
const SIDE: usize = 4;

/// Columns of which each lies by itself.
#[inline(always)]
unsafe fn transposed<T: Kept>(panel: *mut f32, width: usize, from: *const T, right: Right) {
    let Right {
        col, depth, cols, ..
    } = right;
    let (whole_depth, whole_cols) = (depth - depth % SIDE, cols - cols % SIDE);
    // SAFETY: as in `panel_of`: (k, j) is inside of depth and columns everywhere.
    unsafe {
        for k in (0..whole_depth).step_by(SIDE) {
            for j in (0..whole_cols).step_by(SIDE) {
                let mut square = [[0.0_f32; SIDE]; SIDE];
                for (j, square) in (j..).zip(&mut square) {
                    let from = from.add(j * col + k).cast::<[T; SIDE]>().read_unaligned();
                    *square = from.map(Kept::f32);
                }
                for i in 0..SIDE {
                    let to = panel.add((k + i) * width + j).cast::<[f32; SIDE]>();
                    to.write_unaligned(square.map(|row| row[i]));
                }
            }
        }
        for k in 0..depth {
            let first = if k < whole_depth { whole_cols } else { 0 };
            for j in first..cols {
                *panel.add(k * width + j) = (*from.add(j * col + k)).f32();
            }
        }
    }
}

/// The rows of `tiles`, of which the columns are `stride` apart and there are `depth`: for each tile, its numbers of each
/// column one after another.
///
/// # Safety
/// They are valid, and `to` has room for them. The tiles follow one another from 0 on.
#[inline(always)]
pub unsafe fn left<S: Simd>(
    _: S,
    to: *mut f32,
    tiles: impl Iterator<Item = Range<usize>> + Clone,
    from: *const f32,
    stride: usize,
    depth: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if S::F32_LANES == 16 {
        // SAFETY: as the caller vouches, and as in `panel_of`; a tile has fewer rows than a register.
        return unsafe { avx512::left(to, tiles, from, stride, depth) };
    }
    for k in 0..depth {
        // All that lies side by side at once.
        for tile in tiles.clone() {
            // SAFETY: as the caller vouches; k is below the depth.
            unsafe {
                let from =
                    std::slice::from_raw_parts(from.add(k * stride + tile.start), tile.len());
                let to = to.add(tile.start * depth + k * tile.len());
                std::slice::from_raw_parts_mut(to, tile.len()).copy_from_slice(from);
            }
        }
    }
}

/// Rows of adjacent columns that are `stride` apart, with room for a line of the cache behind each: so that they are not pages
/// apart.
///
/// # Safety
/// They are valid, and `to` has room for them.
pub unsafe fn rows(to: *mut f32, from: *const f32, stride: usize, rows: usize, depth: usize) {
    for row in 0..rows {
        let (from, to) = (
            from.wrapping_add(row * stride),
            to.wrapping_add(row * (depth + super::LINE)),
        );
        // SAFETY: as the caller vouches.
        unsafe { std::ptr::copy_nonoverlapping(from, to, depth) };
    }
}
