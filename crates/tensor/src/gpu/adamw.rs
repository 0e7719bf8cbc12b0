//! AdamW with moments in f32, in place, and the norm of gradients: a launch for four parameters, or for one.

use crate::AdamWStep;
use crate::adamw::{self, AdamWUpdate, TOGETHER, Updated};
use crate::gpu::elements::{count, elements, launch, workgroups};
use crate::gpu::fused::{Gpu, Matrix, float, queue};
use crate::gpu::kernel::{KernelRuntime, writable};
use crate::gpu::row_texts::{ADAMW, ADAMW_OF_FOUR, SQUARE_PARTS, SQUARE_SUMS, SQUARE_SUMS_OF_FOUR};
use crate::gpu::source::Kernel;
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

/// Tensors of an update: gradient, parameter, mean and mean square.
const TENSORS: usize = 4;

/// [`crate::Ops::adamw_all`]: four in a launch, as far as the kernels take them and the device binds so many buffers.
pub(super) fn all<R, BT>(updates: Vec<AdamWUpdate<Gpu<R, BT>>>) -> Vec<Updated<Gpu<R, BT>>>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let bindings = updates.first().map_or(0, |first| {
        let client = R::client(&first.parameter.device());
        client.properties().hardware.max_bindings as usize
    });
    let mut updates = updates.into_iter().peekable();
    let mut done = Vec::new();
    while updates.peek().is_some() {
        let some: Vec<_> = updates.by_ref().take(TOGETHER).collect();
        match <[_; 4]>::try_from(some) {
            Ok(four) if bindings > 4 * TENSORS && four.iter().all(taken) => {
                done.extend(of_four(four));
            }
            Ok(four) => done.extend(four.map(AdamWUpdate::alone)),
            Err(fewer) => done.extend(fewer.into_iter().map(AdamWUpdate::alone)),
        }
    }
    done
}

fn taken<R, BT>(update: &AdamWUpdate<Gpu<R, BT>>) -> bool
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let floats = [&update.parameter, &update.gradient].map(|tensor| tensor.dtype() == DType::F32);
    update.parameter.shape().num_elements() < MOST && floats == [true; 2]
}

fn of_four<R, BT>(updates: [AdamWUpdate<Gpu<R, BT>>; 4]) -> [Updated<Gpu<R, BT>>; 4]
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let sizes = updates
        .each_ref()
        .map(|u| u.parameter.shape().num_elements());
    let quads = sizes.iter().all(|n| n.is_multiple_of(4));
    let elements = elements(DType::F32, if quads { 4 } else { 1 });
    let steps = updates.each_ref().map(|update| update.step);
    let (kernel, told) = (ADAMW_OF_FOUR.kernel(elements), told_of_four(sizes, &steps));
    let pieces = sizes.iter().map(|n| elements.pieces(*n)).sum();
    let tensors = updates.map(|update| {
        let [mean, square] = update.moments;
        [update.gradient, update.parameter, mean, square].map(|t| t.into_primitive().tensor())
    });
    let [a, b, c, d] = tensors;
    let inputs: [_; 16] = std::array::from_fn({
        let mut all = [a, b, c, d].into_iter().flatten();
        move |_| all.next().expect("four of four")
    });
    let outlines: [_; 12] = std::array::from_fn(|i| {
        let written = &inputs[i / 3 * TENSORS + 1 + i % 3];
        (written.shape.clone(), written.dtype)
    });
    let run = move |inputs: [CubeTensor<R>; 16]| {
        let mut at = 0;
        let ready = inputs.map(|tensor| {
            at += 1;
            match at % TENSORS {
                // A gradient is only read.
                1 => into_contiguous(tensor),
                _ => writable(tensor),
            }
        });
        let buffers = ready.each_ref().map(|tensor| &tensor.handle);
        launch(&kernel, &ready[0], workgroups(pieces), &buffers, &told);
        std::array::from_fn(|i| ready[i / 3 * TENSORS + 1 + i % 3].clone())
    };
    let written = queue::<R, BT, 16, 12>("adamw", inputs, outlines, run);
    let mut written = written.map(float).into_iter();
    let mut next = || written.next().expect("three of four");
    std::array::from_fn(|_| (next(), [next(), next()]))
}

/// What the kernel of four is told: elements, what is kept of each parameter, and what they have in common.
pub(super) fn told_of_four(sizes: [usize; 4], steps: &[AdamWStep; 4]) -> Vec<u32> {
    let keep = steps.map(|step| (1.0 - step.learning_rate * step.weight_decay).to_bits());
    let [_, scale, beta1, beta2, _, rate, root, eps] = told(0, &steps[0]);
    let sizes = sizes.map(count);
    let common = [scale, beta1, beta2, rate, root, eps];
    [&sizes[..], &keep, &common].concat()
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
