//! FlashAttention on a GPU: kernels of `shaders/flash_attention_*` as operations of the fusion stream.

use crate::attention::{AttentionShape, Saved, Visible};
use crate::gpu::elements;
use crate::gpu::flash_cuda::Element;
use crate::gpu::flash_info::{Layout, Layouts, Problem, info};
use crate::gpu::fused::{Gpu, Lazy, float, queue_with};
use crate::gpu::kernel::{FlashKernel, KernelRuntime, numbers};
use crate::gpu::source::{Entry, Stage};
use crate::gpu::{flash_cuda, flash_wgsl};
use aios_base::fault;
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::CubeRuntime;
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::ComputeClient;
use cubecl::server::Handle;

/// Output and log-sum-exps.
type Attended<R, BT, const D: usize> = (Tensor<Gpu<R, BT>, D>, Tensor<Gpu<R, BT>, 3>);

/// Why a device cannot run the kernels for such heads.
pub(super) fn refusal<R: KernelRuntime>(
    device: &R::Device,
    head_dim: usize,
    format: DType,
) -> Option<String> {
    let client = R::client(device);
    let has = |entry| {
        let wanted = FlashKernel {
            entry,
            head_dim,
            format,
            ranges: false,
        };
        R::flash_stage(&client, &wanted).is_some()
    };
    let bytes = client.properties().hardware.max_shared_memory_size;
    (!Entry::ALL.into_iter().all(has)).then(|| {
        format!(
            "the kernels for heads of {head_dim} numbers in {format:?} take more than the {} KiB that \
             this device has for a workgroup",
            bytes >> 10
        )
    })
}

/// The forward pass of `q`, `[batch, heads, seq, head_dim]`, with `k` and `v`, `[batch, kv_heads, seq,
/// head_dim]`.
pub(super) fn forward<R, BT>(
    [q, k, v]: [&Tensor<Gpu<R, BT>, 4>; 3],
    shape: &AttentionShape,
    visible: Option<&Visible<Gpu<R, BT>>>,
) -> Attended<R, BT, 4>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let [batch, heads, seq_q, head_dim] = q.dims();
    let problem = problem(shape, seq_q, k.dims()[2]);
    let outlines = [
        (Shape::from([batch, heads, seq_q, head_dim]), q.dtype()),
        (Shape::from([batch, heads, seq_q]), DType::F32),
    ];
    let (name, inputs) = ("flash_attention", [q, k, v].map(lazy));
    let ranges = ranges(visible, &problem, shape);
    let attend = move |tensors: [CubeTensor<R>; 3], ranges| {
        let views = tensors.map(|tensor| View::of_heads(tensor));
        let out = View::of_heads(empty(&views[0], [batch, heads, seq_q, head_dim]));
        let lse = launch_forward(&problem, head_dim, &views, ranges, &out);
        [out.tensor, lse]
    };
    let [out, lse] = queue_with::<R, BT, 3, 2>(name, inputs, ranges, outlines, attend);
    (float(out), float(lse))
}

/// Its gradients of q, k and v.
pub(super) fn backward<R, BT>(
    saved: &Saved<Gpu<R, BT>>,
    d_out: &Tensor<Gpu<R, BT>, 4>,
    shape: &AttentionShape,
    visible: Option<&Visible<Gpu<R, BT>>>,
) -> [Tensor<Gpu<R, BT>, 4>; 3]
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let problem = problem(shape, saved.q.dims()[2], saved.k.dims()[2]);
    let dims = [&saved.q, &saved.k, &saved.v].map(|t| t.dims());
    let head_dim = shape.head_dim;
    let outlines = dims.map(|dims| (Shape::from(dims), saved.q.dtype()));
    let [q, k, v, out] = [&saved.q, &saved.k, &saved.v, &saved.out].map(lazy);
    let lse = saved.lse.clone().into_primitive().tensor();
    let inputs = [q, k, v, out, lazy(d_out), lse];
    let name = "flash_attention_backward";
    let ranges = ranges(visible, &problem, shape);
    let differentiate = move |[q, k, v, out, d_out, lse]: [CubeTensor<R>; 6], ranges| {
        let [q, k, v, out, d_out] = [q, k, v, out, d_out].map(|tensor| View::of_heads(tensor));
        let gradients = dims.map(|dims| View::of_heads(empty(&q, dims)));
        let inputs = [&q, &k, &v, &out, &d_out];
        launch_backward(
            &problem,
            head_dim,
            inputs,
            (lse, ranges),
            gradients.each_ref(),
        );
        gradients.map(|view| view.tensor)
    };
    queue_with::<R, BT, 6, 3>(name, inputs, ranges, outlines, differentiate).map(float)
}

/// The forward pass of a fused projection, read where it lies.
pub(super) fn forward_fused<R, BT>(
    qkv: &Tensor<Gpu<R, BT>, 2>,
    shape: &AttentionShape,
    visible: Option<&Visible<Gpu<R, BT>>>,
) -> Attended<R, BT, 2>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let shape = *shape;
    let problem = problem(&shape, shape.seq, shape.seq);
    let tokens = [shape.batch * shape.seq, shape.q_width()];
    let outlines = [
        (Shape::from(tokens), qkv.dtype()),
        (
            Shape::from([shape.batch, shape.heads, shape.seq]),
            DType::F32,
        ),
    ];
    let name = "flash_attention_fused";
    let ranges = ranges(visible, &problem, &shape);
    let attend = move |[qkv]: [CubeTensor<R>; 1], ranges| {
        let out = View::of_tokens(empty_like(&qkv, tokens), &shape, 0);
        let parts = parts(qkv, &shape);
        let lse = launch_forward(&problem, shape.head_dim, &parts, ranges, &out);
        [out.tensor, lse]
    };
    let [out, lse] = queue_with::<R, BT, 1, 2>(name, [lazy(qkv)], ranges, outlines, attend);
    (float(out), float(lse))
}

/// Its gradient, written where the projection's backward pass reads it.
pub(super) fn backward_fused<R, BT>(
    [qkv, out, d_out]: [&Tensor<Gpu<R, BT>, 2>; 3],
    lse: &Tensor<Gpu<R, BT>, 3>,
    shape: &AttentionShape,
    visible: Option<&Visible<Gpu<R, BT>>>,
) -> Tensor<Gpu<R, BT>, 2>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let shape = *shape;
    let problem = problem(&shape, shape.seq, shape.seq);
    let outline = [(Shape::from(qkv.dims()), qkv.dtype())];
    let dims = qkv.dims();
    let inputs = [lazy(qkv), lazy(out), lazy(d_out), lazy(lse)];
    let name = "flash_attention_fused_backward";
    let ranges = ranges(visible, &problem, &shape);
    let differentiate = move |[qkv, out, d_out, lse]: [CubeTensor<R>; 4], ranges| {
        let d_qkv = empty_like(&qkv, dims);
        let gradients = parts(d_qkv.clone(), &shape);
        let [q, k, v] = parts(qkv, &shape);
        let [out, d_out] = [out, d_out].map(|tensor| View::of_tokens(tensor, &shape, 0));
        let inputs = [&q, &k, &v, &out, &d_out];
        launch_backward(
            &problem,
            shape.head_dim,
            inputs,
            (lse, ranges),
            gradients.each_ref(),
        );
        [d_qkv]
    };
    let [d_qkv] = queue_with::<R, BT, 4, 1>(name, inputs, ranges, outline, differentiate);
    float(d_qkv)
}

/// The bounds of the keys that each query sees, `[batch, seq_q]` each; nothing if none are given.
fn ranges<R, BT>(
    visible: Option<&Visible<Gpu<R, BT>>>,
    problem: &Problem,
    shape: &AttentionShape,
) -> Vec<Lazy<R>>
where
    R: CubeRuntime,
    BT: BoolElement,
{
    visible.map_or(vec![], |visible| {
        visible.assert_of(shape, problem.seq_q, problem.seq_kv);
        let bounds = [visible.first(), visible.end()];
        bounds.map(|bound| bound.clone().into_primitive()).into()
    })
}

fn lazy<R, BT, const D: usize>(tensor: &Tensor<Gpu<R, BT>, D>) -> Lazy<R>
where
    R: CubeRuntime,
    BT: BoolElement,
{
    tensor.clone().into_primitive().tensor()
}

/// The heads of a tensor as the kernels find them.
struct View<R: CubeRuntime> {
    tensor: CubeTensor<R>,
    layout: Layout,
}

/// Elements that a kernel reads at a time: 16 bytes in half precision, and more than enough in f32.
const ALIGNMENT: usize = 8;

impl<R: CubeRuntime> View<R> {
    /// Of `[batch, heads, seq, head_dim]`, however it is strided.
    fn of_heads(tensor: CubeTensor<R>) -> Self {
        let strides = tensor.meta.strides();
        let aligned = strides[..3]
            .iter()
            .all(|stride| stride.is_multiple_of(ALIGNMENT));
        let tensor = match aligned && strides[3] == 1 {
            true => tensor,
            false => into_contiguous(tensor),
        };
        let strides = tensor.meta.strides();
        let layout = Layout {
            offset: 0,
            batch_stride: strides[0],
            head_stride: strides[1],
            row_stride: strides[2],
        };
        Self { tensor, layout }
    }

    /// Of the columns of `[tokens, features]` from this one on.
    fn of_tokens(tensor: CubeTensor<R>, shape: &AttentionShape, column: usize) -> Self {
        let strides = tensor.meta.strides();
        let tensor = match strides[1] == 1 && strides[0].is_multiple_of(ALIGNMENT) {
            true => tensor,
            false => into_contiguous(tensor),
        };
        let row_stride = tensor.meta.strides()[0];
        let layout = Layout {
            offset: column,
            // That of a single sequence may be beyond what the kernels count in, and unused.
            batch_stride: if shape.batch > 1 {
                shape.seq * row_stride
            } else {
                0
            },
            head_stride: shape.head_dim,
            row_stride,
        };
        Self { tensor, layout }
    }
}

/// q, k and v of a fused projection, or their gradients.
fn parts<R: CubeRuntime>(qkv: CubeTensor<R>, shape: &AttentionShape) -> [View<R>; 3] {
    (shape.parts()).map(|(column, _)| View::of_tokens(qkv.clone(), shape, column))
}

fn empty<R: CubeRuntime, const D: usize>(like: &View<R>, dims: [usize; D]) -> CubeTensor<R> {
    empty_like(&like.tensor, dims)
}

fn empty_like<R: CubeRuntime, const D: usize>(
    like: &CubeTensor<R>,
    dims: [usize; D],
) -> CubeTensor<R> {
    elements::empty(like, dims, like.dtype)
}

fn problem(shape: &AttentionShape, seq_q: usize, seq_kv: usize) -> Problem {
    Problem {
        batch: shape.batch,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        seq_q,
        seq_kv,
        causal: shape.causal,
        window: shape.window,
        scale: shape.scale,
    }
}

/// Launch the forward pass; the log-sum-exps `[batch, heads, seq_q]`.
fn launch_forward<R: KernelRuntime>(
    problem: &Problem,
    head_dim: usize,
    [q, k, v]: &[View<R>; 3],
    ranges: Vec<CubeTensor<R>>,
    out: &View<R>,
) -> CubeTensor<R> {
    let beside = &q.tensor;
    let lse = rows(&q.tensor, [problem.batch, problem.heads, problem.seq_q]);
    let layouts = Layouts {
        q: q.layout,
        k: k.layout,
        v: v.layout,
        out: out.layout,
        ..Layouts::default()
    };
    let words = told(problem, &layouts);
    let wanted = FlashKernel {
        entry: Entry::Forward,
        head_dim,
        format: q.tensor.dtype,
        ranges: !ranges.is_empty(),
    };
    let bounds = ranges.into_iter().map(into_contiguous).collect::<Vec<_>>();
    let mut buffers: Vec<&Handle> = [q, k, v].map(|view| &view.tensor.handle).into();
    buffers.extend(bounds.iter().map(|bound| &bound.handle));
    buffers.extend([&out.tensor.handle, &lse.handle]);
    launch(beside, &wanted, problem, &words, &buffers);
    lse
}

/// Launch the backward pass, which fills the gradients. Beside the log-sum-exps there are the ranges.
fn launch_backward<R: KernelRuntime>(
    problem: &Problem,
    head_dim: usize,
    [q, k, v, out, d_out]: [&View<R>; 5],
    (lse, ranges): (CubeTensor<R>, Vec<CubeTensor<R>>),
    [dq, dk, dv]: [&View<R>; 3],
) {
    let beside = &q.tensor;
    let lse = into_contiguous(lse);
    // With ranges these are behind the other two, for all heads at once.
    let planes = problem.heads + usize::from(!ranges.is_empty());
    let stats = rows(&q.tensor, [2 * problem.batch, planes, problem.seq_q]);
    let layouts = Layouts {
        q: q.layout,
        k: k.layout,
        v: v.layout,
        out: out.layout,
        d_out: d_out.layout,
        dq: dq.layout,
        dk: dk.layout,
        dv: dv.layout,
    };
    let words = told(problem, &layouts);
    let (format, with_ranges) = (q.tensor.dtype, !ranges.is_empty());
    let [q, k, v, out, d_out] = [q, k, v, out, d_out].map(|view| &view.tensor.handle);
    let [dq, dk, dv] = [dq, dk, dv].map(|view| &view.tensor.handle);
    let (lse, stats) = (&lse.handle, &stats.handle);
    let run = |entry, buffers: &[&Handle]| {
        let wanted = FlashKernel {
            entry,
            head_dim,
            format,
            ranges: with_ranges,
        };
        launch(beside, &wanted, problem, &words, buffers);
    };
    let bounds = ranges.into_iter().map(into_contiguous).collect::<Vec<_>>();
    let mut buffers = vec![out, d_out, lse];
    buffers.extend(bounds.iter().map(|bound| &bound.handle));
    buffers.push(stats);
    run(Entry::Delta, &buffers);
    run(Entry::BackwardQueries, &[q, k, v, d_out, stats, dq]);
    run(Entry::BackwardKeys, &[q, k, v, d_out, stats, dk, dv]);
}

/// Launch a kernel on these tensors, told the words and the range of its work.
fn launch<R: KernelRuntime>(
    beside: &CubeTensor<R>,
    wanted: &FlashKernel,
    problem: &Problem,
    words: &[u32],
    tensors: &[&Handle],
) {
    let client = &beside.client;
    let stage = R::flash_stage(client, wanted).expect("a device without is refused before");
    let run = |work: usize, range: [u32; 2]| {
        let info = numbers(beside, &[words, &range].concat());
        let buffers = [tensors, &[&info]].concat();
        stage.kernel.launch(client, work, &buffers);
    };
    let parts = problem.launches(wanted.entry, stage.rows, wanted.head_dim, R::LAUNCH_SIZE);
    // The range of all work is the same for all sizes.
    if let [all] = &parts[..] {
        return run(all.len(), [0, u32::MAX]);
    }
    for part in parts {
        // Items of work are fewer than elements, which are fewer than 2^32.
        run(part.len(), [part.start as u32, part.end as u32]);
        if R::ONE_BY_ONE
            && let Err(error) = client.flush()
        {
            // The error is nobody else's from here on.
            fault::remember(fault::one_line(&error.to_string()));
        }
    }
}

fn rows<R: CubeRuntime>(like: &CubeTensor<R>, dims: [usize; 3]) -> CubeTensor<R> {
    elements::empty(like, dims, DType::F32)
}

fn told(problem: &Problem, layouts: &Layouts) -> Vec<u32> {
    info(problem, layouts).expect("a tensor of attention has fewer than 2^32 elements")
}

/// A kernel for a device that takes WGSL.
pub(super) fn wgsl_stage<R: CubeRuntime>(
    client: &ComputeClient<R>,
    wanted: &FlashKernel,
) -> Option<Stage> {
    let hardware = &client.properties().hardware;
    let device = flash_wgsl::Device {
        workgroup_bytes: hardware.max_shared_memory_size,
        threads: hardware.max_units_per_cube as usize,
        subgroups: flash_wgsl::shares_rows(hardware.plane_size_min) && has_subgroups(client),
    };
    flash_wgsl::Variant {
        head_dim: wanted.head_dim,
        half: wanted.format == DType::F16,
        ranges: wanted.ranges,
        device,
    }
    .stage(wanted.entry)
}

fn has_subgroups<R: CubeRuntime>(client: &ComputeClient<R>) -> bool {
    use cubecl::ir::features::Plane;
    client.properties().features.plane.contains(Plane::Ops)
}

/// A kernel for a CUDA device.
pub(super) fn cuda_stage<R: CubeRuntime>(
    client: &ComputeClient<R>,
    wanted: &FlashKernel,
) -> Option<Stage> {
    let element = match wanted.format {
        DType::F16 => Element::F16,
        DType::BF16 => Element::Bf16,
        _ => Element::F32,
    };
    // What the tensor-core kernels need came with sm_80, as asynchronous copies did.
    let ampere = client.properties().features.copy_async;
    flash_cuda::Variant {
        entry: wanted.entry,
        head_dim: wanted.head_dim,
        element,
        tensor_cores: ampere && element != Element::F32,
        ranges: wanted.ranges,
        shared_limit: client.properties().hardware.max_shared_memory_size,
    }
    .stage()
}
