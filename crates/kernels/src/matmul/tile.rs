//! The innermost product: a few rows times a panel of columns that lie side by side.

use super::pack::Ahead;
use crate::simd::prefetch;
use pulp::Simd;

/// Rows of the result that are computed at once at most: as many as registers hold with two of columns, one of these and
/// one number of the left factor besides. There are 32 registers but for x86 without AVX-512, which has 16.
pub const fn most_rows(lanes: usize) -> usize {
    match lanes {
        8 => 6,
        1 => 4,
        _ => 14,
    }
}

/// Part of the left factor: element (i, k) is `start[i * row + k * depth]`.
#[derive(Clone, Copy)]
pub struct Left {
    pub start: *const f32,
    pub row: usize,
    pub depth: usize,
}

/// What is multiplied: rows of the left factor, and as many rows as `depth` of one register's columns of the right one, or of
/// two if there are more.
#[derive(Clone, Copy)]
pub struct Factors {
    pub left: Left,
    pub panel: *const f32,
    pub depth: usize,
}

/// Where a tile of the result is: its rows are `stride` apart.
#[derive(Clone, Copy)]
pub struct Target {
    pub start: *mut f32,
    pub stride: usize,
}

/// What is done with the sums.
#[derive(Clone, Copy)]
pub struct Finish {
    pub scale: f32,
    /// Added to what is there.
    pub add: bool,
}

/// What is brought near while a tile, one of some, is computed.
#[derive(Clone, Copy)]
pub struct Meanwhile<'a> {
    pub ahead: &'a Ahead,
    pub tile: usize,
    pub tiles: usize,
}

/// Numbers of a sum that are added between two looks at what else is to be brought near.
const AT_ONCE: usize = 64;

/// `rows` rows and `cols` columns of the result.
///
/// Each element is one sum in the order of `depth`.
///
/// # Safety
/// There are at most [`most_rows`] rows and two registers of columns; all elements named are valid, those of the target for
/// writing.
#[inline(always)]
pub unsafe fn tile<S: Simd>(
    simd: S,
    out: Target,
    factors: Factors,
    (rows, cols): (usize, usize),
    finish: Finish,
    meanwhile: Meanwhile,
) {
    macro_rules! by_rows {
        ($vectors:literal: $($rows:literal)*) => {
            match rows {
                // SAFETY: as the caller vouches.
                $($rows if $rows <= most_rows(S::F32_LANES) => unsafe {
                    sized::<S, $rows, $vectors>(simd, out, factors, cols, finish, meanwhile);
                },)*
                _ => unreachable!("{rows} rows in a tile"),
            }
        };
    }
    match cols <= S::F32_LANES {
        true => by_rows!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        false => by_rows!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
    }
}

/// # Safety
/// As [`tile`], with `ROWS` rows and at most `VECTORS` registers of columns.
#[inline(always)]
unsafe fn sized<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    out: Target,
    Factors { left, panel, depth }: Factors,
    cols: usize,
    finish: Finish,
    meanwhile: Meanwhile,
) {
    let lanes = S::F32_LANES;
    for i in 0..ROWS {
        let row = out.start.wrapping_add(i * out.stride);
        for v in 0..VECTORS {
            // On its way while the sums are made.
            prefetch(row.wrapping_add(v * lanes));
        }
        // A row that does not begin with a line of the cache ends in one more.
        prefetch(row.wrapping_add(cols - 1));
    }
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let parts = depth.div_ceil(AT_ONCE);
    for part in 0..parts {
        let Meanwhile { ahead, tile, tiles } = meanwhile;
        ahead.prefetch(tile * parts + part, tiles * parts);
        for k in part * AT_ONCE..depth.min((part + 1) * AT_ONCE) {
            // SAFETY: k is below the depth of both factors, i below the rows.
            unsafe {
                let right = panel.add(k * VECTORS * lanes);
                let right: [S::f32s; VECTORS] =
                    std::array::from_fn(|v| load::<S>(right.add(v * lanes)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = simd.splat_f32s(*left.start.add(i * left.row + k * left.depth));
                    for (sum, &right) in sums.iter_mut().zip(&right) {
                        *sum = simd.mul_add_f32s(left, right, *sum);
                    }
                }
            }
        }
    }
    let scale = simd.splat_f32s(finish.scale);
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: row i of the result is there, and `cols` wide.
        let row = unsafe { out.start.add(i * out.stride) };
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: a whole register of columns is left there, or its part is written number by number.
            unsafe {
                let row = row.add(v * lanes);
                match (v + 1) * lanes <= cols {
                    true => {
                        let sum = match finish.add {
                            true => simd.mul_add_f32s(sum, scale, load::<S>(row)),
                            false => simd.mul_f32s(sum, scale),
                        };
                        row.cast::<S::f32s>().write_unaligned(sum);
                    }
                    false => part::<S>(row, sum, cols - v * lanes, finish),
                }
            }
        }
    }
}

/// # Safety
/// A register of floats is valid there.
#[inline(always)]
unsafe fn load<S: Simd>(from: *const f32) -> S::f32s {
    // SAFETY: any bits are floats.
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}

/// The first `cols` of a register, with the same rounding as where it is written whole.
///
/// # Safety
/// So many are valid there.
#[inline(always)]
unsafe fn part<S: Simd>(row: *mut f32, sum: S::f32s, cols: usize, finish: Finish) {
    // The widest register.
    let mut all = [0.0_f32; 16];
    // SAFETY: it has room for a register, and `cols` numbers are valid in the row.
    unsafe {
        all.as_mut_ptr().cast::<S::f32s>().write_unaligned(sum);
        for (j, &sum) in all[..cols].iter().enumerate() {
            let out = row.add(j);
            *out = match finish.add {
                true => sum.mul_add(finish.scale, *out),
                false => sum * finish.scale,
            };
        }
    }
}
