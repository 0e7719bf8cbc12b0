//! Products of a few rows with a weight in blocks.

use super::blocks::{self, Block, parts};
use super::{Format, assert_whole};
use crate::few::{self, Weight};
use crate::lanes::{LANES, Lanes};
use crate::sums::{Sums, blocks_of, rows_of};
use std::marker::PhantomData;

/// `x wᵀ`, where x is `[n, inputs]` of at most [`few::MOST`] rows, and w is `[outputs, inputs]` in blocks; all sums are in f32.
/// No value of the weight is decoded by itself: scales are multiplied by sums of products.
///
/// # Panics
/// If rows are not whole blocks, if there are too many of them, or if lengths do not fit.
pub fn multiply(format: Format, weight: &[u8], dims: [usize; 2], x: &[f32]) -> Vec<f32> {
    assert_whole(format, dims[1]);
    match format {
        Format::Q4_0 => product::<blocks::Q4_0, _, _>(weight, dims, x),
        Format::Q4_1 => product::<blocks::Q4_1, _, _>(weight, dims, x),
        Format::Q5_0 => product::<blocks::Q5_0, _, _>(weight, dims, x),
        Format::Q8_0 => product::<blocks::Q8_0, _, _>(weight, dims, x),
        Format::Q4K => product::<blocks::Q4K, _, _>(weight, dims, x),
        Format::Q5K => product::<blocks::Q5K, _, _>(weight, dims, x),
        Format::Q6K => product::<blocks::Q6K, _, _>(weight, dims, x),
    }
}

fn product<B: Block<BYTES, VALUES>, const BYTES: usize, const VALUES: usize>(
    weight: &[u8],
    dims: [usize; 2],
    x: &[f32],
) -> Vec<f32> {
    let [outputs, inputs] = dims;
    let n = x.len().checked_div(inputs).unwrap_or(0);
    assert_eq!(n * inputs, x.len(), "rows of {inputs}");
    let x_parts: Vec<_> = x.chunks(VALUES).map(parts).collect();
    let weight = Blocks::<B, BYTES, VALUES> {
        blocks: &weight.as_chunks().0[..outputs * inputs / VALUES],
        row: inputs / VALUES,
        x: x.as_chunks().0,
        x_parts: &x_parts,
        format: PhantomData,
    };
    few::product(&weight, dims, n)
}

struct Blocks<'a, B, const BYTES: usize, const VALUES: usize> {
    blocks: &'a [[u8; BYTES]],
    /// Blocks of a row.
    row: usize,
    x: &'a [[f32; VALUES]],
    x_parts: &'a [[f32; LANES]],
    format: PhantomData<fn() -> B>,
}

impl<B: Block<BYTES, VALUES>, const BYTES: usize, const VALUES: usize> Weight
    for Blocks<'_, B, BYTES, VALUES>
{
    #[inline(always)]
    fn products<L: Lanes, const ROWS: usize>(
        &self,
        lanes: L,
        j: usize,
        first: usize,
    ) -> [f32; ROWS] {
        let mut sums = Sums::zero(lanes);
        let x = rows_of::<_, ROWS>(self.x, first, self.row);
        let x_parts = rows_of(self.x_parts, first, self.row);
        let blocks = &self.blocks[j * self.row..][..self.row];
        for (b, block) in blocks.iter().enumerate() {
            B::multiply(block, blocks_of(&x, b), blocks_of(&x_parts, b), &mut sums);
        }
        sums.totals()
    }
}
