//! How positions are turned: as a config.json says it, and (`read`, `written`) as a file does.

mod read;
mod written;

use std::f64::consts::TAU;

use aios_base::error::Result;
use serde_json::{Value as Json, json};

use crate::model::fields::Fields;

/// One rotary table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    pub(crate) theta: f64,
    /// Of a head, what is turned.
    pub(crate) share: f64,
    pub(crate) scaling: Scaling,
}

/// How frequencies are stretched beyond the lengths of pretraining.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    Linear(f64),
    /// Plain up to the length of pretraining, and files have no more than that.
    Dynamic,
    Llama3(Llama3),
    Yarn(Yarn),
    LongRope(LongRope),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Yarn {
    factor: f64,
    original: u32,
    attention: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LongRope {
    short: Vec<f64>,
    long: Vec<f64>,
    original: u32,
    attention: Option<f64>,
    positions: u32,
}

/// Names of factors by which a file's frequencies are divided.
const FREQS: &str = "rope_freqs.weight";
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";

/// What a description stands among.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    pub(crate) theta: f64,
    /// Numbers of a head that are turned, when a file is read.
    pub(crate) rotated: usize,
    pub(crate) positions: u32,
    /// Beside a description in a config.json.
    pub(crate) original: Option<u32>,
    pub(crate) share: f64,
    pub(crate) is_phi3: bool,
}

impl Rope {
    /// As a config.json describes it, in either of its forms.
    pub(crate) fn of(described: Option<Fields>, around: &Around) -> Result<Self> {
        let Some(fields) = described else {
            return Ok(Self {
                theta: around.theta,
                share: around.share,
                scaling: Scaling::None,
            });
        };
        Ok(Self {
            theta: fields.positive("rope_theta")?.unwrap_or(around.theta),
            share: fields
                .positive("partial_rotary_factor")?
                .unwrap_or(around.share),
            scaling: described_scaling(&fields, around)?,
        })
    }
}

fn described_scaling(fields: &Fields, around: &Around) -> Result<Scaling> {
    let name = match fields.text("rope_type")? {
        Some(name) => name,
        None => fields.text("type")?.unwrap_or("default"),
    };
    let name = match around.is_phi3 && ["su", "yarn"].contains(&name) {
        true => "longrope",
        false => name,
    };
    let own = fields.count("original_max_position_embeddings")?;
    let original = around.original.or(own).unwrap_or(around.positions);
    Ok(match name {
        "default" => Scaling::None,
        "linear" => Scaling::Linear(fields.needed_number("factor")?),
        "dynamic" => Scaling::Dynamic,
        "llama3" => Scaling::Llama3(Llama3 {
            factor: fields.needed_number("factor")?,
            low: fields.needed_number("low_freq_factor")?,
            high: fields.needed_number("high_freq_factor")?,
            original: f64::from(original),
        }),
        "yarn" => Scaling::Yarn(Yarn {
            factor: fields.needed_number("factor")?,
            original,
            attention: yarn_attention(fields, fields.needed_number("factor")?)?,
            beta_fast: fields.positive("beta_fast")?,
            beta_slow: fields.positive("beta_slow")?,
        }),
        "longrope" | "su" => Scaling::LongRope(LongRope::described(fields, around, original)?),
        other => {
            return Err(fields.wrong(format!(
                "rotary embeddings of type {other:?} have no place in a GGUF file"
            )));
        }
    })
}

/// What cosines and sines are multiplied by, unless a config.json says otherwise; `k` is 1 unless it does.
fn yarn_usual(factor: f64, k: f64) -> f64 {
    match factor <= 1.0 {
        true => 1.0,
        false => 0.1 * k * factor.ln() + 1.0,
    }
}

/// Files have one number for what may be two here.
fn yarn_attention(fields: &Fields, factor: f64) -> Result<Option<f64>> {
    if fields.flag("truncate")? == Some(false) {
        return Err(fields.wrong(
            "rotary embeddings of type yarn with truncate false have no place in a GGUF file, whose readers round",
        ));
    }
    let by = |k| yarn_usual(factor, k);
    let scales = (
        fields.positive("mscale")?,
        fields.positive("mscale_all_dim")?,
    );
    Ok(match (fields.positive("attention_factor")?, scales) {
        (None, (Some(a), Some(b))) => Some(by(a) / by(b)),
        (given, _) => given,
    })
}

impl Yarn {
    /// Where frequencies begin and end to be stretched is as it mostly is.
    pub(crate) fn has_usual_betas(&self) -> bool {
        self.beta_fast.unwrap_or(32.0) == 32.0 && self.beta_slow.unwrap_or(1.0) == 1.0
    }
}

impl LongRope {
    fn described(fields: &Fields, around: &Around, original: u32) -> Result<Self> {
        let factors = |name| {
            let factors = fields.numbers(name)?;
            let good = factors.filter(|all| all.iter().all(|n| n.is_finite() && *n > 0.0));
            good.ok_or_else(|| fields.wrong(format!("{name} must be a list of numbers above 0")))
        };
        Ok(Self {
            short: factors("short_factor")?,
            long: factors("long_factor")?,
            original,
            attention: match (
                fields.positive("attention_factor")?,
                fields.positive("factor")?,
            ) {
                (None, Some(factor)) => Some(Self::usual(factor, original)),
                (given, _) => given,
            },
            positions: around.positions,
        })
    }

    /// What cosines and sines are multiplied by, unless a config.json says otherwise.
    fn usual(factor: f64, original: u32) -> f64 {
        match factor <= 1.0 {
            true => 1.0,
            false => (1.0 + factor.ln() / f64::from(original).ln()).sqrt(),
        }
    }

    fn attention(&self) -> f64 {
        let factor = f64::from(self.positions) / f64::from(self.original);
        self.attention.unwrap_or(Self::usual(factor, self.original))
    }
}

impl Llama3 {
    /// By what the frequencies of so many numbers of a head are divided.
    fn factors(&self, theta: f64, rotated: usize) -> Vec<f64> {
        let pairs = 0..rotated / 2;
        let each = pairs.map(|pair| {
            let frequency = theta.powf(-2.0 * pair as f64 / rotated as f64);
            let turns = self.original * frequency / TAU;
            let s = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - s) / self.factor + s)
        });
        each.collect()
    }

    /// The description that has these factors, of those that models have: files do not say it.
    fn recovered(
        factors: &[f64],
        rotated: usize,
        theta: f64,
        original: Option<f64>,
    ) -> Option<Self> {
        let largest = factors.iter().copied().fold(1.0, f64::max);
        let powers = (4..=20).map(|power| f64::from(1 << power));
        let originals = original.into_iter().chain([8192.0]).chain(powers);
        let mut candidates = originals.map(|original| Self {
            factor: largest,
            low: 1.0,
            high: 4.0,
            original,
        });
        candidates.find(|candidate| {
            let expected = candidate.factors(theta, rotated);
            // Of what frequencies are multiplied by: it is about 1 at most.
            let off = factors
                .iter()
                .zip(&expected)
                .map(|(a, b)| (1.0 / a - 1.0 / b).abs());
            off.fold(0.0, f64::max) <= 1e-6
        })
    }
}

impl Scaling {
    /// As `rope_scaling` of a config.json has it.
    pub(crate) fn json(&self) -> Json {
        let set = |object: &mut Json, name: &str, value: Option<f64>| {
            if let Some(value) = value {
                object[name] = json!(value);
            }
        };
        match self {
            Self::None | Self::Dynamic => Json::Null,
            Self::Linear(factor) => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3(llama3) => json!({
                "rope_type": "llama3",
                "factor": llama3.factor,
                "low_freq_factor": llama3.low,
                "high_freq_factor": llama3.high,
                "original_max_position_embeddings": llama3.original as u64,
            }),
            Self::Yarn(yarn) => {
                let mut object = json!({
                    "rope_type": "yarn",
                    "factor": yarn.factor,
                    "original_max_position_embeddings": yarn.original,
                });
                set(&mut object, "attention_factor", yarn.attention);
                set(&mut object, "beta_fast", yarn.beta_fast);
                set(&mut object, "beta_slow", yarn.beta_slow);
                object
            }
            Self::LongRope(longrope) => {
                let mut object = json!({
                    "rope_type": "longrope",
                    "short_factor": longrope.short,
                    "long_factor": longrope.long,
                    "original_max_position_embeddings": longrope.original,
                });
                set(&mut object, "attention_factor", longrope.attention);
                object
            }
        }
    }

    /// The length of pretraining, which Phi-3 has beside the description.
    pub(crate) fn original(&self) -> Option<u32> {
        match self {
            Self::LongRope(longrope) => Some(longrope.original),
            _ => None,
        }
    }
}
