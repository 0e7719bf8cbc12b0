//! `aios finetune` and `aios pretrain` from the command line to the bundle.

use crate::common::lab::{Events, Lab, assert_clear_error, stderr};
use crate::decoders::{Tiny, assert_near, assert_resumes, folder, write_rows};
use aios_hf::Dtype;
use serde_json::json;

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
        write_rows(&lab, &tiny.golden);
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
        ("qwen3", "--weights-dtype bf16 --use-8bit-optimizer"),
    ];
    for (name, flags) in cases {
        let lab = Lab::new();
        write_rows(&lab, &Tiny::named(name).golden);
        assert_resumes(&lab, |brain, steps| {
            finetune(&lab, name, brain, &format!("{flags} {steps}"))
        });
    }
}

#[test]
fn weights_in_bf16_stay_near_and_are_saved_as_they_are() {
    // Rounding grows over HRM-Text's eight runs of its stacks.
    for (name, bound) in [
        ("llama", 3e-2),
        ("gemma3", 3e-2),
        ("gpt2", 3e-2),
        ("hrm_text", 0.2),
    ] {
        let (lab, tiny) = (Lab::new(), Tiny::named(name));
        write_rows(&lab, &tiny.golden);
        let losses = finetune(&lab, name, "a", "--steps 5 --weights-dtype bf16").steps("loss");
        for (step, want) in tiny.golden.floats("adamw_losses").into_iter().enumerate() {
            let what = format!("{name} step {}", step + 1);
            assert_near(&what, losses[step], want.into(), bound);
        }
        let folder = aios_hf::Folder::open(&lab.brain("a")).unwrap();
        assert!(
            folder
                .config()
                .get("dtype")
                .is_none_or(|dtype| dtype == "bfloat16")
        );
        let weights = aios_hf::Weights::open(&folder).unwrap();
        for name in weights.names() {
            let (dtype, shape) = weights.info(name).unwrap();
            let held = if shape.len() > 1 {
                Dtype::BF16
            } else {
                Dtype::F32
            };
            assert_eq!(dtype, held, "{name}");
        }
    }
}

#[test]
fn a_bundle_is_a_folder_to_go_on_from() {
    let lab = Lab::new();
    write_rows(&lab, &Tiny::named("qwen3").golden);
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

/// A micro-batch that fits is found, tried, and then trains within the memory there is.
#[test]
fn the_largest_batch_of_a_decoder_is_found_and_trains() {
    let lab = Lab::new();
    let run = |flags: &str| {
        let model = folder("llama");
        lab.succeed(&format!(
            "finetune --model {} --device cpu --max-seq-len 64 {flags}",
            model.display()
        ))
    };
    let find =
        "--batch-size 64 --memory-limit 12MiB --no-amp --no-8bit-optimizer --optimize batch --json";
    let found: serde_json::Value = serde_json::from_str(&run(find)).unwrap();
    let size = found["size"].as_u64().unwrap();
    assert!((2..64).contains(&size) && 64 % size == 0, "{found}");
    let peak = found["measured"]["peak"].as_u64().unwrap();
    assert!((6 << 20..=12 << 20).contains(&peak), "{found}");
    let flags = found["flags"].as_str().unwrap();
    assert!(flags.contains(&format!("--batch-size {size}")), "{flags}");
    run(&format!(
        "{flags} --no-amp --dataset-file text.txt --steps 2 --memory-limit 24MiB --quiet --bundle-dir brains --log-file a.jsonl"
    ));
    let events = lab.events("a");
    assert!(events.of("oom_backoff").is_empty());
    assert_eq!(events.steps("batch_size"), [size as f64; 2]);
}

#[test]
fn the_longest_context_of_a_decoder_is_no_longer_than_it_was_made_for() {
    let lab = Lab::new();
    let size = |line: &str| {
        let found = lab.succeed(&format!(
            "{line} --device cpu --optimize context --batch-size 1 --dry-run --json"
        ));
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        found["size"].as_u64().unwrap()
    };
    let llama = format!("finetune --model {}", folder("llama").display());
    assert_eq!(size(&llama), 256);
    let gpt2 = folder("gpt2").join("config.json");
    assert_eq!(
        size(&format!("pretrain --model-config {}", gpt2.display())),
        128
    );
    let config = std::fs::read_to_string(folder("llama").join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = json!(1_000_000);
    lab.write("long.json", config.to_string());
    let found = size("pretrain --model-config long.json --memory-limit 16MiB");
    assert!(
        (256..1_000_000).contains(&found) && found % 64 == 0,
        "{found}"
    );
}

#[test]
fn a_text_may_be_longer_than_those_a_pretrained_model_was_fine_tuned_on() {
    let (lab, tiny) = (Lab::new(), Tiny::named("llama"));
    write_rows(&lab, &tiny.golden);
    // What was trained is what it was.
    finetune(&lab, "llama", "a", "--steps 1 --lr 1e-30 --max-seq-len 16");
    let generated = |model: &str| {
        lab.succeed(&format!(
            "generate {model} --prompt the-cat-sat-on-the-mat-and-looked-at-the-moon --max-new-tokens 100 --temperature 1 \
             --seed 1 --top-k 0 --top-p 1 --device cpu"
        ))
    };
    let model = folder("llama");
    let whole = generated(&format!("--model {}", model.display()));
    assert_eq!(generated("--bundle-dir brains --brain-name a"), whole);
}

#[test]
fn a_dataset_without_anything_to_learn_is_refused_before_training() {
    let lab = Lab::new();
    let run = |rows: &str, flags: &str| {
        lab.write("rows.jsonl", rows);
        lab.run(&format!(
            "finetune --model {} --dataset-file rows.jsonl {PLAIN} --steps 1 {flags}",
            folder("llama").display()
        ))
    };
    let ignored = "{\"input_ids\": [1, 2, 3], \"labels\": [-100, -100, -100]}\n";
    for rows in [ignored, "{\"input_ids\": [7]}\n"] {
        assert_clear_error(&run(rows, ""), 1, &["no token to be predicted", "-100"]);
        assert!(!lab.brain("default").join("model.safetensors").exists());
    }
    let good = "{\"input_ids\": [4, 5, 6]}\n";
    let output = run(&format!("{ignored}{good}"), "");
    assert!(output.status.success(), "{}", stderr(&output));
    let told = stderr(&output);
    assert_eq!(
        told.matches("1 of 2 sequences have no token").count(),
        1,
        "{told}"
    );
    lab.write("eval.jsonl", ignored);
    let output = run(good, "--eval-file eval.jsonl");
    assert_clear_error(&output, 1, &["the text to evaluate has no token"]);
}

/// A tiny model with other settings in its config.json.
fn altered(lab: &Lab, from: &str, to: &str, key: &str, value: serde_json::Value) {
    std::fs::create_dir_all(lab.path(to)).unwrap();
    for entry in std::fs::read_dir(folder(from)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), lab.path(to).join(entry.file_name())).unwrap();
    }
    let path = lab.path(to).join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn dropout_that_is_left_out_is_said_once() {
    let lab = Lab::new();
    write_rows(&lab, &Tiny::named("llama").golden);
    altered(&lab, "llama", "tiny", "attention_dropout", json!(0.1));
    let line = format!(
        "finetune --model tiny --dataset-file rows.jsonl {PLAIN} --steps 1 --log-file a.jsonl"
    );
    let output = lab.run(&line);
    let told = stderr(&output);
    assert!(output.status.success(), "{told}");
    assert_eq!(told.matches("attention_dropout 0.1").count(), 1, "{told}");
    let events = lab.events("a");
    assert_eq!(events.of("fallback")[0]["feature"], "dropout");
    let output = lab.run(&format!("{line} --strict"));
    assert_clear_error(&output, 1, &["--strict", "attention_dropout 0.1"]);
}

#[test]
fn runs_lie_under_their_models_name_unless_it_is_said() {
    let lab = Lab::new();
    write_rows(&lab, &Tiny::named("llama").golden);
    altered(&lab, "llama", "my/tiny", "use_cache", json!(false));
    let flags = PLAIN.replace("--bundle-dir brains", "--log-file a.jsonl");
    lab.succeed(&format!(
        "finetune --model my/tiny --dataset-file rows.jsonl {flags} --steps 1"
    ));
    let brain = lab.path("artifacts/brains/tiny/default");
    let config = std::fs::read_to_string(brain.join("config.toml")).unwrap();
    let start = &lab.events("a").0[0]["config"];
    for key in ["hidden_size", "num_heads", "h_layers", "halt_max_steps"] {
        assert!(!config.contains(key), "{key}");
        assert!(start.get(key).is_none(), "{key}");
    }
    assert_eq!(start["max_seq_len"], 512);
    let resume = "finetune --resume --steps 2 --device cpu --quiet";
    let output = lab.run(resume);
    assert_clear_error(&output, 2, &["--model", "artifacts/brains/tiny/default"]);
    lab.succeed(&format!("{resume} --model my/tiny"));
    let output = lab.run(&format!(
        "{resume} --model other --save-dir artifacts/brains/tiny/default"
    ));
    assert_clear_error(&output, 2, &["is of --model my/tiny"]);
}

/// Files of a version that kept ACT-v1's sizes of decoders too.
#[test]
fn older_bundles_are_gone_on_with() {
    let lab = Lab::new();
    write_rows(&lab, &Tiny::named("llama").golden);
    finetune(&lab, "llama", "a", "--steps 2");
    lab.altered("a", "b", |_, config| {
        *config += "hidden_size = 512\nnum_heads = 8\nhalt_max_steps = 1\n";
    });
    let output =
        lab.run("finetune --resume --bundle-dir brains --brain-name b --steps 3 --device cpu");
    let told = stderr(&output);
    assert!(output.status.success(), "{told}");
    assert!(!told.contains("hidden_size"), "{told}");
    assert!(!told.contains("halt_max_steps"), "{told}");
}

#[test]
fn what_is_said_when_data_starts_over_is_plain() {
    let lab = Lab::new();
    lab.succeed(&format!(
        "finetune --model {} --dataset-file text.txt --max-seq-len 16 {PLAIN} --steps 1",
        folder("llama").display()
    ));
    let resume = "finetune --resume --bundle-dir brains --steps 2 --device cpu --quiet";
    let output = lab.run(&format!("{resume} --eval-split 0.2"));
    let told = stderr(&output);
    assert!(
        told.contains(
            "the data starts over: what is trained on was all of the dataset and is the dataset without what \
             --eval-split 0.2 by seed 0 holds out"
        ),
        "{told}"
    );
}

#[test]
fn what_of_a_decoder_cannot_be_optimized_is_an_error() {
    let lab = Lab::new();
    let model = folder("llama");
    let none = lab.run(&format!(
        "finetune --model {} --device cpu --optimize batch --memory-limit 100KiB",
        model.display()
    ));
    assert_clear_error(&none, 1, &["nothing fits", "a smaller model"]);
    let missing = lab.run("finetune --optimize batch --device cpu");
    assert_clear_error(&missing, 2, &["--model is missing"]);
}

#[test]
fn memory_advice_names_only_flags_that_there_are() {
    let lab = Lab::new();
    write_rows(&lab, &Tiny::named("llama").golden);
    let output = lab.run(&format!(
        "finetune --model {} --dataset-file rows.jsonl {PLAIN} --steps 1 --memory-limit 10KiB",
        folder("llama").display()
    ));
    assert_clear_error(&output, 1, &["a smaller model saves most"]);
    assert!(!stderr(&output).contains("--hidden-size"));
}

#[test]
fn a_model_that_is_not_there_is_said_alike_by_all() {
    let lab = Lab::new();
    for model in ["./no/where", "no/where", "nowhere"] {
        let lines = [
            format!("eval --model {model} --file text.txt"),
            format!("eval {model} --file text.txt"),
            format!("generate {model}"),
            format!("finetune --model {model} --dataset-file text.txt --quiet --no-supervise"),
            format!("hrm-hf arch-summary {model}"),
        ];
        let told = lines.map(|line| {
            let output = lab.run(&line);
            assert_clear_error(&output, 1, &[&format!("model {model} ")]);
            stderr(&output).lines().last().map(str::to_string)
        });
        assert!(told.iter().all(|line| *line == told[0]), "{told:?}");
    }
}

#[test]
fn a_summary_takes_whatever_describes_a_model() {
    let lab = Lab::new();
    write_rows(&lab, &Tiny::named("llama").golden);
    finetune(&lab, "llama", "a", "--steps 1");
    lab.train("act", "--steps 1");
    let of = |place: &str| {
        let line = lab.succeed(&format!("hrm-hf arch-summary {place} --device cpu --json"));
        let found: serde_json::Value = serde_json::from_str(&line).unwrap();
        found["parameters"].as_u64().unwrap()
    };
    let llama = folder("llama");
    let whole = of(&llama.display().to_string());
    for place in [&llama.join("config.json"), &lab.brain("a")] {
        assert_eq!(of(&place.display().to_string()), whole);
    }
    assert!(of("brains/act") > 0);
}

#[test]
fn settings_of_sampling_that_cannot_be_name_their_file() {
    let lab = Lab::new();
    altered(&lab, "llama", "tiny", "use_cache", json!(true));
    let settings = json!({"do_sample": true, "top_p": 0});
    lab.write("tiny/generation_config.json", settings.to_string());
    let output = lab.run("generate --model tiny --device cpu");
    assert_clear_error(&output, 1, &["tiny/generation_config.json: ", "top-p is 0"]);
    lab.succeed("generate --model tiny --device cpu --top-p 1 --max-new-tokens 2");
}
