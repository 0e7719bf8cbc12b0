//! The kernels over rows of elements give what the CPU gives: their WGSL on a device, their CUDA texts in the emulator.

#[cfg(all(target_os = "linux", feature = "cuda"))]
mod in_the_emulator;
#[cfg(feature = "wgpu")]
mod on_wgpu;

use crate::{
    AdamWStep, AdamWUpdate, Affine, AttentionShape, CpuBackend, IGNORE, NormShape, Ops, Rope, Turn,
    floats, in_format,
};
use burn::tensor::{DType, Int, Tensor, TensorData};

/// Sizes: one of each; ragged ones, of which a piece of four elements is a part or is not; more rows than workgroups.
const NORMS: [[usize; 2]; 5] = [[1, 1], [5, 12], [3, 515], [4, 700], [4100, 4]];
/// RMSNorm as Llama and as Gemma has it, LayerNorm as GPT-2 has it, and one without weight; whether there are weight and bias.
const KINDS: [(NormShape, bool, bool); 4] = [
    (shape(false, 0.0), true, false),
    (shape(false, 1.0), true, false),
    (shape(true, 0.0), true, true),
    (shape(false, 0.0), false, false),
];
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
/// Matrices, and rows that there are to be.
const PADDED: [([usize; 2], usize); 4] = [
    ([1, 1], 2),
    ([5, 12], 64),
    ([3, 171], 7),
    ([300, 1028], 320),
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

const fn shape(centered: bool, offset: f32) -> NormShape {
    NormShape {
        centered,
        eps: EPS,
        offset,
    }
}

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
        let parts = [matrix(dims, 0.53), matrix(dims, 0.91)];
        let of_two = B::add_rms_norm_backward_of_two(&y, &scale, parts);
        note("add_rms_norm_backward_of_two", case.clone(), of_two);
        note("add_rms_norm", case.clone(), y);
        note("the scale of add_rms_norm", case.clone(), scale);
        note("add_rms_norm_backward", case, dx);
    }
    for (dims, kind @ (shape, ..)) in norms() {
        let case = format!("{dims:?}, {kind:?}");
        let (x, dy) = (matrix(dims, 0.37), matrix(dims, 0.53));
        let values = affine::<B>(device, dims[1], kind);
        let affine = Affine::of(&values);
        note("norm", case.clone(), B::norm(&x, affine, &shape));
        let frozen = B::norm_backward(&x, affine, &shape, &dy, false);
        assert!(frozen.weight.is_none() && frozen.bias.is_none());
        let trained = B::norm_backward(&x, affine, &shape, &dy, true);
        note("its gradient", case.clone(), frozen.dx);
        note("the same beside the weight's", case.clone(), trained.dx);
        for (name, own) in [("weight", trained.weight), ("bias", trained.bias)] {
            if let Some(own) = own {
                note(&format!("the gradient of its {name}"), case.clone(), own);
            }
        }
    }
    for dims @ [rows, inner] in GLUS {
        let gate_up = matrix([rows, 2 * inner], 0.37);
        note("swiglu", format!("{dims:?}"), B::swiglu(&gate_up));
        let d = B::swiglu_backward(&gate_up, &matrix(dims, 0.71));
        note("swiglu_backward", format!("{dims:?}"), d);
        let mut again = None;
        let see = |y: &Tensor<B, 2>| again = Some(y.clone());
        let d = B::back_through_swiglu(&gate_up, see, || matrix(dims, 0.71) * 1.0);
        note("back_through_swiglu", format!("{dims:?}"), d);
        note("its result again", format!("{dims:?}"), again.unwrap());
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
    for (dims, rows) in PADDED {
        let x = self::matrix(device, DType::F32, dims, 0.37);
        note("padded", format!("{dims:?}"), B::padded(&x, rows, format));
    }
    for dims in LOGITS {
        for vocabulary in vocabularies(dims[1]) {
            let (labels, weights) = targets::<B>(device, [dims[0], vocabulary]);
            let logits = matrix(dims, 0.37);
            let losses = B::softmax_cross_entropy(logits, vocabulary, labels, weights);
            let case = format!("{vocabulary} of {dims:?}");
            for (name, of) in ["softmax_cross_entropy", "its gradient"].iter().zip(losses) {
                note(name, case.clone(), of);
            }
        }
    }
    let [a, b, c, d] = PARAMETERS.map(|dims| finite(&before::<B>(device, dims)[0]));
    let norm = squares(&[&a, &b, &c, &d], device);
    note("sum_of_squares", "of four sizes".into(), norm);
    for dims in PARAMETERS {
        let [p, g, m, v] = before::<B>(device, dims);
        let five = [&p, &g, &m, &v, &p].map(finite);
        let norm = squares(&five.each_ref(), device);
        note("sum_of_squares", format!("{dims:?}"), norm);
        let (p, [m, v]) = B::adamw(p, g, Some([m, v]), &STEP);
        for (name, tensor) in [("adamw", p), ("its mean", m), ("its square", v)] {
            note(name, format!("{dims:?}"), tensor);
        }
    }
    for sizes in [PARAMETERS, [[4, 3], [1, 8], [300, 1028], [2, 2]]] {
        let updates = sizes.into_iter().zip([0.0, 0.1, 0.2, 0.3]);
        let updates = updates.map(|(dims, weight_decay)| {
            let [parameter, gradient, m, v] = before::<B>(device, dims);
            AdamWUpdate {
                parameter,
                gradient,
                moments: [m, v],
                step: AdamWStep {
                    weight_decay,
                    ..STEP
                },
            }
        });
        for (dims, (p, [m, v])) in sizes.iter().zip(B::adamw_all(updates.collect())) {
            for (name, tensor) in [("adamw of four", p), ("its mean", m), ("its square", v)] {
                note(name, format!("{dims:?}"), tensor);
            }
        }
    }
    results
}

fn squares<B: Ops>(tensors: &[&Tensor<B, 2>], device: &B::Device) -> Tensor<B, 2> {
    let sum = B::sum_of_squares(tensors) as f32;
    Tensor::from_data(TensorData::new(vec![sum], [1, 1]), device)
}

/// Norms of each kind at each size; one of the sizes has rows for several parts.
fn norms() -> impl Iterator<Item = ([usize; 2], (NormShape, bool, bool))> {
    let sizes = NORMS.into_iter().chain([[130, 12]]);
    sizes.flat_map(|dims| KINDS.map(|kind| (dims, kind)))
}

/// Weight and bias of a norm.
fn affine<B: Ops>(
    device: &B::Device,
    width: usize,
    (_, weighted, biased): (NormShape, bool, bool),
) -> [Option<Tensor<B, 2>>; 2] {
    let own = |step| matrix::<B>(device, DType::F32, [1, width], step);
    [weighted.then(|| own(0.29)), biased.then(|| own(0.83))]
}

/// Labels at the beginning, in the middle and at the end of rows. Of two rows: of the zeros one that ties with all others, and of
/// the last one the most probable. Some are ignored.
fn labels([rows, width]: [usize; 2]) -> Vec<i32> {
    let logits = values([rows, width], 0.37);
    let last = logits.chunks(width).last().expect("a row");
    let top = (0..width).max_by(|a, b| last[*a].total_cmp(&last[*b]));
    let label = |i: usize| match i {
        _ if i + 1 == rows => top.unwrap_or(0) as i32,
        _ if i % 5 == 3 => IGNORE,
        _ => (i * 7 % width) as i32,
    };
    (0..rows).map(label).collect()
}

/// All columns, and with some behind them for padding.
fn vocabularies(columns: usize) -> [usize; 2] {
    [columns, columns - columns / 5]
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
