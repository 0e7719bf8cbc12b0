//! Products of small matrices that are in the cache already: in f32 without packing, or in bf16.

use crate::matmul::bf16::{self, Unit};
use pulp::Simd;

/// What multiplies: registers of floats, or what multiplies bf16.
#[derive(Clone, Copy)]
pub struct Multiplier<S> {
    simd: S,
    unit: Option<Unit>,
    /// Factor of the scores.
    scale: f32,
}

impl<S: Simd> Multiplier<S> {
    #[inline(always)]
    pub fn new(simd: S, unit: Option<Unit>, scale: f32) -> Self {
        Self { simd, unit, scale }
    }

    /// What queries are multiplied by as they are copied. In bf16 it is the scores that are scaled: a scaled query would be
    /// rounded once more.
    #[inline(always)]
    pub fn early_scale(&self) -> f32 {
        match self.unit {
            Some(_) => 1.0,
            None => self.scale,
        }
    }

    /// [`product`] with queries that were copied so.
    #[inline(always)]
    pub fn scores(&self, out: &mut [f32], stride: usize, a: Left, b: Right, size: Size) {
        match self.unit {
            Some(unit) => in_bf16(unit, out, stride, (a, b), size, (self.scale, false)),
            None => product(self.simd, out, stride, a, b, size, false),
        }
    }

    /// [`product`].
    #[inline(always)]
    pub fn product(
        &self,
        out: &mut [f32],
        stride: usize,
        a: Left,
        b: Right,
        size: Size,
        add: bool,
    ) {
        match self.unit {
            Some(unit) => in_bf16(unit, out, stride, (a, b), size, (1.0, add)),
            None => product(self.simd, out, stride, a, b, size, add),
        }
    }
}

/// By copies in bf16, times a scale.
fn in_bf16(
    unit: Unit,
    out: &mut [f32],
    stride: usize,
    (a, b): (Left, Right),
    size: Size,
    finish: (f32, bool),
) {
    let Size { rows, cols, depth } = size;
    if rows == 0 || cols == 0 || depth == 0 {
        return;
    }
    let left = bf16::Lines::new(a.data, a.row, a.depth);
    let right = bf16::Lines::new(b.data, 1, b.stride);
    bf16::small(unit, out, stride, left, right, [rows, cols, depth], finish);
}

/// A matrix read element by element: (i, k) is `data[i * row + k * depth]`.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub depth: usize,
}

/// A matrix read by rows of adjacent columns: (k, j) is `data[k * stride + j]`.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

/// Rows and columns of the result, and the length of the sums.
#[derive(Clone, Copy)]
pub struct Size {
    pub rows: usize,
    /// A multiple of the widest register.
    pub cols: usize,
    pub depth: usize,
}

/// `out = a b`, or `out += a b` if `add`; rows of `out` are `stride` apart.
///
/// Each element is one sum in the order of `depth`, whatever the tile it is computed in.
///
/// # Panics
/// If a matrix is too short for its size.
#[inline(always)]
pub fn product<S: Simd>(
    simd: S,
    out: &mut [f32],
    stride: usize,
    a: Left,
    b: Right,
    size: Size,
    add: bool,
) {
    let Size { rows, cols, depth } = size;
    if rows == 0 || cols == 0 || depth == 0 {
        return;
    }
    assert!(cols.is_multiple_of(S::F32_LANES) && cols <= stride);
    assert!((rows - 1) * stride + cols <= out.len());
    assert!((rows - 1) * a.row + (depth - 1) * a.depth < a.data.len());
    assert!((depth - 1) * b.stride + cols <= b.data.len());
    // SAFETY: the lines above keep every element that is read or written inside its slice.
    unsafe {
        match S::F32_LANES {
            // Sixteen registers hold 4 x 2 sums and the operands, thirty-two 8 x 2.
            1 | 8 => tiles::<S, 4>(simd, out.as_mut_ptr(), stride, a, b, size, add),
            _ => tiles::<S, 8>(simd, out.as_mut_ptr(), stride, a, b, size, add),
        }
    }
}

/// # Safety
/// As [`product`] checks.
#[inline(always)]
unsafe fn tiles<S: Simd, const ROWS: usize>(
    simd: S,
    out: *mut f32,
    stride: usize,
    a: Left,
    b: Right,
    size: Size,
    add: bool,
) {
    let wide = 2 * S::F32_LANES;
    for j in (0..size.cols).step_by(wide) {
        for i in (0..size.rows).step_by(ROWS) {
            // SAFETY: (i, j) is an element of the result, and what is left of it from there on is
            // all that `tile` touches.
            unsafe {
                let out = out.add(i * stride + j);
                let a = (a.data.as_ptr().add(i * a.row), a.row, a.depth);
                let b = (b.data.as_ptr().add(j), b.stride);
                let rows = size.rows - i;
                match size.cols - j < wide {
                    true => tile::<S, ROWS, 1>(simd, (out, stride), a, b, rows, size.depth, add),
                    false => tile::<S, ROWS, 2>(simd, (out, stride), a, b, rows, size.depth, add),
                }
            }
        }
    }
}

/// `ROWS` rows (or the `rows` that are left) of `VECTORS` registers.
///
/// # Safety
/// All elements of the tile and of the operands' parts that it depends on are valid.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    (out, stride): (*mut f32, usize),
    (a, a_row, a_depth): (*const f32, usize, usize),
    (b, b_stride): (*const f32, usize),
    rows: usize,
    depth: usize,
    add: bool,
) {
    let register = |p: *const f32, v: usize| {
        // SAFETY: the caller vouches for the elements; a register of floats has no other demands.
        unsafe { p.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned() }
    };
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    // Rows beyond the last repeat it, and are not stored.
    // SAFETY: the row exists.
    let a: [_; ROWS] = std::array::from_fn(|i| unsafe { a.add(i.min(rows - 1) * a_row) });
    for k in 0..depth {
        // SAFETY: k is below the depth of both operands.
        let b = unsafe { b.add(k * b_stride) };
        let b: [_; VECTORS] = std::array::from_fn(|v| register(b, v));
        for (sums, a) in sums.iter_mut().zip(&a) {
            // SAFETY: as above.
            let a = simd.splat_f32s(unsafe { *a.add(k * a_depth) });
            for (sum, &b) in sums.iter_mut().zip(&b) {
                *sum = simd.mul_add_f32s(a, b, *sum);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        if i >= rows {
            break;
        }
        // SAFETY: row i of the result exists, and is as wide as the registers.
        unsafe {
            let out = out.add(i * stride);
            for (v, &sum) in sums.iter().enumerate() {
                let sum = match add {
                    true => simd.add_f32s(register(out, v), sum),
                    false => sum,
                };
                let out = out.add(v * S::F32_LANES).cast::<S::f32s>();
                out.write_unaligned(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};
    use pulp::{Arch, WithSimd};

    struct Case<'a>(&'a mut [f32], usize, Left<'a>, Right<'a>, Size, bool);

    impl WithSimd for Case<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            product(simd, self.0, self.1, self.2, self.3, self.4, self.5);
        }
    }

    #[test]
    fn products_match_plain_loops_at_ragged_sizes() {
        for (rows, cols, depth, transposed, add) in [
            (1, 16, 1, false, false),
            (7, 32, 5, false, true),
            (8, 48, 33, true, false),
            (29, 80, 17, true, true),
        ] {
            let (a, b) = (values(rows * depth, 1), values(depth * (cols + 3), 2));
            let left = match transposed {
                false => (depth, 1),
                true => (1, rows),
            };
            let left = Left {
                data: &a,
                row: left.0,
                depth: left.1,
            };
            let right = Right {
                data: &b,
                stride: cols + 3,
            };
            let mut out = values(rows * (cols + 1), 3);
            let mut want = out.clone();
            for (i, want) in want.chunks_mut(cols + 1).enumerate() {
                for (j, want) in want[..cols].iter_mut().enumerate() {
                    let sum: f32 = (0..depth)
                        .map(|k| a[i * left.row + k * left.depth] * b[k * (cols + 3) + j])
                        .sum();
                    *want = if add { *want + sum } else { sum };
                }
            }
            let size = Size { rows, cols, depth };
            Arch::new().dispatch(Case(&mut out, cols + 1, left, right, size, add));
            assert_close(&out, &want, 1e-5);
        }
    }
}
