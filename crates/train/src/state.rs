//! What training needs, besides tensors, to go on exactly where it stopped: `trainer.json`.

use crate::schedule::Rewarm;
use aios_base::config::LARGEST_RATE;
use aios_base::error::{Error, Result};
use aios_data::DataPosition;
use aios_memory::loss_scale::LossScaler;
use aios_models::Model;
use aios_process::split::Split;
use serde::{Deserialize, Serialize};

/// Raised when a field changes its meaning.
const FORMAT: u32 = 1;

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
    pub model: Model,
    pub tokenizer_fingerprint: String,
    /// How the run was split when it was saved; another split may continue it.
    pub batch_size: usize,
    pub gradient_accumulation_steps: usize,
    /// Processes that trained it together.
    #[serde(default = "one")]
    pub ranks: usize,
    /// How a rank's part was to be divided by the flags, where it was divided otherwise to keep a step's sequences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<Requested>,
    /// Where it ran.
    pub device: String,
    /// The rise of the learning rate that the run is in, or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewarm: Option<Rewarm>,
}

/// `--batch-size` and `--gradient-accumulation-steps`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requested {
    pub batch_size: usize,
    pub gradient_accumulation_steps: usize,
}

impl From<Split> for Requested {
    fn from(split: Split) -> Self {
        Self {
            batch_size: split.batch_size,
            gradient_accumulation_steps: split.accumulation,
        }
    }
}

impl From<Requested> for Split {
    fn from(requested: Requested) -> Self {
        Self {
            batch_size: requested.batch_size,
            accumulation: requested.gradient_accumulation_steps,
        }
    }
}

fn one() -> usize {
    1
}

/// Far more steps, updates, tokens or passes than any run makes, and few enough to be counted on.
const MOST: u64 = 1 << 62;

/// More than any job has.
const MOST_RANKS: usize = 1 << 20;

/// From fewer a run goes on, so that what it then saves is not too many.
const MOST_TO_GO_ON: u64 = 1 << 61;

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
        serde_json::from_value(value.clone())
            .map_err(|cause| Error::failed(format!("trainer.json does not make sense: {cause}")))
    }

    /// Whether a run can go on from here and stay within the numbers that it can have.
    ///
    /// # Errors
    /// It cannot.
    pub fn leaves_room(&self) -> Result<()> {
        match self.step.max(self.tokens) {
            most if most > MOST_TO_GO_ON => Err(Error::failed(format!(
                "it counts {most} steps or tokens, after which no run goes on"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether the numbers are such as a run can have, since a bundle may come from elsewhere.
    ///
    /// # Errors
    /// Names the number.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        for (name, count) in [
            ("step", self.step),
            ("updates", self.updates),
            ("skipped_steps", self.skipped_steps),
            ("tokens", self.tokens),
            ("data.epoch", self.data.epoch),
            ("data.window", self.data.window),
        ] {
            if count >= MOST {
                return Err(Error::failed(format!(
                    "{name} is {count}, which no run gets to"
                )));
            }
        }
        if !(1..=MOST_RANKS).contains(&self.ranks) {
            return Err(Error::failed(format!(
                "ranks is {}, which no run has",
                self.ranks
            )));
        }
        if self.updates > self.step {
            return Err(Error::failed(format!(
                "{} updates in {} steps",
                self.updates, self.step
            )));
        }
        if self.loss_scaled {
            LossScaler::check_saved(self.loss_scale, self.good_steps)?;
        }
        let rates = self.rewarm.map(|rewarm| (rewarm.rate, rewarm.steps));
        match rates {
            Some((rate, steps)) if !((0.0..=LARGEST_RATE).contains(&rate) && steps > 0) => Err(
                Error::failed(format!("rewarm goes from {rate:?} in {steps} steps")),
            ),
            _ => Ok(()),
        }
    }
}
