//! Rotary frequencies of the kinds that config.json names.

use crate::decoder::fields::{Fields, missing};
use aios_base::error::{Error, Result};
use std::f64::consts::TAU;

/// A rotary table as a configuration describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    pub kind: RopeKind,
    pub theta: f64,
    /// Numbers of a head that are turned.
    pub rotated: usize,
}

/// How frequencies are stretched beyond the lengths of pretraining.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeKind {
    Default,
    Linear {
        factor: f64,
    },
    /// By the length at hand, once it is above `positions`.
    Dynamic {
        factor: f64,
        positions: usize,
    },
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    Yarn(Yarn),
    /// A factor a frequency, one set for lengths up to `original` and one for longer ones.
    LongRope {
        short: Vec<f64>,
        long: Vec<f64>,
        original: usize,
        attention: f64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    factor: f64,
    original: f64,
    beta_fast: f64,
    beta_slow: f64,
    truncate: bool,
    attention: f64,
}

impl RopeConfig {
    /// Radians a position for each pair of numbers, for sequences of up to `length` tokens; and by how much cosine and
    /// sine are multiplied.
    pub fn frequencies(&self, length: usize) -> (Vec<f64>, f64) {
        let r = self.rotated as f64;
        let plain = |theta: f64| -> Vec<f64> {
            let pairs = 0..self.rotated / 2;
            pairs.map(|i| theta.powf(-2.0 * i as f64 / r)).collect()
        };
        let w = plain(self.theta);
        match &self.kind {
            RopeKind::Default => (w, 1.0),
            RopeKind::Linear { factor } => (w.iter().map(|w| w / factor).collect(), 1.0),
            RopeKind::Dynamic { factor, positions } => {
                let (n, m) = (length.max(*positions) as f64, *positions as f64);
                let grown = (factor * n / m - (factor - 1.0)).powf(r / (r - 2.0));
                (plain(self.theta * grown), 1.0)
            }
            RopeKind::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let each = w.iter().map(|&w| {
                    let wavelength = TAU / w;
                    let s = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - s) * w / factor + s * w
                });
                (each.collect(), 1.0)
            }
            RopeKind::Yarn(yarn) => (yarn.frequencies(&w, r, self.theta), yarn.attention),
            RopeKind::LongRope {
                short,
                long,
                original,
                attention,
            } => {
                let by = if length > *original { long } else { short };
                (w.iter().zip(by).map(|(w, by)| w / by).collect(), *attention)
            }
        }
    }

    /// A length from which on other frequencies hold.
    pub fn switches_at(&self) -> Option<usize> {
        match &self.kind {
            RopeKind::LongRope { original, .. } => Some(*original),
            _ => None,
        }
    }

    /// As `rope_parameters` (transformers 5) or `rope_scaling` (4) describe it, with what else the configuration says.
    ///
    /// # Errors
    /// A kind that is not known, or a value that it needs and that is not there.
    pub fn of(described: Option<Fields>, config: &Fields, head_dim: usize) -> Result<Self> {
        let default_theta = config.positive("rope_theta")?.unwrap_or(10_000.0);
        let Some(fields) = described else {
            let share = config.positive("partial_rotary_factor")?.unwrap_or(1.0);
            return Self::checked(RopeKind::Default, default_theta, share, head_dim);
        };
        let theta = fields.positive("rope_theta")?.unwrap_or(default_theta);
        let share = match fields.positive("partial_rotary_factor")? {
            Some(share) => share,
            None => config.positive("partial_rotary_factor")?.unwrap_or(1.0),
        };
        let name = match fields.text("rope_type")? {
            Some(name) => name,
            None => fields.text("type")?.unwrap_or("default"),
        };
        let name = match fields.get("short_factor").is_some() {
            true => "longrope",
            false => name,
        };
        let kind = match name {
            "default" => RopeKind::Default,
            "linear" => RopeKind::Linear {
                factor: needed(&fields, "factor")?,
            },
            "dynamic" => RopeKind::Dynamic {
                factor: needed(&fields, "factor")?,
                positions: config.needed("max_position_embeddings")?,
            },
            "llama3" => RopeKind::Llama3 {
                factor: needed(&fields, "factor")?,
                low: needed(&fields, "low_freq_factor")?,
                high: needed(&fields, "high_freq_factor")?,
                original: needed(&fields, "original_max_position_embeddings")?,
            },
            "yarn" => RopeKind::Yarn(Yarn::of(&fields, config)?),
            "longrope" | "su" => long_rope(&fields, config)?,
            other => {
                return Err(Error::failed(format!(
                    "config.json: rotary embeddings of type {other:?} are not supported; known are default, linear, \
                     dynamic, llama3, yarn and longrope"
                )));
            }
        };
        let rope = Self::checked(kind, theta, share, head_dim)?;
        if let RopeKind::LongRope { short, long, .. } = &rope.kind {
            let pairs = rope.rotated / 2;
            if short.len() != pairs || long.len() != pairs {
                return Err(Error::failed(format!(
                    "config.json: short_factor and long_factor have {} and {} numbers: there must be {pairs} of each",
                    short.len(),
                    long.len()
                )));
            }
        }
        Ok(rope)
    }

    fn checked(kind: RopeKind, theta: f64, share: f64, head_dim: usize) -> Result<Self> {
        let rotated = (head_dim as f64 * share.min(1.0)) as usize;
        match rotated >= 2 && rotated.is_multiple_of(2) {
            true => Ok(Self {
                kind,
                theta,
                rotated,
            }),
            false => Err(Error::failed(format!(
                "config.json: {rotated} of a head's {head_dim} numbers would be turned by rotary embeddings: they are \
                 turned in pairs"
            ))),
        }
    }
}

fn needed(fields: &Fields, name: &str) -> Result<f64> {
    fields.positive(name)?.ok_or_else(|| missing(name))
}

/// The length of pretraining, in the description or at the top.
fn original(fields: &Fields, config: &Fields) -> Result<Option<usize>> {
    let name = "original_max_position_embeddings";
    Ok(match fields.count(name)? {
        Some(original) => Some(original),
        None => config.count(name)?,
    })
}

fn long_rope(fields: &Fields, config: &Fields) -> Result<RopeKind> {
    let factors = |name| fields.numbers(name)?.ok_or_else(|| missing(name));
    let positions = config.needed("max_position_embeddings")?;
    let original = original(fields, config)?.unwrap_or(positions);
    let factor = match fields.positive("factor")? {
        Some(factor) => factor,
        None => positions as f64 / original as f64,
    };
    let attention = match fields.positive("attention_factor")? {
        Some(attention) => attention,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
    };
    let (short, long) = (factors("short_factor")?, factors("long_factor")?);
    if short.iter().chain(&long).any(|&by| by <= 0.0) {
        return Err(Error::failed(
            "config.json: short_factor and long_factor must be above 0",
        ));
    }
    Ok(RopeKind::LongRope {
        short,
        long,
        original,
        attention,
    })
}

impl Yarn {
    fn of(fields: &Fields, config: &Fields) -> Result<Self> {
        let original = match original(fields, config)? {
            Some(original) => original,
            None => config.needed("max_position_embeddings")?,
        };
        let factor = needed(fields, "factor")?;
        let by = |scale: f64, k: f64| match scale <= 1.0 {
            true => 1.0,
            false => 0.1 * k * scale.ln() + 1.0,
        };
        let scales = (fields.number("mscale")?, fields.number("mscale_all_dim")?);
        let attention = match (fields.positive("attention_factor")?, scales) {
            (Some(attention), _) => attention,
            (None, (Some(a), Some(b))) if a != 0.0 && b != 0.0 => by(factor, a) / by(factor, b),
            _ => by(factor, 1.0),
        };
        Ok(Self {
            factor,
            original: original as f64,
            beta_fast: fields.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: fields.positive("beta_slow")?.unwrap_or(1.0),
            truncate: fields.flag("truncate")?.unwrap_or(true),
            attention,
        })
    }

    fn frequencies(&self, w: &[f64], r: f64, theta: f64) -> Vec<f64> {
        let dim = |turns: f64| r * (self.original / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (low, high) = (dim(self.beta_fast), dim(self.beta_slow));
        let (low, high) = match self.truncate {
            true => (low.floor(), high.ceil()),
            false => (low, high),
        };
        let (low, mut high) = (low.max(0.0), high.min(r - 1.0));
        if low == high {
            high += 0.001;
        }
        let stretched = w.iter().enumerate().map(|(i, w)| {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            w / self.factor * ramp + w * (1.0 - ramp)
        });
        stretched.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rope(config: Value, head_dim: usize) -> Result<RopeConfig> {
        let fields = Fields::of(&config)?;
        let described = fields.object("rope_scaling")?;
        RopeConfig::of(described, &fields, head_dim)
    }

    #[test]
    fn llama3_has_the_published_frequencies() {
        let config = json!({"rope_theta": 500000.0, "rope_scaling": {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}});
        let (w, factor) = rope(config, 64).unwrap().frequencies(100);
        let want = [
            (0, 1.0),
            (16, 4.2955680e-4),
            (20, 8.5702555e-6),
            (31, 9.4183067e-8),
        ];
        for (i, want) in want {
            let off: f64 = w[i] / want - 1.0;
            assert!(off.abs() < 1e-6, "{i}: {} {want}", w[i]);
        }
        assert_eq!((w.len(), factor), (32, 1.0));
    }

    #[test]
    fn longrope_switches_at_the_original_length() {
        let config = json!({"max_position_embeddings": 64, "original_max_position_embeddings": 16,
            "rope_scaling": {"type": "su", "short_factor": [1.0, 2.0], "long_factor": [4.0, 8.0]}});
        let rope = rope(config, 4).unwrap();
        let (short, factor) = rope.frequencies(16);
        assert_eq!(short, [1.0, 0.01 / 2.0]);
        assert!((factor - (1.0 + 4f64.ln() / 16f64.ln()).sqrt()).abs() < 1e-12);
        assert_eq!(rope.frequencies(17).0, [0.25, 0.01 / 8.0]);
        assert_eq!(rope.switches_at(), Some(16));
    }

    #[test]
    fn yarn_keeps_fast_frequencies_and_stretches_slow_ones() {
        let config = json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 2048}});
        let (w, factor) = rope(config, 64).unwrap().frequencies(1);
        let plain = |i: i32| 10_000f64.powf(-2.0 * f64::from(i) / 64.0);
        assert_eq!(w[0], 1.0);
        assert!((w[31] - plain(31) / 4.0).abs() < 1e-12);
        assert!((factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let broken = [
            (json!({"rope_scaling": {"rope_type": "spiral"}}), "spiral"),
            (json!({"rope_scaling": {"rope_type": "linear"}}), "factor"),
            (
                json!({"rope_scaling": {"rope_type": "linear", "factor": -1}}),
                "factor is -1",
            ),
            (json!({"partial_rotary_factor": 0.3}), "pairs"),
            (json!({"rope_scaling": 7}), "rope_scaling is 7"),
        ];
        for (config, word) in broken {
            let error = rope(config, 10).map(drop).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
