//! The engine on each Burn backend that was built in, each in a crate of its own, so that they build side by side.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use aios_base::error::{Error, Result};
use aios_device::Selected;
use aios_engine::OpenDevice;
use std::error::Error as _;

/// Start a device, and the threads that load for it.
///
/// # Errors
/// Its driver refuses, or the system has no more threads.
pub fn open(selected: &Selected) -> Result<Box<dyn OpenDevice>> {
    start_threads(None)?;
    selected.open()?;
    Ok(match selected {
        Selected::Cpu => aios_backend_cpu::open(),
        #[cfg(feature = "ndarray")]
        Selected::Ndarray => aios_backend_ndarray::open(),
        // No such device is offered then.
        #[cfg(not(feature = "ndarray"))]
        Selected::Ndarray => aios_backend_cpu::open(),
        #[cfg(feature = "cuda")]
        Selected::Cuda(device) => aios_backend_cuda::open(device.clone()),
        #[cfg(feature = "wgpu")]
        Selected::Wgpu { device, .. } => aios_backend_wgpu::open(device.clone()),
    })
}

/// Start rayon's threads while that may still be an error: where they are first needed it would be a panic. As many as
/// there are cores unless a number is given; none where they have been started.
///
/// # Errors
/// The system has no more.
pub fn start_threads(number: Option<usize>) -> Result<()> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(number.unwrap_or(0));
    let started = builder.build_global();
    // Without a cause they are there already.
    match started.err().as_ref().and_then(|error| error.source()) {
        Some(cause) => Err(Error::failed(format!(
            "cannot start a thread for each core: {cause}; with RAYON_NUM_THREADS=1 in the environment there are fewer"
        ))),
        None => Ok(()),
    }
}
