//! How large the loss's slices are on a device.

use aios_base::config::TrainConfig;
use aios_device::Adapter;
use aios_tensor::{LossPath, SLICE_BYTES};

/// Share of a GPU's memory that a slice of logits may take: a few of them are held at once.
const SHARE: u64 = 128;
/// Beyond, launches are few beside what they compute.
const MOST: u64 = 256 << 20;
/// Share of the largest buffer: what else is as large as logits must not be near the limit either.
const SHARE_OF_BUFFER: u64 = 3;

/// How head and loss are computed. A GPU is given larger slices than a CPU's caches like, as far as its memory and its buffers
/// allow: each costs some launches, which is all that a small slice is for a large GPU.
pub(crate) fn loss_path(config: &TrainConfig, adapter: &Adapter) -> LossPath {
    match config.fused_cross_entropy {
        true => LossPath::Fused {
            slice_bytes: slice_bytes(adapter),
        },
        false => LossPath::Plain,
    }
}

fn slice_bytes(adapter: &Adapter) -> usize {
    let Some(memory) = adapter.memory_bytes.filter(|_| adapter.class.is_real_gpu()) else {
        return SLICE_BYTES;
    };
    let limits = &adapter.limits;
    let buffers = [limits.max_buffer_bytes, limits.max_binding_bytes];
    let buffer = buffers.into_iter().flatten().min().unwrap_or(u64::MAX);
    let most = MOST.min(memory / SHARE).min(buffer / SHARE_OF_BUFFER);
    // No more than `MOST`, which the cast keeps.
    (most as usize).max(SLICE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::config::DeviceChoice;
    use aios_device::{Class, select};

    #[test]
    fn slices_grow_with_a_gpu() {
        let mut adapter = select(&DeviceChoice::Cpu).unwrap().adapter;
        let mut of = |class, gib: u64, binding_mib: u64| {
            adapter.class = class;
            adapter.memory_bytes = Some(gib << 30);
            adapter.limits.max_binding_bytes = Some(binding_mib << 20);
            slice_bytes(&adapter)
        };
        assert_eq!(of(Class::Host, 512, 1 << 20), SLICE_BYTES);
        assert_eq!(of(Class::Software, 512, 1 << 20), SLICE_BYTES);
        assert_eq!(of(Class::Discrete, 4, 1 << 20), SLICE_BYTES);
        assert_eq!(of(Class::Discrete, 16, 1 << 20), 128 << 20);
        assert_eq!(of(Class::Discrete, 16, 128), (128 << 20) / 3);
        assert_eq!(of(Class::Discrete, 141, 1 << 20), 256 << 20);
    }
}
