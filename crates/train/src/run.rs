//! Which process trains: this one, or a child that it watches over.

use crate::capacity::{self, Request};
use crate::resume::check_flags;
use crate::{ranks, setup};
use aios_base::config::{Overlay, TrainConfig};
use aios_base::error::{Error, Result};
use aios_distributed::World;
use aios_process::{Notes, Outcome, Parent, Supervised};

/// Train as the flags say: in a child process, or in this one if it is the child or if `--no-supervise` asks for it.
/// Returns the process's exit code.
///
/// # Errors
/// Bad arguments (exit code 2), or whatever stopped the training (exit code 1) and was not said by a child already; what
/// was saved before is intact.
/// With a `request` it is looked for what fits instead.
pub fn run(flags: &dyn Overlay, request: Option<Request>) -> Result<u8> {
    if let Some(supervised) = Supervised::from_env()? {
        return train_as_child(flags, supervised);
    }
    if let Some(request) = request {
        ranks::alone(&TrainConfig::of_flags(flags)?, "--optimize")?;
        return capacity::run(flags, request).map(|()| 0);
    }
    // What a saved run adds is the child's to read and to check.
    let config = TrainConfig::of_flags(flags)?;
    if let Some(launched) = ranks::launched(&config)? {
        return ranks::together(&config, launched, |world| {
            setup::run(flags, Supervised::not(), world)
        });
    }
    check_flags(&config)?;
    if config.supervise {
        match Notes::create() {
            Ok(notes) => return Parent::start(config, notes)?.run(),
            Err(cause) if config.strict => {
                return Err(Error::failed(format!(
                    "--strict: training would not be supervised: {cause}; leave out --strict or give \
                     --no-supervise"
                )));
            }
            Err(cause) => tracing::warn!("training is not supervised: {cause}"),
        }
    }
    setup::run(flags, Supervised::not(), &World::of_one())
        .map(|()| 0)
        .map_err(|error| match error {
            Error::Device(cause) => Error::Device(format!(
                "{cause}; if it ran out of memory, lower --batch-size or --max-seq-len"
            )),
            other => other,
        })
}

/// The child's outcome is on record before it ends: a driver that crashes while it cleans up changes nothing any more.
fn train_as_child(flags: &dyn Overlay, supervised: Supervised) -> Result<u8> {
    let ended = setup::run(flags, supervised.clone(), &World::of_one());
    let outcome = match &ended {
        Ok(()) => Outcome::code(0),
        Err(Error::Device(cause)) => Outcome::out_of_memory(cause),
        Err(error) => Outcome::code(error.exit_code()),
    };
    supervised.ended(&outcome);
    match ended {
        // The parent goes on, or says what it was.
        Err(Error::Device(_)) => Ok(outcome.code),
        ended => ended.map(|()| outcome.code),
    }
}
