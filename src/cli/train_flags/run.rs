//! Flags about the run: its length, batch, optimizer and schedule, and when it ends.

use std::path::PathBuf;

use clap::Args;

use crate::cli::train_flags::{set, set_some, switch};
use aios_base::config::{LrSchedule, TrainConfig};

/// Length, batch, optimizer and schedule.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Training")]
pub struct RunFlags {
    /// Optimizer updates, in place of --epochs [default: 200]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub steps: Option<u64>,
    /// Passes over the dataset, such as 3 or 0.5, in place of --steps
    ///
    /// The last step may go a little beyond. A resumed run goes on with a larger number.
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "steps",
        allow_hyphen_values = true
    )]
    pub epochs: Option<f64>,
    /// Sequences per forward and backward pass, of each rank where there are several [default: 8]
    #[arg(long, value_name = "SEQUENCES", allow_negative_numbers = true)]
    pub batch_size: Option<usize>,
    /// Passes per optimizer update [default: 1]
    ///
    /// The update is that of one batch of batch size times this many sequences, in the memory of
    /// one pass.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub gradient_accumulation_steps: Option<usize>,
    /// Peak learning rate, at most 10 [default: 2e-4]
    ///
    /// That is for ACT-v1; aios pretrain has 3e-4, and aios finetune 1e-5, or 2e-4 for adapters. The
    /// start banner says which one is in use.
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    pub lr: Option<f64>,
    /// Steps of linear warm-up [default: a tenth of the steps, at most 1000]
    #[arg(long, value_name = "STEPS", allow_negative_numbers = true)]
    pub warmup_steps: Option<u64>,
    /// Learning rate after the warm-up [default: cosine]
    #[arg(long, value_name = "KIND")]
    pub lr_schedule: Option<LrSchedule>,
    /// Decoupled weight decay, per unit of learning rate, of every matrix that multiplies (a tied
    /// embedding is one); biases, positions and a table that is only looked up do not decay
    /// [default: 0.1]
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    pub weight_decay: Option<f64>,
    /// Longest gradient, as global norm; longer ones are scaled down; 0 = off [default: 1.0]
    #[arg(long, value_name = "NORM", allow_hyphen_values = true)]
    pub grad_clip: Option<f64>,
    /// Seed of initial weights, shuffling and exploration [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Start from these weights: a brain bundle or a model.safetensors
    ///
    /// The run begins at step 0 with a fresh optimizer; to continue a run instead, use --resume.
    #[arg(long, value_name = "PATH")]
    pub student_init: Option<PathBuf>,
    /// Repeat cycles of --steps steps or --epochs until stopped, saving after each [default: off]
    #[arg(long, overrides_with_all = ["no_iterate", "iterate"])]
    pub iterate: bool,
    /// Train one cycle of --steps steps or --epochs
    #[arg(long, hide_short_help = true, overrides_with_all = ["iterate", "no_iterate"])]
    pub no_iterate: bool,
    /// Stop at the end of the current pass over the dataset [default: off]
    #[arg(long, overrides_with_all = ["no_stop_after_epoch", "stop_after_epoch"])]
    pub stop_after_epoch: bool,
    /// Begin further passes over the dataset until the steps are done
    #[arg(
        long,
        hide_short_help = true,
        overrides_with_all = ["stop_after_epoch", "no_stop_after_epoch"]
    )]
    pub no_stop_after_epoch: bool,
    /// Save and end the run when this file appears, as Ctrl-C does
    #[arg(long, value_name = "FILE")]
    pub stop_file: Option<PathBuf>,
}

impl RunFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.steps, &self.steps);
        // What was given here takes the place of what a file says.
        if self.steps.is_some() {
            config.epochs = None;
        }
        set_some(&mut config.epochs, &self.epochs);
        set(&mut config.batch_size, &self.batch_size);
        set(
            &mut config.gradient_accumulation_steps,
            &self.gradient_accumulation_steps,
        );
        set(&mut config.lr, &self.lr);
        set_some(&mut config.warmup_steps, &self.warmup_steps);
        set(&mut config.lr_schedule, &self.lr_schedule);
        set(&mut config.weight_decay, &self.weight_decay);
        set(&mut config.grad_clip, &self.grad_clip);
        set(&mut config.seed, &self.seed);
        set_some(&mut config.student_init, &self.student_init);
        switch(&mut config.iterate, self.iterate, self.no_iterate);
        switch(
            &mut config.stop_after_epoch,
            self.stop_after_epoch,
            self.no_stop_after_epoch,
        );
        set_some(&mut config.stop_file, &self.stop_file);
    }
}
