//! Models: structure, names in files, cost, and what a training step computes of a batch.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod actv1;
