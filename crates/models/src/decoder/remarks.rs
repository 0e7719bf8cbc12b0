//! What a config.json says and a model here does not do: to be told once.

use crate::decoder::fields::Fields;
use crate::decoder::rope::kind_name;
use crate::decoder::ropes::{KINDS, PLACES};
use aios_base::error::{Error, Result};
use serde_json::Value;

/// Dropout of parts that a language model does not have.
const OF_OTHER_HEADS: [&str; 2] = ["classifier_dropout", "summary_first_dropout"];
/// GPT-2's, and what transformers takes for each where the file says nothing.
const OF_GPT2: [&str; 3] = ["attn_pdrop", "embd_pdrop", "resid_pdrop"];
const SHARE_OF_GPT2: f64 = 0.1;

/// Settings of dropout above 0 with their shares, which training here goes without.
///
/// # Errors
/// One that is no share.
pub fn dropouts(config: &Value) -> Result<Vec<(String, f64)>> {
    let fields = Fields::of(config)?;
    let is_dropout = |name: &str| {
        (name.contains("dropout") || name.ends_with("pdrop")) && !OF_OTHER_HEADS.contains(&name)
    };
    let mut found = Vec::new();
    for name in fields.0.keys().filter(|name| is_dropout(name)) {
        let share = fields.number(name)?.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::failed(format!(
                "config.json: {name} is {share}: it must be from 0 to 1"
            )));
        }
        if share > 0.0 {
            found.push((name.clone(), share));
        }
    }
    if fields.text("model_type")? == Some("gpt2") {
        let unsaid = OF_GPT2.iter().filter(|name| !fields.0.contains_key(**name));
        found.extend(unsaid.map(|name| (name.to_string(), SHARE_OF_GPT2)));
    }
    Ok(found)
}

/// Entries in descriptions of rotary embeddings that their kind has no use for, each in a line.
///
/// # Errors
/// A description that is none.
pub fn passed_over(config: &Value) -> Result<Vec<String>> {
    let fields = Fields::of(config)?;
    let mut lines = Vec::new();
    for place in PLACES {
        let Some(described) = fields.object(place)? else {
            continue;
        };
        let of_kinds = KINDS.map(|kind| described.object(kind).ok().flatten());
        for described in [Some(described)].into_iter().chain(of_kinds).flatten() {
            let kind = kind_name(&described)?;
            let unused = described.0.iter().filter(|(name, value)| {
                !(value.is_null() || value.is_object() || is_used(kind, name))
            });
            lines.extend(unused.map(|(name, _)| {
                format!("config.json: {place} has {name}, which rotary embeddings of type {kind} have no use for")
            }));
        }
    }
    Ok(lines)
}

fn is_used(kind: &str, name: &str) -> bool {
    let of_all = [
        "rope_type",
        "type",
        "rope_theta",
        "partial_rotary_factor",
        // Written beside every kind, and of use to some.
        "original_max_position_embeddings",
    ];
    let longrope = ["factor", "attention_factor", "short_factor", "long_factor"];
    let of_kind: &[&str] = match kind {
        "linear" | "dynamic" => &["factor"],
        "llama3" => &["factor", "low_freq_factor", "high_freq_factor"],
        // Phi-3 calls longrope so.
        "yarn" if ["short_factor", "long_factor"].contains(&name) => &longrope,
        "yarn" => &[
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ],
        "longrope" | "su" => &longrope,
        _ => &[],
    };
    of_all.contains(&name) || of_kind.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dropout_is_found_by_its_names() {
        let config = json!({"model_type": "phi3", "attention_dropout": 0.1, "resid_pdrop": 0, "embd_pdrop": 0.2,
            "hidden_dropout": null, "classifier_dropout": 0.5});
        let found = dropouts(&config).unwrap();
        assert_eq!(
            found,
            [
                ("attention_dropout".to_string(), 0.1),
                ("embd_pdrop".to_string(), 0.2)
            ]
        );
        let gpt2 = json!({"model_type": "gpt2", "attn_pdrop": 0.0, "resid_pdrop": 0.3});
        let names: Vec<String> = dropouts(&gpt2).unwrap().into_iter().map(|d| d.0).collect();
        assert_eq!(names, ["resid_pdrop", "embd_pdrop"]);
        let wrong = json!({"model_type": "llama", "attention_dropout": 2});
        let error = dropouts(&wrong).unwrap_err().to_string();
        assert!(error.contains("attention_dropout is 2"), "{error}");
    }

    #[test]
    fn entries_without_a_use_are_named() {
        let config = json!({
            "rope_scaling": {"type": "linear", "factor": 2, "finetuned": true, "beta_fast": null},
            "rope_parameters": {"full_attention": {"rope_type": "default", "factor": 8.0}},
        });
        let lines = passed_over(&config).unwrap();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("rope_scaling has finetuned"), "{lines:?}");
        assert!(lines[1].contains("rope_parameters has factor"), "{lines:?}");
    }
}
