//! The host's CPU once more, by plain tensor operations: what every kernel is compared with.

use crate::{Adapter, Limits, Probe, Selected, cpu};
use aios_base::execution::Kind;

/// The one there is, in f32.
pub(super) fn probe() -> Probe {
    if !cfg!(feature = "ndarray") {
        return Err(crate::not_built("ndarray"));
    }
    Ok(vec![Adapter {
        kind: Kind::Ndarray,
        dtypes: vec!["f32"],
        emulated_dtypes: Vec::new(),
        attention: Kind::Ndarray.flash_attention(),
        limits: Limits::default(),
        selected: Selected::Ndarray,
        ..cpu::adapter()
    }])
}
