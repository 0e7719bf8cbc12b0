//! A look at whether a device computes what it should, before it is trusted with a run.

mod rows;

use crate::{
    AdamWStep, AttentionPath, AttentionShape, Ops, Precision, State8bit, Stored, Visible,
    attention, dtype, floats, in_format, widened,
};
use aios_base::error::{Error, Result};
use aios_base::storage::Storage;
use burn::tensor::{Tensor, TensorData};

/// What differs by more than this, relative to the largest value, is no rounding error.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 | Precision::F16 => 1e-2,
        Precision::Bf16 => 4e-2,
    }
}

/// Something that a run may want of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Linear layers in a format, and what stands between them.
    Linear(Precision),
    /// FlashAttention in a format, of a class of shapes.
    Attention(Precision, AttentionClass),
    /// AdamW with 8-bit state.
    AdamW8bit,
    /// A low-rank adapter beside a weight that is held in one format and decoded into another; and its gradients.
    Adapter(Storage, Precision),
}

/// Shapes that the same kernels take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionClass {
    pub head_dim: usize,
    /// Query heads that share a head of keys and values.
    pub group: usize,
    /// Whether queries come with ranges of keys.
    pub ranges: bool,
}

impl AttentionClass {
    /// Causal attention with keys and values for every head.
    pub fn plain(head_dim: usize) -> Self {
        Self {
            head_dim,
            group: 1,
            ranges: false,
        }
    }
}

impl Check {
    /// Try it on a device.
    ///
    /// # Errors
    /// Names what gives other numbers than the CPU; than `burn-ndarray`, if it is the CPU and that was built.
    pub fn run<B: Ops>(self, device: &B::Device) -> Result<()> {
        B::self_check(self, device)
    }

    /// Try it on a device, and compare with what another backend gives in f32.
    ///
    /// # Errors
    /// Names what gives other numbers, or says why the device does not take such heads.
    pub fn against<B: Ops, R: Ops>(self, device: &B::Device) -> Result<()> {
        match self {
            Self::Linear(precision) => check_linear::<B, R>(device, precision),
            Self::Attention(precision, class) => check_attention::<B, R>(device, precision, class),
            Self::AdamW8bit => check_adamw_8bit::<B, R>(device, &ELEMENTS),
            Self::Adapter(storage, precision) => {
                let got = adapter::<B>(device, storage, precision);
                let want = adapter::<R>(&Default::default(), storage, Precision::F32);
                let case = format!("beside a weight in {}", storage.as_str());
                compare(&got, &want, &case, precision)
            }
        }
    }
}

/// What stands between linear layers; the linear layer and its gradients, at the width of the halting head and at an odd one: where matrix kernels for narrow
/// or transposed operands have been wrong before (burn#5122, burn#5264).
fn check_linear<B: Ops, R: Ops>(device: &B::Device, precision: Precision) -> Result<()> {
    for (tokens, inputs, outputs) in [(5, 64, 2), (33, 40, 72)] {
        let got = linear::<B>(device, precision, tokens, inputs, outputs);
        let want = linear::<R>(&Default::default(), Precision::F32, tokens, inputs, outputs);
        let case = format!("of {tokens} x {inputs} x {outputs}");
        compare(&got, &want, &case, precision)?;
    }
    let got = rows::results::<B>(device, precision);
    let want = rows::results::<R>(&Default::default(), Precision::F32);
    compare(&got, &want, "of 33 rows", precision)
}

/// FlashAttention and its gradients, at lengths that no tile divides: all of the past, and two sequences with a window; with
/// ranges, of documents besides.
fn check_attention<B: Ops, R: Ops>(
    device: &B::Device,
    precision: Precision,
    class: AttentionClass,
) -> Result<()> {
    let AttentionClass {
        head_dim,
        group,
        ranges,
    } = class;
    if let Some(reason) = B::flash_refusal(device, head_dim, dtype(precision)) {
        return Err(Error::failed(reason));
    }
    // Two groups, unless one takes long enough.
    let kv_heads = if group <= 8 { 2 } else { 1 };
    for (batch, seq, window) in [(1, 203, 0), (2, 77, 20)] {
        let shape = AttentionShape {
            kv_heads,
            window,
            ..AttentionShape::new(batch, seq, group * kv_heads, head_dim)
        };
        let got = attention_results::<B>(device, precision, &shape, ranges)?;
        let reference = Default::default();
        let want = attention_results::<R>(&reference, Precision::F32, &shape, ranges)?;
        let documents = if ranges { " of documents" } else { "" };
        let case = format!(
            "of {seq} tokens{documents}, {group} x {kv_heads} heads of {head_dim}, window {window},"
        );
        compare(&got, &want, &case, precision)?;
    }
    Ok(())
}

type Results = Vec<(&'static str, Vec<f32>)>;

fn compare(got: &Results, want: &Results, case: &str, precision: Precision) -> Result<()> {
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let scale = want.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
        let off = |(g, w): (&f32, &f32)| (g - w).abs() / scale;
        let worst = got.iter().zip(want).map(off).fold(0.0, f32::max);
        let any_nan = got.iter().any(|v| v.is_nan());
        if worst > tolerance(precision) || any_nan {
            let how = match any_nan {
                true => "gives NaN".to_string(),
                false => format!("is off by {worst:e}"),
            };
            return Err(Error::failed(format!(
                "this device computes wrongly: {name} {case} in {} {how}; update its driver, or \
                 use another --device",
                precision.as_str()
            )));
        }
    }
    Ok(())
}

/// Sizes for the 8-bit optimizer: whole blocks, a ragged one, and more blocks than the kernel has workgroups.
const ELEMENTS: [usize; 3] = [4096, 10_001, 4097 * 256];

/// The same where there are no workgroups, and where memory of the host counts.
#[cfg(feature = "ndarray")]
pub(crate) const FEW_ELEMENTS: [usize; 2] = [4096, 10_001];

/// AdamW with 8-bit state, over a few steps, with an all-zero block.
pub(crate) fn check_adamw_8bit<B: Ops, R: Ops>(
    device: &B::Device,
    elements: &[usize],
) -> Result<()> {
    for &elements in elements {
        let got = trained::<B>(device, elements);
        let want = trained::<R>(&Default::default(), elements);
        let off = |(g, w): (&f32, &f32)| (g - w).abs();
        let rate: f32 = 1e-3;
        let differ = got
            .iter()
            .zip(&want)
            .map(off)
            .filter(|d| d.is_nan() || *d > rate / 10.0);
        // A value that rounding puts next to the border of two codes may get either of them.
        let allowed = elements / 1000;
        let differ = differ.count();
        if differ > allowed {
            return Err(Error::failed(format!(
                "this device's 8-bit AdamW gives other numbers than the reference for {differ} of \
                 {elements} parameters"
            )));
        }
    }
    Ok(())
}

/// Parameters after three steps; the second block never has a gradient.
fn trained<B: Ops>(device: &B::Device, elements: usize) -> Vec<f32> {
    let matrix = |values: Vec<f32>| -> Tensor<B, 2> {
        Tensor::from_data(TensorData::new(values, [1, elements]), device)
    };
    let wave = |step: f32| (0..elements).map(move |i| (i as f32 * step).sin());
    let mut parameter = matrix(wave(0.37).collect());
    let mut state = State8bit::zeros(elements, device);
    for step in 1..=3 {
        let zero = |i| (256..512).contains(&i);
        let gradient = wave(0.71 + 0.01 * step as f32).enumerate();
        let gradient = gradient.map(|(i, g)| if zero(i) { 0.0 } else { g * g * g });
        let gradient = matrix(gradient.collect());
        (parameter, state) = B::adamw_8bit(parameter, gradient, state, &adamw_step(step));
    }
    floats(parameter)
}

fn adamw_step(step: u64) -> AdamWStep {
    AdamWStep {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step,
        gradient_scale: 0.5,
    }
}

fn linear<B: Ops>(
    device: &B::Device,
    precision: Precision,
    tokens: usize,
    inputs: usize,
    outputs: usize,
) -> Results {
    let matrix = |rows: usize, cols: usize, step: f32| -> Tensor<B, 2> {
        let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * step).sin()).collect();
        Tensor::from_data(TensorData::new(values, [rows, cols]), device)
    };
    let half = |t: Tensor<B, 2>| in_format(t, dtype(precision));
    let x = half(matrix(tokens, inputs, 0.37));
    let w = matrix(outputs, inputs, 0.71);
    let dy = half(matrix(tokens, outputs, 0.53));
    let bias = half(matrix(1, outputs, 1.3));
    let forward = B::linear_forward(&x, &w) + bias;
    let first = B::linear_backward_weight(None, &dy, &x);
    let twice = B::linear_backward_weight(Some(first), &dy, &x);
    vec![
        ("the linear layer", floats(forward)),
        (
            "its input gradient",
            floats(B::linear_backward_input(&dy, &w)),
        ),
        ("its weight gradient", floats(twice)),
    ]
}

/// LoRA of rank 4 around a linear layer: matrices so narrow have given NaN elsewhere (burn#5162, burn#5351).
fn adapter<B: Ops>(device: &B::Device, storage: Storage, precision: Precision) -> Results {
    let wave =
        |n: usize, step: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * step).sin()).collect() };
    let matrix = |rows: usize, cols: usize, step: f32| -> Tensor<B, 2> {
        Tensor::from_data(
            TensorData::new(wave(rows * cols, step), [rows, cols]),
            device,
        )
    };
    // Whole blocks of ggml's, but for those that are cut.
    let inputs = if storage.is_of_a_file() { 256 } else { 40 };
    let (tokens, outputs, rank) = (33, 72, 4);
    let values = wave(outputs * inputs, 0.71);
    let w = match Stored::<B>::made_up(&values, [outputs, inputs], storage, device) {
        Some(stored) => widened(stored.dense_in(dtype(precision))),
        None => matrix(outputs, inputs, 0.71),
    };
    let (x, dy) = (matrix(tokens, inputs, 0.37), matrix(tokens, outputs, 0.53));
    let (a, b) = (matrix(rank, inputs, 1.3), matrix(outputs, rank, 0.9));
    let narrow = B::linear_forward(&x, &a);
    let narrow_back = B::linear_backward_input(&dy, &b);
    let y = B::linear_forward(&x, &w) + B::linear_forward(&narrow, &b);
    let dx = B::linear_backward_input(&dy, &w) + B::linear_backward_input(&narrow_back, &a);
    let da = B::linear_backward_weight(None, &narrow_back, &x);
    let db = B::linear_backward_weight(None, &dy, &narrow);
    vec![
        ("an adapted layer", floats(y)),
        ("an adapted layer's input gradient", floats(dx)),
        ("the gradient of an adapter's A", floats(da)),
        ("the gradient of an adapter's B", floats(db)),
    ]
}

fn attention_results<B: Ops>(
    device: &B::Device,
    precision: Precision,
    shape: &AttentionShape,
    ranges: bool,
) -> Result<Results> {
    let matrix = |cols: usize, step: f32| -> Tensor<B, 2> {
        let tokens = shape.batch * shape.seq;
        let values = (0..tokens * cols).map(|i| (i as f32 * step).sin());
        let data = TensorData::new(values.collect::<Vec<f32>>(), [tokens, cols]);
        in_format(Tensor::from_data(data, device), dtype(precision))
    };
    // The documents end within tiles of any size, and not at the same places in each sequence.
    let documents = |seq: usize| -> Result<Option<Visible<B>>> {
        let starts = |sequence| vec![0, seq / 5 + sequence, seq / 2];
        let starts: Vec<_> = (0..shape.batch).map(starts).collect();
        let visible = ranges.then(|| Visible::documents(&starts, seq, device));
        visible.transpose()
    };
    let (qkv, d_out) = (
        matrix(shape.qkv_width(), 0.37),
        matrix(shape.q_width(), 0.71),
    );
    let (visible, flash) = (documents(shape.seq)?, AttentionPath::Flash);
    let visible = visible.as_ref();
    let (out, lse) = B::attention_fused(&qkv, shape, visible, flash);
    let gradient = B::attention_fused_backward(&qkv, &out, &lse, &d_out, shape, visible, flash);
    // The same projection as two chunks of each sequence.
    let half = AttentionShape { seq: 33, ..*shape };
    let rows = half.batch * half.seq;
    let part = |x: &Tensor<B, 2>, start| x.clone().narrow(0, start, rows);
    let (_, seen) = attention::split_chunk(part(&qkv, 0), None, &half, attention::Room::Exact);
    let (q, seen) =
        attention::split_chunk(part(&qkv, 37), Some(seen), &half, attention::Room::Exact);
    let visible = documents(2 * half.seq)?;
    let visible = visible.map(|all| all.chunk(half.seq..2 * half.seq, 0..2 * half.seq));
    let visible = visible.transpose()?;
    let visible = visible.as_ref();
    let (chunk, chunk_lse) = attention::chunk(&q, &seen, &half, visible, flash);
    let d = part(&d_out, 5);
    let outputs = [&chunk, &d];
    let d_chunk = attention::chunk_backward(&q, &seen, outputs, &chunk_lse, &half, visible, flash);
    Ok(vec![
        ("attention of a chunk", floats(chunk)),
        ("the gradient of attention of a chunk", floats(d_chunk)),
        ("attention", floats(out)),
        ("the log-sum-exp of attention", floats(lse)),
        ("the gradient of attention", floats(gradient)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuBackend;

    #[test]
    fn wrong_numbers_are_told() {
        let results = |x: f32| vec![("attention", vec![1.0, x])];
        let compare = |x| compare(&results(x), &results(2.0), "of 2", Precision::F32);
        assert!(compare(2.001).is_ok());
        let error = compare(2.5).unwrap_err().to_string();
        assert!(
            error.contains("attention of 2 in f32 is off by 2.5e-1"),
            "{error}"
        );
        let error = compare(f32::NAN).unwrap_err().to_string();
        assert!(error.contains("NaN"), "{error}");
    }

    /// Of a format, with attention of every class.
    fn kinds(precision: Precision) -> Vec<Check> {
        let classes = [(40, 1, false), (24, 3, true), (8, 9, false)];
        let attention = classes.map(|(head_dim, group, ranges)| {
            let class = AttentionClass {
                head_dim,
                group,
                ranges,
            };
            Check::Attention(precision, class)
        });
        [vec![Check::Linear(precision)], attention.to_vec()].concat()
    }

    #[test]
    fn the_cpu_agrees_with_itself() {
        let device = Default::default();
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            for check in kinds(precision) {
                check.against::<CpuBackend, CpuBackend>(&device).unwrap();
            }
        }
        for check in [
            Check::AdamW8bit,
            Check::Adapter(Storage::Nf4, Precision::F16),
        ] {
            check.against::<CpuBackend, CpuBackend>(&device).unwrap();
        }
    }

    /// What a run on the CPU begins with.
    #[cfg(feature = "ndarray")]
    #[test]
    fn the_cpu_agrees_with_the_reference() {
        let device = Default::default();
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            for check in kinds(precision) {
                check.run::<CpuBackend>(&device).unwrap();
            }
        }
        Check::AdamW8bit.run::<CpuBackend>(&device).unwrap();
        for storage in [Storage::F32, Storage::Nf4, Storage::Q8_0] {
            let check = Check::Adapter(storage, Precision::F32);
            check.run::<CpuBackend>(&device).unwrap();
        }
    }
}
