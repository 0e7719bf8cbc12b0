//! Matrices that are held in few bits and decoded when they are multiplied by.

pub(crate) mod ggml;
pub(crate) mod reference;

use crate::Ops;
use aios_base::storage::Storage;
use aios_kernels::ggml::{Format, q8_0_apart};
use aios_kernels::{nf4, q8_0};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use half::{bf16, f16};

/// A matrix that is held in few bits.
#[derive(Clone, Debug)]
pub struct Stored<B: Backend> {
    pub dims: [usize; 2],
    pub codes: Packed<B>,
}

/// Its numbers, row after row.
#[derive(Clone, Debug)]
pub enum Packed<B: Backend> {
    Nf4(Nf4<B>),
    Q8_0(Q8_0<B>),
    Ggml(Blocks<B>),
    Halves(Halves<B>),
}

/// A format of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    F16,
    Bf16,
}

impl Half {
    /// Values in it, two an `i32`, the first in the lower half; padded.
    pub fn words(self, values: &[f32]) -> Vec<i32> {
        let bits = |x: f32| match self {
            Self::F16 => f16::from_f32(x).to_bits(),
            Self::Bf16 => bf16::from_f32(x).to_bits(),
        };
        let pair = |pair: &[f32]| {
            let upper = pair.get(1).map_or(0, |x| bits(*x));
            i32::from_ne_bytes((u32::from(bits(pair[0])) | u32::from(upper) << 16).to_ne_bytes())
        };
        values.chunks(2).map(pair).collect()
    }

    /// What the bits of one stand for.
    pub(crate) fn value(self, bits: u16) -> f32 {
        match self {
            Self::F16 => f16::from_bits(bits).to_f32(),
            Self::Bf16 => bf16::from_bits(bits).to_f32(),
        }
    }
}

/// Numbers in 16 bits, for a device that has no such format.
#[derive(Clone, Debug)]
pub struct Halves<B: Backend> {
    pub half: Half,
    /// See [`Half::words`].
    pub words: Tensor<B, 1, Int>,
}

/// See [`aios_kernels::nf4`].
#[derive(Clone, Debug)]
pub struct Nf4<B: Backend> {
    /// Eight codes an `i32`: `[8 blocks]`.
    pub codes: Tensor<B, 1, Int>,
    pub absmax: Absmax<B>,
}

/// Largest magnitudes of the blocks of NF4.
#[derive(Clone, Debug)]
pub enum Absmax<B: Backend> {
    Nested {
        /// Four an `i32`, padded: `[blocks / 4]`.
        codes: Tensor<B, 1, Int>,
        /// `[blocks / 256]`
        nested: Tensor<B, 1>,
        offset: f32,
    },
    /// `[blocks]`
    Plain(Tensor<B, 1>),
}

/// See [`aios_kernels::q8_0`].
#[derive(Clone, Debug)]
pub struct Q8_0<B: Backend> {
    /// Four codes an `i32`: `[8 blocks]`.
    pub codes: Tensor<B, 1, Int>,
    /// `[blocks]`
    pub scales: Tensor<B, 1>,
}

/// See [`aios_kernels::ggml`].
#[derive(Clone, Debug)]
pub struct Blocks<B: Backend> {
    pub format: Format,
    /// The bytes of all blocks, four an `i32`, the first in the lowest place; padded.
    pub words: Tensor<B, 1, Int>,
}

/// The format in which blocks of a file are held.
pub fn stored_in(format: Format) -> Storage {
    match format {
        Format::Q4_0 => Storage::Q4_0,
        Format::Q4_1 => Storage::Q4_1,
        Format::Q5_0 => Storage::Q5_0,
        Format::Q8_0 => Storage::Q8_0,
        Format::Q4K => Storage::Q4K,
        Format::Q5K => Storage::Q5K,
        Format::Q6K => Storage::Q6K,
    }
}

impl<B: Ops> Stored<B> {
    /// A made-up matrix in a format, to try a device by; `None` if it is none that is decoded.
    pub fn made_up(
        values: &[f32],
        dims: [usize; 2],
        storage: Storage,
        device: &B::Device,
    ) -> Option<Self> {
        match file_format(storage).filter(|_| storage.is_of_a_file()) {
            Some(format) => {
                let bytes = aios_kernels::ggml::made_up(format, dims[0] * dims[1]);
                Some(Self::of_blocks(format, &bytes, dims, device))
            }
            None => {
                let of_halves = || Self::of_halves(values, dims, storage, device);
                Self::of(values, dims, storage, device).or_else(of_halves)
            }
        }
    }

    /// A matrix in a format, of values given row after row; `None` if it is not one of those that are decoded, or one that
    /// only files have.
    ///
    /// # Panics
    /// With [`aios_kernels::buffer::OutOfMemory`].
    pub fn of(
        values: &[f32],
        dims: [usize; 2],
        storage: Storage,
        device: &B::Device,
    ) -> Option<Self> {
        let codes = match storage {
            Storage::Nf4 => Packed::Nf4(Nf4::of(nf4::quantize(values).into(), device)),
            Storage::Q8_0 => {
                let (codes, scales) = q8_0::quantize(values);
                Packed::Q8_0(Q8_0 {
                    codes: words(codes, device),
                    scales: floats(scales, device),
                })
            }
            _ => return None,
        };
        Some(Self { dims, codes })
    }

    /// A matrix in 16 bits, of values given row after row; `None` if that is not the format.
    pub fn of_halves(
        values: &[f32],
        dims: [usize; 2],
        storage: Storage,
        device: &B::Device,
    ) -> Option<Self> {
        let half = match storage {
            Storage::F16 => Half::F16,
            Storage::Bf16 => Half::Bf16,
            _ => return None,
        };
        let words = words(half.words(values), device);
        let codes = Packed::Halves(Halves { half, words });
        Some(Self { dims, codes })
    }

    /// A matrix that is in NF4 already.
    pub fn of_nf4(nf4: nf4::Packed, dims: [usize; 2], device: &B::Device) -> Self {
        Self {
            dims,
            codes: Packed::Nf4(Nf4::of(nf4, device)),
        }
    }

    /// A matrix that is in blocks of ggml already, row after row. Q8_0 is kept as the format of that name is here, which loses
    /// nothing; the others stay as they are.
    ///
    /// # Panics
    /// If the bytes are not those of whole blocks with as many values.
    pub fn of_blocks(format: Format, bytes: &[u8], dims: [usize; 2], device: &B::Device) -> Self {
        let blocks = dims[0] * dims[1] / format.block();
        assert_eq!(blocks * format.block(), dims[0] * dims[1], "whole blocks");
        assert_eq!(blocks * format.bytes(), bytes.len(), "bytes of blocks");
        let codes = match format {
            Format::Q8_0 => {
                let (codes, scales) = q8_0_apart(bytes);
                Packed::Q8_0(Q8_0 {
                    codes: words(codes, device),
                    scales: floats(scales, device),
                })
            }
            _ => Packed::Ggml(Blocks::of(format, bytes, device)),
        };
        Self { dims, codes }
    }

    /// Whether each row has blocks of its own.
    pub fn has_whole_rows(&self) -> bool {
        let block = match &self.codes {
            Packed::Nf4(_) => nf4::BLOCK,
            Packed::Q8_0(_) => q8_0::BLOCK,
            Packed::Ggml(blocks) => blocks.format.block(),
            Packed::Halves(_) => 2,
        };
        self.dims[1].is_multiple_of(block)
    }

    /// Some of its rows, `[ids, columns]`, in f32: without a copy of the others where a row is words of its own.
    ///
    /// # Panics
    /// With [`aios_kernels::buffer::OutOfMemory`].
    pub fn rows(&self, ids: &Tensor<B, 1, Int>) -> Tensor<B, 2> {
        let [rows, columns] = self.dims;
        let of_words = |words: &Tensor<B, 1, Int>, each: usize| {
            let table = words.clone().narrow(0, 0, rows * each);
            table
                .reshape([rows, each])
                .select(0, ids.clone())
                .flatten(0, 1)
        };
        let codes = match &self.codes {
            Packed::Q8_0(q8_0) if self.has_whole_rows() => {
                let blocks = columns / q8_0::BLOCK;
                let scales = q8_0.scales.clone().narrow(0, 0, rows * blocks);
                Packed::Q8_0(Q8_0 {
                    codes: of_words(&q8_0.codes, blocks * q8_0::WORDS),
                    scales: scales
                        .reshape([rows, blocks])
                        .select(0, ids.clone())
                        .flatten(0, 1),
                })
            }
            Packed::Ggml(blocks) if self.has_whole_rows() => {
                let bytes = columns / blocks.format.block() * blocks.format.bytes();
                if !bytes.is_multiple_of(4) {
                    return self.dense().select(0, ids.clone());
                }
                Packed::Ggml(Blocks {
                    format: blocks.format,
                    words: of_words(&blocks.words, bytes / 4),
                })
            }
            Packed::Halves(halves) if self.has_whole_rows() => Packed::Halves(Halves {
                half: halves.half,
                words: of_words(&halves.words, columns / 2),
            }),
            _ => return self.dense().select(0, ids.clone()),
        };
        let dims = [ids.dims()[0], columns];
        Self { dims, codes }.dense()
    }

    /// The matrix in f32.
    ///
    /// # Panics
    /// With [`aios_kernels::buffer::OutOfMemory`].
    pub fn dense(&self) -> Tensor<B, 2> {
        self.dense_in(DType::F32)
    }

    /// The matrix in the format of what it is multiplied with, or else in f32: what computes on the host reads that.
    ///
    /// # Panics
    /// With [`aios_kernels::buffer::OutOfMemory`].
    pub fn dense_in(&self, format: DType) -> Tensor<B, 2> {
        match &self.codes {
            Packed::Nf4(codes) => B::nf4_dense(codes, self.dims, format),
            Packed::Q8_0(codes) => B::q8_0_dense(codes, self.dims, format),
            Packed::Ggml(blocks) => B::ggml_dense(blocks, self.dims, format),
            Packed::Halves(halves) => B::halves_dense(halves, self.dims, format),
        }
    }

    pub fn device(&self) -> B::Device {
        match &self.codes {
            Packed::Nf4(nf4) => nf4.codes.device(),
            Packed::Q8_0(q8_0) => q8_0.codes.device(),
            Packed::Ggml(blocks) => blocks.words.device(),
            Packed::Halves(halves) => halves.words.device(),
        }
    }
}

impl<B: Backend> Nf4<B> {
    /// The same on a device.
    pub fn of(nf4: nf4::Packed, device: &B::Device) -> Self {
        let absmax = match nf4.absmax {
            nf4::Absmax::Plain(values) => Absmax::Plain(floats(values, device)),
            nf4::Absmax::Nested {
                mut codes,
                nested,
                offset,
            } => {
                codes.resize(codes.len().next_multiple_of(4), 0);
                let packed = codes.as_chunks().0.iter();
                let codes = packed.map(|word| i32::from_le_bytes(*word)).collect();
                Absmax::Nested {
                    codes: words(codes, device),
                    nested: floats(nested, device),
                    offset,
                }
            }
        };
        Self {
            codes: words(nf4.codes, device),
            absmax,
        }
    }
}

impl<B: Backend> Blocks<B> {
    /// The same on a device.
    pub fn of(format: Format, bytes: &[u8], device: &B::Device) -> Self {
        let (whole, rest) = bytes.as_chunks::<4>();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        let padded = (!rest.is_empty()).then_some(&last);
        let each = whole.iter().chain(padded);
        let words_of = each.map(|word| i32::from_le_bytes(*word)).collect();
        Self {
            format,
            words: words(words_of, device),
        }
    }
}

/// How a file has matrices that are held so.
fn file_format(storage: Storage) -> Option<Format> {
    Format::ALL
        .into_iter()
        .find(|format| stored_in(*format) == storage)
}

fn words<B: Backend>(words: Vec<i32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let count = words.len();
    Tensor::from_data(TensorData::new(words, [count]), device)
}

fn floats<B: Backend>(values: Vec<f32>, device: &B::Device) -> Tensor<B, 1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use super::*;
    use crate::{CpuBackend, NdarrayBackend};
    use burn::tensor::DType;

    fn dense<B: Ops>(values: &[f32], dims: [usize; 2], storage: Storage) -> Vec<f32> {
        let stored = Stored::<B>::of(values, dims, storage, &Default::default())
            .expect("a format that is decoded");
        let dense = stored.dense();
        assert_eq!(dense.dims(), dims);
        crate::floats(dense)
    }

    #[test]
    fn rows_are_those_of_the_whole() {
        let device = Default::default();
        // Rows of 1,024 numbers are whole words in each format; those of 256 are not.
        for columns in [256, 1024] {
            let dims = [6, columns];
            let values: Vec<f32> = (0..6 * columns).map(|i| (i as f32 * 0.37).sin()).collect();
            for storage in [
                Storage::Nf4,
                Storage::Q8_0,
                Storage::Q4_0,
                Storage::Q4_1,
                Storage::Q5_0,
                Storage::Q4K,
                Storage::Q5K,
                Storage::Q6K,
            ] {
                let stored = Stored::<CpuBackend>::made_up(&values, dims, storage, &device);
                let stored = stored.expect("a format that is decoded");
                let whole = crate::floats(stored.dense());
                let rows = crate::floats(stored.rows(&crate::ids_tensor(&[4, 0, 4, 5], &device)));
                for (row, got) in [4, 0, 4, 5].into_iter().zip(rows.chunks(columns)) {
                    let want = &whole[row * columns..][..columns];
                    assert!(got == want, "{storage:?} {columns} {row}");
                }
            }
        }
    }

    #[test]
    fn tensor_operations_decode_as_the_kernel_does() {
        for dims in [[1, 1], [3, 21], [8, 8], [33, 77], [70, 300]] {
            let n: usize = dims.iter().product();
            let values: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            for storage in [Storage::Nf4, Storage::Q8_0] {
                let kernel = dense::<CpuBackend>(&values, dims, storage);
                let reference = dense::<NdarrayBackend>(&values, dims, storage);
                assert_eq!(kernel, reference, "{dims:?} {storage:?}");
            }
        }
    }

    /// As many blocks as a format has with values in all orders of size, and its padding.
    fn blocks(format: Format, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count * format.bytes())
            .map(|i| (i * i * 31 + i / 7) as u8)
            .collect();
        for (i, block) in bytes.chunks_mut(format.bytes()).enumerate() {
            for at in format.scales() {
                // Zero, subnormal and normal ones, of both signs; infinity and NaN are in the kernels' own tests.
                let scale = [0x0000, 0x8013, 0x2c55, 0xa123, 0x03ff, 0x7bff][i % 6] as u16;
                block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        bytes
    }

    fn decoded<B: Ops>(format: Format, bytes: &[u8], dims: [usize; 2]) -> Vec<f32> {
        let device = Default::default();
        let own = B::ggml_dense(&Blocks::of(format, bytes, &device), dims, DType::F32);
        let held = Stored::<B>::of_blocks(format, bytes, dims, &device);
        let own = crate::floats(own);
        assert_eq!(crate::floats(held.dense()), own, "{format:?}");
        own
    }

    #[test]
    fn tensor_operations_decode_ggml_blocks_as_the_kernel_does() {
        for format in Format::ALL {
            for count in [1, 2, 7, 66] {
                let bytes = blocks(format, count);
                let dims = [count, format.block()];
                let kernel = decoded::<CpuBackend>(format, &bytes, dims);
                let reference = decoded::<NdarrayBackend>(format, &bytes, dims);
                assert_eq!(kernel, reference, "{format:?} {count}");
            }
        }
    }

    #[test]
    fn few_tokens_are_multiplied_by_what_is_stored_as_by_the_dense_matrix() {
        let device = Default::default();
        let dims = [21, 512];
        let values: Vec<f32> = (0..21 * 512).map(|i| (i as f32 * 0.37).sin()).collect();
        let of = |storage| Stored::<CpuBackend>::of(&values, dims, storage, &device);
        let mut held = vec![of(Storage::Nf4).unwrap(), of(Storage::Q8_0).unwrap()];
        for format in Format::ALL {
            let bytes = blocks(format, 21 * 512 / format.block());
            held.push(Stored::of_blocks(format, &bytes, dims, &device));
        }
        // Rows that share blocks are decoded.
        held.push(Stored::of(&values[..21 * 500], [21, 500], Storage::Q8_0, &device).unwrap());
        for held in held {
            for tokens in [1, 3, 8, 9] {
                for format in [DType::F32, DType::BF16] {
                    let x = (0..tokens * held.dims[1]).map(|i| (i as f32 * 0.71).sin());
                    let data = TensorData::new(x.collect::<Vec<_>>(), [tokens, held.dims[1]]);
                    let x = crate::in_format(Tensor::from_data(data, &device), format);
                    let got = CpuBackend::linear_forward_stored(&x, &held);
                    assert_eq!(got.dtype(), format);
                    // What is not decoded is multiplied in f32, whatever the tokens are kept in.
                    let x = match tokens <= crate::FEW_TOKENS && held.has_whole_rows() {
                        true => crate::in_format(x, DType::F32),
                        false => x,
                    };
                    let want = crate::floats(CpuBackend::linear_forward(&x, &held.dense()));
                    let scale = want.iter().fold(1e-6_f32, |most, v| most.max(v.abs()));
                    let tolerance = if format == DType::F32 { 3e-6 } else { 4e-3 };
                    for (got, want) in crate::floats(got).iter().zip(&want) {
                        assert!((got - want).abs() <= tolerance * scale, "{got} {want}");
                    }
                }
            }
        }
    }
}
