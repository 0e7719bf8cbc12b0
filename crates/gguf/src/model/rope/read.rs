//! How positions are turned, as a file's keys and tensors say.

use aios_base::error::Result;

use crate::file::GgufFile;
use crate::kind::Kind;
use crate::model::keys::Keys;
use crate::model::rope::{Around, FREQS, LONG, Llama3, LongRope, SHORT, Scaling, Yarn, yarn_usual};
use crate::value::decimal;

impl Scaling {
    /// As a file says it, in its keys and tensors.
    pub(crate) fn read(file: &GgufFile, keys: &Keys, around: &Around) -> Result<Self> {
        let name = keys.text("rope.scaling.type")?;
        let factor = match keys.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // Older files.
            None => keys.float("rope.scale_linear")?,
        };
        let original = keys.count("rope.scaling.original_context_length")?;
        let named = match (name, factor) {
            (Some("linear") | None, Some(factor)) if factor > 0.0 && factor != 1.0 => {
                Self::Linear(factor)
            }
            (Some("linear" | "none" | "longrope") | None, _) => Self::None,
            (Some("yarn"), Some(factor)) if factor > 0.0 => Self::Yarn(Yarn {
                factor,
                original: original.unwrap_or(around.positions),
                attention: yarn_attention(keys, factor)?,
                beta_fast: keys.float("rope.scaling.yarn_beta_fast")?,
                beta_slow: keys.float("rope.scaling.yarn_beta_slow")?,
            }),
            (Some(name), _) => {
                return Err(keys.wrong(
                    "rope.scaling.type",
                    &format!("{name:?}, with the factor {factor:?}: none, linear, yarn and longrope are known"),
                ));
            }
        };
        let of_tensors = Self::of_tensors(file, keys, around, original)?;
        match (of_tensors, named) {
            (Some(scaling), Self::None) => Ok(scaling),
            (None, _) if name == Some("longrope") => Err(file.wrong(&format!(
                "by rope.scaling.type it has tensors {LONG} and {SHORT}, and they are missing"
            ))),
            (None, named) => Ok(named),
            (Some(_), _) => Err(file.wrong(
                "its positions are stretched by both rope.scaling.type and tensors of factors, as in no model of transformers",
            )),
        }
    }

    fn of_tensors(
        file: &GgufFile,
        keys: &Keys,
        around: &Around,
        original: Option<u32>,
    ) -> Result<Option<Self>> {
        let pairs = around.rotated / 2;
        let of = |name| factors(file, name, pairs);
        if let (Some(long), Some(short)) = (of(LONG)?, of(SHORT)?) {
            let original = original.unwrap_or(around.positions);
            let mut scaling = LongRope {
                short,
                long,
                original,
                attention: None,
                positions: around.positions,
            };
            let attention = keys.float("rope.scaling.attn_factor")?;
            let usual = scaling.attention();
            scaling.attention = attention.filter(|given| (given / usual - 1.0).abs() > 1e-6);
            return Ok(Some(Self::LongRope(scaling)));
        }
        let Some(factors) = of(FREQS)? else {
            return Ok(None);
        };
        if factors.iter().all(|factor| *factor == 1.0) {
            return Ok(None);
        }
        let found = Llama3::recovered(
            &factors,
            around.rotated,
            around.theta,
            original.map(f64::from),
        );
        found.map(Self::Llama3).map(Some).ok_or_else(|| {
            file.wrong(&format!(
                "its tensor {FREQS} has factors up to {}, which are not those of Llama 3 (low_freq_factor 1, \
                 high_freq_factor 4) for a length that is usual: take the model's Hugging Face folder",
                factors.iter().copied().fold(0.0, f64::max)
            ))
        })
    }
}

/// As the model's config.json had it if the file says so, else by what llama.cpp multiplies what is usual.
fn yarn_attention(keys: &Keys, factor: f64) -> Result<Option<f64>> {
    let own = keys.float("rope.scaling.yarn_attn_factor")?;
    let times = keys.float("rope.scaling.attn_factor")?;
    let times = times.filter(|times| *times != 1.0);
    Ok(own.or(times.map(|times| times * yarn_usual(factor, 1.0))))
}

/// A tensor of as many factors, if there is one.
fn factors(file: &GgufFile, name: &str, pairs: usize) -> Result<Option<Vec<f64>>> {
    let Some(tensor) = file.tensor(name) else {
        return Ok(None);
    };
    if tensor.kind != Kind::F32 || tensor.shape != [pairs] {
        return Err(file.wrong(&format!(
            "tensor {name} is of {} and has the shape {:?}: it must be {pairs} numbers in F32",
            tensor.kind, tensor.shape
        )));
    }
    let bytes = file.bytes(name)?.as_chunks().0.iter();
    let factors: Vec<f64> = bytes
        .map(|four| decimal(f32::from_le_bytes(*four)))
        .collect();
    match factors
        .iter()
        .all(|factor| factor.is_finite() && *factor > 0.0)
    {
        true => Ok(Some(factors)),
        false => Err(file.wrong(&format!(
            "tensor {name} has a number that is no factor above 0"
        ))),
    }
}
