//! Matrices that are held in few bits and decoded when they are multiplied by.

pub(crate) mod reference;

use crate::Ops;
use aios_base::storage::Storage;
use aios_kernels::{nf4, q8_0};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

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

impl<B: Ops> Stored<B> {
    /// A matrix in a format, of values given row after row; `None` if it is not one of those that are decoded.
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
            Storage::F32 | Storage::F16 | Storage::Bf16 => return None,
        };
        Some(Self { dims, codes })
    }

    /// A matrix that is in NF4 already.
    pub fn of_nf4(nf4: nf4::Packed, dims: [usize; 2], device: &B::Device) -> Self {
        Self {
            dims,
            codes: Packed::Nf4(Nf4::of(nf4, device)),
        }
    }

    /// The matrix in f32.
    ///
    /// # Panics
    /// With [`aios_kernels::buffer::OutOfMemory`].
    pub fn dense(&self) -> Tensor<B, 2> {
        match &self.codes {
            Packed::Nf4(codes) => B::nf4_dense(codes, self.dims),
            Packed::Q8_0(codes) => B::q8_0_dense(codes, self.dims),
        }
    }

    pub fn device(&self) -> B::Device {
        match &self.codes {
            Packed::Nf4(nf4) => nf4.codes.device(),
            Packed::Q8_0(q8_0) => q8_0.codes.device(),
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

    fn dense<B: Ops>(values: &[f32], dims: [usize; 2], storage: Storage) -> Vec<f32> {
        let stored = Stored::<B>::of(values, dims, storage, &Default::default())
            .expect("a format that is decoded");
        let dense = stored.dense();
        assert_eq!(dense.dims(), dims);
        crate::floats(dense)
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
}
