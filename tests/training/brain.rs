//! What a saved brain is good for: text, scores, and a start for others.

use crate::common::lab::{Lab, tensors};
use serde_json::Value;
use std::io::Read;
use std::process::Stdio;

fn trained() -> Lab {
    let lab = Lab::new();
    lab.train("a", "--steps 30 --lr 3e-3 --batch-size 4");
    lab
}

const GENERATE: &str = "generate brains/a --device cpu --max-new-tokens 30 --prompt The";

#[test]
fn the_same_seed_gives_the_same_text() {
    let lab = trained();
    let text = |seed: u32| lab.succeed(&format!("{GENERATE} --seed {seed}"));
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
    assert!(text(1).starts_with("The"));
}

#[test]
fn temperature_zero_needs_no_seed() {
    let lab = trained();
    let text = |seed: u32| lab.succeed(&format!("{GENERATE} --temperature 0 --seed {seed}"));
    assert_eq!(text(1), text(2));
}

#[test]
fn filters_that_leave_one_token_take_the_likeliest() {
    let lab = trained();
    let text = |flags: &str| lab.succeed(&format!("{GENERATE} {flags}"));
    let likeliest = text("--temperature 0");
    for filter in ["--top-k 1", "--top-p 1e-9", "--min-p 1"] {
        assert_eq!(text(&format!("{filter} --seed 5")), likeliest, "{filter}");
    }
    let penalized = text("--temperature 0 --repetition-penalty 9");
    assert_ne!(penalized, likeliest);
}

#[test]
fn text_as_json_is_the_text_that_streams() {
    let lab = trained();
    let json: Value = serde_json::from_str(&lab.succeed(&format!("{GENERATE} --json"))).unwrap();
    assert_eq!(json["prompt"], "The");
    let whole = format!("The{}\n", json["text"].as_str().unwrap());
    assert_eq!(lab.succeed(GENERATE), whole);
    assert!((1..=30).contains(&json["tokens"].as_u64().unwrap()));
}

/// The prompt is there to read while the model still writes.
#[test]
fn text_streams() {
    let lab = trained();
    let line = GENERATE.replace("30", "1000000");
    let mut command = lab.command(&format!("{line} --temperature 9 --top-k 0"));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"The"));
    // Its reader is gone, which ends it without a fuss.
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_prompt_comes_from_standard_input() {
    let lab = trained();
    lab.write("prompt", "The\n");
    let mut command = lab.command(&GENERATE.replace("The", "-"));
    command.stdin(std::fs::File::open(lab.path("prompt")).unwrap());
    let output = command.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        lab.succeed(GENERATE)
    );
}

#[test]
fn scores_agree_with_each_other_and_with_training() {
    let lab = trained();
    let line = "eval brains/a --file text.txt --device cpu";
    let score: Value = serde_json::from_str(&lab.succeed(&format!("{line} --json"))).unwrap();
    let number = |field: &str| score[field].as_f64().unwrap();
    assert!((number("perplexity") / number("loss").exp() - 1.0).abs() < 1e-9);
    // Tokens are bytes here, but for the ends of documents.
    let bits = number("loss") / std::f64::consts::LN_2;
    assert!((number("bits_per_byte") / bits - 1.0).abs() < 0.02);
    assert!(number("loss") < 5.0, "{}", number("loss"));
    let text = lab.succeed(line);
    for words in ["loss ", "perplexity ", "bits per byte "] {
        assert!(text.contains(words), "{text}");
    }
    // The evaluation of a training run is the same measurement.
    let flags = "--resume --steps 30 --batch-size 4 --eval-file text.txt --eval-batches 0";
    let events = lab.train("a", flags);
    let loss = events.of("eval")[0]["loss"].as_f64().unwrap();
    assert!((loss - number("loss")).abs() < 1e-6, "{loss}");
}

#[test]
fn initial_weights_come_from_a_bundle_or_a_file() {
    let lab = trained();
    let before = tensors(&lab.brain("a").join("model.safetensors"));
    // A rate that changes no weight.
    for (name, source) in [("b", "brains/a"), ("c", "brains/a/model.safetensors")] {
        let flags = format!("--steps 1 --lr 1e-30 --seed 9 --student-init {source}");
        let events = lab.train(name, &flags);
        assert_eq!(events.steps("step"), [1.0]);
        assert!(events.of("resume").is_empty());
        let after = tensors(&lab.brain(name).join("model.safetensors"));
        assert!(after == before, "other weights than {source}");
    }
}

#[test]
fn a_moved_bundle_still_works() {
    let lab = trained();
    let text = lab.succeed(GENERATE);
    std::fs::rename(lab.brain("a"), lab.path("elsewhere")).unwrap();
    std::fs::remove_file(lab.path("tokenizer.json")).unwrap();
    let line = GENERATE.replace("brains/a", "elsewhere");
    assert_eq!(lab.succeed(&line), text);
}
