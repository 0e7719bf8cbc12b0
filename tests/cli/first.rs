//! The first run: nothing but the program, in an empty folder.

use crate::common::lab::{Lab, assert_clear_error, finish, stderr};
use crate::decoders::folder;
use serde_json::Value;
use std::fs;

#[test]
fn alone_it_says_what_to_do_next_in_three_lines() {
    let said = Lab::new().succeed("");
    assert_eq!(said.lines().count(), 3);
    assert!(said.contains("aios train --config quickstart"), "{said}");
}

#[test]
fn a_built_in_preset_trains_on_built_in_text_in_an_empty_folder() {
    let lab = Lab::new();
    let home = lab.path("home");
    fs::create_dir(&home).unwrap();
    let line = "train --config quickstart --steps 2 --warmup-steps 1 --sample-every 0 --no-supervise --device cpu \
                --hidden-size 32 --max-seq-len 32 --batch-size 1";
    let mut command = lab.command(line);
    command
        .current_dir(&home)
        .env_remove("AIOS_CACHE_DIR")
        .env_remove("XDG_CACHE_HOME")
        .env("HOME", &home);
    let output = finish(command);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(home.join("artifacts/brains/actv1/quickstart").is_dir());
    let config = home.join("artifacts/brains/actv1/quickstart.jsonl");
    let first = fs::read_to_string(config).unwrap();
    let start: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert_eq!(start["config"]["dataset_file"], "builtin:stories");
}

#[test]
fn a_file_goes_before_the_preset_of_its_name() {
    let lab = Lab::new();
    lab.write("quickstart", "steps = 1\nseed = 9\n");
    let events = lab.train("a", "--config quickstart");
    assert_eq!(events.of("start")[0]["config"]["seed"], 9);
}

#[test]
fn an_unknown_preset_is_an_error_that_names_the_known() {
    let output = Lab::new().try_train("a", "--config fastest");
    assert_clear_error(&output, 2, &["fastest", "quickstart", "long-context"]);
}

#[test]
fn a_run_on_built_in_text_goes_on() {
    let lab = Lab::new();
    let given = "--model builtin:stories --dataset-file builtin:stories";
    lab.train("a", &format!("{given} --steps 1"));
    let output =
        lab.run("train --quiet --device cpu --bundle-dir brains --brain-name a --resume --steps 2");
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn init_writes_what_trains() {
    let lab = Lab::new();
    lab.write("book.txt", "One fine day it rained.\n\n".repeat(400));
    let model = folder("llama").display().to_string();
    let line = format!(
        "init --goal lora --model {model} --dataset-file book.txt --max-seq-len 32 --device cpu -o my.toml"
    );
    let command = lab.succeed(&line);
    assert_eq!(command, "aios finetune --config my.toml\n");
    let text = fs::read_to_string(lab.path("my.toml")).unwrap();
    assert!(text.contains("lora_rank = 16"), "{text}");
    lab.succeed("finetune --config my.toml --steps 1 --sample-every 0 --quiet --save-dir out --log-file a.jsonl");
    let config = &lab.events("a").of("start")[0]["config"].clone();
    assert_eq!(config["brain_name"], "book-lora");
    let again = lab.run(&line);
    assert_clear_error(&again, 2, &["my.toml", "--force"]);
    lab.succeed(&format!("{line} --force"));
}

#[test]
fn init_asks_nobody_where_there_is_no_terminal() {
    let lab = Lab::new();
    let output = lab.run("init --goal lora --dataset-file text.txt");
    assert_clear_error(&output, 2, &["terminal", "--model"]);
    let output = lab.run("init --goal lora --dataset-file missing.txt");
    assert_clear_error(&output, 2, &["missing.txt"]);
    let output = lab.run("init --goal pretrain --dataset-file text.txt --model no.json");
    assert_clear_error(&output, 1, &["no.json", "actv1"]);
    assert!(!lab.path("aios.toml").exists());
}

#[test]
fn init_refuses_what_the_training_would_refuse() {
    let lab = Lab::new();
    lab.write("empty.txt", "");
    lab.write("blank.txt", "\n\n\n");
    lab.write("noise.bin", [b'a', 0, 159, 146, 150].repeat(100));
    lab.write("broken.jsonl", "{\"messages\": bro\n");
    let message = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n";
    lab.write("chat.jsonl", message);
    let init = |dataset: &str, model: &str| {
        lab.run(&format!(
            "init --goal pretrain --model {model} --dataset-file {dataset} --device cpu -o my.toml"
        ))
    };
    // Alone, so that there is no chat template beside it.
    fs::copy(folder("llama").join("config.json"), lab.path("config.json")).unwrap();
    assert_clear_error(&init("empty.txt", "actv1"), 1, &["is empty"]);
    assert_clear_error(&init("blank.txt", "actv1"), 1, &["is empty"]);
    assert_clear_error(&init("noise.bin", "actv1"), 1, &["noise.bin", "UTF-8"]);
    assert_clear_error(
        &init("broken.jsonl", "actv1"),
        1,
        &["broken.jsonl", "line 1"],
    );
    assert_clear_error(&init("chat.jsonl", "actv1"), 2, &["conversations", "actv1"]);
    assert_clear_error(
        &init("chat.jsonl", "config.json"),
        2,
        &["conversations", "chat template"],
    );
    assert!(!lab.path("my.toml").exists());
}

#[test]
fn init_takes_less_memory_where_there_is_less() {
    let lab = Lab::new();
    let line = |limit: &str| {
        format!(
            "init --goal pretrain --model actv1 --dataset-file builtin:stories --device cpu --force --memory-limit {limit}"
        )
    };
    lab.succeed(&line("8GiB"));
    let much = fs::read_to_string(lab.path("aios.toml")).unwrap();
    assert!(much.contains("batch_size = 8"), "{much}");
    let none = lab.run(&line("32MiB"));
    assert_clear_error(&none, 1, &["nothing fits"]);
}

#[test]
fn the_doctor_finds_a_cpu_that_works_and_tells_no_secret() {
    let lab = Lab::new();
    let home = lab.path("home/lovelace");
    fs::create_dir_all(&home).unwrap();
    let mut command = lab.command("doctor --json");
    command
        .env("HF_TOKEN", "hf_secret")
        .env("HOME", &home)
        .env("HF_HOME", home.join("hub"))
        .env("CUDA_PATH", "/home/grace/cuda");
    let output = finish(command);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for private in ["hf_secret", "grace", "lovelace"] {
        assert!(!text.contains(private), "{private}: {text}");
    }
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["environment"]["HF_TOKEN"], "set, not shown");
    let trials = found["trials"].as_array().unwrap();
    let cpu = trials.iter().find(|trial| trial["device"] == "cpu");
    assert_eq!(cpu.unwrap()["failure"], Value::Null);
}

#[test]
fn the_doctor_looks_without_trying() {
    let text = Lab::new().succeed("doctor --quick");
    for words in ["aios", "memory", "Devices", "cpu", "MPI", "HF_TOKEN"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn the_schema_is_json_with_the_keys() {
    let schema: Value = serde_json::from_str(&Lab::new().succeed("schema")).unwrap();
    assert_eq!(schema["properties"]["batch_size"]["default"], 8);
}
