//! Decoding of ggml's blocks in plain tensor operations.

use super::Blocks;
use super::reference::{parts, table, whole};
use aios_kernels::ggml::Format;
use aios_kernels::half::{Half, widen};
use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Int, Tensor};

/// A matrix of such blocks in f32.
pub(crate) fn dense<B: Backend>(of: &Blocks<B>, dims: [usize; 2]) -> Tensor<B, 2> {
    let (size, count) = (of.format.bytes(), dims[0] * dims[1] / of.format.block());
    let bytes = parts(&of.words, &[0, 8, 16, 24], 255).narrow(0, 0, count * size);
    let bytes = Bytes(bytes.reshape([count, size]));
    let values = match of.format {
        Format::Q4_0 => (bytes.halves(2, 16) - 8).float() * bytes.scale(0),
        Format::Q4_1 => bytes.halves(4, 16).float() * bytes.scale(0) + bytes.scale(2),
        Format::Q5_0 => (bytes.halves(6, 16) + bytes.fifths() - 16).float() * bytes.scale(0),
        Format::Q8_0 => signed(bytes.part(2, 32)).float() * bytes.scale(0),
        Format::Q4K => bytes.scaled(bytes.parts_of_64(16)),
        Format::Q5K => bytes.scaled(bytes.parts_of_64(48) + bytes.fifths_of_parts()),
        Format::Q6K => bytes.q6_k(),
    };
    whole(values, dims)
}

/// Blocks, one a row.
struct Bytes<B: Backend>(Tensor<B, 2, Int>);

impl<B: Backend> Bytes<B> {
    fn count(&self) -> usize {
        self.0.dims()[0]
    }

    /// So many bytes of each block, from a place on.
    fn part(&self, at: usize, n: usize) -> Tensor<B, 2, Int> {
        self.0.clone().narrow(1, at, n)
    }

    /// The f16 at a place of each block: `[blocks, 1]`.
    fn scale(&self, at: usize) -> Tensor<B, 2> {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let all = table::<B>(&widen(&all, Half::F16), &self.0.device());
        let bits = self.part(at, 1) + self.part(at + 1, 1) * 256;
        let scales = all.select(0, bits.reshape([self.count()]));
        scales.reshape([self.count(), 1])
    }

    /// The lower halves of bytes, then the upper ones.
    fn halves(&self, at: usize, n: usize) -> Tensor<B, 2, Int> {
        let bytes = self.part(at, n);
        Tensor::cat(vec![low(bytes.clone(), 0, 15), low(bytes, 4, 15)], 1)
    }

    /// 16 for each bit of Q5_0's that is set.
    fn fifths(&self) -> Tensor<B, 2, Int> {
        let bits = (0..8).map(|bit| low(self.part(2, 4), bit, 1) * 16);
        let bits = Tensor::stack::<3>(bits.collect(), 2);
        bits.reshape([self.count(), 32])
    }

    /// The same of Q5_K's: of its 32 bytes each has a bit for each of the eight parts.
    fn fifths_of_parts(&self) -> Tensor<B, 3, Int> {
        let bits = (0..8).map(|bit| low(self.part(16, 32), bit, 1) * 16);
        Tensor::stack::<3>(bits.collect(), 1)
    }

    /// Codes of eight parts of 32 values, two of which have the halves of the same bytes.
    fn parts_of_64(&self, at: usize) -> Tensor<B, 3, Int> {
        let pairs = (0..4).map(|i| self.halves(at + 32 * i, 32));
        Tensor::cat(pairs.collect(), 1).reshape([self.count(), 8, 32])
    }

    /// Values of Q4_K and Q5_K.
    fn scaled(&self, codes: Tensor<B, 3, Int>) -> Tensor<B, 2> {
        let [a, b, c] = [4, 8, 12].map(|at| self.part(at, 4));
        let last = |low: Tensor<B, 2, Int>, first: &Tensor<B, 2, Int>| {
            let high = first.clone().bitwise_right_shift_scalar(6.elem());
            low + high * 16
        };
        let factor = |first: Tensor<B, 2, Int>, shift: i32, scale: Tensor<B, 2>| {
            let last = last(low(c.clone(), shift, 15), &first);
            let eight = Tensor::cat(vec![low(first, 0, 63), last], 1);
            (eight.float() * scale).reshape([self.count(), 8, 1])
        };
        let scales = factor(a, 0, self.scale(0));
        let minima = factor(b, 4, self.scale(2));
        let values = codes.float() * scales - minima;
        values.reshape([self.count(), 256])
    }

    fn q6_k(&self) -> Tensor<B, 2> {
        let halves = (0..2).flat_map(|n| {
            let low_bits = [(0, 0), (32, 0), (0, 4), (32, 4)].into_iter().enumerate();
            low_bits.map(move |(m, (at, shift))| {
                let high = low(self.part(128 + 32 * n, 32), 2 * m as i32, 3);
                low(self.part(64 * n + at, 32), shift, 15) + high * 16 - 32
            })
        });
        let codes = Tensor::cat(halves.collect(), 1).reshape([self.count(), 16, 16]);
        let scales = signed(self.part(192, 16)).float() * self.scale(208);
        let values = codes.float() * scales.reshape([self.count(), 16, 1]);
        values.reshape([self.count(), 256])
    }
}

/// Some bits of each byte.
fn low<B: Backend>(bytes: Tensor<B, 2, Int>, shift: i32, mask: i32) -> Tensor<B, 2, Int> {
    let bytes = bytes.bitwise_right_shift_scalar(shift.elem());
    bytes.bitwise_and_scalar(mask.elem())
}

/// Bytes as numbers with a sign.
fn signed<B: Backend>(bytes: Tensor<B, 2, Int>) -> Tensor<B, 2, Int> {
    let negative = bytes.clone().greater_equal_elem(128);
    bytes.clone().mask_where(negative, bytes - 256)
}
