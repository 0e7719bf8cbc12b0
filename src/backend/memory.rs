//! Memory: what a run holds on its device, what the device has, and the largest buffer it takes.

use std::cell::Cell;

use cubecl::Runtime;
use cubecl::cuda::CudaRuntime;
use cubecl::wgpu::WgpuRuntime;
use serde::Serialize;

use super::fault::one_line;
use super::{Adapter, Class, Kind, Selected, cuda, guarded};
use crate::error::{Error, Result};
use crate::memory::meter::{host_available, host_total, live_bytes, peak_bytes, process_rss};

/// Memory a run holds on its device, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// Held by live tensors; on the CPU by all live allocations of the process.
    pub in_use_bytes: u64,
    /// Taken from the device, kept for reuse included; on the CPU the process's resident memory.
    pub reserved_bytes: u64,
    /// Highest `in_use_bytes` so far: of all samples on a GPU, exact on the CPU.
    pub peak_bytes: u64,
}

/// Follows the memory of one device over a run.
#[derive(Debug)]
pub struct MemoryMeter {
    selected: Selected,
    peak_bytes: Cell<u64>,
}

impl MemoryMeter {
    /// Starts with a peak of zero.
    pub fn new(selected: Selected) -> Self {
        Self {
            selected,
            peak_bytes: Cell::new(0),
        }
    }

    /// Memory now. The runtime counts per thread and works behind the caller's back, so ask on the
    /// thread that computes, after the backend's `sync`.
    ///
    /// # Errors
    /// If the device has failed.
    pub fn sample(&self) -> Result<MemoryUse> {
        let (in_use_bytes, reserved_bytes) = match &self.selected {
            Selected::Cpu => (live_bytes(), process_rss()),
            Selected::Cuda(device) => pool_bytes::<CudaRuntime>(device)?,
            Selected::Wgpu { device, .. } => pool_bytes::<WgpuRuntime>(device)?,
        };
        let peak = match self.selected {
            Selected::Cpu => peak_bytes(),
            _ => in_use_bytes,
        };
        self.peak_bytes.set(self.peak_bytes.get().max(peak));
        Ok(MemoryUse {
            in_use_bytes,
            reserved_bytes,
            peak_bytes: self.peak_bytes.get(),
        })
    }
}

/// Bytes in use and reserved in the runtime's pools for the calling thread.
fn pool_bytes<R: Runtime>(device: &R::Device) -> Result<(u64, u64)> {
    let usage = guarded(|| R::client(device).memory_usage())?.map_err(|error| {
        let cause = one_line(&error.to_string());
        Error::failed(format!("the device reports no memory use: {cause}"))
    })?;
    Ok((usage.bytes_in_use, usage.bytes_reserved))
}

/// Memory a device has, in bytes; `None` where its driver does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DeviceMemory {
    /// All of it.
    pub total_bytes: Option<u64>,
    /// What no process holds at the moment.
    pub free_bytes: Option<u64>,
}

/// Total and free memory of a device. Ask after [`Selected::open`]: for CUDA the question needs a
/// context, which the runtime has made by then.
pub fn device_memory(adapter: &Adapter) -> DeviceMemory {
    let shares_host = matches!(
        adapter.class,
        Class::Host | Class::Integrated | Class::Software
    );
    match &adapter.selected {
        Selected::Cuda(device) => {
            let info = cuda::free_and_total(device.index);
            DeviceMemory {
                total_bytes: info.map(|(_, total)| total).or(adapter.memory_bytes),
                free_bytes: info.map(|(free, _)| free),
            }
        }
        _ if shares_host => {
            let total = adapter.memory_bytes.unwrap_or_else(host_total);
            DeviceMemory {
                total_bytes: Some(total),
                free_bytes: Some(host_available().min(total)),
            }
        }
        _ => DeviceMemory {
            total_bytes: adapter.memory_bytes,
            free_bytes: None,
        },
    }
}

/// Largest buffer the device takes, in bytes; `None` on the CPU. A larger request fails without a
/// word until the next `sync`, so sizes are to be checked against this first.
///
/// # Errors
/// If the device's runtime cannot be started.
pub fn largest_buffer_bytes(adapter: &Adapter) -> Result<Option<u64>> {
    let page = match &adapter.selected {
        Selected::Cpu => return Ok(None),
        Selected::Cuda(device) => largest_page::<CudaRuntime>(device)?,
        Selected::Wgpu { device, .. } => largest_page::<WgpuRuntime>(device)?,
    };
    Ok(Some(page.min(buffer_limit(adapter))))
}

fn largest_page<R: Runtime>(device: &R::Device) -> Result<u64> {
    guarded(|| R::client(device).properties().memory.max_page_size)
}

/// The graphics interface's own limits; kernels see a whole buffer through one binding.
fn buffer_limit(adapter: &Adapter) -> u64 {
    let limits = [
        adapter.limits.max_buffer_bytes,
        adapter.limits.max_binding_bytes,
    ];
    match adapter.kind {
        Kind::Wgpu => limits.into_iter().flatten().min().unwrap_or(u64::MAX),
        Kind::Cpu | Kind::Cuda => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Limits, cpu};

    #[test]
    fn cpu_memory_is_the_hosts() {
        let memory = device_memory(&cpu::adapter());
        assert_eq!(memory.total_bytes, Some(host_total()));
        assert!(memory.free_bytes <= memory.total_bytes);
    }

    #[test]
    fn cpu_peak_is_at_least_what_is_in_use() {
        let memory = MemoryMeter::new(Selected::Cpu).sample().expect("a sample");
        assert!(memory.peak_bytes >= memory.in_use_bytes);
    }

    #[test]
    fn binding_limit_bounds_the_largest_buffer() {
        let mut adapter = cpu::adapter();
        adapter.kind = Kind::Wgpu;
        adapter.limits = Limits {
            max_buffer_bytes: Some(1 << 30),
            max_binding_bytes: Some(1 << 27),
            ..Limits::default()
        };
        assert_eq!(buffer_limit(&adapter), 1 << 27);
    }
}
