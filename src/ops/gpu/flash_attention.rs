//! FlashAttention on a GPU: kernels of `shaders/flash_attention_*` as operations of the fusion stream.

use super::flash_wgsl;
use super::fused::{Lazy, float, queue};
use super::kernel::{KernelRuntime, numbers};
use super::source::{Stage, Stages};
use crate::ops::attention::{AttentionShape, Saved};
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
    let problem = Problem::new(shape, seq_q, k.dims()[2]);
    let outlines = [
        (Shape::from([batch, heads, seq_q, head_dim]), q.dtype()),
        (Shape::from([batch, heads, seq_q]), DType::F32),
    ];
    let inputs = [q, k, v].map(lazy);
    let [out, lse] = queue::<R, BT, 3, 2>("flash_attention", inputs, outlines, move |tensors| {
        let views = tensors.map(|tensor| View::of_heads(tensor));
        let out = View::of_heads(empty(&views[0], [batch, heads, seq_q, head_dim]));
        let lse = problem.forward(&views, &out);
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
    let problem = Problem::new(shape, saved.q.dims()[2], saved.k.dims()[2]);
    let dims = [&saved.q, &saved.k, &saved.v].map(|t| t.dims());
    let outlines = dims.map(|dims| (Shape::from(dims), saved.q.dtype()));
    let [q, k, v, out] = [&saved.q, &saved.k, &saved.v, &saved.out].map(lazy);
    let lse = saved.lse.clone().into_primitive().tensor();
    let inputs = [q, k, v, out, lazy(d_out), lse];
    let name = "flash_attention_backward";
    queue::<R, BT, 6, 3>(name, inputs, outlines, move |[q, k, v, out, d_out, lse]| {
        let [q, k, v, out, d_out] = [q, k, v, out, d_out].map(|tensor| View::of_heads(tensor));
        let gradients = dims.map(|dims| View::of_heads(empty(&q, dims)));
        problem.backward([&q, &k, &v, &out, &d_out], lse, gradients.each_ref());
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
    let problem = Problem::new(&shape, shape.seq, shape.seq);
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
        let lse = problem.forward(&parts(qkv, &shape), &out);
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
    let problem = Problem::new(&shape, shape.seq, shape.seq);
    let outline = [(Shape::from(qkv.dims()), qkv.dtype())];
    let dims = qkv.dims();
    let inputs = [lazy(qkv), lazy(out), lazy(d_out), lazy(lse)];
    let name = "flash_attention_fused_backward";
    let [d_qkv] = queue::<R, BT, 4, 1>(name, inputs, outline, move |[qkv, out, d_out, lse]| {
        let d_qkv = empty_like(&qkv, dims);
        let gradients = parts(d_qkv.clone(), &shape);
        let [q, k, v] = parts(qkv, &shape);
        let [out, d_out] = [out, d_out].map(|tensor| View::of_tokens(tensor, &shape, 0));
        problem.backward([&q, &k, &v, &out, &d_out], lse, gradients.each_ref());
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

/// Where the heads lie in a buffer: element (b, h, i, c) at
/// `offset + b * strides[0] + h * strides[1] + i * strides[2] + c`.
struct View<R: CubeRuntime> {
    tensor: CubeTensor<R>,
    offset: usize,
    strides: [usize; 3],
}

/// Elements that a kernel reads at a time: 16 bytes in half precision, and more than enough in f32.
const ALIGNMENT: usize = 8;

impl<R: CubeRuntime> View<R> {
    /// Of `[batch, heads, seq, head_dim]`, however it is strided.
    fn of_heads(tensor: CubeTensor<R>) -> Self {
        let strides = tensor.meta.strides();
        let aligned = strides[..3].iter().all(|stride| stride.is_multiple_of(ALIGNMENT));
        let tensor = match aligned && strides[3] == 1 {
            true => tensor,
            false => into_contiguous(tensor),
        };
        let strides = tensor.meta.strides();
        let strides = [strides[0], strides[1], strides[2]];
        Self {
            offset: 0,
            strides,
            tensor,
        }
    }

    /// Of the columns of `[tokens, features]` from this one on.
    fn of_tokens(tensor: CubeTensor<R>, shape: &AttentionShape, column: usize) -> Self {
        let strides = tensor.meta.strides();
        let tensor = match strides[1] == 1 && strides[0].is_multiple_of(ALIGNMENT) {
            true => tensor,
            false => into_contiguous(tensor),
        };
        let row = tensor.meta.strides()[0];
        Self {
            offset: column,
            strides: [shape.seq * row, shape.head_dim, row],
            tensor,
        }
    }

    fn words(&self) -> [u32; 4] {
        let [batch, head, row] = self.strides;
        [self.offset, batch, head, row].map(word)
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

fn word(number: usize) -> u32 {
    u32::try_from(number).expect("a tensor of attention has fewer than 2^32 elements")
}

/// Tensors in the order of their strides in what the kernels read.
const TENSORS: usize = 8;

/// The numbers that describe one attention.
#[derive(Clone, Copy)]
struct Problem {
    shape: AttentionShape,
    seq_q: usize,
    seq_kv: usize,
}

impl Problem {
    fn new(shape: &AttentionShape, seq_q: usize, seq_kv: usize) -> Self {
        Self {
            shape: *shape,
            seq_q,
            seq_kv,
        }
    }

    /// Launch the forward pass; the log-sum-exps `[batch, heads, seq_q]`.
    fn forward<R: KernelRuntime>(&self, [q, k, v]: &[View<R>; 3], out: &View<R>) -> CubeTensor<R> {
        let lse = self.rows(&q.tensor, 1);
        let views = [Some(q), Some(k), Some(v), Some(out), None, None, None, None];
        let client = &q.tensor.client;
        let info = self.info(client, views);
        let buffers = [q, k, v, out].map(|view| &view.tensor.handle);
        let buffers = [&buffers[..], &[&lse.handle, &info]].concat();
        let stages = R::flash_stages(client, self.shape.head_dim, q.tensor.dtype);
        self.launch(&stages.forward, client, self.seq_q, &buffers);
        lse
    }

    /// Launch the backward pass, which fills the gradients.
    fn backward<R: KernelRuntime>(
        &self,
        [q, k, v, out, d_out]: [&View<R>; 5],
        lse: CubeTensor<R>,
        [dq, dk, dv]: [&View<R>; 3],
    ) {
        let client = &q.tensor.client;
        let lse = into_contiguous(lse);
        let stats = self.rows(&q.tensor, 2);
        let info = self.info(client, [q, k, v, out, d_out, dq, dk, dv].map(Some));
        let stages = R::flash_stages(client, self.shape.head_dim, q.tensor.dtype);
        let [q, k, v, out, d_out] = [q, k, v, out, d_out].map(|view| &view.tensor.handle);
        let [dq, dk, dv] = [dq, dk, dv].map(|view| &view.tensor.handle);
        let (lse, stats) = (&lse.handle, &stats.handle);

        let buffers = [out, d_out, lse, stats, &info];
        self.launch(&stages.delta, client, self.seq_q, &buffers);
        let buffers = [q, k, v, d_out, stats, dq, &info];
        self.launch(&stages.backward_queries, client, self.seq_q, &buffers);
        let buffers = [q, k, v, d_out, stats, dk, dv, &info];
        self.launch(&stages.backward_keys, client, self.seq_kv, &buffers);
    }

    fn launch<R: KernelRuntime>(
        &self,
        stage: &Stage,
        client: &ComputeClient<R>,
        rows: usize,
        buffers: &[&Handle],
    ) {
        let work = self.shape.batch * self.shape.heads * rows.div_ceil(stage.rows);
        if work > 0 {
            stage.kernel.launch(client, work, buffers);
        }
    }

    /// `planes` f32 numbers for each query.
    fn rows<R: CubeRuntime>(&self, like: &CubeTensor<R>, planes: usize) -> CubeTensor<R> {
        let dims = [planes * self.shape.batch, self.shape.heads, self.seq_q];
        empty_as(like, dims, DType::F32)
    }

    /// What the kernels read besides the tensors.
    fn info<R: CubeRuntime>(
        &self,
        client: &ComputeClient<R>,
        views: [Option<&View<R>>; TENSORS],
    ) -> Handle {
        let shape = &self.shape;
        let numbers_of = [shape.batch, shape.heads, self.seq_q, self.seq_kv].map(word);
        let mask = [
            shape.causal.into(),
            // A window of everything is as good as any wider one, and cannot overflow.
            word(shape.window.min(self.seq_kv)),
        ];
        let floats = [shape.scale(), f32::NEG_INFINITY].map(f32::to_bits);
        let views = views.map(|view| view.map_or([0; 4], View::words));
        let words = [&numbers_of[..], &mask, &floats, views.as_flattened()].concat();
        numbers(client, &words)
    }
}

/// The kernels for a device that takes WGSL.
pub(super) fn wgsl_stages<R: CubeRuntime>(
    client: &ComputeClient<R>,
    head_dim: usize,
    format: DType,
) -> Stages {
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
    .stages()
}

fn has_subgroups<R: CubeRuntime>(client: &ComputeClient<R>) -> bool {
    use cubecl::ir::features::Plane;
    client.properties().features.plane.contains(Plane::Ops)
}
