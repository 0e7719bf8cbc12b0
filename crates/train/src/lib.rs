//! Training: from flags to a saved bundle.
//!
//! No backend and no tensor is known here: a model at work is an [`aios_engine::Engine`].

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod adapting;
mod attempt;
mod banner;
pub mod blueprint;
pub mod capacity;
pub mod chat;
mod checkpoints;
mod copied;
pub mod devices;
mod evaluation;
pub mod export;
mod form;
mod gauge;
pub mod held;
mod holdings;
pub mod idle;
mod journal;
pub mod merge;
mod opening;
mod operations;
pub mod places;
pub mod progress;
pub mod ranks;
pub mod recipe;
pub mod resume;
mod run;
pub mod saved;
pub mod schedule;
pub mod setup;
pub mod state;
pub mod step;
pub mod tokens;
mod trainer;
pub mod whole;

pub use run::run;
