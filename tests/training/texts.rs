//! `aios finetune` on records with a text each: packed, and each sees itself alone.

use crate::common::lab::{Events, Lab, stderr};
use crate::common::root;
use crate::decoders::assert_near;
use serde_json::{Value, json};

const RUN: &str =
    "--lr 1e-3 --lr-schedule constant --warmup-steps 0 --no-amp --device cpu --bundle-dir brains";

/// Texts of several lengths, and the same ones as completions of nothing, which are rows.
fn lab() -> Lab {
    let lab = Lab::new();
    let text = |n: usize| format!("{n} {}", "why not ".repeat(1 + n % 4));
    let texts = (0..10).map(|n| format!("{}\n", json!({"text": text(n)})));
    lab.write("texts.jsonl", texts.collect::<String>());
    let pairs = (0..10).map(|n| format!("{}\n", json!({"prompt": "", "completion": text(n)})));
    lab.write("pairs.jsonl", pairs.collect::<String>());
    lab
}

fn line(data: &str, flags: &str) -> String {
    let model = root().join("tests/golden/decoders/a/llama");
    format!(
        "finetune --model {} --dataset-file {data} {RUN} {flags}",
        model.display()
    )
}

fn train(lab: &Lab, data: &str, name: &str, flags: &str) -> Events {
    let flags = format!("--quiet --brain-name {name} --log-file {name}.jsonl {flags}");
    lab.succeed(&line(data, &flags));
    lab.events(name)
}

fn rows(events: &Events) -> Value {
    events.of("start")[0]["rows"].clone()
}

#[test]
fn packed_texts_have_the_loss_of_each_alone() {
    let lab = lab();
    let alone = "--train-on all --no-packing --max-seq-len 96 --batch-size 10 --steps 1";
    let alone = train(&lab, "pairs.jsonl", "a", alone);
    let packed = rows(&train(
        &lab,
        "texts.jsonl",
        "b",
        "--max-seq-len 96 --steps 1",
    ));
    let sequences = packed["sequences"].as_u64().unwrap();
    assert!(sequences < 6, "{packed}");
    assert_eq!(
        (&packed["form"], &packed["kept"]),
        (&json!("text"), &json!(10))
    );
    let all = format!("--max-seq-len 96 --batch-size {sequences} --steps 1");
    let packed = train(&lab, "texts.jsonl", "c", &all);
    assert_near("llama", packed.steps("ce")[0], alone.steps("ce")[0], 1e-5);
    assert_eq!(
        packed.steps("trained_tokens"),
        alone.steps("trained_tokens")
    );
}

#[test]
fn a_long_text_goes_on_in_another_row_and_each_token_is_learnt_once() {
    let lab = lab();
    let of = |name: &str, flags: &str| {
        let flags = format!("--max-seq-len 12 --steps 1 {flags}");
        rows(&train(&lab, "texts.jsonl", name, &flags))
    };
    let [long, short] = [of("a", ""), of("b", "--max-seq-len 96")];
    assert!(long["too_long"].as_u64().unwrap() > 0 && long["tokens_cut_off"] == 0);
    assert!(long["kept"].as_u64().unwrap() > 10, "{long}");
    assert_eq!(long["trained_tokens"], short["trained_tokens"]);
    assert_eq!(of("c", "--too-long drop")["too_long"], long["too_long"]);
}

#[test]
fn texts_are_joined_if_that_is_asked_for_and_the_start_says_which() {
    let lab = lab();
    for flags in ["--no-packing", "--full-windows", "--pack-rows"] {
        let flags = format!("{flags} --max-seq-len 24 --steps 1");
        assert!(rows(&train(&lab, "texts.jsonl", "a", &flags)).is_null());
    }
    assert!(rows(&train(&lab, "text.txt", "b", "--steps 1")).is_null());
    let flags = "--packing --steps 1 --max-seq-len 64";
    assert_eq!(rows(&train(&lab, "text.txt", "c", flags))["form"], "text");
    let output = lab.run(&line("texts.jsonl", "--steps 1 --max-seq-len 64"));
    let words = "texts, each of which sees itself alone (--no-packing joins them)";
    let text = stderr(&output);
    assert!(
        text.contains(words) && text.contains("packed into"),
        "{text}"
    );
}

#[test]
fn held_out_texts_are_whole_and_scored_as_by_eval() {
    let lab = lab();
    let flags = "--max-seq-len 96 --steps 2 --eval-every 2 --eval-file texts.jsonl";
    let events = train(&lab, "texts.jsonl", "a", flags);
    let loss = events.of("eval").last().unwrap()["loss"].as_f64().unwrap();
    let scored = lab.succeed("eval brains/a --file texts.jsonl --json --device cpu");
    let scored: Value = serde_json::from_str(&scored).unwrap();
    assert_near("eval", scored["loss"].as_f64().unwrap(), loss, 1e-5);
    let flags = "--max-seq-len 96 --steps 1 --eval-split 0.3";
    assert_eq!(rows(&train(&lab, "texts.jsonl", "b", flags))["kept"], 7);
}
