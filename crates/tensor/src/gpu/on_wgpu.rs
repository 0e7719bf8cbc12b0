//! The kernels on wgpu.

use crate::gpu::flash_attention::wgsl_stage;
use crate::gpu::flash_info::LaunchSize;
use crate::gpu::kernel::{FlashKernel, KernelRuntime};
use crate::gpu::source::{Kernel, Stage};
use cubecl::ir::StorageType;
use cubecl::prelude::*;
use cubecl::wgpu::{AutoCompiler, WgpuRuntime};
use cubecl::{CompilationError, CubeTask};

/// Any GPU through Vulkan, Metal or Direct3D 12.
pub type WgpuBackend = burn::backend::Wgpu<f32, i32, u32>;

/// The device that tests run on, where there is one.
#[cfg(test)]
pub(super) fn tried_on() -> Option<burn::tensor::Device<WgpuBackend>> {
    use aios_device::Selected;
    let wanted = aios_base::config::DeviceChoice::Wgpu(None);
    match aios_device::select(&wanted).ok()?.adapter.selected {
        Selected::Wgpu { device, .. } => Some(device),
        _ => None,
    }
}

impl KernelRuntime for WgpuRuntime {
    const LAUNCH_SIZE: LaunchSize = LaunchSize::ANY;
    // A command buffer has up to 32 launches, and macOS ends one that takes long.
    const ONE_BY_ONE: bool = true;

    fn task(kernel: Kernel) -> Box<dyn CubeTask<AutoCompiler>> {
        Box::new(kernel)
    }

    fn flash_stage(client: &ComputeClient<Self>, wanted: &FlashKernel) -> Option<Stage> {
        wgsl_stage(client, wanted)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confirmed;
    use crate::gpu::source::Part;

    /// Without a look at the device, such a kernel passes for one that leaves its buffers alone.
    #[test]
    fn a_kernel_that_does_not_compile_is_an_error_on_wgpu() {
        let Some(device) = tried_on() else {
            return;
        };
        let launch = || {
            let client = <WgpuRuntime as Runtime>::client(&device);
            let kernel = Kernel {
                name: "broken",
                constants: vec![],
                wgsl: const {
                    &[Part::new(
                        "@compute @workgroup_size(1) fn broken() { let x: u32 = 1.5; }",
                    )]
                },
                cuda: &[],
                threads: 1,
                cuda_shared_bytes: 0,
            };
            kernel.launch(&client, 1, &[&client.create_from_slice(&[0; 4])]);
        };
        // A thread of its own, whose stream it spoils.
        let outcome = std::thread::scope(|scope| {
            let work = || confirmed::<WgpuBackend, _>(&device, launch);
            scope.spawn(work).join().unwrap()
        });
        assert!(outcome.is_err());
    }
}
