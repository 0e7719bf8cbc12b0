//! The CUDA texts on the CPU.

use super::*;
use crate::gpu::elements::elements;
use crate::gpu::emulator::{Emulator, Launch, Memory};
use crate::gpu::row_texts::{self, ALL, Elements, Texts};
use crate::gpu::{adamw, embedding, rope, scaled_norm};
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

            let more = cpu(self.format, dims, 0.91);
            let inputs = vec![bytes(&y), bytes(&dy), bytes(&scale), bytes(&more)];
            let fresh = vec![self.empty(rows * width)];
            let texts = &row_texts::ADD_RMS_NORM_BACKWARD_OF_TWO;
            let got = self.run(texts, inputs, fresh, &told[..2]);
            let dx = CpuBackend::add_rms_norm_backward_of_two(&y, &scale, [dy, more]);
            self.compare("add_rms_norm_backward_of_two", &got[0], dx);
        }
    }

    fn scaled_norms(&self) {
        let few = |dims: &[usize; 2]| dims[0] < 1000 && self.takes(dims[1]);
        for (dims @ [rows, width], kind) in norms().filter(|(dims, _)| few(dims)) {
            let (shape, weighted, biased) = kind;
            let (x, dy) = (cpu(self.format, dims, 0.37), cpu(self.format, dims, 0.53));
            let values = affine::<CpuBackend>(&Default::default(), width, kind);
            let affine = Affine::of(&values);
            let or = |given: &Option<Cpu>| given.as_ref().map_or(vec![0xff; 4 * width], bytes);
            let told = scaled_norm::told(dims, &shape, weighted, biased);
            let inputs = vec![bytes(&x), or(&values[0]), or(&values[1])];
            let fresh = vec![self.empty(rows * width)];
            let got = self.run(&row_texts::SCALED_NORM, inputs, fresh, &told);
            self.compare("norm", &got[0], CpuBackend::norm(&x, affine, &shape));

            let inputs = vec![bytes(&x), bytes(&dy), or(&values[0])];
            let fresh = vec![self.empty(rows * width), vec![0xff; 8 * rows]];
            let got = self.run(&row_texts::SCALED_NORM_BACKWARD, inputs, fresh, &told);
            let want = CpuBackend::norm_backward(&x, affine, &shape, &dy, true);
            self.compare("its gradient", &got[0], want.dx);

            let (parts, each) = (rows.div_ceil(scaled_norm::PART), 1 + usize::from(biased));
            let inputs = vec![bytes(&x), bytes(&dy), got[1].clone()];
            let fresh = vec![vec![0xff; 4 * parts * each * width]];
            let told = [rows, width, scaled_norm::PART, each].map(|n| n as u32);
            let got = self.run(&row_texts::SCALED_NORM_SUMS, inputs, fresh, &told);
            let sums = numbers(&got[0], DType::F32);
            let sum = |i: usize| -> f32 { sums.iter().skip(i).step_by(each * width).sum() };
            let sums: Vec<f32> = (0..each * width).map(sum).collect();
            let want = [want.weight, want.bias]
                .into_iter()
                .flatten()
                .flat_map(floats);
            let want: Vec<f32> = want.collect();
            assert_same("its sums", self.format, &sums[..want.len()], &want);
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
            let fresh = vec![self.empty(2 * rows * inner), self.empty(rows * inner)];
            let got = self.run(&row_texts::SWIGLU_BACKWARD, inputs, fresh, &told);
            let d = CpuBackend::swiglu_backward(&gate_up, &dy);
            self.compare("swiglu_backward", &got[0], d);
            self.compare("swiglu again", &got[1], CpuBackend::swiglu(&gate_up));
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

            // Of the third there is nothing.
            let four = [&p, &g, &m, &v].map(finite);
            let sums = vec![vec![0xff; 4 * (3 + 4 * row_texts::SQUARE_PARTS as usize)]];
            let told = [3, n as u32, n as u32, 0, n as u32];
            let inputs = four.iter().map(bytes).collect();
            let got = self.run(&row_texts::SQUARE_SUMS_OF_FOUR, inputs, sums, &told);
            let sums = numbers(&got[0], DType::F32);
            assert!(sums[..3].iter().all(|sum| sum.is_nan()), "before the place");
            for (own, values) in sums[3..]
                .chunks(row_texts::SQUARE_PARTS as usize)
                .zip(&four)
            {
                let sum: f64 = own.iter().map(|&sum| f64::from(sum)).sum();
                let want = CpuBackend::sum_of_squares(&[values]) as f32;
                let want = if std::ptr::eq(values, &four[2]) {
                    0.0
                } else {
                    want
                };
                assert_same("square_sums_of_four", DType::F32, &[sum as f32], &[want]);
            }

            let written = vec![bytes(&p), bytes(&m), bytes(&v)];
            let told = adamw::told(n as u32, &STEP);
            let got = self.run(&row_texts::ADAMW, vec![bytes(&g)], written, &told);
            let (p, [m, v]) = CpuBackend::adamw(p, g, Some([m, v]), &STEP);
            self.compare("adamw", &got[0], p);
            self.compare("its mean", &got[1], m);
            self.compare("its square", &got[2], v);
        }
    }

    /// Fewer threads than a parameter has elements, and more.
    fn four_parameters(&self) {
        let (device, sizes) = (Default::default(), self.four_sizes());
        let before = sizes.map(|dims| before::<CpuBackend>(&device, dims));
        let steps = [0.0, 0.1, 0.2, 0.3].map(|weight_decay| AdamWStep {
            weight_decay,
            ..STEP
        });
        let elements = sizes.map(|[rows, cols]| rows * cols);
        let told = adamw::told_of_four(elements, &steps);
        // The arguments lie as the kernel has them, all as if written.
        let order = |[p, g, m, v]: &[Cpu; 4]| [g, p, m, v].map(bytes);
        let all: Vec<_> = before.iter().flat_map(order).collect();
        let got = self.run(&row_texts::ADAMW_OF_FOUR, vec![], all, &told);
        for (k, ([p, g, m, v], step)) in before.into_iter().zip(&steps).enumerate() {
            let gradient = bytes(&g);
            let (p, [m, v]) = CpuBackend::adamw(p, g, Some([m, v]), step);
            assert_eq!(got[4 * k], gradient, "a gradient is only read");
            for (i, want) in [p, m, v].into_iter().enumerate() {
                self.compare("adamw_of_four", &got[4 * k + 1 + i], want);
            }
        }
    }

    fn four_sizes(&self) -> [[usize; 2]; 4] {
        match self.elements.quads {
            true => [[5, 12], [1, 4], [300, 1028], [2, 2]],
            false => [[1, 1], [5, 12], [3, 171], [300, 1031]],
        }
    }

    fn padded(&self) {
        for (dims @ [own, width], rows) in PADDED {
            let (there, all) = (own * width, rows * width);
            if !self.takes(if there.is_multiple_of(4) { all } else { 1 }) {
                continue;
            }
            let x = cpu(DType::F32, dims, 0.37);
            let (inputs, told) = (vec![bytes(&x)], [there as u32, all as u32]);
            let fresh = vec![self.empty(all)];
            let got = self.run(&row_texts::PADDED, inputs, fresh, &told);
            let want = CpuBackend::padded(&x, rows, self.format);
            self.compare("padded", &got[0], want);
        }
    }

    fn losses(&self) {
        let sizes = few(LOGITS).filter(|[_, width]| self.takes(*width));
        let cases =
            sizes.flat_map(|dims| vocabularies(dims[1]).map(|vocabulary| (dims, vocabulary)));
        for (dims @ [rows, width], vocabulary) in cases {
            let (labels, weights) = targets::<CpuBackend>(&Default::default(), [rows, vocabulary]);
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
            let told = [rows, vocabulary, stride, width, width].map(|n| n as u32);
            let fresh = vec![self.empty(rows * width), vec![0xff; 12 * rows]];
            let got = self.run(&row_texts::SOFTMAX_CROSS_ENTROPY, inputs, fresh, &told);
            let [report, gradient] =
                CpuBackend::softmax_cross_entropy(logits, vocabulary, labels, weights);
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
    device.scaled_norms();
    device.glus();
    device.ropes();
    device.lookups();
    device.losses();
    device.padded();
    if format == DType::F32 {
        device.parameters();
        device.four_parameters();
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
