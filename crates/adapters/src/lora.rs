//! What an adapter is: ranks, scales, and the modules that it is of.

use crate::targets::{Targets, whole};
use aios_base::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// No rank is larger: an adapter would be no smaller than what it adapts.
pub const LARGEST_RANK: usize = 1 << 16;

/// A low-rank adapter (Hu et al., "LoRA", 2021): `y = W x + b + scale B A x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    pub rank: usize,
    pub alpha: f64,
    /// The scale is `alpha / sqrt(rank)` rather than `alpha / rank` (Kalajdzievski, 2023).
    #[serde(default)]
    pub rslora: bool,
    /// Weights are the direction that LoRA gives them times a trained magnitude (Liu et al., "DoRA", 2024).
    #[serde(default)]
    pub dora: bool,
    pub targets: Targets,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Targets>,
    /// Ranks of modules whose name an expression matches; the first one counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<(String, usize)>,
    /// The same of alphas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alphas: Vec<(String, f64)>,
    /// Modules that are trained and saved as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub whole: Vec<String>,
    /// Which share of what an adapter reads is dropped in training.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// A table that is trained as a whole stays the head's too, where it is that of the model.
    #[serde(default)]
    pub tied: bool,
}

fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

impl Lora {
    /// Checks the numbers.
    ///
    /// # Errors
    /// Names the one that is impossible.
    pub fn validate(&self) -> Result<()> {
        let ranks = self.ranks.iter().map(|(_, rank)| *rank);
        let mut ranks = ranks.chain([self.rank]);
        if let Some(rank) = ranks.find(|rank| *rank == 0 || *rank > LARGEST_RANK) {
            return Err(Error::invalid(format!(
                "an adapter of rank {rank} is impossible: it must be from 1 to {LARGEST_RANK}, such as 16"
            )));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid(format!(
                "an adapter's dropout of {} is impossible: it is a share from 0 to below 1, such as 0.05",
                self.dropout
            )));
        }
        let alphas = self.alphas.iter().map(|(_, alpha)| *alpha);
        let mut alphas = alphas.chain([self.alpha]);
        match alphas.find(|alpha| !(*alpha > 0.0 && *alpha <= 1e6)) {
            None => Ok(()),
            Some(alpha) => Err(Error::invalid(format!(
                "an adapter's alpha of {alpha} is impossible: it must be above 0 and at most 1e6, such as 32"
            ))),
        }
    }

    /// The rank of a module.
    pub(crate) fn rank_of(&self, module: &str) -> Result<usize> {
        Ok(first(&self.ranks, module)?.unwrap_or(self.rank))
    }

    /// The factor of what the adapter of a module gives.
    pub(crate) fn scale_of(&self, module: &str) -> Result<f64> {
        let alpha = first(&self.alphas, module)?.unwrap_or(self.alpha);
        let rank = self.rank_of(module)? as f64;
        Ok(match self.rslora {
            true => alpha / rank.sqrt(),
            false => alpha / rank,
        })
    }
}

/// What the first expression that matches a module stands for.
fn first<T: Copy>(patterns: &[(String, T)], module: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if whole(&format!(r"(?:.*\.)?(?:{pattern})"))?.is_match(module) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}
