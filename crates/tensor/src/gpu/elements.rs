//! How kernels over rows of elements in any format are launched.

use crate::gpu::kernel::KernelRuntime;
use crate::gpu::row_texts::{Elements, THREADS};
use crate::gpu::source::Kernel;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::server::Handle;

/// How a kernel reads elements of this format, in rows whose parts have `unit` elements.
///
/// # Panics
/// If it is no format of activations.
pub(super) fn elements(format: DType, unit: usize) -> Elements {
    let format = match format {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        other => panic!("activations in {other:?}"),
    };
    let quads = unit.is_multiple_of(4);
    Elements { format, quads }
}

/// Workgroups of so many threads.
pub(super) fn workgroups(threads: usize) -> usize {
    threads.div_ceil(THREADS as usize)
}

/// The kernels count in 32 bits, and count on by strides of the grid, of which one has to be left: 4,096 workgroups have
/// 2^19 threads.
///
/// # Panics
/// If there are more: a plan has no tensors with so many numbers.
pub(super) fn count(n: usize) -> u32 {
    let count = u32::try_from(n).ok().filter(|n| *n < u32::MAX - (1 << 20));
    count.expect("a tensor has fewer than 2^32 elements, or pieces of four")
}

/// A tensor that nobody has written to yet, where this one is.
pub(super) fn empty<R: CubeRuntime>(
    like: &CubeTensor<R>,
    shape: impl Into<Shape>,
    format: DType,
) -> CubeTensor<R> {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, shape.into(), format)
}

/// A tensor for a result that a kernel may put in place of any of these, of the result's shape and format: one that nothing else
/// holds, or a new one.
pub(super) fn in_place<R: CubeRuntime, const N: usize>(
    candidates: [&CubeTensor<R>; N],
) -> CubeTensor<R> {
    let like = candidates[0];
    let own = candidates.into_iter().find(|tensor| tensor.can_mut());
    own.cloned()
        .unwrap_or_else(|| empty(like, like.meta.shape().clone(), like.dtype))
}

/// Launch on so many workgroups' work.
///
/// # Panics
/// If the kernel is told fewer numbers than it reads.
pub(super) fn launch<R: KernelRuntime>(
    kernel: &Kernel,
    like: &CubeTensor<R>,
    work: usize,
    buffers: &[&Handle],
    told: &[u32],
) {
    let read = |(name, words): &(&str, u32)| *name != "INFO_WORDS" || told.len() >= *words as usize;
    assert!(kernel.constants.iter().all(read), "numbers are missing");
    if work > 0 {
        kernel.launch_told(&like.client, work, buffers, told);
    }
}
