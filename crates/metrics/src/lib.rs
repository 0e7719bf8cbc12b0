//! What a run reports: events in a file of JSON lines, TensorBoard's files, and the page that shows them.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod appended;
mod events;
pub mod report;
mod tensorboard;

pub use events::*;
