//! What training keeps in memory: the decorators that shrink it, its prediction, and the meter.

pub mod checkpoint;
pub mod chunking;
pub mod estimate;
pub mod meter;
pub mod moments;
pub mod offload;
pub mod precision;
pub mod watch;
