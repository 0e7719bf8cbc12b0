//! The last resort against failures of memory that take the process with them: an allocator that aborts, the system's
//! out-of-memory killer, a driver that dies.
//!
//! `aios train` trains in a child process. The parent needs next to no memory; it waits, passes requests to stop on, and
//! when the child dies for lack of memory it starts another one with half the micro-batch and the same effective batch,
//! which goes on from the last checkpoint.
//!
//! ```text
//! parent --> child   stdin         `s`: stop and save, `i`: stop if nothing would be lost, `q`: leave at once; its end
//!                                  means that the parent is gone
//!                    AIOS_SUPERVISED   the folder for the child's notes
//!                    AIOS_STDIN        what came in on the parent's standard input, if it is wanted
//!                    AIOS_RESTART      what to do otherwise than the one that died: [`Restart`]
//! child --> parent   the folder    status.json before each step, outcome.json at the end: [`Status`], [`Outcome`]
//!                    exit code     the run's own, EXIT_OUT_OF_MEMORY or EXIT_REFUSED
//! ```
//!
//! A child that crashes may have had too little memory, as drivers crash then; one that crashes in the same step again
//! has not, and is reported.

mod child;
mod death;
mod notes;
mod parent;

use crate::cli::train_flags::TrainFlags;
use crate::config::TrainConfig;
use crate::error::{Error, Result};

use super::optimize;
use super::resume::check_flags;
use super::setup;
use notes::Notes;
use parent::Parent;

pub use child::Supervised;
pub use notes::{Outcome, Restart, Status};

/// The folder for the child's notes; set for a child only.
const SUPERVISED: &str = "AIOS_SUPERVISED";

/// The file with what came in on the parent's standard input, if that is a text of the run; the child's is a pipe.
const STDIN: &str = "AIOS_STDIN";

/// A [`Restart`] as JSON.
const RESTART: &str = "AIOS_RESTART";

/// Exit code by which a child says that its device failed, most likely for lack of memory, and that nothing on the device
/// can be trusted any more: `EX_TEMPFAIL` of the BSDs, "try again", which nothing else here uses. Never the parent's.
const EXIT_OUT_OF_MEMORY: u8 = 75;

/// Exit code by which a child says that it aborts because the system refused it memory. Never the parent's.
const EXIT_REFUSED: u8 = 76;

/// What the parent writes into the child's standard input.
mod line {
    /// Stop as Ctrl-C would: finish the micro-batch and save.
    pub const STOP: u8 = b's';
    /// The same, unless steps are in progress or not saved yet.
    pub const STOP_IF_IDLE: u8 = b'i';
    /// Leave at once, with exit code 130.
    pub const QUIT: u8 = b'q';
}

/// Train as the flags say: in a child process, or in this one if it is the child or if `--no-supervise` asks for it.
/// Returns the process's exit code.
///
/// # Errors
/// Bad arguments (exit code 2), or whatever stopped the training (exit code 1) and was not said by a child already; what
/// was saved before is intact.
pub fn run(flags: &TrainFlags) -> Result<u8> {
    if let Some(supervised) = Supervised::from_env()? {
        return train_as_child(flags, supervised);
    }
    if let Some(goal) = flags.optimize {
        return optimize::run(flags, goal).map(|()| 0);
    }
    // What a saved run adds is the child's to read and to check.
    let config = TrainConfig::default().overlay_flags(flags)?;
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
    setup::run(flags, Supervised::not())
        .map(|()| 0)
        .map_err(|error| match error {
            Error::Device(cause) => Error::Device(format!(
                "{cause}; if it ran out of memory, lower --batch-size or --max-seq-len"
            )),
            other => other,
        })
}

/// The child's outcome is on record before it ends: a driver that crashes while it cleans up changes nothing any more.
fn train_as_child(flags: &TrainFlags, supervised: Supervised) -> Result<u8> {
    let ended = setup::run(flags, supervised.clone());
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
