//! The program: what its flags are and what each subcommand does.
//!
//! Data flows one way: flags, configuration, device, then data and model, training step, metrics
//! and checkpoints. ARCHITECTURE.md has the picture.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod bench;
pub mod cli;
