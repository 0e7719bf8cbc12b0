//! Linear head and cross-entropy in one, over slices of tokens, so that the whole
//! `[tokens, vocabulary]` matrix of logits never exists.
//!
//! The idea is that of the fused linear cross-entropy in Liger Kernel (Hsu et al., 2024): the
//! gradient of the logits is computed in the place of the logits, slice by slice.
//!
//! What stands there is that gradient but for a factor of each row: exponentials, less their sum at the label. A row is gone
//! through once for it when its largest logit is known, and the factors are given to the smaller matrices of the two products.
//!
//! Where `z` is in bf16 the products are, as under autocast: logits and loss are in f32 all the same, and the gradient of the
//! logits is rounded to bf16, in the first half of each row.

use crate::buffer::{uninit, zeros};
use crate::half::{Half, to_bf16};
use crate::matmul::{Numbers, View, add_linear_backward_weight, linear_backward_weight, matmul};
use crate::simd::{LANES, dispatch, exp, max, sum};
use crate::team::Each;
use rayon::prelude::*;

/// Label of a token that takes no part in the loss.
pub const IGNORE: i32 = -100;

/// Bytes a slice of logits may take where there is room: the weight gradient is read and written once
/// a slice, so that larger ones are faster. At a vocabulary of 50,257 and 4096 tokens, slices of this
/// size take as long as all logits at once; of 64 MiB 6 % less, of 32 MiB 4 % more.
pub const SLICE_BYTES: usize = 40 << 20;

/// Where the gradient of the head's weight goes, `[vocabulary, hidden]`.
#[derive(Debug)]
pub enum WeightGradient<'a> {
    /// Added to what is there.
    Sum(&'a mut [f32]),
    /// Into a vector of its own, which is empty before.
    New(&'a mut Vec<f32>),
}

impl WeightGradient<'_> {
    /// Take `dᵀ z`.
    fn take(&mut self, d: View, z: View) {
        match self {
            Self::Sum(dw) => add_linear_backward_weight(dw, d, z),
            Self::New(dw) if dw.is_empty() => **dw = linear_backward_weight(d, z),
            Self::New(dw) => add_linear_backward_weight(dw, d, z),
        }
    }
}

/// What the loss reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    /// `-log p(label)` per token; 0 where the label is ignored.
    pub per_token: Vec<f32>,
    /// Whether the most probable token is the label; false where it is ignored.
    pub correct: Vec<bool>,
}

/// Forward pass only. `z` is `[T, hidden]`, `w` `[vocabulary, hidden]`, `labels` has `T` ids; a slice
/// of logits takes `slice_bytes`, or a token's logits if they are more.
///
/// # Panics
/// If a label is neither [`IGNORE`] nor a row of `w`.
pub fn forward(z: Numbers, w: Numbers, labels: &[i32], hidden: usize, slice_bytes: usize) -> Loss {
    let mut loss = Loss::default();
    let mut logits = Vec::new();
    for (z, labels) in slices(z, labels, hidden, w.len() / hidden, slice_bytes) {
        product(&mut logits, z, w, labels.len(), hidden);
        rows(&mut logits, labels, None, in_bf16(z), &mut loss);
    }
    loss
}

/// Forward and backward in one pass: gives `dw` its part, unless the weight is frozen, and returns the gradient of `z`.
///
/// `weights[t]` is the factor of token t's loss in the objective. The size of a slice changes nothing
/// but the order of the sums over tokens in `dw`, that is, the results' rounding.
///
/// # Panics
/// As [`forward`], and if the sum that `dw` is added to has not the length of `w`.
pub fn forward_backward(
    z: Numbers,
    w: Numbers,
    labels: &[i32],
    weights: &[f32],
    mut dw: Option<WeightGradient>,
    hidden: usize,
    slice_bytes: usize,
) -> (Loss, Vec<f32>) {
    assert_eq!(labels.len(), weights.len());
    let vocabulary = w.len() / hidden;
    let mut loss = Loss::default();
    let mut dz = uninit(z.len());
    let mut logits = Vec::new();
    let mut first = 0;
    for (z, labels) in slices(z, labels, hidden, vocabulary, slice_bytes) {
        let tokens = labels.len();
        product(&mut logits, z, w, tokens, hidden);
        let weights = &weights[first..first + tokens];
        let factors = rows(&mut logits, labels, Some(weights), in_bf16(z), &mut loss);
        let d = Scaled {
            numbers: &logits,
            factors,
        };
        let dz = &mut dz[first * hidden..(first + tokens) * hidden];
        head_backward(d, z, w, dz, dw.as_mut(), hidden);
        first += tokens;
    }
    if let (Some(WeightGradient::New(dw)), true) = (dw, labels.is_empty()) {
        *dw = zeros(w.len());
    }
    (loss, dz)
}

/// [`forward_backward`] the plain way: all logits, and beside them all of their gradient.
///
/// # Panics
/// As [`forward_backward`].
pub fn forward_backward_plain(
    z: Numbers,
    w: Numbers,
    labels: &[i32],
    weights: &[f32],
    mut dw: Option<WeightGradient>,
    hidden: usize,
) -> (Loss, Vec<f32>) {
    assert_eq!(labels.len(), weights.len());
    let mut loss = Loss::default();
    let mut logits = Vec::new();
    product(&mut logits, z, w, labels.len(), hidden);
    let mut gradient = uninit(logits.len());
    gradient
        .par_chunks_mut(crate::GRAIN)
        .zip(logits.par_chunks(crate::GRAIN))
        .each(|(gradient, logits)| gradient.copy_from_slice(logits));
    let factors = rows(&mut gradient, labels, Some(weights), in_bf16(z), &mut loss);
    let d = Scaled {
        numbers: &gradient,
        factors,
    };
    let mut dz = uninit(z.len());
    head_backward(d, z, w, &mut dz, dw.as_mut(), hidden);
    (loss, dz)
}

/// The logits' gradient: each row times its factor.
struct Scaled<'a> {
    numbers: &'a [f32],
    factors: Vec<f32>,
}

/// `dz = d w` and `dw += dᵀ z`, given the logits' gradient `d`.
fn head_backward(
    Scaled {
        numbers: d,
        factors,
    }: Scaled,
    z: Numbers,
    w: Numbers,
    dz: &mut [f32],
    dw: Option<&mut WeightGradient>,
    hidden: usize,
) {
    let (tokens, vocabulary) = (z.len() / hidden, w.len() / hidden);
    let d = match in_bf16(z) {
        true => View::of(first_halves(d), tokens, vocabulary, 2 * vocabulary),
        false => View::new(d, tokens, vocabulary, vocabulary),
    };
    let w = View::of(w, vocabulary, hidden, hidden);
    matmul(dz, hidden, d, w, 1.0, false);
    let scale = |rows: &mut [f32]| {
        for (row, factor) in rows.chunks_mut(hidden).zip(&factors) {
            row.iter_mut().for_each(|x| *x *= factor);
        }
    };
    scale(dz);
    if let Some(dw) = dw {
        let mut z = z.to_f32();
        scale(&mut z);
        dw.take(d, View::whole(&z, tokens, hidden));
    }
}

/// Tokens of a slice, of `tokens` of which some fit into `slice_bytes`: slices are of equal size, since
/// a short last one would use the processor badly.
pub fn slice_tokens(tokens: usize, vocabulary: usize, slice_bytes: usize) -> usize {
    let most = (slice_bytes / (4 * vocabulary.max(1))).max(1);
    tokens.div_ceil(tokens.div_ceil(most).max(1)).max(1)
}

fn slices<'a>(
    z: Numbers<'a>,
    labels: &'a [i32],
    hidden: usize,
    vocabulary: usize,
    slice_bytes: usize,
) -> impl Iterator<Item = (Numbers<'a>, &'a [i32])> {
    assert_eq!(z.len(), labels.len() * hidden);
    let tokens = slice_tokens(labels.len(), vocabulary, slice_bytes);
    labels.chunks(tokens).enumerate().map(move |(i, labels)| {
        let first = i * tokens * hidden;
        (z.part(first..first + labels.len() * hidden), labels)
    })
}

fn in_bf16(z: Numbers) -> bool {
    matches!(z, Numbers::Half(_, Half::Bf16))
}

/// The memory of floats as bits of bf16: of a row of n floats the first n are its gradient but for the row's factor.
fn first_halves(d: &[f32]) -> Numbers<'_> {
    // SAFETY: the same bytes, with less alignment; every pattern is a number.
    let bits = unsafe { std::slice::from_raw_parts(d.as_ptr().cast::<u16>(), 2 * d.len()) };
    Numbers::Half(bits, Half::Bf16)
}

fn product(logits: &mut Vec<f32>, z: Numbers, w: Numbers, tokens: usize, hidden: usize) {
    let vocabulary = w.len() / hidden;
    if logits.len() < tokens * vocabulary {
        *logits = uninit(tokens * vocabulary);
    }
    logits.truncate(tokens * vocabulary);
    let z = View::of(z, tokens, hidden, hidden);
    let w = View::of(w, vocabulary, hidden, hidden).t();
    matmul(logits, vocabulary, z, w, 1.0, false);
}

/// Loss of each row of logits. With the weights of the tokens' losses they become their gradient but for a factor of each,
/// which is returned; if asked to, in bf16 in the first half of each row.
fn rows(
    logits: &mut [f32],
    labels: &[i32],
    weights: Option<&[f32]>,
    in_bf16: bool,
    loss: &mut Loss,
) -> Vec<f32> {
    let vocabulary = logits.len() / labels.len();
    let mut results = vec![Row::default(); labels.len()];
    let tasks = logits.par_chunks_mut(vocabulary).zip(labels);
    tasks.zip(&mut results).each(|((logits, &label), result)| {
        *result = row(logits, label, weights.is_some(), in_bf16)
    });
    loss.per_token.extend(results.iter().map(|r| r.loss));
    loss.correct.extend(results.iter().map(|r| r.correct));
    let weights = weights.into_iter().flatten().zip(labels);
    let factors = weights
        .zip(results)
        .map(|((weight, label), row)| match *label {
            IGNORE => 0.0,
            _ => weight / row.total,
        });
    factors.collect()
}

/// What becomes of a row.
#[derive(Clone, Copy, Default)]
struct Row {
    loss: f32,
    correct: bool,
    /// Sum of the exponentials.
    total: f32,
}

fn row(logits: &mut [f32], label: i32, gradient: bool, in_bf16: bool) -> Row {
    if label == IGNORE {
        if gradient {
            logits.fill(0.0);
        }
        return Row::default();
    }
    let label = label as usize;
    dispatch(
        #[inline(always)]
        || {
            let top = max(logits);
            let at_label = logits[label];
            // Before they become exponentials, which may be one for others than the largest.
            let correct = at_label == top && logits.iter().filter(|l| **l == top).count() == 1;
            let total = match (gradient, in_bf16) {
                (false, _) => sum(logits.len(), |i| exp(logits[i] - top)),
                (true, false) => exponentials(logits, top),
                (true, true) => exponentials_in_first_half(logits, top),
            };
            let own = exp(at_label - top) - total;
            match (gradient, in_bf16) {
                (false, _) => {}
                (true, false) => logits[label] = own,
                // SAFETY: inside of the row's memory, of which it is aligned as half a number.
                (true, true) => unsafe {
                    *logits.as_mut_ptr().cast::<u16>().add(label) = to_bf16(own);
                },
            }
            Row {
                loss: total.ln() + top - at_label,
                correct,
                total,
            }
        },
    )
}

/// What all become less `top`, and their sum, as [`sum`] adds.
#[inline(always)]
fn exponentials(row: &mut [f32], top: f32) -> f32 {
    let mut parts = [0.0_f32; LANES];
    let mut groups = row.chunks_exact_mut(LANES);
    for group in &mut groups {
        for (part, x) in parts.iter_mut().zip(group) {
            *x = exp(*x - top);
            *part += *x;
        }
    }
    let mut total = parts.iter().sum::<f32>();
    for x in groups.into_remainder() {
        *x = exp(*x - top);
        total += *x;
    }
    total
}

/// The same in bf16 from the start of their memory on; the sum is of what has not been rounded.
#[inline(always)]
fn exponentials_in_first_half(row: &mut [f32], top: f32) -> f32 {
    let start = row.as_mut_ptr();
    let (from, to) = (start.cast_const(), start.cast::<u16>());
    let mut parts = [0.0_f32; LANES];
    let whole = row.len() - row.len() % LANES;
    for done in (0..whole).step_by(LANES) {
        let mut bits = [0_u16; LANES];
        // SAFETY: inside of the row; what is written is before what has not been read.
        unsafe {
            let group = from.add(done).cast::<[f32; LANES]>().read();
            for ((bits, part), x) in bits.iter_mut().zip(&mut parts).zip(group) {
                let x = exp(x - top);
                *part += x;
                *bits = to_bf16(x);
            }
            to.add(done).cast::<[u16; LANES]>().write_unaligned(bits);
        }
    }
    let mut total = parts.iter().sum::<f32>();
    for i in whole..row.len() {
        // SAFETY: as above.
        unsafe {
            let x = exp(*from.add(i) - top);
            total += x;
            *to.add(i) = to_bf16(x);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::half::{self, Half};
    use crate::testing::{assert_close, values};

    #[test]
    fn loss_and_gradients_match_plain_softmax() {
        let (t, h, v) = (9, 6, 41);
        let (z, w) = (values(t * h, 1), values(v * h, 2));
        let mut labels: Vec<i32> = (0..t as i32).map(|i| (i * 7) % v as i32).collect();
        labels[3] = IGNORE;
        let weights = vec![0.25_f32; t];
        let mut dw = vec![0.0; v * h];
        let (loss, dz) = forward_backward(
            Numbers::F32(&z),
            Numbers::F32(&w),
            &labels,
            &weights,
            Some(WeightGradient::Sum(&mut dw)),
            h,
            SLICE_BYTES,
        );
        let alone = forward(Numbers::F32(&z), Numbers::F32(&w), &labels, h, SLICE_BYTES);
        assert_eq!(loss.per_token, alone.per_token);

        let (mut want_loss, mut want_dz, mut want_dw) =
            (vec![0.0; t], vec![0.0; t * h], vec![0.0; v * h]);
        for i in (0..t).filter(|&i| labels[i] != IGNORE) {
            let logit = |j: usize| -> f64 {
                (0..h)
                    .map(|c| f64::from(z[i * h + c]) * f64::from(w[j * h + c]))
                    .sum()
            };
            let total: f64 = (0..v).map(|j| logit(j).exp()).sum();
            want_loss[i] = (total.ln() - logit(labels[i] as usize)) as f32;
            for j in 0..v {
                let hot = f64::from(u8::from(j == labels[i] as usize));
                let d = ((logit(j).exp() / total - hot) * 0.25) as f32;
                for c in 0..h {
                    want_dz[i * h + c] += d * w[j * h + c];
                    want_dw[j * h + c] += d * z[i * h + c];
                }
            }
        }
        assert_close(&loss.per_token, &want_loss, 1e-6);
        assert_close(&dz, &want_dz, 1e-5);
        assert_close(&dw, &want_dw, 1e-5);

        let mut plain_dw = Vec::new();
        let (plain, plain_dz) = forward_backward_plain(
            Numbers::F32(&z),
            Numbers::F32(&w),
            &labels,
            &weights,
            Some(WeightGradient::New(&mut plain_dw)),
            h,
        );
        assert_eq!(plain.per_token, loss.per_token);
        assert_close(&plain_dz, &dz, 1e-6);
        assert_close(&plain_dw, &dw, 1e-6);
    }

    #[test]
    fn slices_are_of_equal_size_and_none_is_larger_than_asked() {
        for tokens in [1, 7, 100, 101, 4096] {
            for bytes in [0, 4 * 50, 4 * 50 * 3, 4 * 50 * 64, usize::MAX] {
                let size = slice_tokens(tokens, 50, bytes);
                assert!(size >= 1 && size <= (bytes / 200).max(1) && size <= tokens);
                let slices = tokens.div_ceil(size);
                assert!(
                    slices * size - tokens < slices,
                    "{tokens} in {slices} of {size}"
                );
            }
        }
    }

    #[test]
    fn the_size_of_a_slice_only_changes_rounding() {
        let (t, h, v) = (67, 24, 300);
        let (z, w) = (values(t * h, 1), values(v * h, 2));
        let labels: Vec<i32> = (0..t as i32).map(|i| (i * 7) % v as i32).collect();
        let weights = vec![1.0 / t as f32; t];
        let run = |tokens: usize| {
            let mut dw = vec![0.0; v * h];
            let bytes = 4 * v * tokens;
            let (loss, dz) = forward_backward(
                Numbers::F32(&z),
                Numbers::F32(&w),
                &labels,
                &weights,
                Some(WeightGradient::Sum(&mut dw)),
                h,
                bytes,
            );
            (loss.per_token, dz, dw)
        };
        let whole = run(t);
        for tokens in [1, 2, 16, 40] {
            let sliced = run(tokens);
            assert_close(&sliced.0, &whole.0, 1e-6);
            assert_close(&sliced.1, &whole.1, 1e-6);
            assert_close(&sliced.2, &whole.2, 1e-6);
            assert!(sliced == run(tokens), "not the same twice");
        }
    }

    #[test]
    fn a_weight_may_be_in_16_bits() {
        let (t, h, v) = (7, 40, 99);
        let z = values(t * h, 1);
        let labels = [0, v as i32 - 1, IGNORE, 5, 6, 7, 8];
        for format in [Half::Bf16, Half::F16] {
            let bits = half::narrow(&values(v * h, 2), format);
            let run = |w: Numbers| {
                let mut dw = vec![0.0; v * h];
                let (loss, dz) = forward_backward(
                    Numbers::F32(&z),
                    w,
                    &labels,
                    &[0.5; 7],
                    Some(WeightGradient::Sum(&mut dw)),
                    h,
                    4 * v,
                );
                (loss.per_token, dz, dw)
            };
            let held = run(Numbers::Half(&bits, format));
            let whole = run(Numbers::F32(&half::widen(&bits, format)));
            assert!(held == whole);
        }
    }

    #[test]
    fn states_in_bf16_give_its_products_and_a_loss_in_f32() {
        let (t, h, v) = (37, 40, 131);
        let z = half::narrow(&values(t * h, 1), Half::Bf16);
        let w = values(v * h, 2);
        let mut labels: Vec<i32> = (0..t as i32).map(|i| (i * 7) % v as i32).collect();
        labels[3] = IGNORE;
        let run = |z: Numbers, slice: usize| {
            let mut dw = Vec::new();
            let new = Some(WeightGradient::New(&mut dw));
            let w = Numbers::F32(&w);
            let (loss, dz) = forward_backward(z, w, &labels, &vec![0.5; t], new, h, 4 * v * slice);
            (loss.per_token, dz, dw)
        };
        let wide = half::widen(&z, Half::Bf16);
        let want = run(Numbers::F32(&wide), t);
        for slice in [t, 5] {
            let own = run(Numbers::Half(&z, Half::Bf16), slice);
            // To what eight bits can tell: each gradient is a sum of rounded numbers of up to 0.5.
            assert_close(&own.0, &want.0, 1e-2);
            assert_close(&own.1, &want.1, 1e-2);
            assert_close(&own.2, &want.2, 1e-2);
        }
        let mut dw = Vec::new();
        let (z, new) = (Numbers::Half(&z, Half::Bf16), WeightGradient::New(&mut dw));
        let weights = vec![0.5; t];
        let (loss, dz) =
            forward_backward_plain(z, Numbers::F32(&w), &labels, &weights, Some(new), h);
        assert!((loss.per_token, dz, dw) == run(z, t));
    }

    #[test]
    fn large_logits_and_nan_are_told_apart() {
        let forward = |z: f32, label| {
            forward(
                Numbers::F32(&[z]),
                Numbers::F32(&[1.0, -1.0]),
                &[label],
                1,
                SLICE_BYTES,
            )
        };
        let sure = forward(1e4, 0);
        assert_eq!((sure.per_token[0], sure.correct[0]), (0.0, true));
        let wrong = forward(1e4, 1);
        assert_eq!((wrong.per_token[0], wrong.correct[0]), (2e4, false));
        let tied = forward(0.0, 0);
        assert!(
            !tied.correct[0],
            "neither label is more probable than the other"
        );
        let mut none = Vec::new();
        let dw = Some(WeightGradient::New(&mut none));
        forward_backward(
            Numbers::F32(&[]),
            Numbers::F32(&[1.0; 6]),
            &[],
            &[],
            dw,
            2,
            SLICE_BYTES,
        );
        assert_eq!(none, [0.0; 6]);
        let broken = forward(f32::NAN, 1);
        assert!(broken.per_token[0].is_nan() && !broken.correct[0]);
    }
}
