//! Flags about what a run leaves behind and shows.

use std::path::PathBuf;

use clap::Args;

use crate::cli::train_flags::{set, set_some, switch};
use aios_base::config::TrainConfig;

/// Bundle, metrics, samples.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Saving and output")]
pub struct OutputFlags {
    /// Name of the brain bundle inside --bundle-dir [default: default]
    #[arg(long, value_name = "NAME")]
    pub brain_name: Option<String>,
    /// Directory of the brain bundles [default: artifacts/brains/actv1; of a Hugging Face model
    /// artifacts/brains/NAME]
    ///
    /// NAME is that of the model's folder, of its repository on the Hub without the owner, or of its config.json, which
    /// counts by its folder if it is called just that.
    #[arg(long, value_name = "DIR")]
    pub bundle_dir: Option<PathBuf>,
    /// Save the bundle to exactly this directory, whatever --bundle-dir and --brain-name say
    #[arg(long, value_name = "DIR")]
    pub save_dir: Option<PathBuf>,
    /// Continue from the bundle, which has to be there [default: off]
    ///
    /// Weights, optimizer, step, random numbers and data position are taken up where the bundle
    /// left them, and so are its configuration and its tokenizer, apart from what flags say. Where
    /// it is written to is not taken over, nor is --device: give --log-file and --tensorboard again,
    /// and --device if not the preferred one is meant.
    #[arg(long, overrides_with_all = ["no_resume", "resume"])]
    pub resume: bool,
    /// The same if there is a bundle, else begin at step 0: for scripts that are started again
    /// [default: off]
    #[arg(long, overrides_with_all = ["no_resume_if_exists", "resume_if_exists"])]
    pub resume_if_exists: bool,
    /// Do not look for a bundle to continue from
    #[arg(
        long,
        hide_short_help = true,
        overrides_with_all = ["resume_if_exists", "no_resume_if_exists"]
    )]
    pub no_resume_if_exists: bool,
    /// With --resume, steps over which the learning rate rises to that of the schedule
    ///
    /// A longer schedule, or a higher --lr, makes the rate jump where the run goes on. This many steps
    /// take it there evenly from where it was, along the schedule's own way. An interrupted rise goes on at the next resume.
    #[arg(long, value_name = "STEPS", allow_negative_numbers = true)]
    pub rewarm_steps: Option<u64>,
    /// Begin at step 0
    #[arg(long, hide_short_help = true, overrides_with_all = ["resume", "no_resume"])]
    pub no_resume: bool,
    /// Steps between saves; 0 = only at the end [default: 100]
    ///
    /// A save writes 12 bytes a parameter, 6 with --use-8bit-optimizer: 0.7 GB for the default model.
    #[arg(long, value_name = "STEPS", allow_negative_numbers = true)]
    pub save_every: Option<u64>,
    /// Older saves to keep beside the newest and the one before it [default: 0]
    ///
    /// The newest save and the one before it are always kept. Each is a folder named after its
    /// step. As many runs that were started over are kept beside the last of them; those that were
    /// trained least go first.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub keep_checkpoints: Option<usize>,
    /// Keep the save of the best evaluation too, in checkpoints/best-step-... [default: off]
    ///
    /// Needs --eval-file. An evaluation that is the best so far is followed by a save.
    #[arg(long, overrides_with_all = ["no_keep_best", "keep_best"])]
    pub keep_best: bool,
    /// Keep no save but the newest ones
    #[arg(long, hide_short_help = true, overrides_with_all = ["keep_best", "no_keep_best"])]
    pub no_keep_best: bool,
    /// Append metrics to this file as JSON lines
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Write event files for TensorBoard into this directory
    ///
    /// One for each start of the program; a resumed run replaces what an earlier one logged beyond
    /// the step it goes on from. Look at them with `tensorboard --logdir DIR`.
    #[arg(long, value_name = "DIR")]
    pub tensorboard: Option<PathBuf>,
    /// Steps between samples of generated text; 0 = none before the end [default: 0]
    #[arg(long, value_name = "STEPS", allow_negative_numbers = true)]
    pub sample_every: Option<u64>,
    /// Prompt of the samples; without one they begin a new document, or answer the first conversation
    ///
    /// In a training on conversations it is what the user says. Given without --sample-every, one sample is generated at the end.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub sample_prompt: Option<String>,
    /// Also write the metrics lines to standard output [default: off]
    #[arg(long, overrides_with_all = ["no_json", "json"])]
    pub json: bool,
    /// Write no metrics to standard output
    #[arg(long, hide_short_help = true, overrides_with_all = ["json", "no_json"])]
    pub no_json: bool,
    /// Show no banner and no progress, only warnings and errors [default: off]
    #[arg(long, overrides_with_all = ["no_quiet", "quiet"])]
    pub quiet: bool,
    /// Show banner and progress
    #[arg(long, hide_short_help = true, overrides_with_all = ["quiet", "no_quiet"])]
    pub no_quiet: bool,
}

impl OutputFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.brain_name, &self.brain_name);
        set_some(&mut config.bundle_dir, &self.bundle_dir);
        set_some(&mut config.save_dir, &self.save_dir);
        switch(&mut config.resume, self.resume, self.no_resume);
        switch(
            &mut config.resume_if_exists,
            self.resume_if_exists,
            self.no_resume_if_exists,
        );
        set_some(&mut config.rewarm_steps, &self.rewarm_steps);
        switch(&mut config.keep_best, self.keep_best, self.no_keep_best);
        set(&mut config.save_every, &self.save_every);
        set(&mut config.keep_checkpoints, &self.keep_checkpoints);
        set_some(&mut config.log_file, &self.log_file);
        set_some(&mut config.tensorboard, &self.tensorboard);
        set(&mut config.sample_every, &self.sample_every);
        set_some(&mut config.sample_prompt, &self.sample_prompt);
        switch(&mut config.json, self.json, self.no_json);
        switch(&mut config.quiet, self.quiet, self.no_quiet);
    }
}
