use clap::{ArgAction, Command, CommandFactory, Parser};
use serde_json::{Map, Value, json};

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    flags: TrainFlags,
}

fn command() -> Command {
    let mut command = Line::command();
    command.build();
    command
}

fn config_after(arguments: &[&str]) -> TrainConfig {
    let line = Line::try_parse_from(std::iter::once(&"test").chain(arguments)).unwrap();
    let mut config = TrainConfig::default();
    line.flags.apply(&mut config);
    config
}

fn keys(config: &TrainConfig) -> Map<String, Value> {
    serde_json::to_value(config)
        .unwrap()
        .as_object()
        .unwrap()
        .clone()
}

/// Long names of the flags that stand for a configuration key, with whether they take a value.
fn flags() -> Vec<(String, bool)> {
    command()
        .get_arguments()
        .filter_map(|arg| Some((arg.get_long()?.to_string(), arg.get_action().takes_values())))
        .filter(|(long, _)| {
            !long.starts_with("no-")
                && !matches!(long.as_str(), "config" | "help" | "optimize" | "dry-run")
        })
        .collect()
}

fn key_of(long: &str) -> String {
    long.replace('-', "_")
}

#[test]
fn clap_finds_no_mistake() {
    Line::command().debug_assert();
}

#[test]
fn flags_and_configuration_keys_are_the_same() {
    let mut flags: Vec<String> = flags().iter().map(|(long, _)| key_of(long)).collect();
    flags.sort();
    let mut keys: Vec<String> = keys(&TrainConfig::default())
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    // What `aios finetune` and `aios pretrain` have beside these.
    let own = self::keys_of_finetune();
    keys.retain(|key| !own.contains(key));
    keys.sort();
    assert_eq!(flags, keys);
}

#[derive(Debug, Parser)]
struct AdapterLine {
    #[command(flatten)]
    flags: AdapterFlags,
}

fn keys_of_finetune() -> Vec<String> {
    let mut command = AdapterLine::command();
    command.build();
    let long = command
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .filter(|long| !long.starts_with("no-"));
    let keys = long.map(key_of);
    let others = [
        "pretrained",
        "model_config",
        "add_tokens",
        "format",
        "chat_template",
        "train_on",
        "too_long",
        "packing",
    ];
    keys.chain(others.map(String::from)).collect()
}

#[test]
fn an_adapters_flags_reach_their_keys() {
    let defaults = keys(&TrainConfig::default());
    let line = "--lora-rank 4 --lora-alpha 8 --lora-dropout 0.1 --lora-targets q_proj --rslora --dora --train-embeddings --quantize nf4";
    for arguments in [line.split(' ').collect(), vec!["--adapter", "a"]] {
        let line = AdapterLine::try_parse_from(std::iter::once("test").chain(arguments.clone()));
        let mut config = TrainConfig::default();
        line.unwrap().flags.apply(&mut config);
        let changed = keys(&config);
        let given = arguments
            .iter()
            .filter(|argument| argument.starts_with("--"));
        let given: Vec<String> = given.map(|flag| key_of(&flag[2..])).collect();
        for (key, value) in &defaults {
            assert_eq!(changed[key] != *value, given.contains(key), "{key}");
        }
    }
}

#[test]
fn every_value_flag_reaches_its_key() {
    let defaults = keys(&TrainConfig::default());
    for (long, _) in flags().iter().filter(|(_, takes_value)| *takes_value) {
        let value = match long.as_str() {
            "pos-encodings" => "learned",
            "halt-reward" | "chunk-gradients" => "exact",
            "lr-schedule" => "constant",
            "text-documents" => "line",
            "text-format" => "json",
            "csv-separator" => "tab",
            "bad-records" => "skip",
            "device" => "cpu",
            "distributed" => "mpi",
            "amp-dtype" | "weights-dtype" => "bf16",
            "memory-limit" => "77MiB",
            _ => "77",
        };
        let key = key_of(long);
        let changed = keys(&config_after(&[&format!("--{long}"), value]));
        assert!(
            [json!(value), json!(77), json!(77.0)].contains(&changed[&key]),
            "{long}"
        );
        let others = defaults.iter().filter(|(other, _)| **other != key);
        assert!(
            others
                .clone()
                .all(|(other, value)| changed[other] == *value),
            "{long}"
        );
    }
}

#[test]
fn every_switch_has_both_forms_and_the_last_wins() {
    for (long, _) in flags().iter().filter(|(_, takes_value)| !takes_value) {
        let on = format!("--{long}");
        let off = format!("--no-{}", long.trim_start_matches("use-"));
        let full = format!("--no-{long}");
        for (arguments, expected) in [
            (vec![&on], true),
            (vec![&off], false),
            (vec![&full], false),
            (vec![&on, &off], false),
            (vec![&off, &on], true),
            (vec![&on, &on], true),
            (vec![&on, &off, &on, &off], false),
        ] {
            let arguments: Vec<&str> = arguments.into_iter().map(String::as_str).collect();
            let config = keys(&config_after(&arguments));
            assert_eq!(config[&key_of(long)], json!(expected), "{arguments:?}");
        }
    }
}

#[test]
fn help_states_the_true_defaults() {
    let defaults = keys(&TrainConfig::default());
    let mut adapter = AdapterLine::command();
    adapter.build();
    let (all, of_adapters) = (command(), adapter);
    for arg in all.get_arguments().chain(of_adapters.get_arguments()) {
        let Some(default) = arg.get_long().and_then(|long| defaults.get(&key_of(long))) else {
            continue;
        };
        let help = arg.get_help().unwrap().to_string();
        let stated = help
            .rsplit_once("[default: ")
            .map(|(_, rest)| rest.trim_end_matches(']'));
        match (default, stated) {
            (Value::Null, stated) => {
                assert!(stated.is_none_or(|text| text.contains(' ')), "{help}")
            }
            (Value::Bool(on), stated) => {
                assert_eq!(stated, Some(if *on { "on" } else { "off" }), "{help}")
            }
            (Value::String(text), stated) => assert_eq!(stated, Some(text.as_str()), "{help}"),
            (Value::Number(number), stated) => {
                assert_eq!(
                    stated.and_then(|text| text.parse().ok()),
                    number.as_f64(),
                    "{help}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn options_may_be_repeated_and_the_last_wins() {
    assert_eq!(config_after(&["--steps", "3", "--steps", "4"]).steps, 4);
}

#[test]
fn a_run_is_as_long_as_its_steps_or_its_epochs() {
    let both = ["test", "--steps", "3", "--epochs", "2"];
    assert_eq!(Line::try_parse_from(both).unwrap_err().exit_code(), 2);
    let line = Line::try_parse_from(["test", "--steps", "3"]).unwrap();
    let mut config = TrainConfig {
        epochs: Some(2.0),
        ..TrainConfig::default()
    };
    line.flags.apply(&mut config);
    assert_eq!((config.steps, config.epochs), (3, None));
}

#[test]
fn negative_numbers_reach_the_checks() {
    assert_eq!(config_after(&["--lr", "-2e-4"]).lr, -2e-4);
    assert!(Line::try_parse_from(["test", "--steps", "-1"]).is_err());
}

#[test]
fn every_flag_has_a_help_text() {
    for arg in command().get_arguments() {
        assert!(arg.get_help().is_some(), "{:?}", arg.get_id());
        if !matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Help) {
            assert!(arg.get_value_names().is_some(), "{:?}", arg.get_id());
        }
    }
}

#[test]
fn help_names_every_preset() {
    let command = command();
    let mut flags = command.get_arguments();
    let config = flags.find(|arg| arg.get_long() == Some("config")).unwrap();
    let help = config.get_help().unwrap().to_string();
    for preset in aios_base::config::PRESETS {
        assert!(help.contains(preset.name), "{}", preset.name);
    }
}
