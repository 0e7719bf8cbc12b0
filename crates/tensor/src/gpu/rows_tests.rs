//! The kernels over rows of elements give what the CPU gives: their WGSL on a device, their CUDA texts in the emulator.

use crate::{AdamWStep, AttentionShape, CpuBackend, Ops, Rope, Turn, floats, in_format};
use burn::tensor::{DType, Int, Tensor, TensorData};

/// Sizes: one of each; ragged ones, of which a piece of four elements is a part or is not; more rows than workgroups.
const NORMS: [[usize; 2]; 5] = [[1, 1], [5, 12], [3, 515], [4, 700], [4100, 4]];
/// Rows, and width of the result.
const GLUS: [[usize; 2]; 4] = [[1, 1], [5, 12], [3, 171], [7, 1024]];
/// Heads that turn as a whole, by four and one by one, and in part.
const ROPES: [Turned; 4] = [
    Turned::new([2, 5], [3, 1], 8, 4),
    Turned::new([1, 7], [2, 2], 6, 3),
    Turned::new([3, 4], [4, 2], 16, 4),
    Turned::new([2, 3], [1, 1], 10, 3),
];
/// Ids that occur once, often, and not at all, among so many entries; a row's width.
const LOOKUPS: [(&[i32], usize, usize); 3] = [
    (&[0], 1, 1),
    (&[4, 0, 4, 4, 2, 8, 2, 4, 0, 4], 9, 515),
    (&[3, 1, 3], 5, 700),
];
/// Tokens and vocabulary.
const LOGITS: [[usize; 2]; 4] = [[1, 1], [5, 12], [4, 1031], [4100, 4]];
/// Of a parameter: one value, ragged ones, more than all threads.
const PARAMETERS: [[usize; 2]; 4] = [[1, 1], [5, 12], [3, 171], [300, 1031]];
const STEP: AdamWStep = AdamWStep {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
    step: 3,
    gradient_scale: 0.5,
};
const EPS: f32 = 1e-5;

#[derive(Clone, Copy)]
struct Turned {
    shape: [usize; 2],
    heads: [usize; 2],
    head_dim: usize,
    half: usize,
}

impl Turned {
    const fn new(shape: [usize; 2], heads: [usize; 2], head_dim: usize, half: usize) -> Self {
        Self {
            shape,
            heads,
            head_dim,
            half,
        }
    }

    fn shape(&self) -> AttentionShape {
        let ([batch, seq], [heads, kv_heads]) = (self.shape, self.heads);
        AttentionShape {
            kv_heads,
            ..AttentionShape::new(batch, seq, heads, self.head_dim)
        }
    }

    fn dims(&self) -> [usize; 2] {
        let shape = self.shape();
        [shape.batch * shape.seq, shape.qkv_width()]
    }

    /// More positions than a sequence has.
    fn table<B: Ops>(&self, device: &B::Device) -> Rope<B> {
        let frequencies: Vec<f64> = (0..self.half).map(|i| 0.3 / (i + 1) as f64).collect();
        Rope::from_frequencies(0..self.shape[1] + 2, &frequencies, 1.1, device)
    }
}

/// Waves; the second row is zeros, and the third has a NaN.
fn values([rows, width]: [usize; 2], step: f32) -> Vec<f32> {
    let value = |i: usize| match (i / width, i % width) {
        (1, _) => 0.0,
        (2, 0) => f32::NAN,
        _ => (i as f32 * step).sin() * 2.0,
    };
    (0..rows * width).map(value).collect()
}

fn matrix<B: Ops>(device: &B::Device, format: DType, dims: [usize; 2], step: f32) -> Tensor<B, 2> {
    let data = TensorData::new(values(dims, step), dims);
    in_format(Tensor::from_data(data, device), format)
}

type Results = Vec<(String, Vec<f32>)>;

/// What each operation gives at each size.
fn results<B: Ops>(device: &B::Device, format: DType) -> Results {
    let matrix = |dims, step| matrix::<B>(device, format, dims, step);
    let mut results = Vec::new();
    let mut note = |name: &str, case: String, tensor: Tensor<B, 2>| {
        results.push((format!("{name} of {case}"), floats(tensor)));
    };
    for dims in NORMS {
        let case = format!("{dims:?}");
        let (y, scale) = B::add_rms_norm(matrix(dims, 0.37), matrix(dims, 0.71), EPS);
        let dx = B::add_rms_norm_backward(&y, &scale, &matrix(dims, 0.53));
        note("add_rms_norm", case.clone(), y);
        note("the scale of add_rms_norm", case.clone(), scale);
        note("add_rms_norm_backward", case, dx);
    }
    for dims @ [rows, inner] in GLUS {
        let gate_up = matrix([rows, 2 * inner], 0.37);
        note("swiglu", format!("{dims:?}"), B::swiglu(&gate_up));
        let d = B::swiglu_backward(&gate_up, &matrix(dims, 0.71));
        note("swiglu_backward", format!("{dims:?}"), d);
    }
    for turned in ROPES {
        let (shape, table) = (turned.shape(), turned.table::<B>(device));
        let case = format!("{:?} of {:?}", turned.dims(), turned.heads);
        let qkv = matrix(turned.dims(), 0.37);
        let shared = B::rope(qkv.clone(), &table, &shape, Turn::Forward);
        note("rope", case.clone(), shared);
        let own = B::rope(qkv * 1.0, &table, &shape, Turn::Backward);
        note("rope backward, in place,", case, own);
    }
    for (ids, entries, width) in LOOKUPS {
        let rows = self::matrix(device, DType::F32, [ids.len(), width], 0.37);
        let sum = matrix([entries, width], 0.71);
        let case = format!("{} ids", ids.len());
        let added = B::embedding_gradient(Some(sum), entries, ids, rows.clone(), 0.5);
        note("embedding_gradient", case.clone(), added);
        let fresh = B::embedding_gradient(None, entries, ids, rows, 3.0);
        note("a fresh embedding_gradient", case, fresh);
    }
    for dims in LOGITS {
        let (labels, weights) = targets::<B>(device, dims);
        let logits = matrix(dims, 0.37);
        let [report, gradient] = B::softmax_cross_entropy(logits, labels, weights);
        note("softmax_cross_entropy", format!("{dims:?}"), report);
        note("its gradient", format!("{dims:?}"), gradient);
    }
    for dims in PARAMETERS {
        let [p, g, m, v] = before::<B>(device, dims);
        let norm = B::sum_of_squares(&[&finite(&p), &finite(&m)]);
        let numbers = TensorData::new(vec![norm as f32], [1, 1]);
        note(
            "sum_of_squares",
            format!("{dims:?}"),
            Tensor::from_data(numbers, device),
        );
        let (p, [m, v]) = B::adamw(p, g, Some([m, v]), &STEP);
        for (name, tensor) in [("adamw", p), ("its mean", m), ("its square", v)] {
            note(name, format!("{dims:?}"), tensor);
        }
    }
    results
}

/// Labels at the beginning, in the middle and at the end of rows. Of two rows: of the zeros one that ties with all others, and of
/// the last one the most probable.
fn labels([rows, width]: [usize; 2]) -> Vec<i32> {
    let logits = values([rows, width], 0.37);
    let last = logits.chunks(width).last().expect("a row");
    let top = (0..width).max_by(|a, b| last[*a].total_cmp(&last[*b]));
    let label = |i: usize| match i + 1 == rows {
        true => top.unwrap_or(0),
        false => i * 7 % width,
    };
    (0..rows).map(|i| label(i) as i32).collect()
}

/// Labels and weights, one of which is 0.
fn targets<B: Ops>(device: &B::Device, dims: [usize; 2]) -> (Tensor<B, 2, Int>, Tensor<B, 2>) {
    let rows = dims[0];
    let weights: Vec<f32> = (0..rows).map(|i| (i % 4) as f32 * 0.25).collect();
    let labels = TensorData::new(labels(dims), [rows, 1]);
    let weights = TensorData::new(weights, [rows, 1]);
    (
        Tensor::from_data(labels, device),
        Tensor::from_data(weights, device),
    )
}

/// A parameter, its gradient and moments before a step: those of one number are NaN, those of a row zeros.
fn before<B: Ops>(device: &B::Device, dims: [usize; 2]) -> [Tensor<B, 2>; 4] {
    let [p, g, m, v] = [0.37, 0.71, 0.53, 0.29].map(|step| matrix(device, DType::F32, dims, step));
    [p, g, m * 0.1, v.clone() * v]
}

fn finite<B: Ops>(tensor: &Tensor<B, 2>) -> Tensor<B, 2> {
    tensor.clone().mask_fill(tensor.clone().is_nan(), 3.0)
}

/// What is more than this, relative to the largest value, is no rounding error.
fn tolerance(format: DType) -> f32 {
    match format {
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        _ => 1.6e-2,
    }
}

/// The same NaNs, and otherwise the same but for rounding.
#[track_caller]
fn assert_same(case: &str, format: DType, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{case}");
    let numbers = want.iter().filter(|w| !w.is_nan());
    let scale = numbers.fold(1e-3_f32, |m, w| m.max(w.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = match want.is_nan() {
            true => got.is_nan(),
            false => (got - want).abs() <= tolerance(format) * scale,
        };
        assert!(same, "{case} in {format:?}, number {i}: {got} for {want}");
    }
}

#[cfg(feature = "wgpu")]
mod on_wgpu {
    use super::*;
    use crate::WgpuBackend;
    use aios_base::config::DeviceChoice;
    use aios_device::{Selected, select};
    use burn::tensor::backend::Backend;

    #[test]
    fn kernels_over_rows_compute_as_the_cpu_does_on_wgpu() {
        let Ok(selection) = select(&DeviceChoice::Wgpu(None)) else {
            return;
        };
        let Selected::Wgpu { device, .. } = selection.adapter.selected else {
            return;
        };
        for format in [DType::F32, DType::F16] {
            if !WgpuBackend::supports_dtype(&device, format) {
                continue;
            }
            let got = results::<WgpuBackend>(&device, format);
            let want = results::<CpuBackend>(&Default::default(), format);
            for ((case, got), (_, want)) in got.iter().zip(&want) {
                assert_same(case, format, got, want);
            }
            assert_eq!(bits(&got), bits(&results::<WgpuBackend>(&device, format)));
        }
    }

    fn bits(results: &Results) -> Vec<u32> {
        let numbers = results.iter().flat_map(|(_, numbers)| numbers);
        numbers.map(|x| x.to_bits()).collect()
    }
}

#[cfg(all(target_os = "linux", feature = "cuda"))]
mod in_the_emulator {
    use super::*;
    use crate::gpu::elements::elements;
    use crate::gpu::emulator::{Emulator, Launch, Memory};
    use crate::gpu::row_texts::{self, ALL, Elements, Texts};
    use crate::gpu::{adamw, embedding, rope};
    use burn::tensor::Shape;

    /// Those that the emulator, which has few workgroups, is quick at.
    fn few<const N: usize>(sizes: [[usize; 2]; N]) -> impl Iterator<Item = [usize; 2]> {
        sizes.into_iter().filter(|[rows, _]| *rows < 1000)
    }

    type Cpu = Tensor<CpuBackend, 2>;

    fn cpu(format: DType, dims: [usize; 2], step: f32) -> Cpu {
        matrix(&Default::default(), format, dims, step)
    }

    fn bytes(tensor: &Cpu) -> Vec<u8> {
        tensor.to_data().as_bytes().to_vec()
    }

    fn words(words: &[i32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn numbers(bytes: &[u8], format: DType) -> Vec<f32> {
        let count = bytes.len() / format.size();
        let data = TensorData::from_bytes_vec(bytes.to_vec(), Shape::from([count]), format);
        data.convert::<f32>().into_vec().unwrap()
    }

    /// A way that the texts are compiled.
    struct Device {
        emulator: Emulator,
        format: DType,
        elements: Elements,
    }

    impl Device {
        fn takes(&self, unit: usize) -> bool {
            elements(self.format, unit) == self.elements
        }

        /// Launch on these inputs; the results, which are filled before.
        fn run(
            &self,
            texts: &Texts,
            read: Vec<Vec<u8>>,
            written: Vec<Vec<u8>>,
            told: &[u32],
        ) -> Vec<Vec<u8>> {
            let mut memory = Memory::default();
            let read: Vec<usize> = read.into_iter().map(|bytes| memory.put(bytes)).collect();
            let written: Vec<usize> = written.into_iter().map(|b| memory.put(b)).collect();
            let launch = Launch {
                // Fewer than the larger sizes have work for.
                blocks: 3,
                descending: told[0].is_multiple_of(2),
            };
            let kernel = texts.kernel(self.elements);
            (self.emulator).launch(&kernel, &launch, &mut memory, (&read, &written), told);
            (written.iter())
                .map(|i| memory.buffers[*i].clone())
                .collect()
        }

        fn empty(&self, elements: usize) -> Vec<u8> {
            vec![0xff; elements * self.format.size()]
        }

        #[track_caller]
        fn compare(&self, case: &str, got: &[u8], want: Cpu) {
            let got = numbers(got, want.dtype());
            assert_same(case, self.format, &got, &floats(want));
        }

        fn norms(&self) {
            for dims @ [rows, width] in few(NORMS).filter(|[_, width]| self.takes(*width)) {
                let [x, a, dy] = [0.37, 0.71, 0.53].map(|step| cpu(self.format, dims, step));
                let told = [rows as u32, width as u32, EPS.to_bits(), 0];
                let fresh = vec![self.empty(rows * width), vec![0xff; 4 * rows]];
                let inputs = vec![bytes(&x), bytes(&a)];
                let got = self.run(&row_texts::ADD_RMS_NORM, inputs, fresh, &told);
                let (y, scale) = CpuBackend::add_rms_norm(x, a, EPS);
                self.compare("add_rms_norm", &got[0], y.clone());
                self.compare("its scale", &got[1], scale.clone());

                let inputs = vec![bytes(&y), bytes(&dy), bytes(&scale)];
                let fresh = vec![self.empty(rows * width)];
                let got = self.run(&row_texts::ADD_RMS_NORM_BACKWARD, inputs, fresh, &told[..2]);
                let dx = CpuBackend::add_rms_norm_backward(&y, &scale, &dy);
                self.compare("add_rms_norm_backward", &got[0], dx);
            }
        }

        fn glus(&self) {
            for dims @ [rows, inner] in GLUS.into_iter().filter(|[_, inner]| self.takes(*inner)) {
                let gate_up = cpu(self.format, [rows, 2 * inner], 0.37);
                let dy = cpu(self.format, dims, 0.71);
                let told = [rows as u32, inner as u32];
                let fresh = vec![self.empty(rows * inner)];
                let inputs = vec![bytes(&gate_up)];
                let got = self.run(&row_texts::SWIGLU, inputs.clone(), fresh, &told);
                self.compare("swiglu", &got[0], CpuBackend::swiglu(&gate_up));

                let inputs = [inputs, vec![bytes(&dy)]].concat();
                let fresh = vec![self.empty(2 * rows * inner)];
                let got = self.run(&row_texts::SWIGLU_BACKWARD, inputs, fresh, &told);
                let d = CpuBackend::swiglu_backward(&gate_up, &dy);
                self.compare("swiglu_backward", &got[0], d);
            }
        }

        fn ropes(&self) {
            for turned in ROPES {
                if !self.takes(rope::unit(turned.half, turned.head_dim)) {
                    continue;
                }
                let (shape, [rows, width]) = (turned.shape(), turned.dims());
                let table = turned.table::<CpuBackend>(&Default::default());
                let qkv = cpu(self.format, [rows, width], 0.37);
                for turn in [Turn::Forward, Turn::Backward] {
                    let sizes = rope::told(rows, turned.half, &shape, turn);
                    let told: Vec<u32> = sizes.into_iter().chain([0]).collect();
                    let inputs = vec![bytes(&qkv), bytes(&table.cos), bytes(&table.sin)];
                    let fresh = vec![self.empty(rows * width)];
                    let got = self.run(&row_texts::ROPE, inputs, fresh, &told);
                    let want = CpuBackend::rope(qkv.clone(), &table, &shape, turn);
                    self.compare("rope", &got[0], want);
                }
            }
        }

        fn lookups(&self) {
            for (ids, entries, width) in LOOKUPS {
                if !self.takes(width) {
                    continue;
                }
                let rows = cpu(DType::F32, [ids.len(), width], 0.37);
                let sum = cpu(self.format, [entries, width], 0.71);
                let lookups = embedding::Lookups::of(ids, entries);
                let told = [lookups.distinct as u32, width as u32, 0.5_f32.to_bits(), 0];
                let inputs = vec![bytes(&rows), words(&lookups.words)];
                let got = self.run(
                    &row_texts::EMBEDDING_GRADIENT,
                    inputs,
                    vec![bytes(&sum)],
                    &told,
                );
                let want = CpuBackend::embedding_gradient(Some(sum), entries, ids, rows, 0.5);
                self.compare("embedding_gradient", &got[0], want);
            }
        }
    }

    impl Device {
        /// Parameters are in f32.
        fn parameters(&self) {
            let of_four = |dims: &[usize; 2]| self.takes(dims[0] * dims[1]);
            for dims in PARAMETERS.into_iter().filter(of_four) {
                let n = dims[0] * dims[1];
                let [p, g, m, v] = before::<CpuBackend>(&Default::default(), dims);
                let sums = vec![vec![0xff; 4 * (3 + row_texts::SQUARE_PARTS as usize)]];
                let told = [n as u32, 3];
                let values = finite(&m);
                let got = self.run(&row_texts::SQUARE_SUMS, vec![bytes(&values)], sums, &told);
                let sums = numbers(&got[0], DType::F32);
                assert!(sums[..3].iter().all(|sum| sum.is_nan()), "before the place");
                let sum: f64 = sums[3..].iter().map(|&sum| f64::from(sum)).sum();
                let want = CpuBackend::sum_of_squares(&[&values]);
                assert_same("square_sums", DType::F32, &[sum as f32], &[want as f32]);

                let written = vec![bytes(&p), bytes(&m), bytes(&v)];
                let told = adamw::told(n as u32, &STEP);
                let got = self.run(&row_texts::ADAMW, vec![bytes(&g)], written, &told);
                let (p, [m, v]) = CpuBackend::adamw(p, g, Some([m, v]), &STEP);
                self.compare("adamw", &got[0], p);
                self.compare("its mean", &got[1], m);
                self.compare("its square", &got[2], v);
            }
        }

        fn losses(&self) {
            for dims @ [rows, width] in few(LOGITS).filter(|[_, width]| self.takes(*width)) {
                let (labels, weights) = targets::<CpuBackend>(&Default::default(), dims);
                let logits = cpu(self.format, dims, 0.37);
                // Rows of the one are padded.
                let (stride, device) = (width.next_multiple_of(64) + 64, Default::default());
                let padded: Cpu = Tensor::full([rows, stride], 1e4, &device);
                let padded = in_format(padded, self.format);
                let padded = padded.slice_assign([0..rows, 0..width], logits.clone());
                let inputs = vec![
                    bytes(&padded),
                    labels.to_data().as_bytes().to_vec(),
                    bytes(&weights),
                ];
                let told = [rows, width, stride, width].map(|n| n as u32);
                let fresh = vec![self.empty(rows * width), vec![0xff; 8 * rows]];
                let got = self.run(&row_texts::SOFTMAX_CROSS_ENTROPY, inputs, fresh, &told);
                let [report, gradient] = CpuBackend::softmax_cross_entropy(logits, labels, weights);
                self.compare("softmax_cross_entropy", &got[1], report);
                self.compare("its gradient", &got[0], gradient);
            }
        }
    }

    fn compute_as_the_cpu(format: DType, unit: usize) {
        let elements = elements(format, unit);
        let kernels = ALL.map(|texts| texts.kernel(elements));
        let number = kernels[0].constants[0].1 as usize;
        let Some(emulator) = Emulator::build(&kernels, number) else {
            return;
        };
        let device = Device {
            emulator,
            format,
            elements,
        };
        device.norms();
        device.glus();
        device.ropes();
        device.lookups();
        device.losses();
        if format == DType::F32 {
            device.parameters();
        }
    }

    #[test]
    fn cuda_texts_over_rows_compute_as_the_cpu_does_in_f32() {
        compute_as_the_cpu(DType::F32, 4);
        compute_as_the_cpu(DType::F32, 1);
    }

    #[test]
    fn cuda_texts_over_rows_compute_as_the_cpu_does_in_f16() {
        compute_as_the_cpu(DType::F16, 4);
    }

    #[test]
    fn cuda_texts_over_rows_compute_as_the_cpu_does_in_bf16() {
        compute_as_the_cpu(DType::BF16, 4);
        compute_as_the_cpu(DType::BF16, 1);
    }
}

#[test]
fn lookups_are_in_order_by_id() {
    let lookups = crate::gpu::embedding::Lookups::of(&[4, 0, 4, 2], 5);
    assert_eq!(lookups.distinct, 3);
    assert_eq!(lookups.words, [0, 2, 4, 0, 1, 2, 4, 1, 3, 0, 2]);
}

#[test]
#[should_panic(expected = "beyond the table")]
fn a_lookup_beyond_the_table_is_a_mistake() {
    crate::gpu::embedding::Lookups::of(&[4, 5], 5);
}
