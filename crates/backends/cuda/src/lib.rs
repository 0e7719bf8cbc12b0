//! The engine on NVIDIA GPUs.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use aios_engine::{On, OpenDevice};
use aios_tensor::CudaBackend;

/// The device, whose runtime has been started.
pub fn open(device: cubecl::cuda::CudaDevice) -> Box<dyn OpenDevice> {
    Box::new(On::<CudaBackend>(device))
}
