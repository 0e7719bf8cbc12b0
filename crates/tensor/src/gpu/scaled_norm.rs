//! RMSNorm and LayerNorm of decoders and the gradient of what they read: a kernel each. Those of weight and bias are one more, and
//! a sum over its parts.

use crate::gpu::elements::{count, elements, empty, launch, workgroups};
use crate::gpu::fused::{Gpu, Matrix, float, queue};
use crate::gpu::kernel::KernelRuntime;
use crate::gpu::row_texts::{SCALED_NORM, SCALED_NORM_BACKWARD, SCALED_NORM_SUMS};
use crate::{Affine, NormGradients, NormShape};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// Rows that one thread adds up: enough parts for a large GPU, and few to be added up once more.
pub(super) const PART: usize = 64;

/// What the kernels are told.
pub(super) fn told(
    [rows, width]: [usize; 2],
    shape: &NormShape,
    weighted: bool,
    biased: bool,
) -> [u32; 6] {
    let kind = u32::from(shape.centered) | u32::from(weighted) << 1 | u32::from(biased) << 2;
    let (eps, offset) = (shape.eps.to_bits(), shape.offset.to_bits());
    [count(rows), count(width), eps, offset, kind, 0]
}

/// [`crate::Ops::norm`].
pub(super) fn forward<R, BT>(
    x: Matrix<R, BT>,
    affine: Affine<Gpu<R, BT>>,
    shape: &NormShape,
) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let dims @ [rows, width] = x.dims();
    let elements = elements(x.dtype(), width);
    let kernel = SCALED_NORM.kernel(elements);
    let given = [affine.weight, affine.bias].map(|of| of.is_some());
    let told = told(dims, shape, given[0], given[1]);
    count(elements.pieces(rows * width));
    let outline = [(Shape::from(dims), x.dtype())];
    let [weight, bias] = [affine.weight, affine.bias].map(|of| of.unwrap_or(&x).clone());
    let inputs = [x, weight, bias].map(|t| t.into_primitive().tensor());
    let run = move |[x, weight, bias]: [CubeTensor<R>; 3]| {
        let x = into_contiguous(x);
        let [weight, bias] = [(weight, given[0]), (bias, given[1])].map(|of| or(of, &x));
        let y = empty(&x, dims, x.dtype);
        let buffers = [&x.handle, &weight.handle, &bias.handle, &y.handle];
        launch(&kernel, &x, rows, &buffers, &told);
        [y]
    };
    let [y] = queue::<R, BT, 3, 1>("scaled_norm", inputs, outline, run);
    float(y)
}

/// [`crate::Ops::norm_backward`], with `x` and `dy` in one format.
pub(super) fn backward<R, BT>(
    x: Matrix<R, BT>,
    affine: Affine<Gpu<R, BT>>,
    shape: &NormShape,
    dy: Matrix<R, BT>,
    trained: bool,
) -> NormGradients<Gpu<R, BT>>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let dims @ [rows, width] = x.dims();
    let elements = elements(x.dtype(), width);
    let format = x.dtype();
    let (weighted, biased) = (affine.weight.is_some(), affine.bias.is_some());
    let told = told(dims, shape, weighted, false);
    count(elements.pieces(rows * width));
    let weight = affine.weight.unwrap_or(&x).clone();
    let inputs = [x, dy, weight].map(|t| t.into_primitive().tensor());
    let kernel = SCALED_NORM_BACKWARD.kernel(elements);
    let of_x = move |[x, dy, weight]: [CubeTensor<R>; 3]| {
        let [x, dy] = [x, dy].map(into_contiguous);
        let weight = or((weight, weighted), &x);
        let dx = empty(&x, dims, x.dtype);
        let statistics = empty(&x, [rows, 2], DType::F32);
        let read = [&x.handle, &dy.handle, &weight.handle];
        let buffers = [&read[..], &[&dx.handle, &statistics.handle]].concat();
        launch(&kernel, &x, rows, &buffers, &told);
        (x, dy, dx, statistics)
    };
    let outline = (Shape::from(dims), format);
    if !(trained && (weighted || biased)) {
        let run = move |inputs| [of_x(inputs).2];
        let [dx] = queue::<R, BT, 3, 1>("scaled_norm_backward", inputs, [outline], run);
        return NormGradients {
            dx: float(dx),
            weight: None,
            bias: None,
        };
    }
    let (parts, each) = (rows.div_ceil(PART), 1 + usize::from(biased));
    let kernel = SCALED_NORM_SUMS.kernel(elements);
    let told = [count(rows), count(width), PART as u32, each as u32];
    let work = workgroups(elements.pieces(parts * width));
    let outlines = [outline, (Shape::from([parts, each * width]), DType::F32)];
    let run = move |inputs| {
        let (x, dy, dx, statistics) = of_x(inputs);
        let sums = empty(&x, [parts, each * width], DType::F32);
        let buffers = [&x.handle, &dy.handle, &statistics.handle, &sums.handle];
        launch(&kernel, &x, work, &buffers, &told);
        [dx, sums]
    };
    let [dx, sums] = queue::<R, BT, 3, 2>("scaled_norm_backward", inputs, outlines, run);
    let sums: Tensor<Gpu<R, BT>, 2> = float(sums);
    let sums = sums.sum_dim(0);
    let own = |place: usize| sums.clone().narrow(1, place * width, width);
    NormGradients {
        dx: float(dx),
        weight: weighted.then(|| own(0)),
        bias: biased.then(|| own(1)),
    }
}

/// What is given, or something that is bound in its place and not read.
fn or<R: KernelRuntime>(
    (given, is_given): (CubeTensor<R>, bool),
    x: &CubeTensor<R>,
) -> CubeTensor<R> {
    match is_given {
        true => into_contiguous(given),
        false => x.clone(),
    }
}
