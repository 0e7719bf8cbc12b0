//! Everything that training may want of a device, tried on it.

use super::trial;
use crate::backend::{Adapter, DeviceCheck, DeviceJob};
use crate::error::Result;
use crate::ops::{Ops, Precision, self_check, self_check_adamw_8bit, self_check_attention};

/// The default model's.
const HEAD_DIM: usize = 64;

/// Compare what a device computes with what the CPU does.
pub fn check_adapter(adapter: &Adapter) -> Vec<DeviceCheck> {
    let opened = adapter.selected.open();
    let done = match opened {
        Ok(()) => adapter.selected.run(Checks(adapter)),
        Err(error) => vec![("start".to_string(), Err(error))],
    };
    let check = |(work, outcome): (String, Result<()>)| DeviceCheck {
        device: adapter.flag(),
        work,
        problem: outcome.err().map(|error| error.to_string()),
    };
    done.into_iter().map(check).collect()
}

struct Checks<'a>(&'a Adapter);

impl DeviceJob for Checks<'_> {
    type Output = Vec<(String, Result<()>)>;

    fn run<B: Ops>(self, device: B::Device) -> Self::Output {
        let adapter = self.0;
        let formats = [Precision::F32, Precision::F16, Precision::Bf16];
        let has = |format: &Precision| adapter.holds(format.as_str());
        let mut done = Vec::new();
        for format in formats.into_iter().filter(has) {
            let linear = trial::<B>(&device, || self_check::<B>(&device, format));
            done.push((format!("linear layers in {}", format.as_str()), linear));
            let check = || self_check_attention::<B>(&device, format, HEAD_DIM);
            let work = format!("{} in {}", adapter.attention, format.as_str());
            done.push((work, trial::<B>(&device, check)));
        }
        let check = || self_check_adamw_8bit::<B>(&device);
        done.push(("adamw8bit".to_string(), trial::<B>(&device, check)));
        done
    }
}
