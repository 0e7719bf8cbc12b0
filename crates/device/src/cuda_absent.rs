//! In place of `cuda.rs` in a program built without the feature `cuda`.

use crate::Probe;

pub(super) fn probe() -> Probe {
    Err(crate::not_built("cuda"))
}
