//! Kernels written by hand, in WGSL for wgpu and in CUDA C++ for NVIDIA's driver.

use crate::gpu::flash_info::LaunchSize;
use crate::gpu::source::{Entry, Kernel, Stage};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::device::{Device, DeviceId};
use cubecl::ir::StorageType;
use cubecl::prelude::*;
use cubecl::server::{Handle, KernelArguments, MetadataBindingInfo};
use cubecl::stream_id::StreamId;
use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashMap;

/// Workgroups of a launch whose kernel goes through its work in strides of the grid: enough to fill
/// the largest GPUs, and far from the 65,535 that every device allows in one dimension.
const WORKGROUPS: usize = 4096;

/// A runtime that kernels written by hand can be launched on.
pub trait KernelRuntime: CubeRuntime {
    /// The kernel as this runtime takes it.
    fn task(kernel: Kernel) -> <Self::Server as cubecl::server::ComputeServer>::Kernel;

    /// How large a launch of attention is.
    const LAUNCH_SIZE: LaunchSize;

    /// Launches that take long are handed over one by one: what limits their time limits that of all that is handed over at once.
    const ONE_BY_ONE: bool;

    /// An attention kernel for this device; `None` if it has too little memory for a workgroup.
    fn flash_stage(client: &ComputeClient<Self>, wanted: &FlashKernel) -> Option<Stage>;
}

/// What an attention kernel is for.
#[derive(Clone, Copy, Debug)]
pub struct FlashKernel {
    pub entry: Entry,
    pub head_dim: usize,
    pub format: DType,
    /// Each query comes with the range of keys that it sees, instead of causality.
    pub ranges: bool,
}

impl Kernel {
    /// Launch on `work` pieces of work, with these buffers as arguments in order.
    ///
    /// The kernel has to take further pieces in strides of the grid: there may be fewer workgroups.
    pub fn launch<R: KernelRuntime>(
        &self,
        client: &ComputeClient<R>,
        work: usize,
        buffers: &[&Handle],
    ) {
        // The bound of `min` makes the cast lossless.
        let count = CubeCount::Static(work.min(WORKGROUPS) as u32, 1, 1);
        let buffers = buffers.iter().map(|b| (*b).clone().binding()).collect();
        let arguments = KernelArguments::new().with_buffers(buffers);
        client.launch(R::task(self.clone()), count, arguments);
    }

    /// The same with numbers behind the buffers, which travel with the launch: they are no upload of their own.
    pub fn launch_told<R: KernelRuntime>(
        &self,
        client: &ComputeClient<R>,
        work: usize,
        buffers: &[&Handle],
        numbers: &[u32],
    ) {
        // The bound of `min` makes the cast lossless.
        let count = CubeCount::Static(work.min(WORKGROUPS) as u32, 1, 1);
        let buffers = buffers.iter().map(|b| (*b).clone().binding()).collect();
        let arguments = KernelArguments::new().with_buffers(buffers);
        let arguments = arguments.with_info(told(numbers));
        client.launch(R::task(self.clone()), count, arguments);
    }

    pub fn dim(&self) -> CubeDim {
        CubeDim {
            x: self.threads,
            y: 1,
            z: 1,
        }
    }

    pub fn compiled<C: cubecl::Compiler>(
        &self,
        source: String,
        repr: Option<C::Representation>,
    ) -> CompiledKernel<C> {
        CompiledKernel {
            entrypoint_name: self.name.to_string(),
            debug_name: Some(self.name),
            source,
            repr,
            cube_dim: self.dim(),
            debug_info: None,
        }
    }
}

impl KernelMetadata for Kernel {
    fn name(&self) -> &'static str {
        self.name
    }

    fn id(&self) -> KernelId {
        KernelId::new::<Self>()
            .info((
                self.name,
                self.constants.clone(),
                (self.wgsl, self.cuda),
                self.cuda_shared_bytes,
            ))
            .cube_dim(self.dim())
    }

    fn address_type(&self) -> StorageType {
        u32::as_type_native_unchecked().storage_type()
    }
}

/// Buffers of numbers that are kept at the most; then all are forgotten.
const KEPT: usize = 256;

/// Which numbers a buffer has, where.
#[derive(PartialEq, Eq, Hash)]
struct Told {
    runtime: TypeId,
    device: DeviceId,
    stream: StreamId,
    words: Vec<u32>,
}

thread_local! {
    /// What kernels have been told by this thread, which is the runtime's own for a device: nobody writes to these buffers,
    /// and the launches of all blocks and steps are told the same.
    static TOLD: RefCell<HashMap<Told, Handle>> = RefCell::new(HashMap::new());
}

/// A small buffer of numbers that a kernel reads, on the device of this tensor; uploaded if it is not there yet.
pub(super) fn numbers<R: CubeRuntime>(beside: &CubeTensor<R>, words: &[u32]) -> Handle {
    let told = Told {
        runtime: TypeId::of::<R>(),
        device: beside.device.to_id(),
        stream: StreamId::current(),
        words: words.to_vec(),
    };
    let upload = || {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        beside.client.create_from_slice(&bytes)
    };
    TOLD.with_borrow_mut(|kept| {
        if kept.len() == KEPT && !kept.contains_key(&told) {
            kept.clear();
        }
        kept.entry(told).or_insert_with(upload).clone()
    })
}

/// Numbers as cubecl hands them to a kernel: in a buffer on wgpu, in CUDA as an argument, unless the device is too old for that.
fn told(numbers: &[u32]) -> MetadataBindingInfo {
    // All machines that there are GPUs for are little endian.
    let pair = |pair: &[u32]| {
        let high = pair.get(1).copied().unwrap_or(0);
        u64::from(pair[0]) | u64::from(high) << 32
    };
    let data: Vec<u64> = numbers.chunks(2).map(pair).collect();
    // What is from this place on would be in a buffer in CUDA too: nothing.
    let all = data.len();
    MetadataBindingInfo::new(data, all)
}

/// The tensor in a buffer that may be written: contiguous (rows may be padded on CUDA), and its own
/// copy if something else still uses it.
pub(super) fn writable<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    let own = match tensor.can_mut() {
        true => tensor,
        false => tensor.copy(),
    };
    into_contiguous(own)
}
