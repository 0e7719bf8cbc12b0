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

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod child;
mod death;
mod notes;
mod parent;
pub mod split;
pub mod stop;

pub use child::Supervised;
pub use notes::{Notes, Outcome, Restart, Status};
pub use parent::Parent;

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
