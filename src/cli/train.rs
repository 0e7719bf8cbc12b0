//! `aios train`.

use super::train_flags::TrainFlags;
use crate::error::Result;

/// Train.
pub fn run(flags: TrainFlags) -> Result<()> {
    crate::train::run(&flags)
}
