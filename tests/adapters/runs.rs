//! Adapters from the command line to the bundle.

use super::Adapter;
use crate::common::lab::{Events, Lab};
use crate::decoders::{assert_near, assert_resumes, folder, write_rows};
use serde_json::{Value, json};
use std::path::Path;

pub(super) const PLAIN: &str = "--batch-size 2 --lr-schedule constant --warmup-steps 0 --weight-decay 0 --grad-clip 0 --no-amp \
    --device cpu --quiet --bundle-dir brains";

pub(super) fn finetune(lab: &Lab, model: &str, name: &str, flags: &str) -> Events {
    let model = folder(model);
    lab.succeed(&format!(
        "finetune --model {} --dataset-file rows.jsonl {PLAIN} --brain-name {name} --log-file {name}.jsonl {flags}",
        model.display()
    ));
    lab.events(name)
}

/// The adapter that flags describe, of the model of a golden one, is the same with and without a resume.
pub(super) fn assert_adapter_resumes(name: &str, flags: &str) {
    let lab = Lab::new();
    write_rows(&lab, &Adapter::open("a", name).golden);
    let (_, base) = name.split_once('_').unwrap();
    assert_resumes(&lab, |brain, steps| {
        finetune(&lab, base, brain, &format!("{flags} {steps}"))
    });
}

pub(super) fn loss(lab: &Lab, place: &str) -> f64 {
    let line = lab.succeed(&format!(
        "eval {place} --file rows.jsonl --json --device cpu"
    ));
    let found: Value = serde_json::from_str(&line).unwrap();
    found["loss"].as_f64().unwrap()
}

#[test]
fn an_adapter_of_peft_goes_on_with_its_losses() {
    for name in super::PLAIN {
        let (lab, adapter) = (Lab::new(), Adapter::open("a", name));
        write_rows(&lab, &adapter.golden);
        let (_, base) = name.split_once('_').unwrap();
        let flags = format!("--adapter {} --lr 1e-2 --steps 5", adapter.path.display());
        let losses = finetune(&lab, base, "a", &flags).steps("loss");
        for (step, want) in adapter
            .golden
            .floats("adamw_losses")
            .into_iter()
            .enumerate()
        {
            assert_near(
                &format!("{name} step {}", step + 1),
                losses[step],
                want.into(),
                1e-3,
            );
        }
    }
}

#[test]
fn a_resumed_adapter_is_the_uninterrupted_one() {
    let cases = [
        ("lora_llama", "--lora-rank 4 --lora-targets q_proj,v_proj"),
        (
            "lora_llama",
            "--lora-rank 2 --train-embeddings --quantize q8_0",
        ),
        (
            "lora_gpt2",
            "--lora-rank 3 --rslora --dora --use-8bit-optimizer",
        ),
        ("lora_qwen3", "--lora-rank 8 --quantize nf4 --batch-size 1"),
        (
            "lora_hrm_text",
            "--lora-rank 2 --dora --quantize nf4 --batch-size 1",
        ),
    ];
    for (name, flags) in cases {
        assert_adapter_resumes(name, flags);
    }
}

#[test]
fn a_bundle_is_an_adapter_to_apply_to_merge_and_to_go_on_with() {
    for base in ["phi3", "hrm_text"] {
        check_bundle(base);
    }
}

fn check_bundle(model: &str) {
    let lab = Lab::new();
    write_rows(&lab, &Adapter::open("a", &format!("lora_{model}")).golden);
    let events = finetune(&lab, model, "a", "--lora-rank 4 --steps 3");
    let rate = events.steps("learning_rate")[0];
    assert_eq!(rate, 2e-4, "what suits an adapter");
    let has = |file: &str| lab.brain("a").join(file).is_file();
    for file in [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    ] {
        assert!(has(file), "{file}");
    }
    for file in ["model.safetensors", "config.json"] {
        assert!(!has(file), "{file}");
    }
    let base = folder(model);
    let base = base.display();
    let own = loss(&lab, "brains/a");
    let applied = loss(&lab, &format!("--model {base} --adapter brains/a"));
    let named = loss(&lab, "--adapter brains/a");
    assert!(own == applied && own == named);
    assert!(own < loss(&lab, &format!("--model {base}")));
    lab.succeed("merge --adapter brains/a --output merged");
    assert_near("merged", loss(&lab, "--model merged"), own, 1e-5);
    lab.succeed("generate --model merged --prompt One --max-new-tokens 4 --device cpu");
    lab.succeed("generate brains/a --prompt One --max-new-tokens 4 --device cpu");
    finetune(&lab, model, "b", "--adapter brains/a --steps 1");
}

#[test]
fn the_file_says_what_peft_wants_to_know() {
    let lab = Lab::new();
    write_rows(&lab, &Adapter::open("a", "lora_gpt2").golden);
    finetune(
        &lab,
        "gpt2",
        "a",
        "--lora-rank 3 --lora-alpha 6 --rslora --steps 1",
    );
    let text = std::fs::read(lab.brain("a").join("adapter_config.json")).unwrap();
    let found: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(found["peft_type"], "LORA");
    assert_eq!((&found["r"], &found["lora_alpha"]), (&json!(3), &json!(6)));
    assert_eq!(found["target_modules"], json!(["c_attn", "c_fc", "c_proj"]));
    assert_eq!(found["fan_in_fan_out"], true);
    assert_eq!(found["use_rslora"], true);
    let base = found["base_model_name_or_path"].as_str().unwrap();
    assert_eq!(Path::new(base), folder("gpt2"));
}

/// What a command says on standard error, and its exit code.
pub(super) fn refused(lab: &Lab, line: &str) -> (String, i32) {
    let output = lab.run(line);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{line}: {text}");
    (text, output.status.code().unwrap())
}

#[test]
fn what_is_no_adapter_of_the_model_is_refused_by_name() {
    let (lab, adapter) = (Lab::new(), Adapter::open("a", "lora_llama"));
    write_rows(&lab, &adapter.golden);
    let llama = folder("llama");
    let with = |what: &str, change: &dyn Fn(&mut Value)| {
        let dir = lab.path(what);
        std::fs::create_dir(&dir).unwrap();
        let text = std::fs::read(adapter.path.join("adapter_config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        change(&mut config);
        std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
        let file = "adapter_model.safetensors";
        std::fs::copy(adapter.path.join(file), dir.join(file)).unwrap();
        let line = format!(
            "eval --model {} --adapter {what} --file rows.jsonl --device cpu",
            llama.display()
        );
        refused(&lab, &line).0
    };
    let fewer = with("fewer", &|c| c["target_modules"] = json!(["q_proj"]));
    assert!(fewer.contains("belongs to no module"), "{fewer}");
    let wider = with("wider", &|c| c["r"] = json!(5));
    assert!(
        wider.contains("has shape [4, ") && wider.contains("[5, "),
        "{wider}"
    );
    let whole = with("whole", &|c| c["modules_to_save"] = json!(["lm_head"]));
    assert!(
        whole.contains("no tensor base_model.model.lm_head.weight"),
        "{whole}"
    );
    let bias = with("bias", &|c| c["bias"] = json!("all"));
    assert!(bias.contains("bias is \"all\""), "{bias}");
    let other = format!(
        "eval --model {} --adapter {} --file rows.jsonl --device cpu",
        folder("gpt2").display(),
        adapter.path.display()
    );
    let (text, _) = refused(&lab, &other);
    assert!(text.contains("is no module of this model"), "{text}");
}

#[test]
fn settings_that_contradict_each_other_are_bad_arguments() {
    let (lab, adapter) = (Lab::new(), Adapter::open("a", "lora_llama"));
    write_rows(&lab, &adapter.golden);
    let model = folder("llama");
    for (flags, word) in [
        ("--quantize nf4", "--lora-rank"),
        ("--lora-rank 0", "--lora-rank is 0"),
        ("--lora-rank 4 --lora-targets q_prj", "q_prj"),
        ("--lora-rank 4 --lora-alpha 0", "--lora-alpha"),
        ("--lora-rank 4 --lora-dropout 1", "--lora-dropout"),
        (
            "--lora-rank 4 --student-init x.safetensors",
            "--student-init",
        ),
    ] {
        let line = format!(
            "finetune --model {} --dataset-file rows.jsonl {PLAIN} --steps 1 {flags}",
            model.display()
        );
        let (text, code) = refused(&lab, &line);
        assert_eq!(code, 2, "{flags}: {text}");
        assert!(text.contains(word), "{flags}: {text}");
    }
}

#[test]
fn a_run_goes_on_with_the_adapter_that_it_has() {
    let lab = Lab::new();
    write_rows(&lab, &Adapter::open("a", "lora_llama").golden);
    finetune(&lab, "llama", "a", "--lora-rank 4 --steps 1");
    let resume =
        "finetune --resume --brain-name a --bundle-dir brains --device cpu --quiet --steps 2";
    let (text, code) = refused(&lab, &format!("{resume} --lora-rank 8"));
    assert!(code == 2 && text.contains("--lora-rank 4"), "{text}");
}

#[test]
fn a_device_without_the_files_format_holds_them_in_f32_and_says_so() {
    let lab = Lab::new();
    write_rows(&lab, &Adapter::open("a", "lora_llama").golden);
    finetune(&lab, "llama", "halves", "--weights-dtype bf16 --steps 1");
    let line = |name: &str, flags: &str| {
        format!(
            "finetune --model brains/halves --dataset-file rows.jsonl {PLAIN} --device ndarray --lora-rank 2 --steps 1 \
             --brain-name {name} --log-file {name}.jsonl {flags}"
        )
    };
    lab.succeed(&line("a", ""));
    let events = lab.events("a");
    let told = events.of("fallback");
    let frozen: Vec<_> = told
        .iter()
        .filter(|e| e["feature"] == "frozen weights")
        .collect();
    assert_eq!(frozen.len(), 1, "{told:?}");
    assert_eq!(
        (&frozen[0]["wanted"], &frozen[0]["used"]),
        (&json!("bf16"), &json!("f32"))
    );
    assert!(
        frozen[0]["reason"]
            .as_str()
            .unwrap()
            .contains("has no bf16")
    );
    let (text, code) = refused(&lab, &line("b", "--strict"));
    assert!(
        code == 1 && text.contains("frozen weights") && text.contains("bf16"),
        "{text}"
    );
    let on_cpu = line("c", "--strict").replace("--device ndarray", "--device cpu");
    lab.succeed(&on_cpu);
}
