//! In place of `graphics.rs` in a program built without the feature `wgpu`.

use crate::Probe;

pub(super) fn probe() -> Probe {
    Err(crate::not_built("wgpu"))
}
