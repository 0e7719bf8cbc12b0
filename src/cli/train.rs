//! `aios train`.

use super::train_flags::TrainFlags;
use crate::error::Result;

/// Train; returns the exit code.
pub fn run(flags: TrainFlags) -> Result<u8> {
    crate::train::run(&flags)
}
