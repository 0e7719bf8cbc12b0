//! `--add-tokens`: in the tokenizer, the model, what is saved and what is merged.

use crate::common::lab::{Lab, assert_clear_error, stderr};
use crate::decoders::{assert_near, assert_resumes, folder};
use aios_data::Tokenizer;
use aios_hf::{Folder, TensorFile, Weights};
use serde_json::Value;

const RUN: &str = "--dataset-file added.jsonl --batch-size 2 --max-seq-len 48 --lr 1e-2 --lr-schedule constant \
    --warmup-steps 0 --no-amp --device cpu --bundle-dir brains";

fn lab() -> Lab {
    let lab = Lab::new();
    let line = |n: usize| format!("{{\"text\": \"<tool>{n}</tool> so it is {n}.\"}}\n");
    lab.write("added.jsonl", (0..8).map(line).collect::<String>());
    lab
}

fn line(model: &str, name: &str, flags: &str) -> String {
    format!(
        "finetune --model {} {RUN} --brain-name {name} --log-file {name}.jsonl --add-tokens <tool>,</tool> {flags}",
        folder(model).display()
    )
}

fn eval(lab: &Lab, place: &str) -> f64 {
    let found = lab.succeed(&format!(
        "eval {place} --file added.jsonl --json --device cpu"
    ));
    let found: Value = serde_json::from_str(&found).unwrap();
    found["loss"].as_f64().unwrap()
}

fn table(folder: &std::path::Path, name: &str) -> Vec<f32> {
    let folder = Folder::open(folder).unwrap();
    assert_eq!(folder.config()["vocab_size"], 290);
    let weights = Weights::open(&folder).unwrap();
    let (_, shape) = weights.info(name).unwrap();
    assert_eq!(shape[0], 290, "{name}");
    weights.read_f32(name).unwrap()
}

#[test]
fn new_rows_are_the_mean_and_stand_in_all_that_is_saved() {
    let lab = lab();
    let output = lab.run(&line("llama", "a", "--steps 1 --lr 1e-30 --weight-decay 0"));
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    let words = "2 added: <tool> = 288, </tool> = 289; vocabulary 290, before 288";
    assert!(text.contains(words), "{text}");
    let tokenizer = Tokenizer::load(&lab.brain("a").to_string_lossy()).unwrap();
    assert_eq!(tokenizer.encode("<tool></tool>").unwrap(), [288, 289]);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let values = table(&lab.brain("a"), name);
        let width = values.len() / 290;
        let (old, new) = values.split_at(288 * width);
        for (at, value) in new.iter().enumerate() {
            let column = old.iter().skip(at % width).step_by(width);
            let mean = column.map(|v| f64::from(*v)).sum::<f64>() / 288.0;
            assert_near(name, f64::from(*value), mean, 1e-5);
        }
    }
}

#[test]
fn a_resumed_run_with_new_tokens_is_the_uninterrupted_one() {
    for (model, flags) in [
        ("llama", "--quiet"),
        ("llama3_scaled_tied", "--quiet --lora-rank 2"),
        ("llama", "--quiet --lora-rank 2 --quantize q8_0"),
    ] {
        let lab = lab();
        assert_resumes(&lab, |brain, steps| {
            lab.succeed(&line(model, brain, &format!("{flags} {steps}")));
            lab.events(brain)
        });
        let other = line(model, "a", &format!("{flags} --steps 5 --resume")).replace("<tool>,", "");
        let words = ["--add-tokens <tool>,</tool>", "resume without"];
        assert_clear_error(&lab.run(&other), 2, &words);
    }
}

#[test]
fn an_adapter_has_the_rows_and_so_has_the_merged_model() {
    for model in ["llama", "llama3_scaled_tied"] {
        let lab = lab();
        let output = lab.run(&line(model, "a", "--lora-rank 2 --steps 4"));
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("as a whole (--train-embeddings)"), "{text}");
        let file = TensorFile::open(&lab.brain("a").join(aios_hf::ADAPTER_FILE)).unwrap();
        let own = file.shape("base_model.model.model.embed_tokens.weight");
        assert_eq!(own.unwrap()[0], 290);
        let base = folder(model).display().to_string();
        let loss = eval(&lab, "brains/a");
        let beside = eval(&lab, &format!("--model {base} --adapter brains/a"));
        assert_near("beside the model", beside, loss, 1e-6);
        lab.succeed("merge --adapter brains/a --output merged");
        table(&lab.path("merged"), "model.embed_tokens.weight");
        assert_near("merged", eval(&lab, "merged"), loss, 1e-4);
        lab.succeed(&format!(
            "generate --model {base} --adapter brains/a --device cpu --max-new-tokens 4 --prompt <tool>"
        ));
    }
}

#[test]
fn an_adapter_with_tokens_of_its_own_is_gone_on_with() {
    let lab = lab();
    lab.succeed(&line("llama", "a", "--lora-rank 2 --steps 4"));
    let going_on = "--adapter brains/a --steps 1 --lr 1e-30 --weight-decay 0";
    lab.succeed(&line("llama", "b", going_on).replace("--add-tokens <tool>,</tool>", ""));
    assert_near(
        "gone on with",
        eval(&lab, "brains/b"),
        eval(&lab, "brains/a"),
        1e-6,
    );
}

#[test]
fn tokens_that_a_tokenizer_has_beyond_the_vocabulary_get_rows_too() {
    let lab = lab();
    let own = Tokenizer::load(&folder("llama").to_string_lossy()).unwrap();
    let own = own
        .with_added(&["<tool>".into(), "</tool>".into()])
        .unwrap();
    own.save(&lab.path("tokenizer")).unwrap();
    let flags = "--steps 1 --quiet --tokenizer tokenizer";
    lab.succeed(&line("llama", "a", flags).replace("--add-tokens <tool>,</tool>", ""));
    table(&lab.brain("a"), "lm_head.weight");
}

#[test]
fn an_adapter_without_rows_for_a_tokenizers_tokens_is_one_clear_error() {
    let lab = lab();
    let without = |name: &str, flags: &str| {
        line("llama", name, flags).replace("--add-tokens <tool>,</tool>", "")
    };
    lab.succeed(&without("a", "--lora-rank 2 --steps 1"));
    lab.succeed(&line("llama", "b", "--steps 1"));
    let larger = without("c", "--adapter brains/a --tokenizer brains/b --steps 1");
    assert_clear_error(&lab.run(&larger), 2, &["<tool>", "--adapter has no rows"]);
}

#[test]
fn tokens_that_cannot_be_added_are_one_clear_error() {
    let lab = lab();
    let gpt2 = line("llama", "a", "--steps 1 --tokenizer gpt2");
    assert_clear_error(&lab.run(&gpt2), 2, &["--add-tokens", "gpt2"]);
    lab.succeed(&line("llama", "b", "--lora-rank 2 --steps 1 --quiet"));
    let going_on = line("llama", "c", "--adapter brains/b --steps 1");
    assert_clear_error(
        &lab.run(&going_on),
        2,
        &["--add-tokens <tool>", "--adapter"],
    );
}
