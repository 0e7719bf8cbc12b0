//! Train bigger language models and longer contexts on the GPU you have.
//!
//! Data flows one way: flags, configuration, device, then data and model, training step, metrics
//! and checkpoints. ARCHITECTURE.md has the picture.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod backend;
pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod memory;
pub mod model;
pub mod numbers;
pub mod ops;
pub mod report;
pub mod terminal;
pub mod train;
