//! The kernels on NVIDIA's driver.

use crate::gpu::flash_attention::cuda_stage;
use crate::gpu::flash_info::LaunchSize;
use crate::gpu::kernel::{FlashKernel, KernelRuntime};
use crate::gpu::source::{Kernel, Stage};
use cubecl::cuda::{CudaCompiler, CudaComputeKernel, CudaRuntime};
use cubecl::ir::StorageType;
use cubecl::prelude::*;
use cubecl::{CompilationError, CubeTask};
use cubecl_cpp::shared::{
    Body, ComputeKernel, CubeIndexFlags, Dialect, Elem, Flags, Item, SharedMemory,
};

/// NVIDIA GPUs.
pub type CudaBackend = burn::backend::Cuda<f32, i32>;

impl KernelRuntime for CudaRuntime {
    const LAUNCH_SIZE: LaunchSize = LaunchSize::CUDA;
    const ONE_BY_ONE: bool = false;

    fn task(kernel: Kernel) -> Box<dyn CubeTask<CudaCompiler>> {
        Box::new(kernel)
    }

    fn flash_stage(client: &ComputeClient<Self>, wanted: &FlashKernel) -> Option<Stage> {
        cuda_stage(client, wanted)
    }
}

impl CubeTask<CudaCompiler> for Kernel {
    fn compile(
        &self,
        _: &mut CudaCompiler,
        options: &<CudaCompiler as cubecl::Compiler>::CompilationOptions,
        _: ExecutionMode,
        _: StorageType,
    ) -> Result<CompiledKernel<CudaCompiler>, CompilationError> {
        let repr: CudaComputeKernel = representation(self);
        // The runtime hands numbers over as it finds the device able to take them.
        let text = match options.supports_features.grid_constants {
            true => self.cuda_text(),
            false => format!("#define INFO_BY_POINTER 1\n{}", self.cuda_text()),
        };
        Ok(self.compiled(text, Some(repr)))
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

#[cfg(test)]
mod tests {
    use super::*;

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
