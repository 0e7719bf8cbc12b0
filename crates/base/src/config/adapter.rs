//! Training of an adapter beside a frozen model.

use crate::config::{Subject, TrainConfig};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// No rank is larger: an adapter would be no smaller than what it adapts.
const LARGEST_RANK: usize = 1 << 16;

impl TrainConfig {
    /// Whether what is trained is an adapter, new or going on, rather than the model.
    pub fn trains_adapter(&self) -> bool {
        self.lora_rank.is_some() || self.adapter.is_some()
    }

    /// Settings that say what an adapter is and what is trained besides, by their flags, with their values.
    pub fn adapter_settings(&self) -> [(&'static str, String); 10] {
        let shown = |value: Option<String>| value.unwrap_or_else(|| "none".to_string());
        [
            ("--add-tokens", self.add_tokens.join(",")),
            (
                "--lora-rank",
                shown(self.lora_rank.map(|rank| rank.to_string())),
            ),
            ("--lora-alpha", self.lora_alpha.to_string()),
            (
                "--lora-dropout",
                shown(self.lora_dropout.map(|share| share.to_string())),
            ),
            ("--lora-targets", self.lora_targets.clone()),
            ("--rslora", self.rslora.to_string()),
            ("--dora", self.dora.to_string()),
            ("--train-embeddings", self.train_embeddings.to_string()),
            (
                "--adapter",
                shown(self.adapter.as_ref().map(|path| path.display().to_string())),
            ),
            (
                "--quantize",
                shown(
                    self.quantize
                        .map(|quantize| Storage::from(quantize).as_str().to_string()),
                ),
            ),
        ]
    }

    /// Checks what says what an adapter is, and how its model is held.
    ///
    /// # Errors
    /// Names the flag and the way out.
    pub fn validate_adapter(&self) -> Result<()> {
        let error = |words: String| Err(Error::invalid(words));
        if let Some(rank) = self.lora_rank.filter(|r| !(1..=LARGEST_RANK).contains(r)) {
            return error(format!(
                "--lora-rank is {rank}: it must be from 1 to {LARGEST_RANK}, such as 16"
            ));
        }
        if !(self.lora_alpha > 0.0 && self.lora_alpha <= 1e6) {
            return error(format!(
                "--lora-alpha is {}: it must be above 0 and at most 1e6, such as 32",
                self.lora_alpha
            ));
        }
        if let Some(share) = self.lora_dropout.filter(|p| !(0.0..1.0).contains(p)) {
            return error(format!(
                "--lora-dropout is {share}: it is a share from 0 to below 1, such as 0.05"
            ));
        }
        if self.lora_targets.is_empty() {
            return error(
                "--lora-targets is empty: name modules such as q_proj,v_proj, or all-linear".into(),
            );
        }
        if let (Some(rank), Some(adapter)) = (self.lora_rank, &self.adapter) {
            return error(format!(
                "--lora-rank {rank} and --adapter {}: an adapter has its own rank; leave --lora-rank out to go on with it",
                adapter.display()
            ));
        }
        if let (Some(adapter), [token, ..]) = (&self.adapter, self.add_tokens.as_slice()) {
            return error(format!(
                "--add-tokens {token} and --adapter {}: an adapter has the rows that it was trained with; give tokens to a new \
                 one, by --lora-rank",
                adapter.display()
            ));
        }
        if !self.trains_adapter() {
            return match self.quantize {
                Some(_) => error(
                    "--quantize is for a model that is frozen: give --lora-rank or --adapter as well, since weights of \
                     few bits are not trained themselves"
                        .into(),
                ),
                None => Ok(()),
            };
        }
        if !matches!(self.subject, Subject::Pretrained | Subject::Adapter) {
            return error(
                "adapters are of pretrained Hugging Face models: use aios finetune, or leave lora_rank and adapter out"
                    .into(),
            );
        }
        match &self.student_init {
            Some(path) => error(format!(
                "--student-init {} is for training all weights: beside an adapter give the model to adapt as --model",
                path.display()
            )),
            None => Ok(()),
        }
    }
}
