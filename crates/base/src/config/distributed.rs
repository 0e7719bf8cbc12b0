//! By what processes that train together exchange numbers.

use serde::{Deserialize, Serialize};

/// The engine between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Distributed {
    /// Each process trains by itself, whatever started it.
    Off,
    /// As the launcher says: with several processes MPI or NCCL, else none.
    Auto,
    /// MPI, loaded when the program runs: any device.
    Mpi,
    /// NCCL: NVIDIA GPUs.
    Nccl,
}
