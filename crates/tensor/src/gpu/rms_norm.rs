//! RMSNorm of a residual sum and its gradient: a kernel each.

use crate::gpu::elements::{count, elements, empty, in_place, launch};
use crate::gpu::fused::{Matrix, float, queue, queue_with};
use crate::gpu::kernel::KernelRuntime;
use crate::gpu::row_texts::{ADD_RMS_NORM, ADD_RMS_NORM_BACKWARD, ADD_RMS_NORM_BACKWARD_OF_TWO};
use burn::tensor::{DType, Shape};
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// [`crate::Ops::add_rms_norm`] of two matrices in one format.
pub(super) fn forward<R, BT>(
    x: Matrix<R, BT>,
    a: Matrix<R, BT>,
    eps: f32,
) -> (Matrix<R, BT>, Matrix<R, BT>)
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let [rows, width] = x.dims();
    let elements = elements(x.dtype(), width);
    let kernel = ADD_RMS_NORM.kernel(elements);
    let outlines = [
        (Shape::from([rows, width]), x.dtype()),
        (Shape::from([rows, 1]), DType::F32),
    ];
    let inputs = [x, a].map(|t| t.into_primitive().tensor());
    let told = [count(rows), count(width), eps.to_bits(), 0];
    count(elements.pieces(rows * width));
    let run = move |inputs: [CubeTensor<R>; 2]| {
        let [x, a] = inputs.map(into_contiguous);
        let y = in_place([&x, &a]);
        let scale = empty(&x, [rows, 1], DType::F32);
        let buffers = [&x.handle, &a.handle, &y.handle, &scale.handle];
        launch(&kernel, &x, rows, &buffers, &told);
        [y, scale]
    };
    let [y, scale] = queue::<R, BT, 2, 2>("add_rms_norm", inputs, outlines, run);
    (float(y), float(scale))
}

/// [`crate::Ops::add_rms_norm_backward`], with `y` and `dy` in one format, and perhaps a second part of `dy`.
pub(super) fn backward<R, BT>(
    y: Matrix<R, BT>,
    scale: Matrix<R, BT>,
    dy: Matrix<R, BT>,
    more: Option<Matrix<R, BT>>,
) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let [rows, width] = y.dims();
    let elements = elements(y.dtype(), width);
    let texts = match more {
        None => &ADD_RMS_NORM_BACKWARD,
        Some(_) => &ADD_RMS_NORM_BACKWARD_OF_TWO,
    };
    let kernel = texts.kernel(elements);
    let outline = [(Shape::from([rows, width]), y.dtype())];
    let inputs = [y, dy, scale].map(|t| t.into_primitive().tensor());
    let more = more.into_iter().map(|t| t.into_primitive().tensor());
    let told = [count(rows), count(width)];
    count(elements.pieces(rows * width));
    let run = move |inputs: [CubeTensor<R>; 3], more: Vec<CubeTensor<R>>| {
        let [y, dy, scale] = inputs.map(into_contiguous);
        let more: Vec<_> = more.into_iter().map(into_contiguous).collect();
        let dx = in_place([&dy, more.first().unwrap_or(&dy)]);
        let tensors = [&y, &dy, &scale].into_iter().chain(&more).chain([&dx]);
        let buffers: Vec<_> = tensors.map(|t| &t.handle).collect();
        launch(&kernel, &y, rows, &buffers, &told);
        [dx]
    };
    let name = "add_rms_norm_backward";
    let [dx] = queue_with::<R, BT, 3, 1>(name, inputs, more.collect(), outline, run);
    float(dx)
}
