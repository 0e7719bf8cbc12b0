//! `aios finetune` and `aios pretrain` from the command line to the bundle.

use crate::common::lab::{Events, Lab, assert_same_brain};
use crate::common::root;
use crate::decoders::{Tiny, assert_near};
use serde_json::json;
use std::path::PathBuf;

fn folder(name: &str) -> PathBuf {
    root().join("tests/golden/decoders/a").join(name)
}

/// The golden rows of a tiny model.
fn write_rows(lab: &Lab, tiny: &Tiny) {
    let (ids, labels) = (tiny.golden.ints("input_ids"), tiny.golden.ints("labels"));
    let seq = ids.len() / 2;
    let rows = ids.chunks(seq).zip(labels.chunks(seq));
    let line = |(ids, labels)| format!("{}\n", json!({"input_ids": ids, "labels": labels}));
    lab.write("rows.jsonl", rows.map(line).collect::<String>());
}

const PLAIN: &str = "--batch-size 2 --lr 1e-3 --lr-schedule constant --warmup-steps 0 --weight-decay 0 --grad-clip 0 \
    --no-amp --device cpu --quiet --bundle-dir brains";

fn finetune(lab: &Lab, model: &str, name: &str, flags: &str) -> Events {
    let model = folder(model);
    lab.succeed(&format!(
        "finetune --model {} --dataset-file rows.jsonl {PLAIN} --brain-name {name} --log-file {name}.jsonl {flags}",
        model.display()
    ));
    lab.events(name)
}

#[test]
fn fine_tuning_has_the_losses_of_transformers() {
    for name in ["llama", "gemma3", "gpt2", "hrm_text"] {
        let (lab, tiny) = (Lab::new(), Tiny::named(name));
        write_rows(&lab, &tiny);
        let losses = finetune(&lab, name, "a", "--steps 5").steps("loss");
        let want = tiny.golden.floats("adamw_losses");
        assert_eq!(losses.len(), want.len());
        for (step, want) in want.into_iter().enumerate() {
            let loss = losses[step];
            assert_near(
                &format!("{name} step {}", step + 1),
                loss,
                want.into(),
                1e-3,
            );
        }
    }
}

#[test]
fn a_resumed_decoder_is_the_uninterrupted_one() {
    let cases = [
        ("llama", "--use-8bit-optimizer"),
        ("gemma3", "--use-chunked-training --chunk-size 12"),
        ("gpt2", "--batch-size 1 --gradient-accumulation-steps 2"),
        ("hrm_text", "--amp --amp-dtype bf16"),
    ];
    for (name, flags) in cases {
        let lab = Lab::new();
        write_rows(&lab, &Tiny::named(name));
        finetune(&lab, name, "a", &format!("{flags} --steps 4"));
        finetune(&lab, name, "b", &format!("{flags} --steps 2"));
        lab.succeed(
            "finetune --resume --brain-name b --bundle-dir brains --steps 4 --device cpu --quiet",
        );
        assert_same_brain(&lab.brain("a"), &lab.brain("b"));
    }
}

#[test]
fn a_bundle_is_a_folder_to_go_on_from() {
    let lab = Lab::new();
    write_rows(&lab, &Tiny::named("qwen3"));
    finetune(&lab, "qwen3", "a", "--steps 1");
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
    ] {
        assert!(lab.brain("a").join(file).is_file(), "{file}");
    }
    let of = |place: &str| {
        lab.succeed(&format!(
            "eval {place} --file rows.jsonl --json --device cpu"
        ))
    };
    let loss = |line: String| -> f64 {
        let found: serde_json::Value = serde_json::from_str(&line).unwrap();
        found["loss"].as_f64().unwrap()
    };
    let before = loss(of(&format!("--model {}", folder("qwen3").display())));
    assert!(loss(of("brains/a")) < before);
    lab.succeed(&format!(
        "finetune --model brains/a --dataset-file rows.jsonl {PLAIN} --brain-name b --steps 1"
    ));
    lab.succeed("generate --model brains/b --prompt One --max-new-tokens 4 --device cpu");
}

#[test]
fn pretraining_begins_with_random_weights() {
    let lab = Lab::new();
    let model = folder("llama");
    let run = |name: &str, seed: u64| {
        lab.succeed(&format!(
            "pretrain --model-config {} --tokenizer tokenizer.json --dataset-file text.txt --max-seq-len 16 {PLAIN} \
             --brain-name {name} --log-file {name}.jsonl --steps 3 --seed {seed}",
            model.join("config.json").display()
        ));
        lab.events(name).steps("loss")
    };
    assert_eq!(run("a", 1), run("b", 1));
    assert_ne!(run("c", 2)[0], run("d", 3)[0]);
}

#[test]
fn what_is_to_be_trained_has_to_be_given() {
    let lab = Lab::new();
    for (line, word) in [("finetune", "--model"), ("pretrain", "--model-config")] {
        let output = lab.run(&format!("{line} --dataset-file text.txt"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(word), "{text}");
    }
}
