//! How positions are turned, as keys and tensors of a file to be written.

use crate::model::rope::{FREQS, LONG, SHORT, Scaling, yarn_usual};
use crate::value::Value;

impl Scaling {
    /// What keys of a file say of it, without the architecture before them; more is in [`Scaling::tensors`].
    pub(crate) fn keys(&self) -> Vec<(&'static str, Value)> {
        let text = |name: &str| Value::Text(name.to_string());
        let float = |value: f64| Value::F32(value as f32);
        match self {
            Self::None | Self::Dynamic => Vec::new(),
            Self::Linear(factor) => vec![
                ("rope.scaling.type", text("linear")),
                ("rope.scaling.factor", float(*factor)),
            ],
            // llama.cpp needs only the tensor; the length is for whoever wants the description back.
            Self::Llama3(llama3) => vec![(
                "rope.scaling.original_context_length",
                Value::U32(llama3.original as u32),
            )],
            Self::Yarn(yarn) => {
                let mut keys = vec![
                    ("rope.scaling.type", text("yarn")),
                    ("rope.scaling.factor", float(yarn.factor)),
                    (
                        "rope.scaling.original_context_length",
                        Value::U32(yarn.original),
                    ),
                ];
                // llama.cpp multiplies what is usual by the one; its converter writes the other, which it passes over.
                let usual = yarn_usual(yarn.factor, 1.0);
                let more = [
                    (
                        "rope.scaling.attn_factor",
                        yarn.attention.map(|by| by / usual),
                    ),
                    ("rope.scaling.yarn_attn_factor", yarn.attention),
                    ("rope.scaling.yarn_beta_fast", yarn.beta_fast),
                    ("rope.scaling.yarn_beta_slow", yarn.beta_slow),
                ];
                let more = more.into_iter();
                keys.extend(more.filter_map(|(key, value)| Some((key, float(value?)))));
                keys
            }
            Self::LongRope(longrope) => vec![
                ("rope.scaling.type", text("longrope")),
                (
                    "rope.scaling.original_context_length",
                    Value::U32(longrope.original),
                ),
                ("rope.scaling.attn_factor", float(longrope.attention())),
            ],
        }
    }

    /// Tensors of factors in f32 that go with the keys.
    ///
    /// # Errors
    /// In words: factors of another number than there are pairs.
    pub(crate) fn tensors(
        &self,
        theta: f64,
        rotated: usize,
    ) -> Result<Vec<(String, Vec<f32>)>, String> {
        let named = |name: &str, factors: &[f64]| {
            let factors = factors.iter().map(|&factor| factor as f32);
            (name.to_string(), factors.collect())
        };
        match self {
            Self::Llama3(llama3) if llama3.high > llama3.low => {
                Ok(vec![named(FREQS, &llama3.factors(theta, rotated))])
            }
            Self::Llama3(llama3) => Err(format!(
                "high_freq_factor is {}: it must be above low_freq_factor, {}",
                llama3.high, llama3.low
            )),
            Self::LongRope(longrope) => {
                let pairs = rotated / 2;
                match [&longrope.long, &longrope.short]
                    .iter()
                    .all(|all| all.len() == pairs)
                {
                    true => Ok(vec![
                        named(LONG, &longrope.long),
                        named(SHORT, &longrope.short),
                    ]),
                    false => Err(format!(
                        "short_factor and long_factor have {} and {} numbers: there must be {pairs} of each",
                        longrope.short.len(),
                        longrope.long.len()
                    )),
                }
            }
            _ => Ok(Vec::new()),
        }
    }
}
