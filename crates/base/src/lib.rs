//! What every crate here stands on: errors, sizes and numbers in words, the configuration of a training run, how a model
//! is run over sequences, work that is watched or waited for, files that have reached the disk, and the heap meter.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod background;
pub mod cache;
pub mod config;
pub mod error;
pub mod execution;
pub mod fault;
pub mod files;
pub mod mapped;
pub mod meter;
pub mod micro_batch;
pub mod numbers;
pub mod nvidia;
pub mod storage;
pub mod terminal;
pub mod waiting;
