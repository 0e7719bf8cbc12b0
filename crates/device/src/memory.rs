//! Memory: what a run holds on its device, what the device has, and the largest buffer it takes.

use std::cell::Cell;

use serde::Serialize;

use crate::{Adapter, Class, Selected};
use aios_base::error::Result;
use aios_base::execution::Kind;
use aios_base::meter::{
    begin_lap, host_available, host_total, lap_peak_bytes, live_bytes, peak_bytes, process_rss,
};

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
    lap_peak_bytes: Cell<u64>,
}

impl MemoryMeter {
    /// Starts with a peak of zero.
    pub fn new(selected: Selected) -> Self {
        Self {
            selected,
            peak_bytes: Cell::new(0),
            lap_peak_bytes: Cell::new(0),
        }
    }

    /// Memory now. The runtime counts per thread and works behind the caller's back, so ask on the
    /// thread that computes, after the backend's `sync`.
    ///
    /// # Errors
    /// If the device has failed.
    pub fn sample(&self) -> Result<MemoryUse> {
        let pools = self.selected.pools()?;
        let (in_use_bytes, reserved_bytes) = pools.unwrap_or_else(|| (live_bytes(), process_rss()));
        let [peak, of_lap] = match pools {
            None => [peak_bytes(), lap_peak_bytes()],
            Some((in_use_bytes, _)) => [in_use_bytes; 2],
        };
        self.peak_bytes.set(self.peak_bytes.get().max(peak));
        (self.lap_peak_bytes).set(self.lap_peak_bytes.get().max(of_lap));
        Ok(MemoryUse {
            in_use_bytes,
            reserved_bytes,
            peak_bytes: self.peak_bytes.get(),
        })
    }

    /// Begins a lap, such as a step.
    pub fn begin_lap(&self) {
        begin_lap();
        self.lap_peak_bytes.set(0);
    }

    /// The most bytes in use since the lap began, as of the last sample: of all samples on a GPU, exact on the CPU.
    pub fn lap_peak_bytes(&self) -> u64 {
        self.lap_peak_bytes.get()
    }
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
        #[cfg(feature = "cuda")]
        Selected::Cuda(device) => {
            let info = crate::cuda::free_and_total(device.index);
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
    let page = adapter.selected.largest_page()?;
    Ok(page.map(|page| page.min(buffer_limit(adapter))))
}

/// The graphics interface's own limits; kernels see a whole buffer through one binding.
fn buffer_limit(adapter: &Adapter) -> u64 {
    let limits = [
        adapter.limits.max_buffer_bytes,
        adapter.limits.max_binding_bytes,
    ];
    match adapter.kind {
        Kind::Wgpu => limits.into_iter().flatten().min().unwrap_or(u64::MAX),
        Kind::Cpu | Kind::Ndarray | Kind::Cuda => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, cpu};

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
