//! Benchmarks that anyone can rerun: `aios bench`.

pub mod attention;
pub mod chart;
pub mod context;
pub mod device;
pub mod memory;
mod model;
mod outcome;
pub mod process;
pub mod step;

pub use process::answer;
