//! What stands between a model's products: norms, activations, positions, loss and update.

use super::{Results, adamw_step};
use crate::{
    AdamWUpdate, Affine, AttentionShape, NormShape, Ops, Precision, Rope, Turn, dtype, floats,
    in_format, total,
};
use crate::{floats_of_all, ids_tensor};
use burn::tensor::{Tensor, TensorData};

const TOKENS: usize = 33;
/// Queries, keys and values of one head; in pieces of four, as a model's are.
const WIDTH: usize = 72;
/// Odd, as that of GPT-2's tokenizer is, and padded.
const VOCABULARY: usize = 301;

/// All of it in a format, with the gradients.
pub(super) fn results<B: Ops>(device: &B::Device, precision: Precision) -> Results {
    let matrix = |rows: usize, cols: usize, step: f32| -> Tensor<B, 2> {
        let values = (0..rows * cols).map(|i| (i as f32 * step).sin());
        let data = TensorData::new(values.collect::<Vec<f32>>(), [rows, cols]);
        Tensor::from_data(data, device)
    };
    let half = |x: Tensor<B, 2>| in_format(x, dtype(precision));
    let (x, a) = (
        half(matrix(TOKENS, WIDTH, 0.37)),
        half(matrix(TOKENS, WIDTH, 0.71)),
    );
    let d = half(matrix(TOKENS, WIDTH, 0.53));
    let (normed, scale) = B::add_rms_norm(x.clone(), a, 1e-5);
    let d_normed = B::add_rms_norm_backward(&normed, &scale, &d);
    let parts = [d.clone(), half(matrix(TOKENS, WIDTH, 0.91))];
    let d_of_two = B::add_rms_norm_backward_of_two(&normed, &scale, parts);
    let (weight, bias) = (matrix(1, WIDTH, 0.41), matrix(1, WIDTH, 0.67));
    let (affine, shape) = (
        Affine {
            weight: Some(&weight),
            bias: Some(&bias),
        },
        NormShape {
            centered: true,
            eps: 1e-5,
            offset: 1.0,
        },
    );
    let scaled = B::norm(&x, affine, &shape);
    let d_scaled = B::norm_backward(&x, affine, &shape, &d, true);
    let gated = B::swiglu(&x);
    let d = || half(matrix(TOKENS, WIDTH / 2, 0.9));
    let mut again = Vec::new();
    let d_gated = B::back_through_swiglu(&x, |y| again = floats(y.clone()), d);
    let shape = AttentionShape::new(1, TOKENS, 1, WIDTH / 3);
    let table = Rope::new(TOKENS, WIDTH / 3, 1e4, device);
    let turned = B::rope(x, &table, &shape, Turn::Forward);

    let padded = B::padded(&matrix(VOCABULARY, WIDTH, 0.19), 320, dtype(precision));
    let logits = half(matrix(TOKENS, VOCABULARY + 3, 0.29));
    let ids: Vec<i32> = (0..TOKENS as i32).map(|i| i * 7 % 31).collect();
    let labels = ids_tensor(&ids, device).reshape([TOKENS, 1]);
    let weights = matrix(TOKENS, 1, 1.1);
    let [report, d_logits] = B::softmax_cross_entropy(logits, VOCABULARY, labels, weights);
    let looked_up = B::embedding_gradient(None, 31, &ids, matrix(TOKENS, WIDTH, 0.83), 0.5);
    let parameter = matrix(31, WIDTH, 0.61);
    let squares = B::squares(&[&looked_up, &scale, &weight, &bias, &parameter]);
    let (updated, [mean, square]) = B::adamw(parameter, looked_up.clone(), None, &adamw_step(1));
    // Of different sizes, and each the only one to hold it.
    let four = [1, 31, 5, 12].map(|rows| AdamWUpdate {
        parameter: matrix(rows, WIDTH, 0.61),
        gradient: matrix(rows, WIDTH, 0.43),
        moments: [matrix(rows, WIDTH, 0.31), matrix(rows, WIDTH, 0.0)],
        step: adamw_step(2),
    });
    let four = B::adamw_all(four.into()).into_iter();
    let four = four.flat_map(|(p, [m, v])| [p, m, v]);
    vec![
        ("RMSNorm", floats(normed)),
        ("the gradient of RMSNorm", floats(d_normed)),
        ("the gradient of RMSNorm in two parts", floats(d_of_two)),
        ("LayerNorm", floats(scaled)),
        ("the gradient of LayerNorm", floats(d_scaled.dx)),
        (
            "the gradients of a norm's weight and bias",
            [d_scaled.weight, d_scaled.bias]
                .into_iter()
                .flatten()
                .flat_map(floats)
                .collect(),
        ),
        ("SwiGLU", floats(gated)),
        ("the gradient of SwiGLU", floats(d_gated)),
        ("SwiGLU beside its gradient", again),
        ("turning by positions", floats(turned)),
        ("a padded matrix", floats(padded)),
        // Which token is the most probable is a matter of rounding.
        ("cross-entropy", floats(report.narrow(1, 0, 1))),
        ("the gradient of cross-entropy", floats(d_logits)),
        ("the gradient of an embedding", floats(looked_up)),
        (
            "the norm of gradients",
            vec![total(&floats_of_all(squares)) as f32],
        ),
        ("AdamW", floats(updated)),
        ("the mean that AdamW keeps", floats(mean)),
        ("the square that AdamW keeps", floats(square)),
        ("AdamW of four", four.flat_map(floats).collect()),
    ]
}
