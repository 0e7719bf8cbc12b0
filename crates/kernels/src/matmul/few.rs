//! A few rows times a weight of `[outputs, inputs]`: as fast as the weight is read, which is read once.

use super::{Numbers, Product, on_threads};
use crate::few::{self, Weight};
use crate::half::{Half, from_bf16, from_f16};
use crate::lanes::{LANES, Lanes};
use crate::sums::total;

/// Rows that are multiplied this way at most.
pub const FEW: usize = few::MOST;
/// Numbers of the weight that are worth a task.
const TASK: usize = 1 << 16;

/// `x wᵀ`, where the columns of x are adjacent and there are few rows, by so many threads.
pub fn product(product: &Product, threads: usize) {
    let (outputs, inputs, finish) = (product.b.cols, product.a.cols, product.finish);
    let (each, n) = ((TASK / inputs.max(1)).max(1), product.a.rows);
    let tasks = outputs.div_ceil(each);
    on_threads(threads, tasks, |task| {
        let mut sums = [0.0; FEW];
        for j in task * each..outputs.min((task + 1) * each) {
            match product.b.numbers {
                Numbers::F32(all) => few::row(&Floats { product, all }, j, &mut sums[..n]),
                Numbers::Half(all, Half::Bf16) => {
                    few::row(&Bf16s { product, all }, j, &mut sums[..n]);
                }
                Numbers::Half(all, Half::F16) => {
                    few::row(&F16s { product, all }, j, &mut sums[..n]);
                }
            }
            for (i, sum) in sums[..n].iter().enumerate() {
                // SAFETY: `matmul` checked that row i has column j, which no other task writes.
                let out = unsafe { &mut *product.out.get().add(i * product.out_stride + j) };
                *out = match finish.add {
                    true => sum.mul_add(finish.scale, *out),
                    false => sum * finish.scale,
                };
            }
        }
    });
}

struct Floats<'a> {
    product: &'a Product<'a>,
    all: &'a [f32],
}

struct Bf16s<'a> {
    product: &'a Product<'a>,
    all: &'a [u16],
}

struct F16s<'a> {
    product: &'a Product<'a>,
    all: &'a [u16],
}

impl Weight for Floats<'_> {
    #[inline(always)]
    fn products<L: Lanes, const ROWS: usize>(
        &self,
        lanes: L,
        j: usize,
        first: usize,
    ) -> [f32; ROWS] {
        let row = &self.all[j * self.product.b.col_stride..][..self.product.a.cols];
        let mut sums = Sums::<L, ROWS>::of(lanes, self.product, first);
        let (vectors, rest) = row.as_chunks();
        for (i, vector) in vectors.iter().enumerate() {
            sums.add(i, lanes.load(vector));
        }
        sums.totals(rest, |value| *value)
    }
}

impl Weight for Bf16s<'_> {
    #[inline(always)]
    fn products<L: Lanes, const ROWS: usize>(
        &self,
        lanes: L,
        j: usize,
        first: usize,
    ) -> [f32; ROWS] {
        let row = &self.all[j * self.product.b.col_stride..][..self.product.a.cols];
        let mut sums = Sums::<L, ROWS>::of(lanes, self.product, first);
        let (vectors, rest) = row.as_chunks();
        for (i, vector) in vectors.iter().enumerate() {
            sums.add(i, lanes.bf16(vector));
        }
        sums.totals(rest, |bits| from_bf16(*bits))
    }
}

impl Weight for F16s<'_> {
    #[inline(always)]
    fn products<L: Lanes, const ROWS: usize>(
        &self,
        lanes: L,
        j: usize,
        first: usize,
    ) -> [f32; ROWS] {
        let row = &self.all[j * self.product.b.col_stride..][..self.product.a.cols];
        let mut sums = Sums::<L, ROWS>::of(lanes, self.product, first);
        let (vectors, rest) = row.as_chunks();
        for (i, vector) in vectors.iter().enumerate() {
            sums.add(i, lanes.f16(vector));
        }
        sums.totals(rest, |bits| from_f16(*bits))
    }
}

/// Sums of a vector: an addition waits for the last one to the same.
const TURNS: usize = 2;

/// Products with some rows so far.
struct Sums<'a, L: Lanes, const ROWS: usize> {
    lanes: L,
    x: [&'a [f32]; ROWS],
    sums: [[L::Vector; TURNS]; ROWS],
}

impl<'a, L: Lanes, const ROWS: usize> Sums<'a, L, ROWS> {
    #[inline(always)]
    fn of(lanes: L, product: &Product<'a>, first: usize) -> Self {
        let mut x: [&[f32]; ROWS] = [&[]; ROWS];
        for (i, x) in x.iter_mut().enumerate() {
            *x = &product.left[(first + i) * product.a.row_stride..][..product.a.cols];
        }
        Self {
            lanes,
            x,
            sums: [[lanes.splat(0.0); TURNS]; ROWS],
        }
    }

    /// With the `i`-th vector of the weight's row.
    #[inline(always)]
    fn add(&mut self, i: usize, values: L::Vector) {
        for (sums, x) in self.sums.iter_mut().zip(&self.x) {
            let x = self.lanes.load(&few::part(x, i * LANES));
            sums[i % TURNS] = self.lanes.mul_add(values, x, sums[i % TURNS]);
        }
    }

    /// With what of the row makes no vector.
    #[inline(always)]
    fn totals<T>(&self, rest: &[T], value: impl Fn(&T) -> f32) -> [f32; ROWS] {
        let (lanes, mut totals) = (self.lanes, [0.0; ROWS]);
        for (i, to) in totals.iter_mut().enumerate() {
            let [even, odd] = self.sums[i];
            *to = total(lanes.array(lanes.mul_add(even, lanes.splat(1.0), odd)));
            for (x, w) in self.x[i][self.x[i].len() - rest.len()..].iter().zip(rest) {
                *to = x.mul_add(value(w), *to);
            }
        }
        totals
    }
}
