//! `aios schema`: a JSON Schema of configuration files, for editors.
//!
//! Keys and their types are asked of the configuration itself, words and possible values of the flags: neither is said twice.

use std::collections::BTreeMap;

use clap::{Arg, Args, Command, CommandFactory};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::Cli;
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};
use aios_base::terminal::write_stdout;

/// Commands whose flags are keys; what an earlier one says goes first.
const COMMANDS: [&str; 3] = ["train", "finetune", "pretrain"];
/// The one key that no flag has the name of, and the command whose `--model` it is.
const PRETRAINED: (&str, &str, &str) = ("pretrained", "finetune", "model");

/// What every key takes that takes any text, and those for sizes.
const SOME_TEXT: &str = "1GiB";

/// Arguments of `aios schema`.
#[derive(Debug, Clone, Args)]
pub struct SchemaArgs {}

/// A schema that Taplo (Even Better TOML) and others read.
#[derive(Serialize)]
struct Schema {
    #[serde(rename = "$schema")]
    schema: &'static str,
    title: &'static str,
    description: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "additionalProperties")]
    others: bool,
    /// One takes the place of the other.
    not: Value,
    properties: BTreeMap<String, Property>,
}

/// A key.
#[derive(Debug, Serialize)]
struct Property {
    description: String,
    #[serde(rename = "type")]
    kind: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum: Option<u8>,
    #[serde(rename = "enum", skip_serializing_if = "Vec::is_empty")]
    values: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<Value>,
}

/// Writes the schema to standard output.
///
/// # Errors
/// The reader has gone.
pub fn run(_: SchemaArgs) -> Result<()> {
    write_stdout(schema()?.as_bytes())
}

fn schema() -> Result<String> {
    let defaults = json_of(&TrainConfig::default())?;
    let Value::Object(keys) = &defaults else {
        return Err(Error::failed("the configuration is not a set of keys"));
    };
    let mut cli = Cli::command();
    cli.build();
    let property = |(key, default): (&String, &Value)| {
        Some((key.clone(), property(&cli, key, default, &defaults)?))
    };
    let schema = Schema {
        schema: "http://json-schema.org/draft-07/schema#",
        title: "aios",
        description: "What --config of aios train, finetune and pretrain reads",
        kind: "object",
        others: false,
        not: json!({"required": ["steps", "epochs"]}),
        properties: keys.iter().filter_map(property).collect(),
    };
    let text = serde_json::to_string_pretty(&schema)
        .map_err(|cause| Error::failed(format!("cannot write JSON: {cause}")))?;
    Ok(text + "\n")
}

fn json_of(config: &TrainConfig) -> Result<Value> {
    serde_json::to_value(config)
        .map_err(|cause| Error::failed(format!("cannot write the configuration: {cause}")))
}

/// `None` for a key that no flag explains, which a test forbids.
fn property(cli: &Command, key: &str, default: &Value, defaults: &Value) -> Option<Property> {
    let flags = flags(cli, key);
    let values: Vec<String> = flags
        .first()?
        .1
        .get_possible_values()
        .iter()
        .map(|value| value.get_name().to_string())
        .collect();
    let takes = |value: Value| takes(defaults, key, value);
    let of_strings = takes(json!(SOME_TEXT)) || values.iter().any(|value| takes(json!(value)));
    let of_strings = of_strings || default.is_string();
    let number = match takes(json!(0.5)) {
        true => Some("number"),
        false => takes(json!(1)).then_some("integer"),
    };
    let is_array = default.is_array();
    let kinds = [
        takes(json!(true)).then_some("boolean"),
        number,
        of_strings.then_some("string"),
        is_array.then_some("array"),
    ];
    let kinds: Vec<&str> = kinds.into_iter().flatten().collect();
    Some(Property {
        description: description(&flags),
        minimum: (number == Some("integer") && !takes(json!(-1))).then_some(0),
        kind: match kinds.as_slice() {
            [kind] => json!(kind),
            several => json!(several),
        },
        values: if of_strings { values } else { Vec::new() },
        items: is_array.then(|| json!({"type": "string"})),
        default: Some(default.clone()).filter(|default| !default.is_null()),
    })
}

/// Whether the configuration takes this value for a key.
fn takes(defaults: &Value, key: &str, value: Value) -> bool {
    let mut config = defaults.clone();
    config[key] = value;
    serde_json::from_value::<TrainConfig>(config).is_ok()
}

/// The flags of a key, with the commands that have them.
fn flags<'a>(cli: &'a Command, key: &str) -> Vec<(&'static str, &'a Arg)> {
    let long = key.replace('_', "-");
    let flag = |command: &'static str, long: &str| {
        let mut arguments = cli.find_subcommand(command)?.get_arguments();
        let found = arguments.find(|argument| argument.get_long() == Some(long))?;
        Some((command, found))
    };
    match PRETRAINED {
        (pretrained, command, long) if key == pretrained => {
            flag(command, long).into_iter().collect()
        }
        _ => COMMANDS
            .iter()
            .filter_map(|command| flag(command, &long))
            .collect(),
    }
}

/// What the help of these flags says; of several that differ, each with its command.
fn description(flags: &[(&'static str, &Arg)]) -> String {
    let mut said: Vec<(&str, String)> = Vec::new();
    for (command, flag) in flags {
        let long = flag.get_long_help().or(flag.get_help());
        let text = long.map(ToString::to_string).unwrap_or_default();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if said.iter().all(|(_, before)| *before != text) {
            said.push((command, text));
        }
    }
    match said.as_slice() {
        [(_, text)] => text.clone(),
        several => {
            let each = several
                .iter()
                .map(|(command, text)| format!("aios {command}: {text}"));
            each.collect::<Vec<_>>().join("\n\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parsed() -> Value {
        serde_json::from_str(&schema().unwrap()).unwrap()
    }

    #[test]
    fn every_key_of_the_configuration_is_there_and_explained() {
        let schema = parsed();
        let properties = schema["properties"].as_object().unwrap();
        let config = json_of(&TrainConfig::default()).unwrap();
        let mut keys: Vec<&String> = config.as_object().unwrap().keys().collect();
        keys.sort();
        let mut explained: Vec<&String> = properties.keys().collect();
        explained.sort();
        assert_eq!(explained, keys);
        for (key, property) in properties {
            assert!(
                !property["description"].as_str().unwrap().is_empty(),
                "{key}"
            );
        }
    }

    #[test]
    fn defaults_and_possible_values_are_taken() {
        let schema = parsed();
        let defaults = json_of(&TrainConfig::default()).unwrap();
        for (key, property) in schema["properties"].as_object().unwrap() {
            let values = property["enum"].as_array().into_iter().flatten();
            for value in values.chain(property.get("default")) {
                assert!(takes(&defaults, key, value.clone()), "{key} = {value}");
            }
            let default = property.get("default").unwrap_or(&Value::Null);
            assert_eq!(*default, defaults[key], "{key}");
        }
    }

    #[test]
    fn types_are_those_of_the_configuration() {
        let schema = parsed();
        for (key, kind) in [
            ("steps", "integer"),
            ("lr", "number"),
            ("epochs", "number"),
            ("lora_rank", "integer"),
            ("amp", "boolean"),
            ("packing", "boolean"),
            ("resume", "boolean"),
            ("dataset_file", "string"),
            ("quantize", "string"),
            ("add_tokens", "array"),
        ] {
            assert_eq!(schema["properties"][key]["type"], kind, "{key}");
        }
        let sizes = &schema["properties"]["memory_limit"]["type"];
        assert_eq!(*sizes, json!(["integer", "string"]));
        let pretrained = &schema["properties"]["pretrained"]["description"];
        assert!(pretrained.as_str().unwrap().contains("GGUF"));
        assert_eq!(
            schema["properties"]["lr_schedule"]["enum"],
            json!(["cosine", "constant"])
        );
    }

    #[test]
    fn the_published_schema_is_this_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.schema.json");
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            published.replace("\r\n", "\n") == schema().unwrap(),
            "out of date: aios schema > docs/config.schema.json"
        );
    }
}
