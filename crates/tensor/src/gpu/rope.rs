//! Rotary position embedding: one kernel, in place where it may be.

use crate::gpu::elements::{count, elements, in_place, launch, workgroups};
use crate::gpu::fused::{Gpu, Matrix, float, queue};
use crate::gpu::kernel::KernelRuntime;
use crate::gpu::row_texts::ROPE;
use crate::{AttentionShape, Rope, Turn};
use burn::tensor::Shape;
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// The sizes that the kernel is told, but whether it works in place.
pub(super) fn told(rows: usize, half: usize, shape: &AttentionShape, turn: Turn) -> [u32; 7] {
    let heads = shape.heads + shape.kv_heads;
    let sizes = [
        rows,
        shape.seq,
        shape.qkv_width(),
        heads,
        shape.head_dim,
        half,
    ];
    let [rows, seq, width, heads, head_dim, half] = sizes.map(count);
    let back = u32::from(matches!(turn, Turn::Backward));
    [rows, seq, width, heads, head_dim, half, back]
}

/// What lies at the same places in pieces: the width of all that the kernel steps by.
pub(super) fn unit(half: usize, head_dim: usize) -> usize {
    // Heads begin at multiples of their size, and what does not turn at twice the half.
    match half.is_multiple_of(4) {
        true => head_dim,
        false => 1,
    }
}

/// [`crate::Ops::rope`].
///
/// # Panics
/// If there are no angles for a position, or more than a head has room for.
pub(super) fn rope<R, BT>(
    qkv: Matrix<R, BT>,
    table: &Rope<Gpu<R, BT>>,
    shape: &AttentionShape,
    turn: Turn,
) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let ([rows, width], half) = (qkv.dims(), table.cos.dims()[1]);
    let elements = elements(qkv.dtype(), unit(half, shape.head_dim));
    // The kernel reads the tables' row of every position.
    assert!(table.positions() >= shape.seq, "a position without angles");
    assert!(2 * half <= shape.head_dim && width == shape.qkv_width());
    let outline = [(Shape::from([rows, width]), qkv.dtype())];
    let kernel = ROPE.kernel(elements);
    let told = told(rows, half, shape, turn);
    count(elements.pieces(rows * width));
    let [r, _, w, heads, _, half, _] = told.map(|n| n as usize);
    let (cos, sin) = (table.cos.clone(), table.sin.clone());
    let inputs = [qkv, cos, sin].map(|t| t.into_primitive().tensor());
    let run = move |inputs: [CubeTensor<R>; 3]| {
        let [qkv, cos, sin] = inputs.map(into_contiguous);
        let there = qkv.can_mut();
        let turned = in_place([&qkv]);
        let turning = heads * half;
        let copied = if there { 0 } else { w - 2 * turning };
        let told: Vec<u32> = told.into_iter().chain([u32::from(there)]).collect();
        let work = workgroups(elements.pieces(r * (turning + copied)));
        let buffers = [&qkv.handle, &cos.handle, &sin.handle, &turned.handle];
        launch(&kernel, &qkv, work, &buffers, &told);
        [turned]
    };
    let [turned] = queue::<R, BT, 3, 1>("rope", inputs, outline, run);
    float(turned)
}
