//! A look at whether a device computes what it should, before it is trusted with a run.

use crate::{
    AdamWStep, AttentionPath, AttentionShape, CpuBackend, Ops, Precision, State8bit, attention,
    dtype, floats, in_format,
};
use aios_base::error::{Error, Result};
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
    /// Linear layers in a format.
    Linear(Precision),
    /// FlashAttention in a format, with heads of so many numbers.
    Attention(Precision, usize),
    /// AdamW with 8-bit state.
    AdamW8bit,
}

impl Check {
    /// Try it on a device.
    ///
    /// # Errors
    /// Names what gives other numbers than the CPU.
    pub fn run<B: Ops>(self, device: &B::Device) -> Result<()> {
        match self {
            Self::Linear(precision) => self_check::<B>(device, precision),
            Self::Attention(precision, head_dim) => {
                self_check_attention::<B>(device, precision, head_dim)
            }
            Self::AdamW8bit => self_check_adamw_8bit::<B>(device),
        }
    }
}

/// Compare the linear layer and its gradients in a format with the CPU's in f32, at the width of the halting head and
/// at an odd one: where matrix kernels for narrow or transposed operands have been wrong before
/// (burn#5122, burn#5264).
///
/// # Errors
/// Names the operation that gives other numbers.
pub fn self_check<B: Ops>(device: &B::Device, precision: Precision) -> Result<()> {
    for (tokens, inputs, outputs) in [(5, 64, 2), (33, 40, 72)] {
        let got = linear::<B>(device, precision, tokens, inputs, outputs);
        let want =
            linear::<CpuBackend>(&Default::default(), Precision::F32, tokens, inputs, outputs);
        let case = format!("of {tokens} x {inputs} x {outputs}");
        compare(&got, &want, &case, precision)?;
    }
    Ok(())
}

/// Compare FlashAttention and its gradients in a format with the CPU's in f32, at lengths that no
/// tile divides: all of the past, and two sequences with a window.
///
/// # Errors
/// Names what has other numbers.
pub fn self_check_attention<B: Ops>(
    device: &B::Device,
    precision: Precision,
    head_dim: usize,
) -> Result<()> {
    for (batch, seq, window) in [(1, 203, 0), (2, 77, 20)] {
        let shape = AttentionShape {
            batch,
            seq,
            heads: 2,
            head_dim,
            causal: true,
            window,
        };
        let got = attention_results::<B>(device, precision, &shape);
        let want = attention_results::<CpuBackend>(&Default::default(), Precision::F32, &shape);
        let case = format!("of {seq} tokens, heads of {head_dim}, window {window},");
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

/// Compare AdamW with 8-bit state with the CPU's, over a few steps: one with ragged and all-zero
/// blocks, and one with more blocks than the kernel has workgroups.
///
/// # Errors
/// Says by how much the parameters differ.
pub fn self_check_adamw_8bit<B: Ops>(device: &B::Device) -> Result<()> {
    for elements in [4096, 10_001, 4097 * 256] {
        let got = trained::<B>(device, elements);
        let want = trained::<CpuBackend>(&Default::default(), elements);
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
                "this device's 8-bit AdamW gives other numbers than the CPU's for {differ} of \
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
        let step = AdamWStep {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            step,
            gradient_scale: 0.5,
        };
        let gradient = matrix(gradient.collect());
        (parameter, state) = B::adamw_8bit(parameter, gradient, state, &step);
    }
    floats(parameter)
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

fn attention_results<B: Ops>(
    device: &B::Device,
    precision: Precision,
    shape: &AttentionShape,
) -> Results {
    let width = shape.heads * shape.head_dim;
    let matrix = |cols: usize, step: f32| -> Tensor<B, 2> {
        let tokens = shape.batch * shape.seq;
        let values = (0..tokens * cols).map(|i| (i as f32 * step).sin());
        let data = TensorData::new(values.collect::<Vec<f32>>(), [tokens, cols]);
        in_format(Tensor::from_data(data, device), dtype(precision))
    };
    let (qkv, d_out) = (matrix(3 * width, 0.37), matrix(width, 0.71));
    let (out, lse) = B::attention_fused(&qkv, shape, AttentionPath::Flash);
    let flash = AttentionPath::Flash;
    let gradient = B::attention_fused_backward(&qkv, &out, &lse, &d_out, shape, flash);
    // The same projection as two chunks of each sequence.
    let half = AttentionShape { seq: 33, ..*shape };
    let rows = half.batch * half.seq;
    let part = |x: &Tensor<B, 2>, start| x.clone().narrow(0, start, rows);
    let (_, seen) = attention::split_chunk(part(&qkv, 0), None, &half);
    let (q, seen) = attention::split_chunk(part(&qkv, 37), Some(seen), &half);
    let (chunk, chunk_lse) = attention::chunk(&q, &seen, &half, flash);
    let d = part(&d_out, 5);
    let d_chunk = attention::chunk_backward(&q, &seen, &chunk, &chunk_lse, &d, &half, flash);
    vec![
        ("attention of a chunk", floats(chunk)),
        ("the gradient of attention of a chunk", floats(d_chunk)),
        ("attention", floats(out)),
        ("the log-sum-exp of attention", floats(lse)),
        ("the gradient of attention", floats(gradient)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_cpu_agrees_with_itself() {
        let device = Default::default();
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            self_check::<CpuBackend>(&device, precision).unwrap();
            self_check_attention::<CpuBackend>(&device, precision, 40).unwrap();
        }
        self_check_adamw_8bit::<CpuBackend>(&device).unwrap();
    }
}
