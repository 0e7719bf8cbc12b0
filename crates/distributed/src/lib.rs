//! The ranks of a job: processes that train one model together, a device each.
//!
//! Who started them says how many there are ([`launcher`]); an engine that is not ours sums numbers over them
//! ([`Collectives`]: [`mpi`], [`nccl`]); a watch beside the engine notices a rank that dies, hangs or loses its network ([`watch`]).
//! [`World`] is what training sees of all that, and is a world of one where nothing else was started.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[cfg(test)]
mod checks;
mod collectives;
mod communicator;
mod doors;
mod dynamic;
mod handshake;
mod host;
pub mod launcher;
pub mod mpi;
#[cfg_attr(not(feature = "cuda"), path = "nccl_absent.rs")]
pub mod nccl;
mod pace;
mod process;
mod refused;
#[cfg(feature = "cuda")]
mod rendezvous;
mod session;
mod threads;
pub mod watch;
mod world;

pub use collectives::Collectives;
pub use launcher::{Launched, Launcher};
pub use world::{Pending, World, on_host};
