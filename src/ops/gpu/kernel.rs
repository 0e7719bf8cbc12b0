//! Kernels written by hand, in WGSL for wgpu and in CUDA C++ for NVIDIA's driver.

use super::flash_attention::{cuda_stage, wgsl_stage};
use super::source::{Entry, Kernel, Stage};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::{CudaCompiler, CudaComputeKernel, CudaRuntime};
use cubecl::ir::StorageType;
use cubecl::prelude::*;
use cubecl::server::{Handle, KernelArguments};
use cubecl::wgpu::{AutoCompiler, WgpuRuntime};
use cubecl::{CompilationError, CubeTask};
use cubecl_cpp::shared::{
    Body, ComputeKernel, CubeIndexFlags, Dialect, Elem, Flags, Item, SharedMemory,
};

/// Workgroups of a launch whose kernel goes through its work in strides of the grid: enough to fill
/// the largest GPUs, and far from the 65,535 that every device allows in one dimension.
const WORKGROUPS: usize = 4096;

/// A runtime that kernels written by hand can be launched on.
pub(super) trait KernelRuntime: CubeRuntime {
    /// The kernel as this runtime takes it.
    fn task(kernel: Kernel) -> <Self::Server as cubecl::server::ComputeServer>::Kernel;

    /// An attention kernel for this device.
    fn flash_stage(
        client: &ComputeClient<Self>,
        entry: Entry,
        head_dim: usize,
        format: DType,
    ) -> Stage;
}

impl KernelRuntime for WgpuRuntime {
    fn task(kernel: Kernel) -> Box<dyn CubeTask<AutoCompiler>> {
        Box::new(kernel)
    }

    fn flash_stage(
        client: &ComputeClient<Self>,
        entry: Entry,
        head_dim: usize,
        format: DType,
    ) -> Stage {
        wgsl_stage(client, entry, head_dim, format)
    }
}

impl KernelRuntime for CudaRuntime {
    fn task(kernel: Kernel) -> Box<dyn CubeTask<CudaCompiler>> {
        Box::new(kernel)
    }

    fn flash_stage(
        client: &ComputeClient<Self>,
        entry: Entry,
        head_dim: usize,
        format: DType,
    ) -> Stage {
        cuda_stage(client, entry, head_dim, format)
    }
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

    fn dim(&self) -> CubeDim {
        CubeDim {
            x: self.threads,
            y: 1,
            z: 1,
        }
    }

    fn compiled<C: cubecl::Compiler>(
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
    fn id(&self) -> KernelId {
        KernelId::new::<Self>()
            .info((self.name, self.constants.clone()))
            .cube_dim(self.dim())
    }

    fn address_type(&self) -> StorageType {
        u32::as_type_native_unchecked().storage_type()
    }
}

impl CubeTask<AutoCompiler> for Kernel {
    fn compile(
        &self,
        _: &mut AutoCompiler,
        _: &<AutoCompiler as cubecl::Compiler>::CompilationOptions,
        _: ExecutionMode,
        _: StorageType,
    ) -> Result<CompiledKernel<AutoCompiler>, CompilationError> {
        Ok(self.compiled(self.wgsl_text(), None))
    }
}

impl CubeTask<CudaCompiler> for Kernel {
    fn compile(
        &self,
        _: &mut CudaCompiler,
        _: &<CudaCompiler as cubecl::Compiler>::CompilationOptions,
        _: ExecutionMode,
        _: StorageType,
    ) -> Result<CompiledKernel<CudaCompiler>, CompilationError> {
        let repr: CudaComputeKernel = representation(self);
        Ok(self.compiled(self.cuda_text(), Some(repr)))
    }
}

/// What the CUDA runtime wants to have besides the source; it only asks for the shared memory.
fn representation<D: Dialect>(kernel: &Kernel) -> ComputeKernel<D> {
    let address_type = Item::scalar(Elem::<D>::U32, true);
    let shared = match kernel.cuda_shared_bytes {
        0 => vec![],
        bytes => vec![SharedMemory::new_array(
            0,
            Item::scalar(Elem::<D>::U8, true),
            bytes,
            16,
        )],
    };
    ComputeKernel {
        tensor_maps: vec![],
        buffers: vec![],
        scalars: vec![],
        info: Default::default(),
        meta_static_len: 0,
        body: Body {
            instructions: vec![],
            shared_memories: shared,
            pipelines: vec![],
            barriers: vec![],
            const_arrays: vec![],
            local_arrays: vec![],
            info_by_ptr: false,
            has_dynamic_meta: false,
            address_type,
        },
        cube_dim: kernel.dim(),
        cluster_dim: None,
        extensions: vec![],
        flags: Flags {
            elem_fp4: false,
            elem_fp6: false,
            elem_fp8: false,
            elem_bf16: false,
            elem_f16: false,
            elem_tf32: false,
            indexes: CubeIndexFlags::default(),
            op_barrier: false,
            op_pipeline: false,
            inst_tma: false,
            inst_tma_im2col: false,
            inst_wmma: false,
            inst_ptx_wrappers: false,
            inst_async_copy: false,
            use_grid_constants: false,
            static_meta_length: 0,
            has_dynamic_meta: false,
            has_info: false,
            cube_dim: kernel.dim(),
            cluster_dim: None,
            address_type,
        },
        items: Default::default(),
        kernel_name: kernel.name.to_string(),
    }
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

/// A small buffer of numbers that a kernel reads.
pub(super) fn numbers<R: CubeRuntime>(client: &ComputeClient<R>, words: &[u32]) -> Handle {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    client.create_from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Selected, WgpuBackend, confirmed, select};
    use crate::config::DeviceChoice;

    /// Without a look at the device, such a kernel passes for one that leaves its buffers alone.
    #[test]
    fn a_kernel_that_does_not_compile_is_an_error_on_wgpu() {
        let Ok(selection) = select(&DeviceChoice::Wgpu(None)) else {
            return;
        };
        let Selected::Wgpu { device, .. } = selection.adapter.selected else {
            return;
        };
        let launch = || {
            let client = <WgpuRuntime as Runtime>::client(&device);
            let kernel = Kernel {
                name: "broken",
                constants: vec![],
                wgsl: &["@compute @workgroup_size(1) fn broken() { let x: u32 = 1.5; }"],
                cuda: &[],
                threads: 1,
                cuda_shared_bytes: 0,
            };
            kernel.launch(&client, 1, &[&numbers(&client, &[0])]);
        };
        // A thread of its own, whose stream it spoils.
        let outcome = std::thread::scope(|scope| {
            let work = || confirmed::<WgpuBackend, _>(&device, launch);
            scope.spawn(work).join().unwrap()
        });
        assert!(outcome.is_err());
    }

    #[test]
    fn cuda_gets_exactly_the_shared_memory_asked_for() {
        for bytes in [0, 1000, 96 * 1024] {
            let kernel = Kernel {
                name: "k",
                constants: vec![],
                wgsl: &[],
                cuda: &[],
                threads: 64,
                cuda_shared_bytes: bytes,
            };
            let repr: CudaComputeKernel = representation(&kernel);
            assert_eq!(repr.shared_memory_size(), bytes);
        }
    }
}
