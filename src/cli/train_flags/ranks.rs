//! Flags about processes that train one model together.

use clap::Args;

use crate::cli::train_flags::{set, switch};
use aios_base::config::{Distributed, TrainConfig};

/// Several devices, a process each.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Several devices")]
pub struct RankFlags {
    /// By what processes that train together exchange numbers: auto, mpi, nccl or off [default: auto]
    ///
    /// Start the same command several times by what the place has: mpirun -n 4 aios ..., srun aios ..., torchrun. Each
    /// process is a rank, with a device of its own; --batch-size and --gradient-accumulation-steps are those of one rank, and
    /// the batch of a step is as many times larger as there are ranks. auto goes by the launcher, and takes NCCL where all
    /// ranks have an NVIDIA GPU and its library. mpi works on any device, also between different ones; AIOS_MPI_LIBRARY names
    /// its library where it is not found. nccl, which torchrun needs, is for NVIDIA GPUs; AIOS_NCCL_LIBRARY names its library,
    /// or a virtual environment with PyPI's nvidia-nccl-cu12. Ranks that torchrun starts on several hosts know each other by
    /// AIOS_JOB_SECRET, the same random text on all of them. off: each trains by itself.
    #[arg(long, value_name = "ENGINE")]
    pub distributed: Option<Distributed>,
    /// Each rank keeps and updates a part of the optimizer's state, 1 / N of it (ZeRO-1) [default: off]
    ///
    /// The result is the same, and so are the files that are saved.
    #[arg(long, overrides_with_all = ["no_shard_optimizer", "shard_optimizer"])]
    pub shard_optimizer: bool,
    /// Each rank keeps all of the optimizer's state
    #[arg(
        long,
        hide_short_help = true,
        overrides_with_all = ["shard_optimizer", "no_shard_optimizer"]
    )]
    pub no_shard_optimizer: bool,
    /// Each rank makes so many steps by itself between two exchanges (DiLoCo), such as 50 [default: gradients are exchanged
    /// in every step]
    ///
    /// For machines on an ordinary network: what is exchanged is the difference of the weights, 1 / H as often. It is averaged
    /// and goes through Nesterov momentum, with a rate of 0.7 and a momentum of 0.9. Saves, evaluations and samples wait for an
    /// exchange.
    #[arg(long, value_name = "H", allow_negative_numbers = true, overrides_with_all = ["no_local_steps", "local_steps"])]
    pub local_steps: Option<u64>,
    /// Exchange gradients in every step
    #[arg(long, hide_short_help = true, overrides_with_all = ["local_steps", "no_local_steps"])]
    pub no_local_steps: bool,
    /// Seconds without progress or a sign of life after which a rank is given up, and the job with it [default: 300]
    ///
    /// A micro-batch, a batch of an evaluation or a tensor that is saved is progress: more than the longest of them takes.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub distributed_timeout: Option<u64>,
}

impl RankFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.distributed, &self.distributed);
        switch(
            &mut config.shard_optimizer,
            self.shard_optimizer,
            self.no_shard_optimizer,
        );
        if self.local_steps.is_some() || self.no_local_steps {
            config.local_steps = self.local_steps;
        }
        set(&mut config.distributed_timeout, &self.distributed_timeout);
    }
}
