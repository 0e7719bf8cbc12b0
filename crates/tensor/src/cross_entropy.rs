//! Linear head and cross-entropy, whole or over slices of tokens, in plain tensor operations.

use crate::{Ops, ids_tensor, in_format, widened};
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, IndexingUpdateOp, Int, Tensor, TensorData};

/// Bytes of one slice of logits in f32, where there is room: for a WebGPU adapter a third of what it
/// lets a kernel bind at the least.
pub use aios_kernels::cross_entropy::SLICE_BYTES;
pub use aios_kernels::cross_entropy::{IGNORE, Loss as CrossEntropy, slice_tokens};

/// Buffers of the size of all f32 logits that [`LossPath::Plain`] holds at once on the CPU.
pub const PLAIN_LOSS_BUFFERS: usize = 2;

/// How head and loss are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossPath {
    /// Over slices of tokens: memory for one slice of logits. Its size changes the results' rounding,
    /// and nothing else.
    Fused { slice_bytes: usize },
    /// All `tokens × vocabulary` logits at once, and their gradient beside them.
    Plain,
}

impl LossPath {
    /// Over slices of the size that is fast.
    pub const FUSED: Self = Self::Fused {
        slice_bytes: SLICE_BYTES,
    };

    /// Bytes of a slice of logits.
    pub fn slice_bytes(self) -> Option<usize> {
        match self {
            Self::Fused { slice_bytes } => Some(slice_bytes),
            Self::Plain => None,
        }
    }

    /// Linear head and cross-entropy with gradients: see [`Ops::cross_entropy_backward`].
    pub fn backward<B: Ops>(
        self,
        z: &Tensor<B, 2>,
        w: &Tensor<B, 2>,
        labels: &[i32],
        weights: &[f32],
        dw: Option<Tensor<B, 2>>,
    ) -> (CrossEntropy, Tensor<B, 2>, Tensor<B, 2>) {
        match self {
            Self::Fused { slice_bytes } => {
                B::cross_entropy_backward(z, w, labels, weights, dw, slice_bytes)
            }
            Self::Plain => B::cross_entropy_backward_plain(z, w, labels, weights, dw),
        }
    }

    /// The same with a frozen `w`: see [`Ops::cross_entropy_backward_input`].
    pub fn backward_input<B: Ops>(
        self,
        z: &Tensor<B, 2>,
        w: &Tensor<B, 2>,
        labels: &[i32],
        weights: &[f32],
    ) -> (CrossEntropy, Tensor<B, 2>) {
        match self {
            Self::Fused { slice_bytes } => {
                B::cross_entropy_backward_input(z, w, labels, weights, slice_bytes)
            }
            Self::Plain => B::cross_entropy_backward_input_plain(z, w, labels, weights),
        }
    }
}

pub(super) fn forward<B: Ops>(
    z: &Tensor<B, 2>,
    w: &Tensor<B, 2>,
    labels: &[i32],
    slice_bytes: usize,
) -> CrossEntropy {
    let w = in_format(w.clone(), z.dtype());
    let mut rows = Vec::new();
    for slice in slices(labels.len(), w.dims()[0], slice_bytes) {
        let z = z.clone().narrow(0, slice.start, slice.len());
        let logits = widened(B::linear_forward(&z, &w));
        rows.push(Slice::new(logits, &labels[slice]).report());
    }
    read(rows, labels)
}

pub(super) fn forward_backward<B: Ops>(
    z: &Tensor<B, 2>,
    w: &Tensor<B, 2>,
    labels: &[i32],
    weights: &[f32],
    mut dw: Option<Tensor<B, 2>>,
    slice_bytes: usize,
) -> (CrossEntropy, Tensor<B, 2>, Tensor<B, 2>) {
    let (loss, dz) = backward(z, w, labels, weights, slice_bytes, &mut |d, z| {
        dw = Some(B::linear_backward_weight(dw.take(), d, z));
    });
    (
        loss,
        dz,
        dw.unwrap_or_else(|| Tensor::zeros(w.dims(), &w.device())),
    )
}

pub(super) fn backward_input<B: Ops>(
    z: &Tensor<B, 2>,
    w: &Tensor<B, 2>,
    labels: &[i32],
    weights: &[f32],
    slice_bytes: usize,
) -> (CrossEntropy, Tensor<B, 2>) {
    backward(z, w, labels, weights, slice_bytes, &mut |_, _| {})
}

/// `each` gets the logits' gradient of each slice, and its rows of `z`.
fn backward<B: Ops>(
    z: &Tensor<B, 2>,
    w: &Tensor<B, 2>,
    labels: &[i32],
    weights: &[f32],
    slice_bytes: usize,
    each: &mut dyn FnMut(&Tensor<B, 2>, &Tensor<B, 2>),
) -> (CrossEntropy, Tensor<B, 2>) {
    // Once, rather than in each product.
    let half = in_format(w.clone(), z.dtype());
    let mut rows = Vec::new();
    let mut dz = Vec::new();
    for slice in slices(labels.len(), w.dims()[0], slice_bytes) {
        let z = z.clone().narrow(0, slice.start, slice.len());
        let logits = widened(B::linear_forward(&z, &half));
        let logits = Slice::new(logits, &labels[slice.clone()]);
        rows.push(logits.report());
        let d = in_format(logits.gradient(&weights[slice]), z.dtype());
        dz.push(B::linear_backward_input(&d, &half));
        each(&d, &z);
    }
    (read(rows, labels), Tensor::cat(dz, 0))
}

fn slices(
    tokens: usize,
    vocabulary: usize,
    slice_bytes: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> {
    let size = slice_tokens(tokens, vocabulary, slice_bytes);
    (0..tokens)
        .step_by(size)
        .map(move |start| start..tokens.min(start + size))
}

/// Logits of some tokens with what the softmax needs.
struct Slice<B: Backend> {
    logits: Tensor<B, 2>,
    ids: Tensor<B, 2, Int>,
    ignored: Vec<bool>,
    /// Largest logit and log-sum-exp of each row, `[n, 1]`.
    top: Tensor<B, 2>,
    lse: Tensor<B, 2>,
}

impl<B: Backend> Slice<B> {
    fn new(logits: Tensor<B, 2>, labels: &[i32]) -> Self {
        let ignored: Vec<bool> = labels.iter().map(|&l| l == IGNORE).collect();
        let ids: Vec<i32> = labels.iter().map(|&l| l.max(0)).collect();
        let ids = ids_tensor(&ids, &logits.device()).reshape([labels.len(), 1]);
        let top = logits.clone().max_dim(1);
        let lse = (logits.clone() - top.clone()).exp().sum_dim(1).log() + top.clone();
        Self {
            logits,
            ids,
            ignored,
            top,
            lse,
        }
    }

    /// Loss and whether the label is the most probable token, `[n, 2]`, still on the device.
    fn report(&self) -> Tensor<B, 2> {
        let at_label = self.logits.clone().gather(1, self.ids.clone());
        let correct: Tensor<B, 2, Bool> = at_label.clone().greater_equal(self.top.clone());
        Tensor::cat(vec![self.lse.clone() - at_label, correct.float()], 1)
    }

    /// `(softmax - one hot) * weight`, rows of ignored labels 0.
    fn gradient(self, weights: &[f32]) -> Tensor<B, 2> {
        let weights: Vec<f32> = weights
            .iter()
            .zip(&self.ignored)
            .map(|(&w, &ignored)| if ignored { 0.0 } else { w })
            .collect();
        let shape = [weights.len(), 1];
        let weights = Tensor::from_data(TensorData::new(weights, shape), &self.logits.device());
        let p = (self.logits - self.lse).exp() * weights.clone();
        p.scatter(1, self.ids, -weights, IndexingUpdateOp::Add)
    }
}

/// Fetch the slices' reports: one wait for the device rather than one a slice.
fn read<B: Backend>(rows: Vec<Tensor<B, 2>>, labels: &[i32]) -> CrossEntropy {
    let mut loss = CrossEntropy::default();
    for (row, &label) in floats(Tensor::cat(rows, 0)).chunks_exact(2).zip(labels) {
        let counts = label != IGNORE;
        loss.per_token.push(if counts { row[0] } else { 0.0 });
        loss.correct.push(counts && row[1] != 0.0);
    }
    loss
}

/// The tensor's elements on the host, in f32.
pub fn floats<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .into_vec()
        .expect("converted to f32 just above")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CpuBackend, Precision, dtype};

    fn frozen_gives_the_same<B: Ops>(format: Precision) {
        let device = Default::default();
        let matrix = |rows: usize, step: f32| -> Tensor<B, 2> {
            let values: Vec<f32> = (0..rows * 8).map(|i| (i as f32 * step).sin()).collect();
            Tensor::from_data(TensorData::new(values, [rows, 8]), &device)
        };
        let (z, w) = (in_format(matrix(5, 0.37), dtype(format)), matrix(11, 0.71));
        let (labels, weights) = ([3, IGNORE, 0, 10, 7], [0.25; 5]);
        for path in [LossPath::Fused { slice_bytes: 100 }, LossPath::Plain] {
            let (loss, dz, _) = path.backward(&z, &w, &labels, &weights, None);
            let (frozen, d) = path.backward_input(&z, &w, &labels, &weights);
            assert_eq!(loss.per_token, frozen.per_token, "{path:?}");
            assert_eq!(dz.into_data(), d.into_data(), "{path:?}");
        }
    }

    #[test]
    fn a_frozen_weight_changes_no_bit() {
        frozen_gives_the_same::<CpuBackend>(Precision::F32);
        frozen_gives_the_same::<CpuBackend>(Precision::Bf16);
    }

    #[cfg(feature = "ndarray")]
    #[test]
    fn a_frozen_weight_changes_no_bit_of_the_reference() {
        frozen_gives_the_same::<crate::NdarrayBackend>(Precision::F32);
    }
}
