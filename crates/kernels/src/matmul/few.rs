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
                Numbers::F32(all) => {
                    few::row(&Rows::<Floats> { product, all }, j, &mut sums[..n]);
                }
                Numbers::Half(all, Half::Bf16) => {
                    few::row(&Rows::<Bf16s> { product, all }, j, &mut sums[..n]);
                }
                Numbers::Half(all, Half::F16) => {
                    few::row(&Rows::<F16s> { product, all }, j, &mut sums[..n]);
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

/// What the numbers of a weight are.
trait Format {
    type Bits: Sync;

    /// Is `#[inline(always)]`, as all [`Weight::products`] is.
    fn vector<L: Lanes>(lanes: L, bits: &[Self::Bits; LANES]) -> L::Vector;
    fn number(bits: &Self::Bits) -> f32;
}

struct Floats;
struct Bf16s;
struct F16s;

impl Format for Floats {
    type Bits = f32;

    #[inline(always)]
    fn vector<L: Lanes>(lanes: L, bits: &[f32; LANES]) -> L::Vector {
        lanes.load(bits)
    }

    #[inline(always)]
    fn number(bits: &f32) -> f32 {
        *bits
    }
}

impl Format for Bf16s {
    type Bits = u16;

    #[inline(always)]
    fn vector<L: Lanes>(lanes: L, bits: &[u16; LANES]) -> L::Vector {
        lanes.bf16(bits)
    }

    #[inline(always)]
    fn number(bits: &u16) -> f32 {
        from_bf16(*bits)
    }
}

impl Format for F16s {
    type Bits = u16;

    #[inline(always)]
    fn vector<L: Lanes>(lanes: L, bits: &[u16; LANES]) -> L::Vector {
        lanes.f16(bits)
    }

    #[inline(always)]
    fn number(bits: &u16) -> f32 {
        from_f16(*bits)
    }
}

/// A weight in a format.
struct Rows<'a, F: Format> {
    product: &'a Product<'a>,
    all: &'a [F::Bits],
}

impl<F: Format> Weight for Rows<'_, F> {
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
            sums.add(i, F::vector(lanes, vector));
        }
        sums.totals(rest, F::number)
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
