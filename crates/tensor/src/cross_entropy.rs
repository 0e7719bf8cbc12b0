//! Linear head and cross-entropy, whole or over slices of tokens, in plain tensor operations.

use crate::attention::concatenated;
use crate::read::whole;
use crate::{Ops, added, ids_tensor, in_format, widened};
use burn::tensor::backend::Backend;
use burn::tensor::{BasicOps, Bool, DType, IndexingUpdateOp, Int, Tensor, TensorData};
use std::ops::Range;

/// Bytes of one slice of logits in f32, where there is room: for a WebGPU adapter a third of what it
/// lets a kernel bind at the least.
pub use aios_kernels::cross_entropy::SLICE_BYTES;
pub use aios_kernels::cross_entropy::{IGNORE, Loss as CrossEntropy, slice_tokens};

/// Buffers of the size of all f32 logits that [`LossPath::Plain`] holds at once on the CPU.
pub const PLAIN_LOSS_BUFFERS: usize = 2;

/// What the loss of some tokens comes to.
#[derive(Clone, Debug)]
pub enum TokenLosses<B: Backend> {
    /// On the host.
    Read(CrossEntropy),
    /// Still on the device, `[tokens, 3]`: the loss, 1 where the label is the most probable token, and 1 where the token
    /// counts; zeros where it is ignored.
    Queued(Tensor<B, 2>),
}

impl<B: Backend> TokenLosses<B> {
    /// Waits for the device, if need be.
    pub fn read(self) -> CrossEntropy {
        match self {
            Self::Read(losses) => losses,
            Self::Queued(rows) => {
                let mut losses = CrossEntropy::default();
                for row in whole(rows).chunks_exact(3) {
                    losses.per_token.push(row[0]);
                    losses.correct.push(row[1] != 0.0);
                }
                losses
            }
        }
    }
}

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
    ) -> (TokenLosses<B>, Tensor<B, 2>, Tensor<B, 2>) {
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
    ) -> (TokenLosses<B>, Tensor<B, 2>) {
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
    let (head, vocabulary) = (head(w, z.dtype()), w.dims()[0]);
    let labels = column(labels, &z.device());
    let slices = slices(z.dims()[0], vocabulary, slice_bytes).map(|slice| {
        let logits = B::linear_forward(&some_rows(z, &slice), &head);
        // The gradient that comes with it, where a kernel gives both in place, is nothing.
        let weights = Tensor::zeros([slice.len(), 1], &z.device());
        let labels = some_rows(&labels, &slice);
        let [report, _] = B::softmax_cross_entropy(logits, vocabulary, labels, weights);
        report
    });
    TokenLosses::<B>::Queued(concatenated(slices.collect(), 0)).read()
}

pub(super) fn forward_backward<B: Ops>(
    z: &Tensor<B, 2>,
    w: &Tensor<B, 2>,
    labels: &[i32],
    weights: &[f32],
    mut dw: Option<Tensor<B, 2>>,
    slice_bytes: usize,
) -> (TokenLosses<B>, Tensor<B, 2>, Tensor<B, 2>) {
    let vocabulary = w.dims()[0];
    let (loss, dz) = backward(z, w, labels, weights, slice_bytes, &mut |d, z| {
        let own = some_rows(&B::linear_backward_weight(None, d, z), &(0..vocabulary));
        dw = Some(added(dw.take(), own));
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
) -> (TokenLosses<B>, Tensor<B, 2>) {
    backward(z, w, labels, weights, slice_bytes, &mut |_, _| {})
}

/// Rows of a head's weight in half precision are padded to a multiple of that many: kernels for matrices read pieces of rows of
/// logits, which an odd vocabulary, as that of GPT-2 is, would have begin anywhere.
const ALIGNED: usize = 64;

/// Rows of a head as tensor operations multiply it, in the format of what it is multiplied by. In f32 it is not copied, nor padded
/// therefore.
pub fn head_rows(vocabulary: usize, format: DType) -> usize {
    match format {
        DType::F32 => vocabulary,
        _ => vocabulary.next_multiple_of(ALIGNED),
    }
}

fn head<B: Ops>(w: &Tensor<B, 2>, format: DType) -> Tensor<B, 2> {
    let vocabulary = w.dims()[0];
    match head_rows(vocabulary, format) {
        rows if rows == vocabulary => in_format(w.clone(), format),
        rows => B::padded(w, rows, format),
    }
}

/// [`Ops::padded`] in tensor operations.
pub(super) fn padded<B: Ops>(x: &Tensor<B, 2>, rows: usize, format: DType) -> Tensor<B, 2> {
    let [own, width] = x.dims();
    let zeros = in_format(Tensor::zeros([rows - own, width], &x.device()), format);
    Tensor::cat(vec![in_format(x.clone(), format), zeros], 0)
}

/// `each` gets the logits' gradient of each slice, perhaps with padding behind it, and its rows of `z`.
fn backward<B: Ops>(
    z: &Tensor<B, 2>,
    w: &Tensor<B, 2>,
    labels: &[i32],
    weights: &[f32],
    slice_bytes: usize,
    each: &mut dyn FnMut(&Tensor<B, 2>, &Tensor<B, 2>),
) -> (TokenLosses<B>, Tensor<B, 2>) {
    // Once, rather than in each product.
    let (head, vocabulary) = (head(w, z.dtype()), w.dims()[0]);
    let labels = column(labels, &z.device());
    let weights = factors(weights, &z.device());
    let mut rows = Vec::new();
    let mut dz = Vec::new();
    for slice in slices(z.dims()[0], vocabulary, slice_bytes) {
        let z = some_rows(z, &slice);
        let logits = B::linear_forward(&z, &head);
        let weights = some_rows(&weights, &slice);
        let labels = some_rows(&labels, &slice);
        let [report, d] = B::softmax_cross_entropy(logits, vocabulary, labels, weights);
        rows.push(report);
        dz.push(B::linear_backward_input(&d, &head));
        each(&d, &z);
    }
    let losses = TokenLosses::Queued(concatenated(rows, 0));
    (losses, concatenated(dz, 0))
}

/// Rows of a matrix; all of them are no copy.
fn some_rows<B: Backend, K: BasicOps<B>>(
    matrix: &Tensor<B, 2, K>,
    slice: &Range<usize>,
) -> Tensor<B, 2, K> {
    match slice.len() == matrix.dims()[0] {
        true => matrix.clone(),
        false => matrix.clone().narrow(0, slice.start, slice.len()),
    }
}

fn slices(
    tokens: usize,
    vocabulary: usize,
    slice_bytes: usize,
) -> impl Iterator<Item = Range<usize>> {
    let size = slice_tokens(tokens, vocabulary, slice_bytes);
    (0..tokens)
        .step_by(size)
        .map(move |start| start..tokens.min(start + size))
}

/// A label for each token, `[tokens, 1]`.
fn column<B: Backend>(labels: &[i32], device: &B::Device) -> Tensor<B, 2, Int> {
    ids_tensor(labels, device).reshape([labels.len(), 1])
}

/// A factor for each token, `[tokens, 1]`. One of all tokens, as training has it, is not uploaded.
fn factors<B: Backend>(weights: &[f32], device: &B::Device) -> Tensor<B, 2> {
    let dims = [weights.len(), 1];
    match weights.first() {
        Some(first) if weights.iter().all(|weight| weight == first) => {
            Tensor::full(dims, *first, device)
        }
        _ => Tensor::from_data(TensorData::new(weights.to_vec(), dims), device),
    }
}

/// [`Ops::softmax_cross_entropy`] in tensor operations.
pub(super) fn softmax<B: Ops>(
    logits: Tensor<B, 2>,
    vocabulary: usize,
    labels: Tensor<B, 2, Int>,
    weights: Tensor<B, 2>,
) -> [Tensor<B, 2>; 2] {
    let ([rows, columns], format) = (logits.dims(), logits.dtype());
    let logits = logits.narrow(1, 0, vocabulary);
    let slice = Slice::new(widened(logits), labels);
    let report = slice.report();
    let gradient = slice.gradient(weights);
    let gradient = match columns - vocabulary {
        0 => gradient,
        padding => {
            let zeros = Tensor::zeros([rows, padding], &gradient.device());
            Tensor::cat(vec![gradient, zeros], 1)
        }
    };
    [report, in_format(gradient, format)]
}

/// Logits of some tokens with what the softmax needs.
struct Slice<B: Backend> {
    logits: Tensor<B, 2>,
    /// 0 where the token is ignored.
    ids: Tensor<B, 2, Int>,
    ignored: Tensor<B, 2, Bool>,
    /// Largest logit and log-sum-exp of each row, `[n, 1]`.
    top: Tensor<B, 2>,
    lse: Tensor<B, 2>,
}

impl<B: Backend> Slice<B> {
    fn new(logits: Tensor<B, 2>, labels: Tensor<B, 2, Int>) -> Self {
        let top = logits.clone().max_dim(1);
        let lse = (logits.clone() - top.clone()).exp().sum_dim(1).log() + top.clone();
        Self {
            logits,
            ignored: labels.clone().equal_elem(IGNORE),
            ids: labels.clamp_min(0),
            top,
            lse,
        }
    }

    /// As [`TokenLosses::Queued`].
    fn report(&self) -> Tensor<B, 2> {
        let at_label = self.logits.clone().gather(1, self.ids.clone());
        let most: Tensor<B, 2, Bool> = at_label.clone().greater_equal(self.top.clone());
        let tops = self.logits.clone().equal(self.top.clone()).float();
        let alone = tops.sum_dim(1).equal_elem(1.0).float();
        let counts = self.counts();
        let correct = most.float() * alone * counts.clone();
        // No product: an ignored token may have logits that are not finite.
        let loss = (self.lse.clone() - at_label).mask_fill(self.ignored.clone(), 0.0);
        Tensor::cat(vec![loss, correct, counts], 1)
    }

    /// 1 where the token counts, 0 where it is ignored.
    fn counts(&self) -> Tensor<B, 2> {
        self.ignored.clone().bool_not().float()
    }

    /// `(softmax - one hot) * weight`.
    fn gradient(self, weights: Tensor<B, 2>) -> Tensor<B, 2> {
        let weights = weights * self.counts();
        let p = (self.logits - self.lse).exp() * weights.clone();
        p.scatter(1, self.ids, -weights, IndexingUpdateOp::Add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CpuBackend, Precision, dtype, floats};

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
            assert_eq!(loss.read(), frozen.read(), "{path:?}");
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

    /// Losses, whether they are right, and the gradient of `z`, of tokens of which two are ignored, one for its weight alone.
    #[cfg(feature = "ndarray")]
    fn of_some_tokens<B: Ops>(weights: [f32; 5]) -> (CrossEntropy, Vec<f32>) {
        let device = Default::default();
        let matrix = |rows: usize, step: f32| -> Tensor<B, 2> {
            let values: Vec<f32> = (0..rows * 8).map(|i| (i as f32 * step).sin()).collect();
            Tensor::from_data(TensorData::new(values, [rows, 8]), &device)
        };
        let (z, w) = (matrix(5, 0.37), matrix(11, 0.71));
        let labels = [3, IGNORE, 0, 10, 7];
        let (loss, dz) = B::cross_entropy_backward_input(&z, &w, &labels, &weights, 100);
        (loss.read(), floats(dz))
    }

    #[cfg(feature = "ndarray")]
    #[test]
    fn the_reference_weighs_tokens_as_the_cpu_does() {
        for weights in [[0.25; 5], [0.25, 1.0, 0.0, 2.0, 0.5]] {
            let (want, want_dz) = of_some_tokens::<CpuBackend>(weights);
            let (got, dz) = of_some_tokens::<crate::NdarrayBackend>(weights);
            assert_eq!(want.correct, got.correct);
            let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
            assert!(want.per_token.iter().zip(&got.per_token).all(near));
            assert!(want_dz.iter().zip(&dz).all(near), "{weights:?}");
        }
    }

    /// A row added to a token of each of three sequences.
    #[cfg(feature = "ndarray")]
    fn with_rows_added<B: Ops>(position: usize) -> Vec<f32> {
        let device = Default::default();
        let matrix = |rows: usize, step: f32| -> Tensor<B, 2> {
            let values: Vec<f32> = (0..rows * 5).map(|i| (i as f32 * step).sin()).collect();
            Tensor::from_data(TensorData::new(values, [rows, 5]), &device)
        };
        floats(B::add_at(matrix(12, 0.3), 4, position, matrix(3, 0.7)))
    }

    #[cfg(feature = "ndarray")]
    #[test]
    fn rows_are_added_to_one_token_of_each_sequence() {
        for position in [0, 3] {
            let rows = with_rows_added::<CpuBackend>(position);
            assert_eq!(rows, with_rows_added::<crate::NdarrayBackend>(position));
            let changed = (0..12).filter(|i| rows[5 * i + 2] != (((5 * i + 2) as f32) * 0.3).sin());
            assert_eq!(
                changed.collect::<Vec<_>>(),
                [position, 4 + position, 8 + position]
            );
        }
    }
}
