//! Looks at a GPU's memory inside a step, where its peak is.
//!
//! The runtime's pools only tell what is held now, and only for work that has been sent to the
//! device, so a look costs a wait. Memory is the same in every step of the same shape: looking
//! closely at the first few is enough. On the CPU the allocator counts everything by itself.

use aios_device::MemoryMeter;
use aios_engine::{Observer, OpenDevice};
use aios_kernels::buffer::OutOfMemory;
use aios_nn::watch::Point;

/// Steps that are looked at closely: the second is the first with the optimizer's state.
pub const CLOSE_STEPS: u64 = 3;

/// Takes samples at the points of a step, and ends it where a limit is passed.
pub struct Gauge<'a> {
    pub meter: &'a MemoryMeter,
    /// Look at every point, rather than only where the caller samples anyway.
    pub close: bool,
    /// Most bytes to have in use. The pages of the pools may add to more: what is left of them is no part of the step.
    pub limit: Option<u64>,
}

impl Observer for Gauge<'_> {
    fn at(&self, _: Point, device: &dyn OpenDevice) {
        if !self.close {
            return;
        }
        // Asking takes a failure away from whoever would ask next, so that it has to be passed on: as a
        // panic, which is an error again around the step's work.
        if let Err(error) = device.confirm() {
            panic!("{error}");
        }
        let used = self
            .meter
            .sample()
            .unwrap_or_else(|error| panic!("{error}"));
        if let Some(limit) = self.limit
            && used.in_use_bytes > limit
        {
            let bytes = usize::try_from(used.in_use_bytes - limit).unwrap_or(usize::MAX);
            std::panic::panic_any(OutOfMemory { bytes });
        }
    }
}
