//! SwiGLU and its gradient: a kernel each, of one text.

use crate::gpu::elements::{count, elements, empty, in_place, launch, workgroups};
use crate::gpu::fused::{Matrix, float, queue};
use crate::gpu::kernel::KernelRuntime;
use crate::gpu::row_texts::{SWIGLU, SWIGLU_BACKWARD};
use burn::tensor::Shape;
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// [`crate::Ops::swiglu`].
pub(super) fn forward<R, BT>(gate_up: Matrix<R, BT>) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let [rows, both] = gate_up.dims();
    let inner = both / 2;
    let elements = elements(gate_up.dtype(), inner);
    let outline = [(Shape::from([rows, inner]), gate_up.dtype())];
    let inputs = [gate_up.into_primitive().tensor()];
    let kernel = SWIGLU.kernel(elements);
    let told = [count(rows), count(inner)];
    count(elements.pieces(rows * both));
    let run = move |[gate_up]: [CubeTensor<R>; 1]| {
        let gate_up = into_contiguous(gate_up);
        let y = empty(&gate_up, [rows, inner], gate_up.dtype);
        let work = workgroups(elements.pieces(rows * inner));
        launch(&kernel, &y, work, &[&gate_up.handle, &y.handle], &told);
        [y]
    };
    let [y] = queue::<R, BT, 1, 1>("swiglu", inputs, outline, run);
    float(y)
}

/// [`crate::Ops::swiglu_backward`] of two matrices in one format, and [`crate::Ops::swiglu`] again.
pub(super) fn backward<R, BT>(gate_up: Matrix<R, BT>, dy: Matrix<R, BT>) -> [Matrix<R, BT>; 2]
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let [rows, inner] = dy.dims();
    let elements = elements(dy.dtype(), inner);
    let outlines = [2 * inner, inner].map(|width| (Shape::from([rows, width]), dy.dtype()));
    let inputs = [gate_up, dy].map(|t| t.into_primitive().tensor());
    let kernel = SWIGLU_BACKWARD.kernel(elements);
    let told = [count(rows), count(inner)];
    count(elements.pieces(2 * rows * inner));
    let run = move |inputs: [CubeTensor<R>; 2]| {
        let [gate_up, dy] = inputs.map(into_contiguous);
        let d_gate_up = empty(&dy, [rows, 2 * inner], dy.dtype);
        let y = in_place([&dy]);
        let work = workgroups(elements.pieces(rows * inner));
        let tensors = [&gate_up, &dy, &d_gate_up, &y];
        launch(&kernel, &dy, work, &tensors.map(|t| &t.handle), &told);
        [d_gate_up, y]
    };
    queue::<R, BT, 2, 2>("swiglu_backward", inputs, outlines, run).map(float)
}
