//! Benchmarks that anyone can rerun: `aios bench`.

pub mod attention;
pub mod chart;
pub mod memory;
pub mod step;
