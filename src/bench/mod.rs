//! Benchmarks that anyone can rerun: `aios bench`.

pub mod attention;
pub mod chart;
pub mod context;
pub mod memory;
mod process;
pub mod step;
