//! `aios train`.

use crate::cli::train_flags::TrainFlags;
use aios_base::error::Result;

/// Train; returns the exit code.
pub fn run(flags: TrainFlags) -> Result<u8> {
    let request = flags.optimize.request(&flags.shared.memory);
    aios_train::run(&flags, request)
}
