//! One pass over the configuration before anything is loaded: each error names the value, the cause
//! and the way out.

use crate::config::{PosEncodings, Subject, TrainConfig, wants_stdin};
use crate::error::{Error, Result, shown};
use crate::execution::Chunking;

/// Largest count accepted for a size of the model or batch: far above anything that fits a machine.
/// What becomes of several of them together is checked apart.
pub const LARGEST_COUNT: usize = 1 << 24;

/// Most chunks of a sequence, each of which has lists of its own: 16 tokens in each of a million.
const MOST_CHUNKS: usize = 1 << 16;

/// Largest learning rate accepted. AdamW moves each weight by about the rate, and at this one the
/// first step already buries the initial weights.
pub const LARGEST_RATE: f64 = 10.0;

impl TrainConfig {
    /// Checks everything that can be checked without a file or a device.
    pub fn validate(&self) -> Result<()> {
        self.validate_model()?;
        self.validate_data()?;
        self.validate_loop()?;
        self.validate_adapter()?;
        self.validate_bundle()?;
        self.validate_paths()?;
        self.validate_range()
    }

    /// Of a new run, whether what its command trains is given.
    ///
    /// # Errors
    /// Names the flag that is missing.
    pub fn validate_subject(&self) -> Result<()> {
        let missing = match self.subject {
            Subject::Pretrained | Subject::Adapter if self.pretrained.is_none() => {
                "--model is missing: the folder or Hugging Face Hub id of the model to go on training"
            }
            Subject::Scratch if self.trains_decoder() => {
                return Err(Error::invalid(
                    "this configuration is of a Hugging Face model: use aios finetune or aios pretrain",
                ));
            }
            Subject::Decoder if self.model_config.is_none() => {
                "--model-config is missing: the config.json of the model to train"
            }
            _ => return Ok(()),
        };
        Err(Error::invalid(format!(
            "{missing}; or --resume to go on with a saved run"
        )))
    }

    /// The bundle and the metrics keep the configuration as UTF-8.
    fn validate_paths(&self) -> Result<()> {
        for (flag, path) in [
            ("dataset-file", self.dataset_file.as_ref()),
            ("eval-file", self.eval_file.as_ref()),
            ("student-init", self.student_init.as_ref()),
            ("model-config", self.model_config.as_ref()),
            ("adapter", self.adapter.as_ref()),
            ("stop-file", self.stop_file.as_ref()),
            ("bundle-dir", self.bundle_dir.as_ref()),
            ("save-dir", self.save_dir.as_ref()),
            ("log-file", self.log_file.as_ref()),
            ("tensorboard", self.tensorboard.as_ref()),
        ] {
            if path.is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(Error::invalid(format!(
                    "--{flag} is empty: name a place, or leave it out"
                )));
            }
            if let Some(path) = path.filter(|path| path.to_str().is_none()) {
                return Err(Error::invalid(format!(
                    "--{flag} {} is not UTF-8, so that the configuration cannot be saved: rename it, or give a \
                     link to it",
                    shown(path)
                )));
            }
        }
        Ok(())
    }

    /// Checks only what the shape of the model, its batches and their memory depend on.
    pub fn validate_model(&self) -> Result<()> {
        for (flag, value) in [
            ("hidden-size", self.hidden_size),
            ("num-heads", self.num_heads),
            ("h-layers", self.h_layers),
            ("l-layers", self.l_layers),
            ("h-cycles", self.h_cycles),
            ("l-cycles", self.l_cycles),
            ("max-seq-len", self.max_seq_len),
            ("halt-max-steps", self.halt_max_steps),
            ("batch-size", self.batch_size),
            (
                "gradient-accumulation-steps",
                self.gradient_accumulation_steps,
            ),
            ("checkpoint-every", self.checkpoint_every),
        ] {
            count(flag, value)?;
        }
        if self.window_size > LARGEST_COUNT {
            return Err(Error::invalid(format!(
                "--window-size is {}: it must be from 0 (no window) to {LARGEST_COUNT}",
                self.window_size
            )));
        }
        if self.model.is_empty() {
            return Err(Error::invalid(
                "--model is empty: use gpt2, a directory with a tokenizer.json, or a Hub id",
            ));
        }
        if !(self.expansion.is_finite() && self.expansion > 0.0 && self.expansion <= 1024.0) {
            return Err(Error::invalid(format!(
                "--expansion is {}: it must be above 0 and at most 1024, such as 2.0",
                self.expansion
            )));
        }
        if !(0.0..=1.0).contains(&self.halt_exploration) {
            return Err(Error::invalid(format!(
                "--halt-exploration is {}: it is a share from 0 to 1, such as 0.1",
                self.halt_exploration
            )));
        }
        check_heads(self.hidden_size, self.num_heads, self.pos_encodings)?;
        self.validate_memory()?;
        self.validate_size()
    }

    fn validate_data(&self) -> Result<()> {
        if self.dataset_file.is_none() {
            return Err(Error::invalid(
                "no dataset: give --dataset-file FILE, or dataset_file in the file of --config",
            ));
        }
        self.wants_stdin()?;
        count("dataset-chunk-size", self.dataset_chunk_size)?;
        self.validate_split()?;
        if self.text_field.is_empty() {
            return Err(Error::invalid(
                "--text-field is empty: name the key or column that holds the text, such as text",
            ));
        }
        self.validate_packing()
    }

    fn validate_packing(&self) -> Result<()> {
        if self.packing != Some(true) {
            return Ok(());
        }
        if self.pack_rows {
            return Err(Error::invalid(
                "--packing and --pack-rows both put rows together: the one lets each see itself alone, the other cuts \
                 them like a text; drop one of them",
            ));
        }
        if matches!(self.chunking(), Chunking::Truncated { .. }) {
            return Err(Error::invalid(
                "--packing needs whole sequences, and gradients that end at a chunk's borders have none: use \
                 --chunk-gradients exact or --no-packing",
            ));
        }
        Ok(())
    }

    fn validate_split(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.eval_split) {
            return Err(Error::invalid(format!(
                "--eval-split is {}: it is a share of the dataset, from 0 (none) to below 1, such as 0.02",
                self.eval_split
            )));
        }
        if let (true, Some(file)) = (self.eval_split > 0.0, &self.eval_file) {
            return Err(Error::invalid(format!(
                "--eval-split {} and --eval-file {} both say what to evaluate on: drop one of them",
                self.eval_split,
                shown(file)
            )));
        }
        Ok(())
    }

    /// Whether one of the texts is to be read from standard input.
    ///
    /// # Errors
    /// If both are.
    pub fn wants_stdin(&self) -> Result<bool> {
        wants_stdin(
            [self.dataset_file.as_deref(), self.eval_file.as_deref()],
            ["--dataset-file", "--eval-file"],
        )
    }

    /// What a saved run has to keep of it to be read and gone on with, wherever its files are now.
    pub fn validate_saved(&self) -> Result<()> {
        self.validate_model()?;
        self.validate_loop()?;
        self.validate_range()
    }

    /// Checks what ranks depend on before they meet.
    ///
    /// # Errors
    /// Names the flag.
    pub fn validate_ranks(&self) -> Result<()> {
        if self.local_steps == Some(0) {
            return Err(Error::invalid(
                "--local-steps is 0: give the steps between two exchanges, such as 50, or --no-local-steps to exchange \
                 gradients in every step",
            ));
        }
        if self.local_steps.is_some() && self.shard_optimizer {
            return Err(Error::invalid(
                "--local-steps and --shard-optimizer exclude each other: between two exchanges each rank needs all of the \
                 optimizer's state",
            ));
        }
        match self.distributed_timeout {
            1..=604_800 => Ok(()),
            seconds => Err(Error::invalid(format!(
                "--distributed-timeout is {seconds}: it must be from 1 second to 604800, a week"
            ))),
        }
    }

    fn validate_loop(&self) -> Result<()> {
        self.validate_ranks()?;
        if self.steps == 0 {
            return Err(Error::invalid(
                "--steps is 0: use at least 1; \
                 to look at the model without training, use `aios hrm-hf arch-summary`",
            ));
        }
        if !(self.lr > 0.0 && self.lr <= LARGEST_RATE) {
            return Err(Error::invalid(format!(
                "--lr is {:?}: it must be above 0 and at most {LARGEST_RATE}, such as 2e-4",
                self.lr
            )));
        }
        self.validate_epochs()?;
        not_negative("weight-decay", self.weight_decay, "0 turns decay off")?;
        not_negative("grad-clip", self.grad_clip, "0 turns clipping off")?;
        self.validate_warmup()
    }

    fn validate_memory(&self) -> Result<()> {
        count("chunk-size", self.chunk_size)?;
        if matches!(self.chunking(), Chunking::Exact { .. }) && !self.gradient_checkpointing {
            return Err(Error::invalid(
                "--use-chunked-training with exact gradients computes blocks anew: leave out \
                 --no-gradient-checkpointing, or choose --chunk-gradients truncated",
            ));
        }
        let chunks = match self.chunking() {
            Chunking::Off => 1,
            Chunking::Truncated { size } | Chunking::Exact { size } => {
                self.max_seq_len.div_ceil(size)
            }
        };
        if chunks > MOST_CHUNKS {
            return Err(Error::invalid(format!(
                "--chunk-size is {}: that cuts --max-seq-len {} into {chunks} chunks, and \
                 {MOST_CHUNKS} are the most; raise it",
                self.chunk_size, self.max_seq_len
            )));
        }
        if self.sys_mem_cap_pct > 100 {
            return Err(Error::invalid(format!(
                "--sys-mem-cap-pct is {}: it is a percentage from 1 to 100, or 0 for no cap",
                self.sys_mem_cap_pct
            )));
        }
        Ok(())
    }

    fn validate_warmup(&self) -> Result<()> {
        // Of epochs it is not known yet how many steps they are.
        if self.epochs.is_none() && self.warmup() > self.steps {
            return Err(Error::invalid(format!(
                "--warmup-steps {} is more than --steps {}, so that the full rate is never \
                 reached: lower the one or raise the other",
                self.warmup(),
                self.steps
            )));
        }
        Ok(())
    }

    /// TOML has no integers above 2⁶³ − 1, and the bundle keeps the configuration as TOML.
    pub(super) fn validate_range(&self) -> Result<()> {
        for (flag, value) in [
            ("steps", self.steps),
            ("seed", self.seed),
            ("dataset-start-offset", self.dataset_start_offset),
            ("eval-batches", self.eval_batches),
            ("eval-every", self.eval_every),
            ("save-every", self.save_every),
            ("sample-every", self.sample_every),
            ("keep-checkpoints", self.keep_checkpoints as u64),
            ("rewarm-steps", self.rewarm_steps.unwrap_or(0)),
        ] {
            if value > i64::MAX as u64 {
                return Err(Error::invalid(format!(
                    "--{flag} is {value}: it must be at most {}",
                    i64::MAX
                )));
            }
        }
        Ok(())
    }

    fn validate_bundle(&self) -> Result<()> {
        let name = self.brain_name.as_str();
        if matches!(name, "" | "." | "..") || name.contains(['/', '\\', ':']) {
            return Err(Error::invalid(format!(
                "--brain-name `{name}` is not a plain name: use letters, digits and dashes, \
                 or give a whole path with --save-dir"
            )));
        }
        if let (true, Some(weights)) = (self.resumes(), &self.student_init) {
            return Err(Error::invalid(format!(
                "--resume and --student-init {} contradict each other: \
                 the one continues a run, the other starts one; drop one of them",
                weights.display()
            )));
        }
        Ok(())
    }
}

fn count(flag: &str, value: usize) -> Result<()> {
    if (1..=LARGEST_COUNT).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "--{flag} is {value}: it must be from 1 to {LARGEST_COUNT}"
    )))
}

fn not_negative(flag: &str, value: f64, zero: &str) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "--{flag} is {value}: it must be a number of at least 0; {zero}"
    )))
}

/// Checks that the heads divide the states, and into what rope can turn.
fn check_heads(hidden: usize, heads: usize, positions: PosEncodings) -> Result<()> {
    if !hidden.is_multiple_of(heads) {
        return Err(Error::invalid(format!(
            "--num-heads {heads} does not divide --hidden-size {hidden}: \
             use --num-heads {} or --hidden-size {}",
            divisor_near(hidden, heads, positions),
            // Heads of multiples of 8 suit rope and the kernels of GPUs.
            hidden.next_multiple_of(8 * heads)
        )));
    }
    let head_size = hidden / heads;
    if positions == PosEncodings::Rope && !head_size.is_multiple_of(2) {
        return Err(Error::invalid(format!(
            "heads of {head_size} ({hidden} / {heads}) are odd, but rope turns pairs of \
             numbers: use --hidden-size {} or --pos-encodings learned",
            hidden.next_multiple_of(8 * heads)
        )));
    }
    Ok(())
}

/// The largest number of heads up to `limit` that these states and positions can have.
fn divisor_near(hidden: usize, limit: usize, positions: PosEncodings) -> usize {
    let unit = match positions {
        PosEncodings::Rope => 2,
        PosEncodings::Learned => 1,
    };
    (1..=limit.min(hidden))
        .rev()
        .find(|&heads| hidden.is_multiple_of(unit * heads))
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut TrainConfig);

    fn trainable() -> TrainConfig {
        TrainConfig {
            dataset_file: Some("text.txt".into()),
            ..TrainConfig::default()
        }
    }

    /// The error of the default configuration after `change`.
    fn message(change: impl FnOnce(&mut TrainConfig)) -> String {
        let mut config = trainable();
        change(&mut config);
        let error = config.validate().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn defaults_with_a_dataset_are_valid() {
        trainable().validate().unwrap();
    }

    #[test]
    fn model_alone_needs_no_dataset() {
        TrainConfig::default().validate_model().unwrap();
        assert!(message(|c| c.dataset_file = None).contains("--dataset-file"));
    }

    #[test]
    fn zero_counts_name_their_flag() {
        let cases: [(&str, Change); 14] = [
            ("--steps", |c| c.steps = 0),
            ("--batch-size", |c| c.batch_size = 0),
            ("--gradient-accumulation-steps", |c| {
                c.gradient_accumulation_steps = 0
            }),
            ("--max-seq-len", |c| c.max_seq_len = 0),
            ("--chunk-size", |c| c.chunk_size = 0),
            ("--dataset-chunk-size", |c| c.dataset_chunk_size = 0),
            ("--hidden-size", |c| c.hidden_size = 0),
            ("--num-heads", |c| c.num_heads = 0),
            ("--h-layers", |c| c.h_layers = 0),
            ("--l-layers", |c| c.l_layers = 0),
            ("--h-cycles", |c| c.h_cycles = 0),
            ("--l-cycles", |c| c.l_cycles = 0),
            ("--halt-max-steps", |c| c.halt_max_steps = 0),
            ("--expansion", |c| c.expansion = 0.0),
        ];
        for (flag, change) in cases {
            let message = message(change);
            assert!(message.contains(&format!("{flag} is 0")), "{message}");
        }
    }

    #[test]
    fn absurd_sizes_are_refused_before_they_overflow() {
        let message = message(|c| c.hidden_size = usize::MAX);
        assert!(message.contains("--hidden-size"), "{message}");
    }

    #[test]
    fn numbers_beyond_toml_are_refused_before_a_save_can_fail() {
        assert!(message(|c| c.seed = u64::MAX).contains("--seed"));
    }

    #[test]
    fn heads_that_do_not_divide_come_with_values_that_do() {
        let message = message(|c| c.num_heads = 7);
        assert!(
            message.contains("--num-heads 7") && message.contains("use --num-heads 4"),
            "{message}"
        );
        assert!(message.contains("--hidden-size 560"), "{message}");
    }

    #[test]
    fn chunks_of_next_to_nothing_are_refused() {
        let tiny = |c: &mut TrainConfig| {
            (c.use_chunked_training, c.max_seq_len, c.chunk_size) = (true, 1 << 20, 8);
        };
        let message = message(tiny);
        assert!(message.starts_with("--chunk-size is 8"), "{message}");
        let mut config = trainable();
        tiny(&mut config);
        config.chunk_size = 16;
        config.validate().unwrap();
    }

    #[test]
    fn windows_beyond_any_sequence_are_refused() {
        let message = message(|c| c.window_size = usize::MAX);
        assert!(message.contains("--window-size"), "{message}");
    }

    #[test]
    fn odd_heads_are_refused_with_rope_only() {
        let odd = |c: &mut TrainConfig| (c.hidden_size, c.num_heads) = (30, 2);
        assert!(message(odd).contains("heads of 15"));
        let mut config = trainable();
        odd(&mut config);
        config.pos_encodings = PosEncodings::Learned;
        config.validate().unwrap();
    }

    #[test]
    fn rates_must_be_sensible_numbers() {
        for lr in [0.0, -1.0, 10.5, 1e38, f64::NAN, f64::INFINITY] {
            let message = message(|c| c.lr = lr);
            assert!(message.contains(&format!("--lr is {lr:?}")), "{message}");
        }
        assert!(message(|c| c.weight_decay = -0.1).contains("--weight-decay is -0.1"));
        assert!(message(|c| c.grad_clip = f64::NAN).contains("--grad-clip is NaN"));
        assert!(message(|c| c.expansion = f64::NAN).contains("--expansion is NaN"));
    }

    #[test]
    fn warmup_longer_than_the_run_is_refused() {
        let message = message(|c| c.warmup_steps = Some(201));
        assert!(
            message.contains("201") && message.contains("--steps 200"),
            "{message}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_utf8_is_named_with_its_bytes() {
        use std::os::unix::ffi::OsStringExt;
        let path = std::ffi::OsString::from_vec(b"caf\xE9.txt".to_vec());
        let message = message(|c| c.dataset_file = Some(path.into()));
        assert!(message.contains("caf\\xE9.txt"), "{message}");
    }

    #[test]
    fn a_split_is_a_share_and_the_only_text_to_evaluate_on() {
        for share in [-0.1, 1.0, f64::NAN] {
            let message = message(|c| c.eval_split = share);
            assert!(message.contains("--eval-split is"), "{message}");
        }
        let message = message(|c| (c.eval_split, c.eval_file) = (0.02, Some("e.txt".into())));
        assert!(message.contains("--eval-file e.txt"), "{message}");
    }

    #[test]
    fn brain_name_cannot_leave_its_directory() {
        for name in ["", "..", "a/b", "a\\b", "C:x"] {
            let message = message(|c| c.brain_name = name.into());
            assert!(message.contains("--save-dir"), "{message}");
        }
    }

    #[test]
    fn resuming_and_starting_over_contradict() {
        let message = message(|c| {
            c.resume = true;
            c.student_init = Some("teacher".into());
        });
        assert!(message.contains("teacher"), "{message}");
    }
}
