//! A GPU's pools: weights take what they need, and are read to the host in parts.

use crate::common::{DeviceJob, cuda, on, wgpu};
use aios_base::storage::Storage;
use aios_device::{MemoryMeter, Selected, Selection};
use aios_nn::{Param, ParamInfo};
use aios_tensor::{Ops, confirmed, floats};

/// More than twice what is read at a time, in rows that do not divide it.
const DIMS: [usize; 2] = [4099, 1100];
const WEIGHTS: usize = 3;

struct Held(Selected);

impl DeviceJob for Held {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        let values: Vec<f32> = (0..DIMS[0] * DIMS[1]).map(|i| i as f32).collect();
        let param = |index: usize| {
            let info = ParamInfo {
                name: index.to_string(),
                shape: DIMS.to_vec(),
                decay: true,
                trained: true,
                storage: Storage::F32,
            };
            Param::<B>::of_values(info, index, values.clone(), &device)
        };
        let params: Vec<_> = (0..WEIGHTS).map(param).collect();
        confirmed::<B, _>(&device, || ()).unwrap();
        let used = MemoryMeter::new(self.0).sample().unwrap();
        let bytes = (WEIGHTS * 4 * values.len()) as u64;
        assert!(used.in_use_bytes >= bytes, "{used:?}");
        // Rows may be padded.
        assert!(used.reserved_bytes < bytes + bytes / 10, "{used:?}");
        assert!(floats(params[1].value()) == values);
    }
}

fn held_on(device: Option<Selection>) {
    let Some(device) = device else { return };
    let selected = device.adapter.selected;
    on(&selected, Held(selected.clone()));
}

#[test]
fn weights_take_what_they_need_on_wgpu() {
    held_on(wgpu());
}

#[test]
fn weights_take_what_they_need_on_cuda() {
    held_on(cuda());
}
