//! The flags of `aios train` and `aios hrm-hf train-actv1`, and how they change a configuration.
//!
//! Every flag is optional: one that is not given leaves the value of the configuration file, or the
//! default. A flag that is given twice, or turned on and off, counts as it was given last.

mod adapter;
mod chat;
mod data;
mod limits;
mod memory;
mod model;
mod output;
mod ranks;
mod run;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

pub use adapter::AdapterFlags;
pub use chat::{RecordFlags, RowFlags};
pub use data::{DataFlags, SequenceFlags, TextFlags};
pub use limits::{LimitFlags, WatchFlags};
pub use memory::MemoryFlags;
pub use model::{HaltingFlags, ModelFlags};
pub use output::OutputFlags;
pub use ranks::RankFlags;
pub use run::RunFlags;

use aios_base::config::{Overlay, TrainConfig};
use aios_train::capacity::{Goal, Off, Request};

/// What `--optimize` makes as large as possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GoalFlag {
    /// The length of one sequence.
    Context,
    /// Sequences of a micro-batch, up to those of an update.
    Batch,
}

/// All flags of the training command.
#[derive(Debug, Clone, Default, Args)]
#[command(
    args_override_self = true,
    after_help = "Every switch has an opposite, --no-...; --help lists them. The last one counts."
)]
pub struct TrainFlags {
    /// Configuration file, or the name of a built-in one: quickstart, cpu-smoke, conservative-vram, long-context; flags
    /// override what it says
    ///
    /// A TOML file whose keys are the flags below in snake case, such as `batch_size = 4`. `quickstart` trains a small model
    /// on stories that are in the program; `aios init` writes a file of your own.
    #[arg(long, value_name = "FILE.toml|NAME")]
    pub config: Option<PathBuf>,
    /// Looking for what fits.
    #[command(flatten)]
    pub optimize: OptimizeFlags,
    /// Shape of the model.
    #[command(flatten)]
    pub model: ModelFlags,
    /// How the model learns when to halt.
    #[command(flatten)]
    pub halting: HaltingFlags,
    /// What every training has.
    #[command(flatten)]
    pub shared: SharedFlags,
}

/// Flags to find what fits instead of training.
#[derive(Debug, Clone, Default, Args)]
pub struct OptimizeFlags {
    /// Find what fits the device instead of training: `context`, the longest sequence, or `batch`, the
    /// largest micro-batch
    ///
    /// Memory features are turned on one after the other, the cheapest first; what is off by a flag
    /// stays off. Prints what each makes possible, tries one real step, and prints the flags to train
    /// with. The memory is what the device has free, or --memory-limit. Flags about the text, the
    /// course of a run and what it saves play no part. No sequence is longer than a Hugging Face model
    /// was made for.
    #[arg(long, value_name = "GOAL")]
    pub optimize: Option<GoalFlag>,
    /// With --optimize, only predict
    #[arg(long, requires = "optimize")]
    pub dry_run: bool,
}

impl OptimizeFlags {
    /// What is asked for, if anything is.
    pub fn request(&self, memory: &MemoryFlags) -> Option<Request> {
        Some(Request {
            goal: match self.optimize? {
                GoalFlag::Context => Goal::Context,
                GoalFlag::Batch => Goal::Batch,
            },
            dry_run: self.dry_run,
            off: Off {
                chunks: memory.no_chunked_training,
                eight_bit: memory.no_8bit_optimizer,
                offload: memory.no_cpu_offload,
            },
        })
    }
}

/// Flags of every training, whatever is trained.
#[derive(Debug, Clone, Default, Args)]
pub struct SharedFlags {
    /// Training and evaluation text.
    #[command(flatten)]
    pub data: DataFlags,
    /// Length, batch, optimizer and schedule.
    #[command(flatten)]
    pub run: RunFlags,
    /// Device and memory features.
    #[command(flatten)]
    pub memory: MemoryFlags,
    /// What a step may take and fall back to.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// How the run is watched over.
    #[command(flatten)]
    pub watch: WatchFlags,
    /// Several devices, a process each.
    #[command(flatten)]
    pub ranks: RankFlags,
    /// Bundle, metrics, samples.
    #[command(flatten)]
    pub output: OutputFlags,
}

impl SharedFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        self.data.apply(config);
        self.run.apply(config);
        self.memory.apply(config);
        self.limits.apply(config);
        self.watch.apply(config);
        self.ranks.apply(config);
        self.output.apply(config);
    }
}

impl Overlay for TrainFlags {
    fn config_file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn apply(&self, config: &mut TrainConfig) {
        self.model.apply(config);
        self.halting.apply(config);
        self.shared.apply(config);
    }
}

pub(crate) fn set<T: Clone>(target: &mut T, flag: &Option<T>) {
    if let Some(value) = flag {
        target.clone_from(value);
    }
}

pub(crate) fn set_some<T: Clone>(target: &mut Option<T>, flag: &Option<T>) {
    if flag.is_some() {
        target.clone_from(flag);
    }
}

/// Applies `--x` and `--no-x`, of which clap leaves only the last one set.
fn switch(target: &mut bool, on: bool, off: bool) {
    if on || off {
        *target = on;
    }
}

#[cfg(test)]
mod tests;
