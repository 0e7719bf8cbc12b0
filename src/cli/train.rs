//! `aios train`.

use crate::cli::train_flags::{GoalFlag, TrainFlags};
use aios_base::error::Result;
use aios_train::capacity::{Goal, Off, Request};

/// Train; returns the exit code.
pub fn run(flags: TrainFlags) -> Result<u8> {
    aios_train::run(&flags, request(&flags))
}

/// What `--optimize` asks for.
fn request(flags: &TrainFlags) -> Option<Request> {
    let goal = match flags.optimize? {
        GoalFlag::Context => Goal::Context,
        GoalFlag::Batch => Goal::Batch,
    };
    Some(Request {
        goal,
        dry_run: flags.dry_run,
        off: Off {
            chunks: flags.shared.memory.no_chunked_training,
            eight_bit: flags.shared.memory.no_8bit_optimizer,
            offload: flags.shared.memory.no_cpu_offload,
        },
    })
}
