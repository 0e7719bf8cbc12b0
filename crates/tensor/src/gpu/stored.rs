//! Decoding of matrices that are held in few bits: one kernel for each.

use crate::gpu;
use crate::gpu::fused::{Gpu, Outline, float, queue};
use crate::gpu::kernel::{KernelRuntime, numbers};
use crate::gpu::source::{Kernel, Part};
use crate::stored::{Absmax, Blocks, Nf4, Q8_0};
use aios_kernels::ggml::Format;
use aios_kernels::{adamw_8bit::SIGNED, nf4, q8_0};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

/// Threads of a workgroup.
const THREADS: u32 = 256;

fn nf4_kernel() -> Kernel {
    kernel(
        "nf4_dense",
        const {
            &[Part::new(include_str!(
                "../../../../shaders/nf4_dense.wgsl"
            ))]
        },
        const { &[Part::new(include_str!("../../../../shaders/nf4_dense.cu"))] },
    )
}

fn q8_0_kernel() -> Kernel {
    kernel(
        "q8_0_dense",
        const {
            &[Part::new(include_str!(
                "../../../../shaders/q8_0_dense.wgsl"
            ))]
        },
        const { &[Part::new(include_str!("../../../../shaders/q8_0_dense.cu"))] },
    )
}

fn kernel(name: &'static str, wgsl: &'static [Part], cuda: &'static [Part]) -> Kernel {
    Kernel {
        name,
        constants: vec![],
        wgsl,
        cuda,
        threads: THREADS,
        cuda_shared_bytes: 0,
    }
}

/// [`crate::Ops::nf4_dense`] on a GPU.
pub(super) fn nf4<R, BT>(of: &Nf4<Gpu<R, BT>>, dims: [usize; 2]) -> Tensor<Gpu<R, BT>, 2>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let codes = of.codes.clone().into_primitive();
    let (absmax, nested, offset) = match of.absmax.clone() {
        Absmax::Plain(values) => {
            let values = values.into_primitive().tensor();
            (values.clone(), values, None)
        }
        Absmax::Nested {
            codes,
            nested,
            offset,
        } => {
            let nested = nested.into_primitive().tensor();
            (codes.into_primitive(), nested, Some(offset))
        }
    };
    let (inputs, elements) = ([codes, absmax, nested], dims[0] * dims[1]);
    let [dense] = queue::<R, BT, 3, 1>("nf4_dense", inputs, [outline(dims)], move |inputs| {
        let info = nf4_info(count(elements), offset);
        let words = elements.div_ceil(nf4::BLOCK / nf4::WORDS);
        [decoded(&nf4_kernel(), inputs, dims, &info, words)]
    });
    float(dense)
}

/// [`crate::Ops::q8_0_dense`] on a GPU.
pub(super) fn q8_0<R, BT>(of: &Q8_0<Gpu<R, BT>>, dims: [usize; 2]) -> Tensor<Gpu<R, BT>, 2>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let inputs = [
        of.codes.clone().into_primitive(),
        of.scales.clone().into_primitive().tensor(),
    ];
    let elements = dims[0] * dims[1];
    let [dense] = queue::<R, BT, 2, 1>("q8_0_dense", inputs, [outline(dims)], move |inputs| {
        let words = elements.div_ceil(q8_0::BLOCK / q8_0::WORDS);
        [decoded(
            &q8_0_kernel(),
            inputs,
            dims,
            &[count(elements)],
            words,
        )]
    });
    float(dense)
}

/// [`crate::Ops::ggml_dense`] on a GPU.
pub(super) fn ggml<R, BT>(of: &Blocks<Gpu<R, BT>>, dims: [usize; 2]) -> Tensor<Gpu<R, BT>, 2>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let (format, elements) = (of.format, dims[0] * dims[1]);
    // It counts bytes in 32 bits as well, which may be more.
    count(elements / format.block() * format.bytes());
    let inputs = [of.words.clone().into_primitive()];
    let [dense] = queue::<R, BT, 1, 1>("ggml_dense", inputs, [outline(dims)], move |inputs| {
        let info = [count(elements)];
        let kernel = ggml_kernel(format);
        [decoded(&kernel, inputs, dims, &info, elements / VALUES)]
    });
    float(dense)
}

/// Values that a thread takes of a block.
const VALUES: usize = 4;

fn ggml_kernel(format: Format) -> Kernel {
    let (block, bytes) = (format.block() as u32, format.bytes() as u32);
    gpu::ggml::kernel(format.name(), block, bytes)
}

fn outline(dims: [usize; 2]) -> Outline {
    (Shape::from(dims), DType::F32)
}

/// The kernels count elements in 32 bits.
fn count(elements: usize) -> u32 {
    u32::try_from(elements).expect("a weight has fewer than 2^32 numbers")
}

/// What the kernel of NF4 reads besides the tensors: both maps' values, then the numbers. `offset` is the mean of absmaxes that
/// are in 8 bits.
fn nf4_info(elements: u32, offset: Option<f32>) -> Vec<u32> {
    let maps = SIGNED.values.iter().chain(&nf4::CODES);
    let coded = u32::from(offset.is_some());
    let numbers = [elements, coded, offset.unwrap_or(0.0).to_bits()];
    maps.map(|value| value.to_bits()).chain(numbers).collect()
}

/// The inputs, the result and `info` are the kernel's arguments; a thread takes a word at a time.
fn decoded<R: KernelRuntime, const INPUTS: usize>(
    kernel: &Kernel,
    inputs: [CubeTensor<R>; INPUTS],
    dims: [usize; 2],
    info: &[u32],
    words: usize,
) -> CubeTensor<R> {
    let inputs = inputs.map(into_contiguous);
    let (client, device) = (inputs[0].client.clone(), inputs[0].device.clone());
    let shape = Shape::from(dims);
    let dense = empty_device_contiguous_dtype(client.clone(), device, shape, DType::F32);
    let info = numbers(&inputs[0], info);
    let inputs = inputs.iter().map(|tensor| &tensor.handle);
    let buffers: Vec<_> = inputs.chain([&dense.handle, &info]).collect();
    kernel.launch(&client, words.div_ceil(kernel.threads as usize), &buffers);
    dense
}

#[cfg(test)]
#[cfg(all(target_os = "linux", feature = "cuda"))]
mod tests {
    use super::*;
    use crate::gpu::emulator::{Emulator, Launch, Memory};

    const SIZES: [usize; 6] = [1, 7, 64, 321, 64 * 256, 64 * 256 * 3 + 5];

    fn values(n: usize) -> Vec<f32> {
        let wave = |i: usize| ((i as f32 * 0.37).sin() + 0.1).powi(3);
        // A block of zeros.
        let zero = |i: usize| (64..128).contains(&i);
        (0..n)
            .map(|i| if zero(i) { 0.0 } else { wave(i) })
            .collect()
    }

    fn bytes<T: Copy>(values: &[T], four: fn(T) -> [u8; 4]) -> Vec<u8> {
        values.iter().flat_map(|&value| four(value)).collect()
    }

    fn emulated(
        emulator: &Emulator,
        kernel: &Kernel,
        inputs: Vec<Vec<u8>>,
        n: usize,
        info: &[u32],
    ) -> Vec<f32> {
        let mut memory = Memory::default();
        let read: Vec<usize> = inputs.into_iter().map(|bytes| memory.put(bytes)).collect();
        let dense = memory.add(4 * n);
        let launch = Launch {
            // Fewer than the larger sizes have words for.
            blocks: 3,
            descending: n.is_multiple_of(2),
        };
        emulator.launch(kernel, &launch, &mut memory, (&read, &[dense]), info);
        let four = memory.buffers[dense].as_chunks().0;
        four.iter().map(|four| f32::from_ne_bytes(*four)).collect()
    }

    #[test]
    fn the_cuda_text_of_nf4_decodes_to_the_bit() {
        let Some(emulator) = Emulator::build(&[nf4_kernel()], 0) else {
            return;
        };
        for n in SIZES {
            let held = nf4::quantize(&values(n));
            let absmax = nf4::absmaxes(&held.absmax, &held.nested, held.offset);
            let mut packed = held.absmax.clone();
            packed.resize(packed.len().next_multiple_of(4), 0);
            let inputs = vec![
                bytes(&held.codes, i32::to_ne_bytes),
                packed,
                bytes(&held.nested, f32::to_ne_bytes),
            ];
            let want = nf4::dequantize(&held.codes, &absmax, n);
            let info = nf4_info(n as u32, Some(held.offset));
            let got = emulated(&emulator, &nf4_kernel(), inputs.clone(), n, &info);
            assert!(got == want, "{n}");

            let plain = bytes(&absmax, f32::to_ne_bytes);
            let inputs = vec![inputs[0].clone(), plain.clone(), plain];
            let info = nf4_info(n as u32, None);
            let got = emulated(&emulator, &nf4_kernel(), inputs, n, &info);
            assert!(got == want, "{n}, absmaxes in f32");
        }
    }

    #[test]
    fn the_cuda_text_of_q8_0_decodes_to_the_bit() {
        let Some(emulator) = Emulator::build(&[q8_0_kernel()], 0) else {
            return;
        };
        for n in SIZES {
            let (codes, scales) = q8_0::quantize(&values(n));
            let inputs = vec![
                bytes(&codes, i32::to_ne_bytes),
                bytes(&scales, f32::to_ne_bytes),
            ];
            let got = emulated(&emulator, &q8_0_kernel(), inputs, n, &[n as u32]);
            assert!(got == q8_0::dequantize(&codes, &scales, n), "{n}");
        }
    }

    #[test]
    fn the_cuda_text_of_ggml_decodes_to_the_bit() {
        for format in Format::ALL {
            let kernel = ggml_kernel(format);
            let Some(emulator) = Emulator::build(std::slice::from_ref(&kernel), 0) else {
                return;
            };
            for blocks in [1, 2, 3, 1000] {
                let (n, mut bytes) = (blocks * format.block(), blocks_of(format, blocks));
                let want = aios_kernels::ggml::dequantize(format, &bytes, n);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                let got = emulated(&emulator, &kernel, vec![bytes], n, &[n as u32]);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                    assert!(same, "{format:?}, value {i} of {n}: {got:e} for {want:e}");
                }
            }
        }
    }

    /// Anything, with scales of all kinds.
    fn blocks_of(format: Format, count: usize) -> Vec<u8> {
        let byte = |i: usize| (i * i * 31 + i / 7) as u8;
        (0..count * format.bytes()).map(byte).collect()
    }
}

#[cfg(test)]
#[cfg(feature = "wgpu")]
mod wgpu_tests {
    use crate::gpu::on_wgpu::tried_on;
    use crate::stored::Blocks;
    use crate::{CpuBackend, Ops, Stored, WgpuBackend, floats};
    use aios_base::storage::Storage;
    use aios_kernels::ggml::Format;
    use aios_kernels::nf4::{self, Absmax, Packed};

    /// What each format makes of values; NF4 with absmaxes in f32 besides.
    fn decoded<B: Ops>(values: &[f32], dims: [usize; 2], on: &B::Device) -> [Vec<f32>; 3] {
        let of = |storage| Stored::of(values, dims, storage, on).expect("a format that is decoded");
        let held = nf4::quantize(values);
        let absmax = nf4::absmaxes(&held.absmax, &held.nested, held.offset);
        let plain = Packed {
            codes: held.codes,
            absmax: Absmax::Plain(absmax),
        };
        let plain = Stored::of_nf4(plain, dims, on);
        [of(Storage::Nf4), of(Storage::Q8_0), plain].map(|held: Stored<B>| floats(held.dense()))
    }

    /// Blocks with scales of any exponent but the largest, which is that of infinity.
    fn blocks(format: Format, count: usize) -> Vec<u8> {
        let byte = |i: usize| (i * i * 31 + i / 7) as u8 & 0xbf;
        (0..count * format.bytes()).map(byte).collect()
    }

    fn ggml<B: Ops>(format: Format, bytes: &[u8], dims: [usize; 2], on: &B::Device) -> Vec<f32> {
        floats(B::ggml_dense(&Blocks::of(format, bytes, on), dims))
    }

    #[test]
    fn the_wgsl_text_of_ggml_decodes_as_the_cpu_does_on_wgpu() {
        let Some(device) = tried_on() else {
            return;
        };
        for format in Format::ALL {
            for count in [1, 2, 7, 4500] {
                let (bytes, dims) = (blocks(format, count), [count, format.block()]);
                let got = ggml::<WgpuBackend>(format, &bytes, dims, &device);
                let want = ggml::<CpuBackend>(format, &bytes, dims, &Default::default());
                for (got, want) in got.iter().zip(&want) {
                    // A product and a difference may be rounded once; the values are at most 63 * 2 * 31.
                    assert!((got - want).abs() <= 1e-3, "{format:?}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn the_wgsl_texts_decode_as_the_cpu_does_on_wgpu() {
        let Some(device) = tried_on() else {
            return;
        };
        for dims in [[1, 1], [3, 21], [8, 8], [33, 77], [70, 300], [1100, 1031]] {
            let n: usize = dims.iter().product();
            let values: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let got = decoded::<WgpuBackend>(&values, dims, &device);
            let want = decoded::<CpuBackend>(&values, dims, &Default::default());
            for (got, want) in got.iter().zip(&want) {
                let off = got.iter().zip(want).map(|(g, w)| (g - w).abs());
                assert!(off.fold(0.0, f32::max) < 1e-6, "{dims:?}");
            }
        }
    }
}
