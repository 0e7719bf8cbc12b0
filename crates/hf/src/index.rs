//! `model.safetensors.index.json`: which file has which tensor.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use aios_base::files::stays_inside;

use crate::json::twice;

/// The longest known has 15 MB.
pub(crate) const LONGEST_INDEX: u64 = 100 << 20;
const WEIGHT_MAP: &str = "weight_map";

/// Files with the names of their tensors.
pub(crate) type Shards = BTreeMap<String, Vec<String>>;

/// What an index says.
///
/// # Errors
/// In words: what is wrong, with the name of the tensor.
pub(crate) fn parse(json: &[u8]) -> Result<Shards, String> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let pairs = reader.deserialize_map(Index);
    let pairs = pairs.map_err(|cause| cause.to_string())?;
    reader.end().map_err(|cause| cause.to_string())?;
    if let Some(name) = twice(pairs.iter().map(|(name, _)| name.as_str())) {
        return Err(format!("it says twice where tensor {name} is"));
    }
    let mut shards = Shards::new();
    for (name, file) in pairs {
        if !stays_inside(&file) || !file.ends_with(".safetensors") {
            return Err(format!(
                "it says that tensor {name} is in {file:?}, which is not the name of a safetensors file beside it"
            ));
        }
        shards.entry(file).or_default().push(name);
    }
    Ok(shards)
}

/// Takes the one list of an index; what else stands in it counts for nothing.
struct Index;

impl<'de> Visitor<'de> for Index {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object with {WEIGHT_MAP}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != WEIGHT_MAP {
                map.next_value::<IgnoredAny>()?;
            } else if pairs.is_some() {
                return Err(A::Error::duplicate_field(WEIGHT_MAP));
            } else {
                pairs = Some(map.next_value_seed(WeightMap)?);
            }
        }
        pairs.ok_or_else(|| A::Error::missing_field(WEIGHT_MAP))
    }
}

/// Takes every pair, also those whose names are the same.
struct WeightMap;

impl<'de> DeserializeSeed<'de> for WeightMap {
    type Value = Vec<(String, String)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("names of tensors with names of files")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let file = map.next_value::<String>();
            let file = file.map_err(|cause| A::Error::custom(format!("tensor {name}: {cause}")))?;
            pairs.push((name, file));
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        parse(json.as_bytes()).unwrap_err()
    }

    #[test]
    fn tensors_are_sorted_by_file() {
        let json = r#"{"metadata": {"total_size": -1}, "weight_map": {"b": "2.safetensors", "a": "1.safetensors",
            "c": "2.safetensors"}}"#;
        let shards = parse(json.as_bytes()).unwrap();
        assert_eq!(shards["1.safetensors"], ["a"]);
        assert_eq!(shards["2.safetensors"], ["b", "c"]);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused_with_its_tensor() {
        for file in [
            "../x.safetensors",
            "/x.safetensors",
            "a/../../x.safetensors",
            "C:x.safetensors",
            "",
            "x.bin",
            "..",
        ] {
            let json = serde_json::json!({"weight_map": {"layer": file}}).to_string();
            assert!(error(&json).contains("tensor layer"), "{file}");
        }
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        let deep = format!("{{\"metadata\": {}", "[".repeat(100_000));
        for (json, word) in [
            ("[]", "weight_map"),
            ("{}", "weight_map"),
            (r#"{"weight_map": {"a": 1}}"#, "tensor a"),
            (r#"{"weight_map": {}, "weight_map": {}}"#, "duplicate"),
            (
                r#"{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}"#,
                "twice where tensor a",
            ),
            (r#"{"weight_map": {}} x"#, "trailing"),
            (&deep, "EOF"),
        ] {
            assert!(error(json).contains(word), "{}", error(json));
        }
    }
}
