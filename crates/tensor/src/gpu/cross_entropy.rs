//! Softmax and cross-entropy of logits with their gradient: one kernel, in place where it may be.

use crate::gpu::elements::{count, elements, empty, in_place, launch};
use crate::gpu::fused::{Gpu, Matrix, float, queue};
use crate::gpu::kernel::KernelRuntime;
use crate::gpu::row_texts::{Elements, SOFTMAX_CROSS_ENTROPY};
use burn::tensor::{DType, Int, Shape, Tensor};
use burn_cubecl::CubeRuntime;
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// Rows that may be padded, as CUDA's are unless they have a multiple of 512 bytes; a copy of anything else.
fn in_rows<R: CubeRuntime>(tensor: CubeTensor<R>, elements: Elements) -> CubeTensor<R> {
    let strides = tensor.meta.strides();
    let aligned = !elements.quads || strides[0].is_multiple_of(4);
    match strides[1] == 1 && aligned {
        true => tensor,
        false => into_contiguous(tensor),
    }
}

/// [`crate::Ops::softmax_cross_entropy`].
pub(super) fn softmax<R, BT>(
    logits: Matrix<R, BT>,
    vocabulary: usize,
    labels: Tensor<Gpu<R, BT>, 2, Int>,
    weights: Matrix<R, BT>,
) -> [Matrix<R, BT>; 2]
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let [rows, width] = logits.dims();
    // The kernel reads one of each a row.
    assert_eq!((labels.dims(), weights.dims()), ([rows, 1], [rows, 1]));
    assert!(vocabulary <= width);
    let elements = elements(logits.dtype(), width);
    let kernel = SOFTMAX_CROSS_ENTROPY.kernel(elements);
    count(elements.pieces(rows * width));
    let outlines = [
        (Shape::from([rows, 3]), DType::F32),
        (Shape::from([rows, width]), logits.dtype()),
    ];
    let [logits, weights] = [logits, weights].map(|t| t.into_primitive().tensor());
    let inputs = [logits, labels.into_primitive(), weights];
    let run = move |inputs: [CubeTensor<R>; 3]| {
        let [logits, labels, weights] = inputs;
        let [labels, weights] = [labels, weights].map(into_contiguous);
        let logits = in_rows(logits, elements);
        let gradient = in_place([&logits]);
        let [from, to] = [&logits, &gradient].map(|tensor| tensor.meta.strides()[0]);
        let told = [rows, vocabulary, from, to, width].map(count);
        let report = empty(&logits, [rows, 3], DType::F32);
        let read = [&logits.handle, &labels.handle, &weights.handle];
        let buffers = [&read[..], &[&gradient.handle, &report.handle]].concat();
        launch(&kernel, &logits, rows, &buffers, &told);
        [report, gradient]
    };
    queue::<R, BT, 3, 2>("softmax_cross_entropy", inputs, outlines, run).map(float)
}
