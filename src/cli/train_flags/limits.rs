//! Flags about what a run may take and do without.

use clap::Args;

use crate::cli::train_flags::{set, set_some, switch};
use aios_base::config::{MemorySize, TrainConfig};

/// What a step may take and fall back to.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Device and memory")]
pub struct LimitFlags {
    /// Fail instead of falling back to a slower or larger way of computing [default: off]
    #[arg(long, overrides_with_all = ["no_strict", "strict"])]
    pub strict: bool,
    /// Fall back where needed, say so and record it
    #[arg(long, hide_short_help = true, overrides_with_all = ["strict", "no_strict"])]
    pub no_strict: bool,
    /// Most memory to take, such as 6GiB: of the device, on the CPU of the heap [default: all there is]
    ///
    /// What does not fit is computed in smaller micro-batches, more of them, with the same result. A
    /// GPU's memory is looked at inside the first steps, which later ones resemble: what is in use counts, not the pages that
    /// its runtime keeps for reuse.
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<MemorySize>,
}

impl LimitFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        switch(&mut config.strict, self.strict, self.no_strict);
        set_some(&mut config.memory_limit, &self.memory_limit);
    }
}

/// How a run is watched over.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Device and memory")]
pub struct WatchFlags {
    /// Halve the micro-batch when more than this share of the host's memory is in use, by whichever
    /// process; 0 = never [default: 0]
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    pub sys_mem_cap_pct: Option<u8>,
    /// Train in a child process and start it again if lack of memory ends it [default: on]
    ///
    /// If the child is killed or crashes as for lack of memory, or its device fails, another one
    /// goes on from this run's last checkpoint with half the batch size and as many more
    /// accumulation steps, so that the result stays the same. Ctrl-C and SIGTERM are passed on. Off
    /// for one of several ranks, which could not join the others again.
    #[arg(long, overrides_with_all = ["no_supervise", "supervise"])]
    pub supervise: bool,
    /// Train in the process that was started
    #[arg(long, hide_short_help = true, overrides_with_all = ["supervise", "no_supervise"])]
    pub no_supervise: bool,
}

impl WatchFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.sys_mem_cap_pct, &self.sys_mem_cap_pct);
        switch(&mut config.supervise, self.supervise, self.no_supervise);
    }
}
