//! FlashAttention on a GPU: kernels of `shaders/flash_attention_*` as operations of the fusion stream.

use crate::attention::{AttentionShape, Saved};
use crate::gpu::flash_cuda::Element;
use crate::gpu::flash_info::{Layout, Layouts, Problem, info};
use crate::gpu::fused::{Lazy, float, queue};
use crate::gpu::kernel::{KernelRuntime, numbers};
use crate::gpu::source::{Entry, Stage};
use crate::gpu::{flash_cuda, flash_wgsl};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};
use burn_fusion::Fusion;
use cubecl::prelude::ComputeClient;
use cubecl::server::Handle;

type Gpu<R, BT> = Fusion<CubeBackend<R, f32, i32, BT>>;
/// Output and log-sum-exps.
type Attended<R, BT, const D: usize> = (Tensor<Gpu<R, BT>, D>, Tensor<Gpu<R, BT>, 3>);

/// The forward pass of `q`, `k` and `v`, `[batch, heads, seq, head_dim]` each.
pub(super) fn forward<R, BT>(
    [q, k, v]: [&Tensor<Gpu<R, BT>, 4>; 3],
    shape: &AttentionShape,
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
    let inputs = [q, k, v].map(lazy);
    let [out, lse] = queue::<R, BT, 3, 2>("flash_attention", inputs, outlines, move |tensors| {
        let views = tensors.map(|tensor| View::of_heads(tensor));
        let out = View::of_heads(empty(&views[0], [batch, heads, seq_q, head_dim]));
        let lse = launch_forward(&problem, head_dim, &views, &out);
        [out.tensor, lse]
    });
    (float(out), float(lse))
}

/// Its gradients of q, k and v.
pub(super) fn backward<R, BT>(
    saved: &Saved<Gpu<R, BT>>,
    d_out: &Tensor<Gpu<R, BT>, 4>,
    shape: &AttentionShape,
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
    queue::<R, BT, 6, 3>(name, inputs, outlines, move |[q, k, v, out, d_out, lse]| {
        let [q, k, v, out, d_out] = [q, k, v, out, d_out].map(|tensor| View::of_heads(tensor));
        let gradients = dims.map(|dims| View::of_heads(empty(&q, dims)));
        let inputs = [&q, &k, &v, &out, &d_out];
        launch_backward(&problem, head_dim, inputs, lse, gradients.each_ref());
        gradients.map(|view| view.tensor)
    })
    .map(float)
}

/// The forward pass of a fused projection, read where it lies.
pub(super) fn forward_fused<R, BT>(
    qkv: &Tensor<Gpu<R, BT>, 2>,
    shape: &AttentionShape,
) -> Attended<R, BT, 2>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let shape = *shape;
    let problem = problem(&shape, shape.seq, shape.seq);
    let tokens = [shape.batch * shape.seq, shape.heads * shape.head_dim];
    let outlines = [
        (Shape::from(tokens), qkv.dtype()),
        (
            Shape::from([shape.batch, shape.heads, shape.seq]),
            DType::F32,
        ),
    ];
    let name = "flash_attention_fused";
    let [out, lse] = queue::<R, BT, 1, 2>(name, [lazy(qkv)], outlines, move |[qkv]| {
        let out = View::of_tokens(empty_like(&qkv, tokens), &shape, 0);
        let lse = launch_forward(&problem, shape.head_dim, &parts(qkv, &shape), &out);
        [out.tensor, lse]
    });
    (float(out), float(lse))
}

/// Its gradient, written where the projection's backward pass reads it.
pub(super) fn backward_fused<R, BT>(
    [qkv, out, d_out]: [&Tensor<Gpu<R, BT>, 2>; 3],
    lse: &Tensor<Gpu<R, BT>, 3>,
    shape: &AttentionShape,
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
    let [d_qkv] = queue::<R, BT, 4, 1>(name, inputs, outline, move |[qkv, out, d_out, lse]| {
        let d_qkv = empty_like(&qkv, dims);
        let gradients = parts(d_qkv.clone(), &shape);
        let [q, k, v] = parts(qkv, &shape);
        let [out, d_out] = [out, d_out].map(|tensor| View::of_tokens(tensor, &shape, 0));
        let inputs = [&q, &k, &v, &out, &d_out];
        launch_backward(&problem, shape.head_dim, inputs, lse, gradients.each_ref());
        [d_qkv]
    });
    float(d_qkv)
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
    let width = shape.heads * shape.head_dim;
    [0, 1, 2].map(|part| View::of_tokens(qkv.clone(), shape, part * width))
}

fn empty<R: CubeRuntime, const D: usize>(like: &View<R>, dims: [usize; D]) -> CubeTensor<R> {
    empty_like(&like.tensor, dims)
}

fn empty_like<R: CubeRuntime, const D: usize>(
    like: &CubeTensor<R>,
    dims: [usize; D],
) -> CubeTensor<R> {
    empty_as(like, dims, like.dtype)
}

fn empty_as<R: CubeRuntime, const D: usize>(
    like: &CubeTensor<R>,
    dims: [usize; D],
    dtype: DType,
) -> CubeTensor<R> {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::from(dims), dtype)
}

fn problem(shape: &AttentionShape, seq_q: usize, seq_kv: usize) -> Problem {
    Problem {
        batch: shape.batch,
        heads: shape.heads,
        seq_q,
        seq_kv,
        causal: shape.causal,
        window: shape.window,
        scale: shape.scale(),
    }
}

/// Launch the forward pass; the log-sum-exps `[batch, heads, seq_q]`.
fn launch_forward<R: KernelRuntime>(
    problem: &Problem,
    head_dim: usize,
    [q, k, v]: &[View<R>; 3],
    out: &View<R>,
) -> CubeTensor<R> {
    let client = &q.tensor.client;
    let lse = rows(&q.tensor, problem, 1);
    let layouts = Layouts {
        q: q.layout,
        k: k.layout,
        v: v.layout,
        out: out.layout,
        ..Layouts::default()
    };
    let info = told(client, problem, &layouts);
    let [q, k, v, out] = [q, k, v, out].map(|view| &view.tensor);
    let buffers = [
        &q.handle,
        &k.handle,
        &v.handle,
        &out.handle,
        &lse.handle,
        &info,
    ];
    let stage = R::flash_stage(client, Entry::Forward, head_dim, q.dtype);
    launch(&stage, client, problem, problem.seq_q, &buffers);
    lse
}

/// Launch the backward pass, which fills the gradients.
fn launch_backward<R: KernelRuntime>(
    problem: &Problem,
    head_dim: usize,
    [q, k, v, out, d_out]: [&View<R>; 5],
    lse: CubeTensor<R>,
    [dq, dk, dv]: [&View<R>; 3],
) {
    let client = &q.tensor.client;
    let lse = into_contiguous(lse);
    let stats = rows(&q.tensor, problem, 2);
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
    let info = told(client, problem, &layouts);
    let format = q.tensor.dtype;
    let [q, k, v, out, d_out] = [q, k, v, out, d_out].map(|view| &view.tensor.handle);
    let [dq, dk, dv] = [dq, dk, dv].map(|view| &view.tensor.handle);
    let (lse, stats) = (&lse.handle, &stats.handle);
    let run = |entry, rows, buffers: &[&Handle]| {
        let stage = R::flash_stage(client, entry, head_dim, format);
        launch(&stage, client, problem, rows, buffers);
    };
    let (seq_q, seq_kv) = (problem.seq_q, problem.seq_kv);
    run(Entry::Delta, seq_q, &[out, d_out, lse, stats, &info]);
    let buffers = [q, k, v, d_out, stats, dq, &info];
    run(Entry::BackwardQueries, seq_q, &buffers);
    let buffers = [q, k, v, d_out, stats, dk, dv, &info];
    run(Entry::BackwardKeys, seq_kv, &buffers);
}

fn launch<R: KernelRuntime>(
    stage: &Stage,
    client: &ComputeClient<R>,
    problem: &Problem,
    rows: usize,
    buffers: &[&Handle],
) {
    let work = problem.batch * problem.heads * rows.div_ceil(stage.rows);
    if work > 0 {
        stage.kernel.launch(client, work, buffers);
    }
}

/// `planes` f32 numbers for each query.
fn rows<R: CubeRuntime>(like: &CubeTensor<R>, problem: &Problem, planes: usize) -> CubeTensor<R> {
    let dims = [planes * problem.batch, problem.heads, problem.seq_q];
    empty_as(like, dims, DType::F32)
}

fn told<R: CubeRuntime>(client: &ComputeClient<R>, problem: &Problem, layouts: &Layouts) -> Handle {
    let words = info(problem, layouts).expect("a tensor of attention has fewer than 2^32 elements");
    numbers(client, &words)
}

/// A kernel for a device that takes WGSL.
pub(super) fn wgsl_stage<R: CubeRuntime>(
    client: &ComputeClient<R>,
    entry: Entry,
    head_dim: usize,
    format: DType,
) -> Stage {
    let hardware = &client.properties().hardware;
    let device = flash_wgsl::Device {
        workgroup_bytes: hardware.max_shared_memory_size,
        threads: hardware.max_units_per_cube as usize,
        subgroups: flash_wgsl::shares_rows(hardware.plane_size_min) && has_subgroups(client),
    };
    let half = format == DType::F16;
    flash_wgsl::Variant {
        head_dim,
        half,
        device,
    }
    .stage(entry)
}

fn has_subgroups<R: CubeRuntime>(client: &ComputeClient<R>) -> bool {
    use cubecl::ir::features::Plane;
    client.properties().features.plane.contains(Plane::Ops)
}

/// A kernel for a CUDA device.
pub(super) fn cuda_stage<R: CubeRuntime>(
    client: &ComputeClient<R>,
    entry: Entry,
    head_dim: usize,
    format: DType,
) -> Stage {
    let element = match format {
        DType::F16 => Element::F16,
        DType::BF16 => Element::Bf16,
        _ => Element::F32,
    };
    // What the tensor-core kernels need came with sm_80, as asynchronous copies did.
    let ampere = client.properties().features.copy_async;
    flash_cuda::Variant {
        entry,
        head_dim,
        element,
        tensor_cores: ampere && element != Element::F32,
    }
    .stage()
}
