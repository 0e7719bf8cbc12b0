//! What a model's folder says of generating text.

use std::path::Path;

use serde_json::Value;

use aios_base::error::{Error, Result, shown};

use crate::names::{CONFIG_FILE, GENERATION_FILE};

/// More ids than any model ends at.
const MOST_ENDS: usize = 1024;

/// Ids of control tokens and settings of sampling. What is not said is `None`, never a default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generation {
    /// A text ends at any of these.
    pub eos: Vec<u32>,
    /// Stands before a text.
    pub bos: Option<u32>,
    /// Fills up a batch.
    pub pad: Option<u32>,
    /// Whether tokens are drawn at all, or the most probable ones taken.
    pub do_sample: Option<bool>,
    /// 0 or more.
    pub temperature: Option<f64>,
    /// 0 for all.
    pub top_k: Option<u32>,
    /// From 0 to 1.
    pub top_p: Option<f64>,
    /// From 0 to 1.
    pub min_p: Option<f64>,
    /// More than 0; 1 for none.
    pub repetition_penalty: Option<f64>,
    /// Tokens.
    pub max_new_tokens: Option<u32>,
}

/// A file's object, to be looked into.
struct Settings<'a> {
    folder: &'a Path,
    file: &'a str,
    object: Option<&'a Value>,
}

impl Generation {
    /// Of `generation_config.json`, and for ids that it does not name of `config.json`.
    pub(crate) fn parse(folder: &Path, own: Option<&Value>, config: &Value) -> Result<Self> {
        let settings = |file, object| Settings {
            folder,
            file,
            object,
        };
        let own = settings(GENERATION_FILE, own);
        let mut places = vec![settings(CONFIG_FILE, Some(config))];
        // Models of text and images have their numbers of text apart.
        places.push(settings(CONFIG_FILE, config.get("text_config")));
        places.insert(0, settings(GENERATION_FILE, own.object));
        let ids = |key: &str| -> Result<Vec<u32>> {
            for place in &places {
                let ids = place.ids(key)?;
                if !ids.is_empty() {
                    return Ok(ids);
                }
            }
            Ok(Vec::new())
        };
        Ok(Self {
            eos: ids("eos_token_id")?,
            bos: ids("bos_token_id")?.first().copied(),
            pad: ids("pad_token_id")?.first().copied(),
            do_sample: own.bool("do_sample")?,
            temperature: own.number("temperature", |v| v >= 0.0)?,
            top_k: own.count("top_k")?,
            top_p: own.number("top_p", |v| (0.0..=1.0).contains(&v))?,
            min_p: own.number("min_p", |v| (0.0..=1.0).contains(&v))?,
            repetition_penalty: own.number("repetition_penalty", |v| v > 0.0)?,
            max_new_tokens: own.count("max_new_tokens")?,
        })
    }
}

impl<'a> Settings<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object?.get(key).filter(|value| !value.is_null())
    }

    /// One id or a list of them. Old files write -1 for none.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let list = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        let mut ids = Vec::new();
        for value in list {
            match value.as_i64().map(u32::try_from) {
                Some(Ok(id)) if ids.len() < MOST_ENDS => ids.push(id),
                Some(Err(_)) if value.as_i64() == Some(-1) => {}
                _ => return self.wrong(key, value, "the id of a token, or a list of such"),
            }
        }
        Ok(ids)
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(value) => self.wrong(key, value, "true or false"),
        }
    }

    fn count(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().map(u32::try_from) {
            Some(Ok(count)) => Ok(Some(count)),
            _ => self.wrong(key, value, "a whole number"),
        }
    }

    fn number(&self, key: &str, good: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() && good(number) => Ok(Some(number)),
            _ => self.wrong(key, value, "a number in its range"),
        }
    }

    fn wrong<T>(&self, key: &str, value: &Value, wanted: &str) -> Result<T> {
        let value: String = value.to_string().chars().take(100).collect();
        let path = shown(&self.folder.join(self.file));
        Err(Error::failed(format!(
            "{path}: {key} is {value}, which is not {wanted}: correct it or remove it"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(own: Value, config: Value) -> Result<Generation> {
        let own = Some(&own).filter(|own| !own.is_null());
        Generation::parse(Path::new("model"), own, &config)
    }

    #[test]
    fn ids_are_one_or_many_and_fall_back_to_the_models() {
        let own = json!({"eos_token_id": [5, 7], "bos_token_id": null, "pad_token_id": -1});
        let config = json!({"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 3});
        let found = parse(own, config).unwrap();
        assert_eq!(
            (found.eos, found.bos, found.pad),
            (vec![5, 7], Some(2), Some(3))
        );
        let nested = json!({"text_config": {"eos_token_id": 4}});
        assert_eq!(parse(Value::Null, nested).unwrap().eos, [4]);
        assert_eq!(parse(json!({}), json!({})).unwrap(), Generation::default());
    }

    #[test]
    fn settings_of_sampling_are_taken_as_they_are() {
        let own = json!({
            "do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 1, "min_p": 0,
            "repetition_penalty": 1.05, "max_new_tokens": 9, "anything": {"else": []},
        });
        let found = parse(own, json!({})).unwrap();
        assert_eq!(
            (found.do_sample, found.temperature, found.top_k),
            (Some(true), Some(0.6), Some(20))
        );
        assert_eq!(
            (found.top_p, found.min_p, found.repetition_penalty),
            (Some(1.0), Some(0.0), Some(1.05))
        );
        assert_eq!(found.max_new_tokens, Some(9));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (key, value) in [
            ("eos_token_id", json!("</s>")),
            ("eos_token_id", json!([1, -2])),
            ("pad_token_id", json!(1_u64 << 40)),
            ("temperature", json!(-1)),
            ("top_p", json!(1.5)),
            ("top_k", json!(0.5)),
            ("do_sample", json!(1)),
            ("repetition_penalty", json!(0)),
        ] {
            let error = parse(json!({ key: value }), json!({})).unwrap_err();
            let text = error.to_string();
            let place = format!("generation_config.json: {key}");
            assert!(text.contains(&place), "{text}");
        }
        let error = parse(Value::Null, json!({"eos_token_id": {}})).unwrap_err();
        assert!(error.to_string().contains("model/config.json"), "{error}");
    }
}
