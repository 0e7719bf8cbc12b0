//! Decorators that shrink what training keeps in memory.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod checkpoint;
pub mod moments;
pub mod precision;
