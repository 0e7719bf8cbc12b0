//! The engine on the CPU: Burn's Flex tensors and the kernels of `aios-kernels`.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use aios_engine::{On, OpenDevice};
use aios_tensor::CpuBackend;

/// The device, whose runtime has been started.
pub fn open() -> Box<dyn OpenDevice> {
    Box::new(On::<CpuBackend>(Default::default()))
}
