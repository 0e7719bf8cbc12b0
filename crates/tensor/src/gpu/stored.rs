//! Decoding of matrices that are held in few bits: one kernel for each.

use crate::gpu;
use crate::gpu::elements::{count, elements, empty, launch};
use crate::gpu::fused::{Gpu, Matrix, Outline, float, queue};
use crate::gpu::kernel::{KernelRuntime, numbers};
use crate::gpu::row_texts::{BF16_DENSE, F16_DENSE, NF4_DENSE, Q8_0_DENSE, Texts};
use crate::gpu::source::Kernel;
use crate::stored::{Absmax, Blocks, Half, Halves, Nf4, Q8_0};
use aios_kernels::ggml::Format;
use aios_kernels::{adamw_8bit::SIGNED, nf4, q8_0};
use burn::tensor::{DType, Shape};
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// [`crate::Ops::nf4_dense`] on a GPU.
pub(super) fn nf4<R, BT>(of: &Nf4<Gpu<R, BT>>, dims: [usize; 2], format: DType) -> Matrix<R, BT>
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
    let (inputs, n) = ([codes, absmax, nested], dims[0] * dims[1]);
    let outline = [outline(dims, format)];
    let [dense] = queue::<R, BT, 3, 1>("nf4_dense", inputs, outline, move |inputs| {
        let inputs = inputs.map(into_contiguous);
        let dense = empty(&inputs[0], dims, format);
        let info = numbers(&dense, &nf4_info(count(n), offset));
        let kernel = NF4_DENSE.kernel(elements(format, n));
        let words = n.div_ceil(nf4::BLOCK / nf4::WORDS);
        let inputs = inputs.iter().map(|tensor| &tensor.handle);
        let buffers: Vec<_> = inputs.chain([&dense.handle, &info]).collect();
        kernel.launch(&dense.client, workgroups(&kernel, words), &buffers);
        [dense]
    });
    float(dense)
}

/// [`crate::Ops::q8_0_dense`] on a GPU.
pub(super) fn q8_0<R, BT>(of: &Q8_0<Gpu<R, BT>>, dims: [usize; 2], format: DType) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let inputs = [
        of.codes.clone().into_primitive(),
        of.scales.clone().into_primitive().tensor(),
    ];
    let n = dims[0] * dims[1];
    let outline = [outline(dims, format)];
    let [dense] = queue::<R, BT, 2, 1>("q8_0_dense", inputs, outline, move |inputs| {
        let words = n.div_ceil(q8_0::BLOCK / q8_0::WORDS);
        let kernel = Q8_0_DENSE.kernel(elements(format, n));
        [decoded(&kernel, inputs, dims, format, words)]
    });
    float(dense)
}

/// [`crate::Ops::halves_dense`] on a GPU.
pub(super) fn halves<R, BT>(
    of: &Halves<Gpu<R, BT>>,
    dims: [usize; 2],
    format: DType,
) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let texts = halves_texts(of.half);
    let (inputs, n) = ([of.words.clone().into_primitive()], dims[0] * dims[1]);
    let outline = [outline(dims, format)];
    let [dense] = queue::<R, BT, 1, 1>(texts.name, inputs, outline, move |inputs| {
        let elements = elements(format, n);
        let kernel = texts.kernel(elements);
        [decoded(&kernel, inputs, dims, format, elements.pieces(n))]
    });
    float(dense)
}

fn halves_texts(half: Half) -> &'static Texts {
    match half {
        Half::Bf16 => &BF16_DENSE,
        Half::F16 => &F16_DENSE,
    }
}

/// [`crate::Ops::ggml_dense`] on a GPU.
pub(super) fn ggml<R, BT>(of: &Blocks<Gpu<R, BT>>, dims: [usize; 2], format: DType) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let (blocks, n) = (of.format, dims[0] * dims[1]);
    // It counts bytes in 32 bits as well, which may be more.
    count(n / blocks.block() * blocks.bytes());
    let inputs = [of.words.clone().into_primitive()];
    let outline = [outline(dims, format)];
    let [dense] = queue::<R, BT, 1, 1>("ggml_dense", inputs, outline, move |inputs| {
        let kernel = ggml_kernel(blocks, format);
        [decoded(&kernel, inputs, dims, format, n / VALUES)]
    });
    float(dense)
}

/// Values that a thread takes of a block.
const VALUES: usize = 4;

fn ggml_kernel(blocks: Format, format: DType) -> Kernel {
    let (block, bytes) = (blocks.block() as u32, blocks.bytes() as u32);
    gpu::ggml::kernel(blocks.name(), block, bytes, elements(format, 4).format)
}

fn outline(dims: [usize; 2], format: DType) -> Outline {
    (Shape::from(dims), format)
}

/// What the kernel of NF4 reads besides the tensors: both maps' values, then the numbers. `offset` is the mean of absmaxes that
/// are in 8 bits.
fn nf4_info(elements: u32, offset: Option<f32>) -> Vec<u32> {
    let maps = SIGNED.values.iter().chain(&nf4::CODES);
    let coded = u32::from(offset.is_some());
    let numbers = [elements, coded, offset.unwrap_or(0.0).to_bits()];
    maps.map(|value| value.to_bits()).chain(numbers).collect()
}

fn workgroups(kernel: &Kernel, words: usize) -> usize {
    words.div_ceil(kernel.threads as usize)
}

/// The inputs and the result are the kernel's buffers; a thread takes a word at a time.
fn decoded<R: KernelRuntime, const INPUTS: usize>(
    kernel: &Kernel,
    inputs: [CubeTensor<R>; INPUTS],
    dims: [usize; 2],
    format: DType,
    words: usize,
) -> CubeTensor<R> {
    let inputs = inputs.map(into_contiguous);
    let dense = empty(&inputs[0], dims, format);
    let buffers: Vec<_> = inputs.iter().chain([&dense]).map(|t| &t.handle).collect();
    let told = [count(dims[0] * dims[1])];
    launch(kernel, &dense, workgroups(kernel, words), &buffers, &told);
    dense
}

#[cfg(test)]
#[cfg(all(target_os = "linux", feature = "cuda"))]
mod tests {
    use super::*;
    use crate::gpu::emulator::{Emulator, Launch, Memory};
    use half::{bf16, f16};

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

    const FORMATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    /// What a format makes of values.
    fn rounded(values: &[f32], format: DType) -> Vec<f32> {
        let values = values.iter().copied();
        match format {
            DType::F16 => values.map(|x| f16::from_f32(x).to_f32()).collect(),
            DType::BF16 => values.map(|x| bf16::from_f32(x).to_f32()).collect(),
            _ => values.collect(),
        }
    }

    fn emulated(
        emulator: &Emulator,
        kernel: &Kernel,
        inputs: Vec<Vec<u8>>,
        (n, format): (usize, DType),
        info: &[u32],
    ) -> Vec<f32> {
        let mut memory = Memory::default();
        let read: Vec<usize> = inputs.into_iter().map(|bytes| memory.put(bytes)).collect();
        let dense = memory.add(format.size() * n);
        let launch = Launch {
            // Fewer than the larger sizes have words for.
            blocks: 3,
            descending: n.is_multiple_of(2),
        };
        emulator.launch(kernel, &launch, &mut memory, (&read, &[dense]), info);
        let bytes = &memory.buffers[dense];
        let two = bytes
            .as_chunks()
            .0
            .iter()
            .map(|two| u16::from_ne_bytes(*two));
        match format {
            DType::F16 => two.map(|bits| f16::from_bits(bits).to_f32()).collect(),
            DType::BF16 => two.map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            _ => {
                let four = bytes.as_chunks().0.iter();
                four.map(|four| f32::from_ne_bytes(*four)).collect()
            }
        }
    }

    /// Each size in each format, with the kernel that takes it.
    fn each(texts: &Texts, mut case: impl FnMut(&Emulator, &Kernel, (usize, DType))) {
        for (format, unit) in FORMATS
            .into_iter()
            .flat_map(|format| [(format, 1), (format, 4)])
        {
            let elements = elements(format, unit);
            let kernel = texts.kernel(elements);
            let built = Emulator::build(std::slice::from_ref(&kernel), elements.format as usize);
            let Some(emulator) = built else { return };
            let of_unit = |n: &usize| n.is_multiple_of(4) == elements.quads;
            for n in SIZES.into_iter().filter(of_unit) {
                case(&emulator, &kernel, (n, format));
            }
        }
    }

    #[test]
    fn the_cuda_text_of_nf4_decodes_to_the_bit() {
        each(&NF4_DENSE, |emulator, kernel, (n, format)| {
            let held = nf4::quantize(&values(n));
            let absmax = nf4::absmaxes(&held.absmax, &held.nested, held.offset);
            let mut packed = held.absmax.clone();
            packed.resize(packed.len().next_multiple_of(4), 0);
            let inputs = vec![
                bytes(&held.codes, i32::to_ne_bytes),
                packed,
                bytes(&held.nested, f32::to_ne_bytes),
            ];
            let want = rounded(&nf4::dequantize(&held.codes, &absmax, n), format);
            let info = nf4_info(n as u32, Some(held.offset));
            let got = emulated(emulator, kernel, inputs.clone(), (n, format), &info);
            assert!(got == want, "{n} in {format:?}");

            let plain = bytes(&absmax, f32::to_ne_bytes);
            let inputs = vec![inputs[0].clone(), plain.clone(), plain];
            let info = nf4_info(n as u32, None);
            let got = emulated(emulator, kernel, inputs, (n, format), &info);
            assert!(got == want, "{n} in {format:?}, absmaxes in f32");
        });
    }

    #[test]
    fn the_cuda_text_of_q8_0_decodes_to_the_bit() {
        each(&Q8_0_DENSE, |emulator, kernel, (n, format)| {
            let (codes, scales) = q8_0::quantize(&values(n));
            let inputs = vec![
                bytes(&codes, i32::to_ne_bytes),
                bytes(&scales, f32::to_ne_bytes),
            ];
            let got = emulated(emulator, kernel, inputs, (n, format), &[n as u32]);
            let want = rounded(&q8_0::dequantize(&codes, &scales, n), format);
            assert!(got == want, "{n} in {format:?}");
        });
    }

    #[test]
    fn the_cuda_text_of_halves_decodes_to_the_bit() {
        for half in [Half::Bf16, Half::F16] {
            let held_in = match half {
                Half::Bf16 => DType::BF16,
                Half::F16 => DType::F16,
            };
            each(halves_texts(half), |emulator, kernel, (n, format)| {
                let mut values = values(n);
                values[n / 2] = f32::INFINITY;
                let inputs = vec![bytes(&half.words(&values), i32::to_ne_bytes)];
                let got = emulated(emulator, kernel, inputs, (n, format), &[n as u32]);
                let want = rounded(&rounded(&values, held_in), format);
                assert!(got == want, "{n} of {half:?} in {format:?}");
            });
        }
    }

    #[test]
    fn the_cuda_text_of_ggml_decodes_to_the_bit() {
        for (blocks_in, format) in Format::ALL.into_iter().zip(FORMATS.into_iter().cycle()) {
            for format in [DType::F32, format] {
                decodes_ggml(blocks_in, format);
            }
        }
    }

    fn decodes_ggml(held: Format, format: DType) {
        let kernel = ggml_kernel(held, format);
        let element = elements(format, 4).format as usize;
        let Some(emulator) = Emulator::build(std::slice::from_ref(&kernel), element) else {
            return;
        };
        for blocks in [1, 2, 3, 1000] {
            let (n, mut bytes) = (blocks * held.block(), blocks_of(held, blocks));
            let want = aios_kernels::ggml::dequantize(held, &bytes, n);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let got = emulated(&emulator, &kernel, vec![bytes], (n, format), &[n as u32]);
            for (i, (got, want)) in got.iter().zip(&rounded(&want, format)).enumerate() {
                let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(same, "{held:?}, value {i} of {n}: {got:e} for {want:e}");
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
    use burn::tensor::DType;
    use burn::tensor::backend::Backend;

    /// What each format makes of values; NF4 with absmaxes in f32 besides.
    fn decoded<B: Ops>(
        values: &[f32],
        dims: [usize; 2],
        format: DType,
        on: &B::Device,
    ) -> [Vec<f32>; 5] {
        let of = |storage| Stored::of(values, dims, storage, on).expect("a format that is decoded");
        let held = nf4::quantize(values);
        let absmax = nf4::absmaxes(&held.absmax, &held.nested, held.offset);
        let plain = Packed {
            codes: held.codes,
            absmax: Absmax::Plain(absmax),
        };
        let plain = Stored::of_nf4(plain, dims, on);
        {
            let half = |storage| Stored::of_halves(values, dims, storage, on).expect("16 bits");
            let halves = [half(Storage::Bf16), half(Storage::F16)];
            let [bf16, f16] = halves;
            [of(Storage::Nf4), of(Storage::Q8_0), plain, bf16, f16]
                .map(|held: Stored<B>| floats(held.dense_in(format)))
        }
    }

    /// Blocks with scales of any exponent but the largest, which is that of infinity.
    fn blocks(format: Format, count: usize) -> Vec<u8> {
        let byte = |i: usize| (i * i * 31 + i / 7) as u8 & 0xbf;
        (0..count * format.bytes()).map(byte).collect()
    }

    fn ggml<B: Ops>(format: Format, bytes: &[u8], dims: [usize; 2], on: &B::Device) -> Vec<f32> {
        floats(B::ggml_dense(
            &Blocks::of(format, bytes, on),
            dims,
            DType::F32,
        ))
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
        for format in [DType::F32, DType::F16] {
            if !WgpuBackend::supports_dtype(&device, format) {
                continue;
            }
            // Values are at most 1, where a step of f16 is 2^-11.
            let bound = if format == DType::F32 { 1e-6 } else { 5e-4 };
            for dims in [[1, 1], [3, 21], [8, 8], [33, 77], [70, 300], [1100, 1031]] {
                let n: usize = dims.iter().product();
                let values: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
                let got = decoded::<WgpuBackend>(&values, dims, format, &device);
                let want = decoded::<CpuBackend>(&values, dims, format, &Default::default());
                for (got, want) in got.iter().zip(&want) {
                    let off = got.iter().zip(want).map(|(g, w)| (g - w).abs());
                    assert!(off.fold(0.0, f32::max) < bound, "{dims:?} in {format:?}");
                }
            }
        }
    }
}
