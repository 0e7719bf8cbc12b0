//! AdamW with moments in f32, one kernel for each parameter, in place; and the norm of gradients, one for four of them.

use crate::gpu::elements::{count, elements, launch, workgroups};
use crate::gpu::fused::{Gpu, Matrix, float, queue};
use crate::gpu::kernel::{KernelRuntime, writable};
use crate::gpu::row_texts::{ADAMW, SQUARE_PARTS, SQUARE_SUMS, SQUARE_SUMS_OF_FOUR};
use crate::gpu::source::Kernel;
use crate::{AdamWStep, adamw};
use burn::tensor::{DType, Tensor};
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

type Vector<R, BT> = Tensor<Gpu<R, BT>, 1>;

/// Elements of a tensor that the kernels take: they count pieces of one or four.
const MOST: usize = 1 << 31;

/// [`crate::Ops::adamw`].
pub(super) fn step<R, BT>(
    parameter: Matrix<R, BT>,
    gradient: Matrix<R, BT>,
    moments: Option<[Matrix<R, BT>; 2]>,
    step: &AdamWStep,
) -> (Matrix<R, BT>, [Matrix<R, BT>; 2])
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let n = parameter.shape().num_elements();
    let floats = [&parameter, &gradient].map(|tensor| tensor.dtype() == DType::F32);
    if n >= MOST || floats != [true; 2] {
        return adamw::adamw(parameter, gradient, moments, step);
    }
    let [m, v] = moments.unwrap_or_else(|| [parameter.zeros_like(), parameter.zeros_like()]);
    let inputs = [gradient, parameter, m, v].map(|t| t.into_primitive().tensor());
    let outlines = [1, 2, 3].map(|i| (inputs[i].shape.clone(), inputs[i].dtype));
    let elements = elements(DType::F32, n);
    let (kernel, told) = (ADAMW.kernel(elements), told(count(n), step));
    let run = move |[gradient, parameter, m, v]: [CubeTensor<R>; 4]| {
        let written = [parameter, m, v].map(writable);
        let gradient = into_contiguous(gradient);
        let [p, m, v] = written.each_ref().map(|t| &t.handle);
        let work = workgroups(elements.pieces(n));
        let buffers = [&gradient.handle, p, m, v];
        launch(&kernel, &gradient, work, &buffers, &told);
        written
    };
    let [parameter, m, v] = queue::<R, BT, 4, 3>("adamw", inputs, outlines, run).map(float);
    (parameter, [m, v])
}

/// What a kernel is told, as that of 8-bit state is too: how many elements, then numbers in f32.
pub(super) fn told(n: u32, step: &AdamWStep) -> [u32; 8] {
    let (rate, root) = step.corrections();
    let numbers = [
        step.gradient_scale,
        step.beta1,
        step.beta2,
        1.0 - step.learning_rate * step.weight_decay,
        rate,
        root,
        step.eps,
    ];
    let [scale, beta1, beta2, keep, rate, root, eps] = numbers.map(f32::to_bits);
    [n, scale, beta1, beta2, keep, rate, root, eps]
}

/// [`crate::Ops::squares`]; `None` of tensors that the kernel does not take.
pub(super) fn squares<R, BT>(tensors: &[&Matrix<R, BT>]) -> Option<Vector<R, BT>>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let takes = |t: &&Matrix<R, BT>| t.dtype() == DType::F32 && t.shape().num_elements() < MOST;
    let first = tensors.first().filter(|_| tensors.iter().all(takes))?;
    let parts = SQUARE_PARTS as usize;
    // Every one of them is written.
    let mut sums = Tensor::empty([tensors.len(), parts], &first.device());
    let (fours, others) = tensors.as_chunks::<4>();
    for (i, four) in fours.iter().enumerate() {
        sums = square_sums_of_four(sums, four.map(Clone::clone), 4 * i * parts);
    }
    for (i, tensor) in (4 * fours.len()..).zip(others) {
        sums = square_sums(sums, (*tensor).clone(), i * parts);
    }
    Some(sums.reshape([tensors.len() * parts]))
}

/// `sums` with those of a tensor from this place on.
fn square_sums<R, BT>(sums: Matrix<R, BT>, tensor: Matrix<R, BT>, place: usize) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let n = tensor.shape().num_elements();
    let kernel = SQUARE_SUMS.kernel(elements(DType::F32, n));
    let told = [count(n), count(place)];
    summed::<R, BT, 2>([sums, tensor], SQUARE_PARTS, kernel, told.to_vec())
}

/// `sums` with those of four tensors from this place on: a model has many small ones.
fn square_sums_of_four<R, BT>(
    sums: Matrix<R, BT>,
    tensors: [Matrix<R, BT>; 4],
    place: usize,
) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let sizes = tensors.each_ref().map(|t| t.shape().num_elements());
    let quads = sizes.iter().all(|n| n.is_multiple_of(4));
    let kernel = SQUARE_SUMS_OF_FOUR.kernel(elements(DType::F32, if quads { 4 } else { 1 }));
    let told = [place].iter().chain(&sizes).map(|&n| count(n)).collect();
    let [a, b, c, d] = tensors;
    summed::<R, BT, 5>([sums, a, b, c, d], 4 * SQUARE_PARTS, kernel, told)
}

/// The first of these, into which a kernel puts so many parts of the others.
fn summed<R, BT, const N: usize>(
    tensors: [Matrix<R, BT>; N],
    parts: u32,
    kernel: Kernel,
    told: Vec<u32>,
) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let outline = [(tensors[0].shape(), tensors[0].dtype())];
    let inputs = tensors.map(|t| t.into_primitive().tensor());
    let run = move |inputs: [CubeTensor<R>; N]| {
        let mut inputs = inputs.into_iter();
        let sums = writable(inputs.next().expect("the sums"));
        let values: Vec<_> = inputs.map(into_contiguous).collect();
        let buffers: Vec<_> = values.iter().chain([&sums]).map(|t| &t.handle).collect();
        launch(&kernel, &sums, parts as usize, &buffers, &told);
        [sums]
    };
    let [sums] = queue::<R, BT, N, 1>("square_sums", inputs, outline, run);
    float(sums)
}
