//! Few tokens by weights that are held in few bits, which are decoded as they are multiplied.

use super::rows::{Rows, ints};
use crate::stored::{Absmax, Packed, Stored};
use aios_kernels as kernels;
use burn_flex::Flex;
use kernels::nf4::AbsmaxOf;

/// `x wᵀ`, where rows of `w` are whole blocks.
pub(super) fn product(x: &[f32], w: &Stored<Flex>) -> Vec<f32> {
    // Made by `Stored`, all tensors are contiguous and as long as their storage.
    const MADE: &str = "of 32-bit integers";
    match &w.codes {
        // `linear_forward_stored` has these decoded.
        Packed::Halves(_) => unreachable!("a CPU holds numbers in 16 bits as they are"),
        Packed::Ggml(blocks) => {
            let words = ints(&blocks.words);
            kernels::ggml::multiply(blocks.format, words.bytes(), w.dims, x)
        }
        Packed::Q8_0(q8_0) => {
            let (codes, scales) = (ints(&q8_0.codes), Rows::of(q8_0.scales.clone()));
            let codes = codes.as_slice::<i32>().expect(MADE);
            kernels::q8_0::multiply(codes, &scales.all(), w.dims, x)
        }
        Packed::Nf4(nf4) => {
            let words = ints(&nf4.codes);
            let words = words.as_slice::<i32>().expect(MADE);
            match &nf4.absmax {
                Absmax::Plain(absmax) => {
                    let absmax = Rows::of(absmax.clone());
                    kernels::nf4::multiply(words, AbsmaxOf::Plain(&absmax.all()), w.dims, x)
                }
                Absmax::Nested {
                    codes,
                    nested,
                    offset,
                } => {
                    let (codes, nested) = (ints(codes), Rows::of(nested.clone()));
                    let absmax = AbsmaxOf::Nested {
                        codes: codes.bytes(),
                        nested: &nested.all(),
                        offset: *offset,
                    };
                    kernels::nf4::multiply(words, absmax, w.dims, x)
                }
            }
        }
    }
}
