//! Sums of products of codes with some rows of numbers, in vectors.

use crate::few::part;
use crate::lanes::{LANES, Lanes};

/// Products so far, with `ROWS` rows.
pub struct Sums<L: Lanes, const ROWS: usize> {
    pub lanes: L,
    /// In turns, since an addition waits for the last one to the same sum.
    sums: [[L::Vector; 2]; ROWS],
    /// What is taken off.
    least: [L::Vector; ROWS],
}

impl<L: Lanes, const ROWS: usize> Sums<L, ROWS> {
    #[inline(always)]
    pub fn zero(lanes: L) -> Self {
        Self {
            lanes,
            sums: [[lanes.splat(0.0); 2]; ROWS],
            least: [lanes.splat(0.0); ROWS],
        }
    }

    #[inline(always)]
    pub fn totals(&self) -> [f32; ROWS] {
        let (lanes, mut totals) = (self.lanes, [0.0; ROWS]);
        for (i, to) in totals.iter_mut().enumerate() {
            let [even, odd] = self.sums[i];
            let sum = lanes.mul_add(even, lanes.splat(1.0), odd);
            *to = total(lanes.array(sum)) - total(lanes.array(self.least[i]));
        }
        totals
    }

    /// The product of 32 codes and the numbers from `at` on, times a scale in all places; `turn` is one of the sums.
    #[inline(always)]
    pub fn add<const N: usize>(
        &mut self,
        turn: usize,
        scale: L::Vector,
        codes: [L::Vector; 2],
        (x, at): (&[&[f32; N]; ROWS], usize),
    ) {
        let lanes = self.lanes;
        for (sums, x) in self.sums.iter_mut().zip(x) {
            let (first, last) = (lanes.load(&part(*x, at)), lanes.load(&part(*x, at + LANES)));
            let products = lanes.mul(codes[0], first);
            let products = lanes.mul_add(codes[1], last, products);
            sums[turn] = lanes.mul_add(scale, products, sums[turn]);
        }
    }

    /// The same of 16.
    #[inline(always)]
    pub fn add_half<const N: usize>(
        &mut self,
        turn: usize,
        scale: f32,
        codes: L::Vector,
        (x, at): (&[&[f32; N]; ROWS], usize),
    ) {
        let (lanes, values) = (self.lanes, self.lanes.mul(codes, self.lanes.splat(scale)));
        for (sums, x) in self.sums.iter_mut().zip(x) {
            let x = lanes.load(&part(*x, at));
            sums[turn] = lanes.mul_add(values, x, sums[turn]);
        }
    }

    /// What is taken off values, times sums of the numbers.
    #[inline(always)]
    pub fn take_off(&mut self, minima: L::Vector, x_parts: &[&[f32; LANES]; ROWS]) {
        for (least, x) in self.least.iter_mut().zip(x_parts) {
            *least = self.lanes.mul_add(minima, self.lanes.load(x), *least);
        }
    }

    /// Codes that have a sign.
    #[inline(always)]
    pub fn signed(&self, codes: &[u8; 32]) -> [L::Vector; 2] {
        [
            self.lanes.signed(&part(codes, 0)),
            self.lanes.signed(&part(codes, LANES)),
        ]
    }
}

/// Some rows' blocks, of `blocks` each, and where one is that a row is asked for.
#[inline(always)]
pub fn rows_of<T, const ROWS: usize>(all: &[T], first: usize, blocks: usize) -> [&[T]; ROWS] {
    let mut rows: [&[T]; ROWS] = [&[]; ROWS];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = &all[(first + i) * blocks..][..blocks];
    }
    rows
}

/// A block of each row.
#[inline(always)]
pub fn blocks_of<'a, T, const ROWS: usize>(rows: &[&'a [T]; ROWS], b: usize) -> [&'a T; ROWS] {
    let mut blocks = [&rows[0][b]; ROWS];
    for i in 1..ROWS {
        blocks[i] = &rows[i][b];
    }
    blocks
}

/// The sum, by halves: one after another, additions would wait for each other.
#[inline(always)]
pub fn total<const N: usize>(mut sums: [f32; N]) -> f32 {
    let mut n = N;
    while n > 1 {
        n /= 2;
        for l in 0..n {
            sums[l] += sums[l + n];
        }
    }
    sums[0]
}
