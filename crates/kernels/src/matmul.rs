//! Matrix products on strided views, through the `gemm` crate.

use crate::buffer::uninit;
use gemm::Parallelism;

/// A read-only matrix: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// A matrix whose rows are `row_stride` apart and whose columns are adjacent.
    ///
    /// # Panics
    /// If `data` ends before the last element.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= data.len(),
            "matrix of {rows} x {cols}, row stride {row_stride}, in {} elements",
            data.len()
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// A matrix whose rows follow one another.
    ///
    /// # Panics
    /// As [`View::new`].
    pub fn whole(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = scale * a b` (or `out += ...` if `accumulate`); rows of `out` are `out_stride` apart.
///
/// With `accumulate` unset `out` may hold anything, it is not read.
///
/// # Panics
/// If the shapes do not fit or `out` is too short.
pub fn matmul(
    out: &mut [f32],
    out_stride: usize,
    a: View,
    b: View,
    scale: f32,
    accumulate: bool,
    threads: Threads,
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner dimensions differ");
    assert!(m == 0 || n == 0 || (m - 1) * out_stride + n <= out.len());
    assert!(n <= out_stride || m <= 1, "rows of the result overlap");
    if m == 0 || n == 0 {
        return;
    }
    let parallelism = threads.parallelism(m, n, k);
    let together = rows_together(m, k);
    for start in (0..m).step_by(together) {
        // SAFETY: `View::new` checked that the last element of each operand is inside its slice,
        // and the lines above that every row of `out` is, and overlaps no other; `start` is a row.
        unsafe {
            gemm::gemm(
                together.min(m - start),
                n,
                k,
                out.as_mut_ptr().add(start * out_stride),
                1,
                out_stride as isize,
                accumulate,
                // Without a column there may be no such element; none is read then.
                a.data.as_ptr().wrapping_add(start * a.row_stride),
                a.col_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr(),
                b.col_stride as isize,
                b.row_stride as isize,
                1.0,
                scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// The most bytes that `gemm` may copy.
const COPY: usize = 1 << 20;
/// The most columns that `gemm` copies at once.
const COLUMNS: usize = 1024;

/// Rows of `a` that are multiplied at once. `gemm` copies those into an order of its own, as many as the third-level cache
/// holds: 30 MiB on some processors, which no prediction of memory could know.
fn rows_together(rows: usize, k: usize) -> usize {
    let most = COPY / size_of::<f32>() / k.clamp(1, COLUMNS);
    // Parts of the same size, since a small one is slow.
    rows.div_ceil(rows.div_ceil(most))
}

/// Columns of the result that `gemm` computes at once, by the registers of this machine.
fn tile() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return 64;
        }
    }
    16
}

/// Bytes that `gemm` copies while [`linear`] runs: the weight, if it is not too large.
pub fn linear_copies(inputs: usize, outputs: usize) -> usize {
    match outputs <= 16 * tile() {
        true => size_of::<f32>() * inputs.min(COLUMNS) * outputs.next_multiple_of(tile()),
        false => 0,
    }
}

/// Bytes that `gemm` copies while [`linear_backward_weight`] runs: of the result's gradient, if there are enough inputs
/// to make up for it.
pub fn weight_copies(tokens: usize, inputs: usize, outputs: usize) -> usize {
    match inputs > 2 * tile() && outputs > 0 {
        true => size_of::<f32>() * rows_together(outputs, tokens) * tokens.min(COLUMNS),
        false => 0,
    }
}

/// Take now what `gemm` keeps for good: a second-level cache's worth in the thread that calls and in each one of the
/// pool. Otherwise a thread takes it with its first product, whichever that is, and no prediction of memory could know
/// how many have.
pub fn warm_up() {
    let take = || gemm_common::gemm::L2_SLAB.with(|_| ());
    take();
    if rayon::current_num_threads() > 1 {
        rayon::broadcast(|_| take());
    }
}

/// Bytes that [`warm_up`] takes.
pub fn kept_bytes() -> usize {
    let cache = gemm_common::cache::CACHE_INFO[1].cache_bytes;
    match rayon::current_num_threads() {
        // The calling thread works alone.
        1 => cache,
        threads => (threads + 1) * cache,
    }
}

/// About 1 ms of one core's work: below it, waking threads costs more than it gains.
const WORTH_SPLITTING: usize = 128 * 128 * 128;

/// Who runs a product.
#[derive(Clone, Copy)]
pub enum Threads {
    /// The calling thread, because the caller is itself one of many tasks.
    One,
    /// Every thread of the pool, if the product is large enough to be worth waking them.
    All,
}

impl Threads {
    fn parallelism(self, m: usize, n: usize, k: usize) -> Parallelism {
        match self {
            Self::All if m * n * k >= WORTH_SPLITTING => Parallelism::Rayon(0),
            Self::All | Self::One => Parallelism::None,
        }
    }
}

/// `x wᵀ`: the linear layer. `x` is `[tokens, inputs]`, `w` is `[outputs, inputs]`.
pub fn linear(x: View, w: View) -> Vec<f32> {
    product(x, w.t())
}

/// `dy w`: gradient of the linear layer with respect to its input. `dy` is `[tokens, outputs]`.
pub fn linear_backward_input(dy: View, w: View) -> Vec<f32> {
    product(dy, w)
}

/// `dw += dyᵀ x`: gradient of the linear layer with respect to its weight, accumulated in place.
pub fn linear_backward_weight(dw: &mut [f32], dy: View, x: View) {
    matmul(dw, x.cols, dy.t(), x, 1.0, true, Threads::All);
}

fn product(a: View, b: View) -> Vec<f32> {
    let mut out = uninit(a.rows * b.cols);
    matmul(&mut out, b.cols, a, b, 1.0, false, Threads::All);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    fn reference(x: &[f32], w: &[f32], t: usize, k: usize, n: usize) -> Vec<f32> {
        let mut y = vec![0.0; t * n];
        for i in 0..t {
            for j in 0..n {
                y[i * n + j] = (0..k).map(|l| x[i * k + l] * w[j * k + l]).sum();
            }
        }
        y
    }

    #[test]
    fn rows_are_split_evenly_and_none_is_lost() {
        let (k, n) = (600, 3);
        for t in [1, 436, 437, 874, 1000] {
            let together = rows_together(t, k);
            assert!(
                together * k * 4 <= COPY && together > 0,
                "{together} of {t}"
            );
            let (x, w) = (values(t * k, 1), values(n * k, 2));
            let y = linear(View::whole(&x, t, k), View::whole(&w, n, k));
            assert_close(&y, &reference(&x, &w, t, k, n), 1e-4);
        }
        assert_eq!(rows_together(5, 0), 5);
    }

    #[test]
    fn linear_and_its_gradients_match_plain_loops_at_ragged_sizes() {
        for (t, k, n) in [(1, 1, 1), (3, 7, 5), (33, 65, 17), (130, 140, 150)] {
            let (x, w, dy) = (values(t * k, 1), values(n * k, 2), values(t * n, 3));
            let matrices = (View::whole(&x, t, k), View::whole(&w, n, k));
            let y = linear(matrices.0, matrices.1);
            assert_close(&y, &reference(&x, &w, t, k, n), 1e-5);

            let mut dx = vec![0.0; t * k];
            let mut dw = values(n * k, 4);
            let mut want_dw = dw.clone();
            for i in 0..t {
                for j in 0..n {
                    for l in 0..k {
                        dx[i * k + l] += dy[i * n + j] * w[j * k + l];
                        want_dw[j * k + l] += dy[i * n + j] * x[i * k + l];
                    }
                }
            }
            let (x, w) = matrices;
            let dy = View::whole(&dy, t, n);
            assert_close(&linear_backward_input(dy, w), &dx, 1e-5);
            linear_backward_weight(&mut dw, dy, x);
            assert_close(&dw, &want_dw, 1e-5);
        }
    }
}
