//! What training needs, besides tensors, to go on exactly where it stopped: `trainer.json`.

use crate::data::DataPosition;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use serde::{Deserialize, Serialize};

/// Raised when a field changes its meaning.
const FORMAT: u32 = 1;

/// The largest number of anything done: more would take any machine longer than it lasts, and adding
/// to it overflows nowhere.
const MOST: u64 = 1 << 60;

/// The contents of `trainer.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    pub format: u32,
    /// Steps done.
    pub step: u64,
    /// Optimizer updates made: the steps less those skipped.
    pub updates: u64,
    pub skipped_steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Factor on the loss in the backward pass.
    pub loss_scale: f64,
    /// Whether that factor adapts, as it does with f16.
    #[serde(default)]
    pub loss_scaled: bool,
    /// Good steps since the scale changed.
    #[serde(default)]
    pub good_steps: u32,
    /// Bytes of the loss's slices, whose size changes rounding: a resume goes on with it. 0 for none.
    #[serde(default)]
    pub loss_slice_bytes: usize,
    /// Seed of the draws; each step's own are derived from it and the step's number.
    pub seed: u64,
    /// The window that comes next.
    pub data: DataPosition,
    pub model: ModelConfig,
    pub tokenizer_fingerprint: String,
    /// How the run was split when it was saved; another split may continue it.
    pub batch_size: usize,
    pub gradient_accumulation_steps: usize,
    /// Where it ran.
    pub device: String,
}

impl TrainerState {
    /// The format this version writes.
    pub const FORMAT: u32 = FORMAT;

    /// Read `trainer.json`'s value.
    ///
    /// # Errors
    /// Another format, or a field that is missing or unknown.
    pub fn parse(value: &serde_json::Value) -> Result<Self> {
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            return Err(Error::failed(format!(
                "trainer.json has format {}, this version reads {FORMAT}: use the version of aios \
                 that wrote it",
                format.map_or("none".to_string(), |f| f.to_string())
            )));
        }
        let state: Self = serde_json::from_value(value.clone())
            .map_err(|cause| Error::failed(format!("trainer.json does not make sense: {cause}")))?;
        let words = "trainer.json does not make sense";
        state
            .model
            .validate()
            .map_err(|error| error.of_file(words))?;
        for (name, value) in [
            ("step", state.step),
            ("updates", state.updates),
            ("skipped_steps", state.skipped_steps),
            ("tokens", state.tokens),
        ] {
            if value > MOST {
                return Err(Error::failed(format!(
                    "{words}: {name} is {value}, and {MOST} is the most"
                )));
            }
        }
        Ok(state)
    }
}
