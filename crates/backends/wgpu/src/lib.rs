//! The engine on any GPU, through Vulkan, Metal or Direct3D 12.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use aios_engine::{On, OpenDevice};
use aios_tensor::WgpuBackend;

/// The device, whose runtime has been started.
pub fn open(device: cubecl::wgpu::WgpuDevice) -> Box<dyn OpenDevice> {
    Box::new(On::<WgpuBackend>(device))
}
