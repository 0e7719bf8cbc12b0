//! `adapter_config.json` of PEFT, read strictly: what would change the result and is not supported is an error.

use crate::lora::Lora;
use crate::targets::Targets;
use aios_base::error::{Error, Result, shown};
use aios_base::files::{open_file, read_limited};
use aios_hf::{ADAPTER_CONFIG_FILE, ADAPTER_FILE};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

/// No such file is longer.
const LONGEST: u64 = 16 << 20;

/// The version of PEFT whose fields are written.
const PEFT_VERSION: &str = "0.21.2";

/// What an adapter's file says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    pub lora: Lora,
    /// The model that it is for: a path or an id of the Hub.
    pub base: Option<String>,
    /// The state of that model on the Hub.
    pub revision: Option<String>,
}

impl AdapterConfig {
    /// Reads that of a folder with an adapter.
    ///
    /// # Errors
    /// No adapter there, or one that is not supported: names the file and the field.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(ADAPTER_CONFIG_FILE);
        if !path.is_file() {
            return Err(Error::invalid(format!(
                "{} is no adapter: it has no {ADAPTER_CONFIG_FILE}; give a folder with that and {ADAPTER_FILE}, as PEFT \
                 and this program write it",
                shown(folder)
            )));
        }
        let text = open_file(&path).and_then(|file| read_limited(file, LONGEST));
        let text = text.map_err(|cause| Error::io(&path, "read", cause))?;
        Self::parse(&text).map_err(|error| error.of_file(shown(&path)))
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// Names the field that is wrong or not supported.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let wrong = |cause: serde_json::Error| Error::failed(cause.to_string());
        let all: Map<String, Value> = serde_json::from_slice(text).map_err(wrong)?;
        if let Some(kind) = all.get("peft_type").filter(|kind| **kind != json!("LORA")) {
            return Err(Error::failed(format!(
                "peft_type is {kind}: only adapters of type \"LORA\" are supported"
            )));
        }
        for (key, value) in &all {
            if !is_harmless(key, value) {
                return Err(Error::failed(format!(
                    "{key} is {value}, which is not supported: the adapter would not be what PEFT makes of it"
                )));
            }
        }
        let fields: Fields = serde_json::from_slice(text).map_err(wrong)?;
        if !(0.0..1.0).contains(&fields.lora_dropout) {
            return Err(Error::failed(format!(
                "lora_dropout is {}: it is a share from 0 to below 1",
                fields.lora_dropout
            )));
        }
        let lora = Lora {
            rank: fields.r,
            alpha: fields.lora_alpha,
            rslora: fields.use_rslora,
            dora: fields.use_dora,
            targets: fields.target_modules,
            exclude: fields.exclude_modules,
            ranks: fields.rank_pattern.0,
            alphas: fields.alpha_pattern.0,
            whole: fields.modules_to_save.unwrap_or_default(),
            dropout: fields.lora_dropout,
            tied: fields.ensure_weight_tying,
        };
        lora.validate()?;
        Ok(Self {
            lora,
            base: fields.base_model_name_or_path,
            revision: fields.revision,
        })
    }

    /// The file's text, for a model whose weights are `[inputs, outputs]` if `transposed`.
    ///
    /// # Errors
    /// None that is known of.
    pub fn to_json(&self, transposed: bool) -> Result<Vec<u8>> {
        let lora = &self.lora;
        let patterns =
            |all: &[(String, Value)]| -> Map<String, Value> { all.iter().cloned().collect() };
        let ranks = lora.ranks.iter().map(|(k, v)| (k.clone(), json!(v)));
        let ranks: Vec<_> = ranks.collect();
        let alphas = lora.alphas.iter().map(|(k, v)| (k.clone(), number(*v)));
        let alphas: Vec<_> = alphas.collect();
        let whole = (!lora.whole.is_empty()).then_some(&lora.whole);
        let fields = json!({
            "alpha_pattern": patterns(&alphas),
            "auto_mapping": null,
            "base_model_name_or_path": self.base,
            "bias": "none",
            "ensure_weight_tying": lora.tied,
            "exclude_modules": lora.exclude,
            "fan_in_fan_out": transposed,
            "inference_mode": true,
            "init_lora_weights": true,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": number(lora.alpha),
            "lora_bias": false,
            "lora_dropout": number(lora.dropout),
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": whole,
            "peft_type": "LORA",
            "peft_version": PEFT_VERSION,
            "r": lora.rank,
            "rank_pattern": patterns(&ranks),
            "revision": self.revision,
            "target_modules": lora.targets,
            "task_type": "CAUSAL_LM",
            "use_dora": lora.dora,
            "use_rslora": lora.rslora,
        });
        let text = serde_json::to_vec_pretty(&fields);
        text.map_err(|cause| Error::failed(format!("cannot write {ADAPTER_CONFIG_FILE}: {cause}")))
    }
}

/// A whole number as one.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => json!(value as i64),
        false => json!(value),
    }
}

/// The fields that are used.
#[derive(Deserialize)]
struct Fields {
    r: usize,
    lora_alpha: f64,
    target_modules: Targets,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    exclude_modules: Option<Targets>,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    rank_pattern: InOrder<usize>,
    #[serde(default)]
    alpha_pattern: InOrder<f64>,
    #[serde(default)]
    ensure_weight_tying: bool,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    revision: Option<String>,
}

const USED: [&str; 14] = [
    "r",
    "lora_alpha",
    "target_modules",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "exclude_modules",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "base_model_name_or_path",
    "revision",
    "ensure_weight_tying",
    "peft_type",
];

/// Whether a field is used, or changes nothing by its value: what is turned off or empty, and what only says something of
/// the file.
fn is_harmless(key: &str, value: &Value) -> bool {
    if USED.contains(&key) {
        return true;
    }
    match (key, value) {
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::Object(fields)) if fields.is_empty() => true,
        (_, Value::Array(items)) if items.is_empty() => true,
        ("task_type", Value::String(task)) => task == "CAUSAL_LM",
        ("bias", Value::String(bias)) => bias == "none",
        ("init_lora_weights", value) => *value == json!(true) || *value == json!("gaussian"),
        // The tensors are the same either way.
        ("fan_in_fan_out" | "inference_mode" | "peft_version" | "auto_mapping", _) => true,
        // Said of a feature that is turned off by another field.
        ("megatron_core", value) => *value == json!("megatron.core"),
        ("qalora_group_size", Value::Number(_)) => true,
        _ => false,
    }
}

/// An object's entries in the order of the text.
struct InOrder<T>(Vec<(String, T)>);

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for InOrder<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = InOrder<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of expressions and numbers")
            }

            fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
                Ok(InOrder::default())
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(InOrder(all))
            }
        }
        from.deserialize_any(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str =
        r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}"#;

    fn with(field: &str) -> Result<AdapterConfig> {
        let text = PLAIN.replacen('{', &format!("{{{field}, "), 1);
        AdapterConfig::parse(text.as_bytes())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config = with(r#""rank_pattern": {"z": 2, "a": 3}, "modules_to_save": ["lm_head"]"#);
        let config = config.unwrap();
        assert_eq!(config.lora.ranks, [("z".into(), 2), ("a".into(), 3)]);
        let single = AdapterConfig {
            lora: Lora {
                ranks: vec![("z".into(), 2)],
                ..config.lora
            },
            base: Some("OWNER/NAME".into()),
            ..config
        };
        let text = single.to_json(true).unwrap();
        assert_eq!(AdapterConfig::parse(&text).unwrap(), single);
    }

    #[test]
    fn fields_that_change_the_result_are_refused_by_name() {
        for (field, word) in [
            (r#""bias": "all""#, "bias"),
            (r#""lora_bias": true"#, "lora_bias"),
            (r#""init_lora_weights": "pissa""#, "init_lora_weights"),
            (r#""layers_to_transform": [1]"#, "layers_to_transform"),
            (
                r#""trainable_token_indices": [5]"#,
                "trainable_token_indices",
            ),
            (r#""task_type": "SEQ_CLS""#, "task_type"),
            (r#""what_comes_next": 7"#, "what_comes_next"),
            (r#""lora_dropout": 1.5"#, "lora_dropout"),
            (r#""rank_pattern": {"q": 0}"#, "rank 0"),
        ] {
            let error = with(field).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        }
        let other = PLAIN.replace("LORA", "IA3");
        let error = AdapterConfig::parse(other.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("IA3"));
    }

    #[test]
    fn fields_that_are_off_are_passed_over() {
        for field in [
            r#""layers_to_transform": null"#,
            r#""use_qalora": false, "qalora_group_size": 16"#,
            r#""loftq_config": {}"#,
            r#""eva_config": null"#,
            r#""init_lora_weights": "gaussian""#,
        ] {
            with(field).unwrap();
        }
    }
}
