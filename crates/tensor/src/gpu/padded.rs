//! A matrix in another format with rows of zeros behind it: one kernel.

use crate::gpu::elements::{count, elements, empty, launch, workgroups};
use crate::gpu::fused::{Matrix, float, queue};
use crate::gpu::kernel::KernelRuntime;
use crate::gpu::row_texts::PADDED;
use burn::tensor::{DType, Shape};
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// [`crate::Ops::padded`] of a matrix in f32.
pub(super) fn padded<R, BT>(x: Matrix<R, BT>, rows: usize, format: DType) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let [own, width] = x.dims();
    let (there, all) = (own * width, rows * width);
    let elements = elements(format, if there.is_multiple_of(4) { all } else { 1 });
    let outline = [(Shape::from([rows, width]), format)];
    let inputs = [x.into_primitive().tensor()];
    let kernel = PADDED.kernel(elements);
    let told = [count(there), count(all)];
    let run = move |inputs: [CubeTensor<R>; 1]| {
        let [x] = inputs.map(into_contiguous);
        let result = empty(&x, [rows, width], format);
        let buffers = [&x.handle, &result.handle];
        launch(
            &kernel,
            &x,
            workgroups(elements.pieces(all)),
            &buffers,
            &told,
        );
        [result]
    };
    let [result] = queue::<R, BT, 1, 1>("padded", inputs, outline, run);
    float(result)
}
