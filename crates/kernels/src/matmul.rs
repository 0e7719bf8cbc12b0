//! Matrix products on strided views.
//!
//! In the order of Goto and van de Geijn (2008): a panel of the right factor is copied into the nearest cache, in f32 whatever
//! it is kept in, and multiplied by a few rows of the left one at a time, while what is copied next is brought near. The left
//! factor is read where it lies, unless its columns, or its rows by pages, are apart. A product that is as large as the caches
//! goes through them in blocks; what is copied has room in a buffer of each thread's that is always of the same size.

use crate::buffer::{Plain, uninit};
use crate::half::{self, Half};
use crate::profile;
use crate::team;
use bf16::Out;
use pack::{Ahead, Right};
use pulp::{Arch, Simd, WithSimd};
use std::cell::RefCell;
use std::ops::Range;
use tile::{Factors, Finish, Left, Meanwhile, Target, most_rows};

pub mod bf16;
mod few;
mod pack;
#[cfg(target_arch = "x86_64")]
mod square;
mod tile;

/// The numbers of a matrix.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    F32(&'a [f32]),
    /// Widened as they are read.
    Half(&'a [u16], Half),
}

impl Numbers<'_> {
    /// These of them.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(all) => Self::F32(&all[range]),
            Self::Half(all, format) => Self::Half(&all[range], format),
        }
    }

    pub fn len(self) -> usize {
        match self {
            Self::F32(all) => all.len(),
            Self::Half(all, _) => all.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// All of them, in f32.
    pub fn to_f32(self) -> Vec<f32> {
        match self {
            Self::F32(all) => {
                let mut copy = uninit(all.len());
                copy.copy_from_slice(all);
                copy
            }
            Self::Half(bits, format) => half::widen(bits, format),
        }
    }
}

/// Numbers up to the last of a matrix whose rows are so far apart; more than there can be if that is no number.
fn end_of(rows: usize, row_stride: usize, cols: usize) -> usize {
    if rows == 0 || cols == 0 {
        return 0;
    }
    let end = (rows - 1).checked_mul(row_stride);
    end.and_then(|start| start.checked_add(cols))
        .unwrap_or(usize::MAX)
}

/// A read-only matrix: element (i, j) is `numbers[i * row_stride + j * col_stride]`, and one of the strides is 1.
#[derive(Clone, Copy)]
pub struct View<'a> {
    numbers: Numbers<'a>,
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
        Self::of(Numbers::F32(data), rows, cols, row_stride)
    }

    /// A matrix whose rows follow one another.
    ///
    /// # Panics
    /// As [`View::new`].
    pub fn whole(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    /// As [`View::new`], in whatever format.
    ///
    /// # Panics
    /// As [`View::new`].
    pub fn of(numbers: Numbers<'a>, rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            end_of(rows, row_stride, cols) <= numbers.len(),
            "matrix of {rows} x {cols}, row stride {row_stride}, in {} elements",
            numbers.len()
        );
        Self {
            numbers,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// Rows and columns.
    pub fn size(self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// These rows of a matrix whose columns are adjacent.
    fn rows(self, rows: Range<usize>) -> Self {
        let first = (rows.start * self.row_stride).min(self.numbers.len());
        let numbers = self.numbers.part(first..self.numbers.len());
        Self::of(numbers, rows.len(), self.cols, self.row_stride)
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
/// Of a left factor in f32 the product is in f32, of one in bf16 both factors are rounded to it ([`bf16::matmul`]). With
/// `accumulate` unset `out` may hold anything, it is not read. The result does not depend on the number of threads.
///
/// # Panics
/// If the shapes do not fit, `out` is too short, or `a` is in f16.
pub fn matmul(out: &mut [f32], out_stride: usize, a: View, b: View, scale: f32, accumulate: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let left = match a.numbers {
        Numbers::F32(left) => left,
        Numbers::Half(_, Half::Bf16) => {
            return bf16::matmul(Out::F32(out), out_stride, a, b, scale, accumulate);
        }
        Numbers::Half(_, Half::F16) => panic!("the left factor is multiplied in f32 or bf16"),
    };
    assert_eq!(k, b.rows, "inner dimensions differ");
    assert!(end_of(m, out_stride, n) <= out.len());
    assert!(n <= out_stride || m <= 1, "rows of the result overlap");
    let _note = profile::note("product", || (2 * m * n * k, 0));
    if m == 0 || n == 0 {
        return;
    }
    let finish = Finish {
        scale,
        add: accumulate,
    };
    let product = Product {
        out: Shared(out.as_mut_ptr()),
        out_stride,
        left,
        a,
        b,
        finish,
    };
    let threads = |worth| match worth {
        true => team::threads(),
        false => 1,
    };
    if m <= few::FEW && a.col_stride == 1 && b.row_stride == 1 && k > 1 {
        // As fast as the weight is read, whatever the rows.
        return few::product(&product, threads(n * k >= WORTH_SPLITTING / 8));
    }
    let threads = threads(m * n * k >= WORTH_SPLITTING);
    let grid = Grid::of(&product, threads);
    on_threads(threads, grid.tasks(), |task| {
        let (rows, cols) = grid.part(task);
        scratch(|scratch| {
            Arch::new().dispatch(Part {
                product: &product,
                rows,
                cols,
                scratch,
            });
        });
    });
}

/// Run all tasks, here alone where there is one thread for them.
fn on_threads(threads: usize, tasks: usize, task: impl Fn(usize) + Sync) {
    match threads {
        1 => (0..tasks).for_each(task),
        _ => team::run(tasks, task),
    }
}

/// The start of a result that tasks write different elements of.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

impl Shared {
    fn get(&self) -> *mut f32 {
        self.0
    }
}

// SAFETY: see above; whoever writes says why nobody else writes the same.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

struct Product<'a> {
    out: Shared,
    out_stride: usize,
    /// The numbers of `a`.
    left: &'a [f32],
    a: View<'a>,
    b: View<'a>,
    finish: Finish,
}

/// How the left factor is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    InPlace,
    /// From a copy, as its columns are apart, and would be read from as many pages.
    Columns,
    /// From a copy, as its rows are pages apart, and lines of more than a few of them have no room in the nearest cache.
    Rows,
}

impl Product<'_> {
    fn reading(&self, lanes: usize) -> Reading {
        match self.a.col_stride {
            1 if self.a.row_stride.is_multiple_of(PAGE) && most_rows(lanes) > WAYS => Reading::Rows,
            1 => Reading::InPlace,
            _ => Reading::Columns,
        }
    }
}

impl Reading {
    /// Parts in which sums of so many numbers are added up.
    fn parts(self, depth: usize) -> usize {
        let most = match self {
            Self::InPlace | Self::Rows => DEPTH,
            Self::Columns => DEPTH_OF_COLUMNS,
        };
        depth.div_ceil(most).max(1)
    }

    /// Rows that a task goes through at most, where it adds so many numbers at once.
    fn rows(self, depth: usize) -> usize {
        match self {
            Self::InPlace => ROWS,
            Self::Columns => ROWS_OF_COLUMNS,
            Self::Rows => LEFT / (depth + LINE),
        }
    }
}

/// Numbers of a sum that are added at once, at most.
const DEPTH: usize = 768;
/// The same where columns of the left factor are copied.
const DEPTH_OF_COLUMNS: usize = 512;
/// Rows of the left factor that a task goes through for each panel, at most, where it is read in place: what the second-level
/// cache holds.
const ROWS: usize = 512;
/// The same where columns are copied.
const ROWS_OF_COLUMNS: usize = 224;
/// Numbers of a page, after which lines of memory go to the same places of the nearest cache as before,
const PAGE: usize = 1024;
/// which has room there for that many, or for a few more.
const WAYS: usize = 8;
/// Columns of a panel at most: two of the widest registers.
const WIDEST: usize = 32;
/// Rows a thread from which on each has rows of its own: what they are computed from is in its caches, and the right factor
/// is copied once more a thread without it showing.
const ROWS_OF_ITS_OWN: usize = 192;
/// Numbers of a sum up to which a copy of the right factor costs nothing.
const SHALLOW: usize = 64;
/// Tasks a thread, so that one that comes late does less.
const TASKS: usize = 8;

/// Numbers of the left factor that a thread copies at most.
const LEFT: usize = ROWS_OF_COLUMNS * DEPTH_OF_COLUMNS;
/// Numbers that it copies at most.
const COPIES: usize = LEFT + WIDEST * DEPTH;
/// Numbers of a line of the cache, to which copies are aligned.
const LINE: usize = 16;

/// How a product is cut into tasks.
struct Grid {
    rows: usize,
    cols: usize,
    row_parts: usize,
    col_parts: usize,
    /// Columns of a panel.
    width: usize,
}

impl Grid {
    fn of(product: &Product, threads: usize) -> Self {
        let (rows, cols) = (product.a.rows, product.b.cols);
        let lanes = lanes();
        let width = 2 * lanes;
        let panels = cols.div_ceil(width);
        let (reading, depth) = (product.reading(lanes), product.a.cols);
        let copies_left = reading == Reading::Columns;
        let row_parts = rows.div_ceil(reading.rows(depth.div_ceil(reading.parts(depth))));
        let by_rows = copies_left || depth <= SHALLOW || rows >= ROWS_OF_ITS_OWN * threads;
        // A factor of which some columns are read at each of many depths would go through the caches as often.
        let tasks = if depth > DEPTH { 2 } else { TASKS };
        let (row_parts, col_parts) = match (threads, by_rows) {
            (1, _) => (row_parts, 1),
            (_, true) if copies_left => (row_parts.next_multiple_of(threads), 1),
            (_, true) => (row_parts.next_multiple_of(threads), panels.min(tasks)),
            (_, false) => (row_parts, panels.min(tasks * threads)),
        };
        // Whatever the shape, no thread is left without a task.
        let col_parts = col_parts.max(panels.min((2 * threads).div_ceil(row_parts)));
        let tiles = rows.div_ceil(most_rows(lanes));
        let row_parts = row_parts.max((2 * threads).div_ceil(col_parts)).min(tiles);
        Self {
            rows,
            cols,
            row_parts,
            col_parts,
            width,
        }
    }

    fn tasks(&self) -> usize {
        self.row_parts * self.col_parts
    }

    /// Rows and columns of a task. Tasks that follow one another read the same rows.
    fn part(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let panels = self.cols.div_ceil(self.width);
        let rows = share(self.rows, task / self.col_parts, self.row_parts);
        let panels = share(panels, task % self.col_parts, self.col_parts);
        let last = self.cols.min(panels.end * self.width);
        (rows, panels.start * self.width..last)
    }
}

/// Part `i` of `n` things in `parts` parts of nearly the same size.
fn share(n: usize, i: usize, parts: usize) -> Range<usize> {
    n * i / parts..n * (i + 1) / parts
}

/// Numbers of a register.
fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

/// A task of a product.
struct Part<'a> {
    product: &'a Product<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
    /// At least [`COPIES`] numbers.
    scratch: &'a mut [f32],
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let depth = self.product.a.cols;
        let parts = self.product.reading(S::F32_LANES).parts(depth);
        for part in 0..parts {
            let at = |part| match part < parts {
                true => share(depth, part, parts),
                false => depth..depth,
            };
            let finish = Finish {
                add: self.product.finish.add || part > 0,
                ..self.product.finish
            };
            self.at_depth(simd, [at(part), at(part + 1)], finish);
        }
    }
}

impl Part<'_> {
    /// What a panel is copied from: these summands of the columns from `start` on, as many as it has room for.
    #[inline(always)]
    fn right<S: Simd>(&self, depth: &Range<usize>, start: usize) -> Right<'_> {
        let b = self.product.b;
        Right {
            numbers: b.numbers,
            first: depth.start * b.row_stride + start * b.col_stride,
            row: b.row_stride,
            col: b.col_stride,
            depth: depth.len(),
            cols: (self.cols.end - start).min(2 * S::F32_LANES),
        }
    }

    /// The summands of `depth` of all rows and columns; those of `next` are next.
    #[inline(always)]
    fn at_depth<S: Simd>(&mut self, simd: S, [depth, next]: [Range<usize>; 2], finish: Finish) {
        let Product { a, b, left, .. } = *self.product;
        assert!(self.scratch.len() >= COPIES && self.rows.end <= a.rows && self.cols.end <= b.cols);
        assert!(depth.end <= a.cols && depth.len() <= DEPTH);
        let panel = self.scratch.as_mut_ptr();
        // SAFETY: behind the panel, inside of the scratch.
        let copied = unsafe { panel.add(WIDEST * DEPTH) };
        let tiles = self.rows.len().div_ceil(most_rows(S::F32_LANES));
        let tile_rows = |tile| {
            let rows = share(self.rows.len(), tile, tiles);
            self.rows.start + rows.start..self.rows.start + rows.end
        };
        let reading = self.product.reading(S::F32_LANES);
        // Without a depth there is no such number, and none is read.
        let first = self.rows.start * a.row_stride + depth.start * a.col_stride;
        let from = left.as_ptr().wrapping_add(first);
        match reading {
            Reading::InPlace => {}
            Reading::Columns => {
                assert!(self.rows.len() <= ROWS_OF_COLUMNS && a.row_stride == 1);
                assert!(depth.len() <= DEPTH_OF_COLUMNS);
                let tiles = (0..tiles).map(|tile| share(self.rows.len(), tile, tiles));
                // SAFETY: the copies have room for as many rows and as much depth; the last number read is an element of `a`,
                // whose rows are adjacent.
                unsafe { pack::left(simd, copied, tiles, from, a.col_stride, depth.len()) };
            }
            Reading::Rows => {
                assert!(self.rows.len() * (depth.len() + LINE) <= LEFT && a.col_stride == 1);
                // SAFETY: the copies have room for as many rows, each with a line behind it; the last number read is an element
                // of `a`, whose columns are adjacent.
                unsafe { pack::rows(copied, from, a.row_stride, self.rows.len(), depth.len()) };
            }
        }
        let (in_rows, row) = match reading {
            Reading::Rows => (copied.cast_const(), depth.len() + LINE),
            _ => (from, a.row_stride),
        };
        for start in self.cols.clone().step_by(2 * S::F32_LANES) {
            let right = self.right::<S>(&depth, start);
            let cols = right.cols;
            let width = if cols <= S::F32_LANES { 1 } else { 2 } * S::F32_LANES;
            // SAFETY: `View::of` checked that all elements are there; a panel has room for DEPTH rows of the widest width.
            unsafe { pack::panel(simd, panel, width, right) };
            let ahead = Ahead::of(&match start + 2 * S::F32_LANES {
                start if start < self.cols.end => self.right::<S>(&depth, start),
                _ => self.right::<S>(&next, self.cols.start),
            });
            for tile in 0..tiles {
                let rows = tile_rows(tile);
                let before = rows.start - self.rows.start;
                // One of the distances is a constant in each of two loops that are made of this.
                let left = match reading {
                    Reading::Columns => Left {
                        start: copied.wrapping_add(before * depth.len()),
                        row: 1,
                        depth: rows.len(),
                    },
                    _ => Left {
                        start: in_rows.wrapping_add(before * row),
                        row,
                        depth: 1,
                    },
                };
                let out = self.product.out.get();
                // SAFETY: `matmul` checked that the result has all rows and columns, and this task alone writes these; the
                // left factor has these rows and this depth, the panel was made above.
                unsafe {
                    let out = Target {
                        start: out.add(rows.start * self.product.out_stride + start),
                        stride: self.product.out_stride,
                    };
                    let size = (rows.len(), cols);
                    let depth = depth.len();
                    let factors = Factors { left, panel, depth };
                    let meanwhile = Meanwhile {
                        ahead: &ahead,
                        tile,
                        tiles,
                    };
                    tile::tile(simd, out, factors, size, finish, meanwhile);
                }
            }
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Do something with this thread's buffer for copies, whose contents are anything.
fn scratch<R>(f: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|all| {
        if all.is_empty() {
            // Little, and for good: not to be refused in the midst of a step.
            *all = vec![0.0; COPIES + LINE];
        }
        let start = all.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        f(&mut all[start..])
    })
}

/// Take now what products keep for good: a buffer for copies in each thread. Otherwise a thread takes it with its first
/// product, whichever that is, and no prediction of memory could know how many have.
pub fn warm_up() {
    team::on_each(|| scratch(|_| ()));
}

/// Bytes that [`warm_up`] takes.
pub fn kept_bytes() -> usize {
    size_of::<f32>() * (COPIES + LINE) * team::threads()
}

/// About 50 microseconds of one core's work: below it, giving away a part costs more than it gains.
const WORTH_SPLITTING: usize = 1 << 20;

/// `x wᵀ`: the linear layer. `x` is `[tokens, inputs]`, `w` is `[outputs, inputs]`.
pub fn linear(x: View, w: View) -> Vec<f32> {
    product(x, w.t())
}

/// `dy w`: gradient of the linear layer with respect to its input. `dy` is `[tokens, outputs]`.
pub fn linear_backward_input(dy: View, w: View) -> Vec<f32> {
    product(dy, w)
}

/// `dyᵀ x`: gradient of the linear layer with respect to its weight.
pub fn linear_backward_weight(dy: View, x: View) -> Vec<f32> {
    product(dy.t(), x)
}

/// `a b`, in f32.
///
/// # Panics
/// As [`matmul`].
pub fn product(a: View, b: View) -> Vec<f32> {
    let mut out = uninit(a.rows * b.cols);
    matmul(&mut out, b.cols, a, b, 1.0, false);
    out
}

/// `a b` in bf16, of a left factor in bf16. What is too deep for one sum is summed up in f32, `rows` rows at a time.
///
/// # Panics
/// As [`matmul`].
pub fn product_in_bf16(a: View, b: View, rows: usize) -> Vec<u16> {
    let (all, cols) = (a.rows, b.cols);
    let mut out = uninit(all * cols);
    if a.cols <= bf16::DEPTH {
        bf16::matmul(Out::Bf16(&mut out), cols, a, b, 1.0, false);
        return out;
    }
    for start in (0..all).step_by(rows) {
        let end = all.min(start + rows);
        let sums = product(a.rows(start..end), b);
        half::narrow_into(&mut out[start * cols..end * cols], &sums, Half::Bf16);
    }
    out
}

/// What results are kept in: f32, or the bits of bf16.
pub trait Element: Plain {
    fn out(all: &mut [Self]) -> Out<'_>;
}

impl Element for f32 {
    fn out(all: &mut [f32]) -> Out<'_> {
        Out::F32(all)
    }
}

impl Element for u16 {
    fn out(all: &mut [u16]) -> Out<'_> {
        Out::Bf16(all)
    }
}

/// [`matmul`] into either, where a result in bf16 is of a left factor in bf16.
fn matmul_into<T: Element>(out: &mut [T], stride: usize, a: View, b: View, accumulate: bool) {
    match T::out(out) {
        Out::F32(out) => matmul(out, stride, a, b, 1.0, accumulate),
        out => bf16::matmul(out, stride, a, b, 1.0, accumulate),
    }
}

/// The linear layers of so many `outputs` side by side. `with` gives the weight of each to what it is called with.
///
/// # Panics
/// As [`matmul`]; in bf16 a layer has at most [`bf16::DEPTH`] inputs.
pub fn linear_side_by_side<T: Element>(
    x: View,
    outputs: &[usize],
    mut with: impl FnMut(usize, &mut dyn FnMut(View)),
) -> Vec<T> {
    let width = outputs.iter().sum();
    let mut out = uninit(x.rows * width);
    let mut column = 0;
    for (i, &n) in outputs.iter().enumerate() {
        let mut given = 0;
        with(i, &mut |w| {
            assert_eq!(w.rows, n);
            if x.rows > 0 {
                matmul_into(&mut out[column..], width, x, w.t(), false);
            }
            given += 1;
        });
        // All of the result is to be written.
        assert_eq!(given, 1);
        column += n;
    }
    out
}

/// `out += a b`, where rows of `out` are `stride` apart.
///
/// # Panics
/// As [`matmul`]; into bf16 as [`bf16::matmul`].
pub fn add_product<T: Element>(out: &mut [T], stride: usize, a: View, b: View) {
    matmul_into(out, stride, a, b, true);
}

/// `dw += dyᵀ x`.
pub fn add_linear_backward_weight(dw: &mut [f32], dy: View, x: View) {
    matmul(dw, x.cols, dy.t(), x, 1.0, true);
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
            add_linear_backward_weight(&mut dw, dy, x);
            assert_close(&dw, &want_dw, 1e-5);
        }
    }

    /// In double precision.
    fn plain(
        a: &[f32],
        b: &[f32],
        at: impl Fn(usize, usize, usize) -> (usize, usize),
        size: [usize; 3],
    ) -> Vec<f32> {
        let [m, n, k] = size;
        let element = |i: usize, j: usize| -> f32 {
            let terms = (0..k).map(|l| {
                let (left, right) = at(i, j, l);
                f64::from(a[left]) * f64::from(b[right])
            });
            terms.sum::<f64>() as f32
        };
        (0..m * n).map(|e| element(e / n, e % n)).collect()
    }

    #[test]
    fn every_layout_size_and_format_gives_the_sums() {
        // One row, few rows, less and more than a tile, a panel, a block of the sums and of the rows.
        let sizes = [
            [1, 1, 1],
            [1, 5, 0],
            [2, 33, 40],
            [4, 50, 129],
            [5, 16, 16],
            [14, 32, 7],
            [15, 31, 70],
            [16, 65, 513],
            [29, 17, 769],
            [230, 48, 20],
            [520, 3, 5],
            [3, 100, 1],
            [61, 130, 33],
            // Rows of a page.
            [20, 40, 1023],
            [230, 33, 1023],
        ];
        for [m, n, k] in sizes {
            for (a_t, b_t) in [(false, false), (false, true), (true, false), (true, true)] {
                let (a, b) = (values((m + 1) * (k + 1), 1), values((n + 1) * (k + 1), 2));
                let a_view = match a_t {
                    false => View::new(&a, m, k, k + 1),
                    true => View::new(&a, k, m, m + 1).t(),
                };
                for format in [None, Some(Half::Bf16), Some(Half::F16)] {
                    let bits = format.map(|format| crate::half::narrow(&b, format));
                    let wide = match (&bits, format) {
                        (Some(bits), Some(format)) => crate::half::widen(bits, format),
                        _ => b.clone(),
                    };
                    let numbers = match (&bits, format) {
                        (Some(bits), Some(format)) => Numbers::Half(bits, format),
                        _ => Numbers::F32(&b),
                    };
                    let b_view = match b_t {
                        false => View::of(numbers, k, n, n + 1),
                        true => View::of(numbers, n, k, k + 1).t(),
                    };
                    let at = |i, j, l| {
                        let left = if a_t {
                            l * (m + 1) + i
                        } else {
                            i * (k + 1) + l
                        };
                        let right = if b_t {
                            j * (k + 1) + l
                        } else {
                            l * (n + 1) + j
                        };
                        (left, right)
                    };
                    let sums = plain(&a, &wide, at, [m, n, k]);
                    for add in [false, true] {
                        let before = values(m * (n + 2), 3);
                        let mut out = match add {
                            true => before.clone(),
                            false => vec![f32::NAN; m * (n + 2)],
                        };
                        matmul(&mut out, n + 2, a_view, b_view, 0.5, add);
                        for i in 0..m {
                            let row = &out[i * (n + 2)..][..n + 2];
                            let own = &before[i * (n + 2)..][..n + 2];
                            let want: Vec<f32> = (0..n)
                                .map(|j| 0.5 * sums[i * n + j] + if add { own[j] } else { 0.0 })
                                .collect();
                            assert_close(&row[..n], &want, 2e-5);
                            // What is between the rows stays as it is.
                            let kept = if add { own[n] } else { f32::NAN };
                            assert!(row[n] == kept || row[n].is_nan() && kept.is_nan());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        for [m, n, k] in [
            [100, 200, 300],
            [576, 16, 600],
            [16, 576, 200],
            [1000, 40, 50],
            [3, 4000, 100],
        ] {
            let (a, b) = (values(m * k, 1), values(n * k, 2));
            let run = |threads| {
                crate::team::tests::with_threads(threads, || {
                    let dw = linear_backward_weight(View::whole(&a, k, m), View::whole(&b, k, n));
                    let x = View::whole(&a, m, k);
                    let y = linear(x, View::whole(&b, n, k));
                    (y, linear_backward_input(x, View::whole(&b, k, n)), dw)
                })
            };
            let one = run(1);
            for threads in [2, 5] {
                assert!(run(threads) == one, "{m} x {n} x {k} on {threads} threads");
            }
        }
    }

    #[test]
    fn nan_and_infinity_reach_the_elements_that_they_belong_to_and_no_other() {
        let (t, k, n) = (20, 30, 40);
        let (mut x, w) = (vec![1.0; t * k], vec![0.0; n * k]);
        x[7 * k + 3] = f32::NAN;
        x[8 * k + 3] = f32::INFINITY;
        let y = linear(View::whole(&x, t, k), View::whole(&w, n, k));
        for (i, row) in y.chunks(n).enumerate() {
            let nan = i == 7 || i == 8;
            assert!(row.iter().all(|y| y.is_nan() == nan && (nan || *y == 0.0)));
        }
    }

    #[test]
    fn layers_side_by_side_are_those_of_each_alone() {
        let (t, k) = (37, 50);
        let x = values(t * k, 1);
        let x = View::whole(&x, t, k);
        let (outputs, w) = ([33, 1, 70], values(104 * k, 2));
        let weight = |i: usize| {
            let before: usize = outputs[..i].iter().sum();
            View::whole(&w[before * k..], outputs[i], k)
        };
        let mut all: Vec<f32> = linear_side_by_side(x, &outputs, |i, f| f(weight(i)));
        let alone = [0, 1, 2].map(|i| (linear(x, weight(i)), outputs[i]));
        let alone = alone.each_ref().map(|(y, n)| (y.as_slice(), *n));
        let want = crate::rows::side_by_side(&alone, t);
        assert!(all == want);
        add_product(&mut all[34..], 104, x, weight(2).t());
        for (all, want) in all.chunks(104).zip(want.chunks(104)) {
            assert_eq!(all[..34], want[..34]);
            let twice: Vec<f32> = want[34..].iter().map(|y| 2.0 * y).collect();
            assert_eq!(all[34..], twice);
        }
    }

    #[test]
    #[should_panic(expected = "matrix of 3 x 1")]
    fn a_stride_beyond_all_memory_is_refused() {
        View::new(&[1.0; 3], 3, 1, 1 << 63);
    }

    #[test]
    fn what_is_kept_is_taken_once() {
        crate::team::tests::with_threads(2, || {
            warm_up();
            assert_eq!(kept_bytes(), 2 * 4 * (COPIES + LINE));
        });
    }
}
