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

    /// A length above which other frequencies hold.
    pub fn switches_at(&self) -> Option<usize> {
        match &self.kind {
            RopeKind::LongRope { original, .. } => Some(*original),
            RopeKind::Dynamic { positions, .. } => Some(*positions),
            _ => None,
        }
    }

    /// As a configuration describes it.
    ///
    /// # Errors
    /// A kind that is not known, or a value that it needs and that is not there or makes no sense.
    pub fn of(described: Option<Fields>, around: &Around) -> Result<Self> {
        let Some(fields) = described else {
            return Self::checked(RopeKind::Default, around.theta, around.share, around);
        };
        if let Some((name, _)) = fields.0.iter().find(|(_, value)| value.is_object()) {
            return Err(Error::failed(format!(
                "config.json: rotary embeddings are described by {name}, as if layers differed in them: in a model of this \
                 type they do not"
            )));
        }
        let theta = fields.positive("rope_theta")?.unwrap_or(around.theta);
        let share = fields.positive("partial_rotary_factor")?;
        let kind = around.kind(&fields)?;
        Self::checked(kind, theta, share.unwrap_or(around.share), around)
    }

    fn checked(kind: RopeKind, theta: f64, share: f64, around: &Around) -> Result<Self> {
        let wrong = |what: String| Err(Error::failed(format!("config.json: {what}")));
        if share > 1.0 {
            return wrong(format!(
                "partial_rotary_factor is {share}: it must be above 0 and at most 1"
            ));
        }
        if matches!(kind, RopeKind::Yarn(_)) && theta <= 1.0 {
            return wrong(format!(
                "rope_theta is {theta}: for yarn it must be above 1"
            ));
        }
        let head_dim = around.head_dim;
        let rotated = (head_dim as f64 * share) as usize;
        if rotated < 2 || !rotated.is_multiple_of(2) {
            return wrong(format!(
                "{rotated} of a head's {head_dim} numbers would be turned by rotary embeddings: they are turned in pairs"
            ));
        }
        let pairs = rotated / 2;
        if let RopeKind::LongRope { short, long, .. } = &kind
            && (short.len() != pairs || long.len() != pairs)
        {
            return wrong(format!(
                "short_factor and long_factor have {} and {} numbers: there must be {pairs} of each",
                short.len(),
                long.len()
            ));
        }
        let rope = Self {
            kind,
            theta,
            rotated,
        };
        let lengths = [1, around.positions.saturating_mul(2)];
        let finite = lengths.into_iter().all(|length| {
            let (frequencies, factor) = rope.frequencies(length);
            factor.is_finite() && frequencies.iter().all(|w| w.is_finite())
        });
        match finite {
            true => Ok(rope),
            false => wrong(format!(
                "rotary embeddings of theta {theta:e} and {:?} are no finite numbers: one of these values is wrong",
                rope.kind
            )),
        }
    }
}

/// What a description of rotary embeddings stands among in a config.json.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// Unless the description says otherwise.
    pub theta: f64,
    /// Of a head's numbers, how many are turned, unless the description says otherwise.
    pub share: f64,
    pub head_dim: usize,
    /// `max_position_embeddings`.
    pub positions: usize,
    /// `original_max_position_embeddings` beside the description: it wins over one in it.
    pub original: Option<usize>,
    /// Phi-3, whose older files call longrope by other names.
    pub is_phi3: bool,
}

impl Around {
    fn kind(&self, fields: &Fields) -> Result<RopeKind> {
        let name = kind_name(fields)?;
        let name = match self.is_phi3 && ["su", "yarn"].contains(&name) {
            true => "longrope",
            false => name,
        };
        Ok(match name {
            "default" => RopeKind::Default,
            "linear" => RopeKind::Linear {
                factor: needed(fields, "factor")?,
            },
            "dynamic" => RopeKind::Dynamic {
                factor: needed(fields, "factor")?,
                positions: self.positions,
            },
            "llama3" => self.llama3(fields)?,
            "yarn" => RopeKind::Yarn(Yarn::of(fields, self.original(fields)?)?),
            "longrope" | "su" => self.long_rope(fields)?,
            other => {
                return Err(Error::failed(format!(
                    "config.json: rotary embeddings of type {other:?} are not supported; known are default, linear, \
                     dynamic, llama3, yarn and longrope"
                )));
            }
        })
    }

    /// The length of pretraining.
    fn original(&self, fields: &Fields) -> Result<usize> {
        let own = fields.count("original_max_position_embeddings")?;
        Ok(self.original.or(own).unwrap_or(self.positions))
    }

    fn llama3(&self, fields: &Fields) -> Result<RopeKind> {
        let low = needed(fields, "low_freq_factor")?;
        let high = needed(fields, "high_freq_factor")?;
        match high > low {
            true => Ok(RopeKind::Llama3 {
                factor: needed(fields, "factor")?,
                low,
                high,
                original: self.original(fields)? as f64,
            }),
            false => Err(Error::failed(format!(
                "config.json: high_freq_factor is {high}: it must be above low_freq_factor, {low}"
            ))),
        }
    }

    fn long_rope(&self, fields: &Fields) -> Result<RopeKind> {
        let factors = |name| fields.numbers(name)?.ok_or_else(|| missing(name));
        let original = self.original(fields)?;
        let factor = match fields.positive("factor")? {
            Some(factor) => factor,
            None => self.positions as f64 / original as f64,
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
}

/// The kind that a description names.
pub fn kind_name<'a>(fields: &Fields<'a>) -> Result<&'a str> {
    Ok(match fields.text("rope_type")? {
        Some(name) => name,
        None => fields.text("type")?.unwrap_or("default"),
    })
}

fn needed(fields: &Fields, name: &str) -> Result<f64> {
    fields.positive(name)?.ok_or_else(|| missing(name))
}

impl Yarn {
    fn of(fields: &Fields, original: usize) -> Result<Self> {
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

    fn around(head_dim: usize) -> Around {
        Around {
            theta: 10_000.0,
            share: 1.0,
            head_dim,
            positions: 64,
            original: None,
            is_phi3: false,
        }
    }

    fn rope(described: Value, head_dim: usize) -> Result<RopeConfig> {
        RopeConfig::of(Some(Fields::of(&described)?), &around(head_dim))
    }

    #[test]
    fn llama3_has_the_published_frequencies() {
        let described = json!({"rope_theta": 500000.0, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        let (w, factor) = rope(described, 64).unwrap().frequencies(100);
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
        let described = json!({"type": "su", "short_factor": [1.0, 2.0], "long_factor": [4.0, 8.0],
            "original_max_position_embeddings": 9});
        let around = Around {
            original: Some(16),
            ..around(4)
        };
        let rope = RopeConfig::of(Some(Fields::of(&described).unwrap()), &around).unwrap();
        let (short, factor) = rope.frequencies(16);
        assert_eq!(short, [1.0, 0.01 / 2.0]);
        assert!((factor - (1.0 + 4f64.ln() / 16f64.ln()).sqrt()).abs() < 1e-12);
        assert_eq!(rope.frequencies(17).0, [0.25, 0.01 / 8.0]);
        assert_eq!(rope.switches_at(), Some(16));
    }

    #[test]
    fn yarn_keeps_fast_frequencies_and_stretches_slow_ones() {
        let described =
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048});
        let (w, factor) = rope(described, 64).unwrap().frequencies(1);
        let plain = |i: i32| 10_000f64.powf(-2.0 * f64::from(i) / 64.0);
        assert_eq!(w[0], 1.0);
        assert!((w[31] - plain(31) / 4.0).abs() < 1e-12);
        assert!((factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let llama3 = |low: f64, high: f64| json!({"rope_type": "llama3", "factor": 2, "low_freq_factor": low, "high_freq_factor": high});
        let broken = [
            (json!({"rope_type": "spiral"}), "spiral"),
            (json!({"rope_type": "linear"}), "factor"),
            (json!({"rope_type": "linear", "factor": -1}), "factor is -1"),
            (json!({"partial_rotary_factor": 0.3}), "pairs"),
            (
                json!({"partial_rotary_factor": 1.5}),
                "partial_rotary_factor is 1.5",
            ),
            (
                json!({"full_attention": {"rope_type": "default"}}),
                "full_attention",
            ),
            (llama3(4.0, 4.0), "high_freq_factor is 4"),
            (
                json!({"rope_type": "yarn", "factor": 2, "rope_theta": 1}),
                "rope_theta is 1",
            ),
            (
                json!({"rope_type": "linear", "factor": 1e-310}),
                "no finite numbers",
            ),
        ];
        for (config, word) in broken {
            let error = rope(config, 10).map(drop).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
