//! The guide's way from a GGUF file to another one that llama.cpp runs, with a tiny model.

use super::{exported, write_wide};
use crate::common::lab::{Lab, assert_clear_error, finish, stderr};
use aios_gguf::GgufFile;
use aios_train::export::Numbers;
use serde_json::Value;
use std::process::Stdio;

const FINETUNE: &str = "finetune --model wide.gguf --dataset-file chat.jsonl --lora-rank 8 --steps 4 --max-seq-len 64 \
    --batch-size 1 --lr 1e-2 --device cpu --quiet";

fn taught() -> Lab {
    let lab = Lab::new();
    let wide = write_wide(&lab);
    exported(&wide, Numbers::Q8_0, &lab.path("wide.gguf"));
    let line = r#"{"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]}"#;
    lab.write("chat.jsonl", format!("{line}\n").repeat(20));
    lab.succeed(FINETUNE);
    lab
}

const ADAPTER: &str = "artifacts/brains/wide/default";

#[test]
fn from_gguf_to_gguf() {
    let lab = taught();
    let mut command = lab.command(&format!(
        "chat --model wide.gguf --adapter none --adapter {ADAPTER} --json --max-new-tokens 4 --device cpu"
    ));
    command.stdin(Stdio::null());
    assert!(finish(command).status.success());
    lab.succeed(&format!(
        "export --adapter {ADAPTER} --merge -o mine.gguf --dtype q8_0"
    ));
    lab.succeed(&format!("export --adapter {ADAPTER} --merge -o mine"));
    let file = GgufFile::open(&lab.path("mine.gguf")).unwrap();
    let metadata = file.metadata();
    assert!(
        metadata
            .text("tokenizer.chat_template")
            .unwrap()
            .unwrap()
            .contains("[assistant]")
    );
    let loss = |model: &str| {
        let flags = "--file chat.jsonl --max-seq-len 64 --json --device cpu";
        let line = lab.succeed(&format!("eval {model} {flags}"));
        serde_json::from_str::<Value>(&line).unwrap()["loss"]
            .as_f64()
            .unwrap()
    };
    let adapted = loss(&format!("--model wide.gguf --adapter {ADAPTER}"));
    let (merged, quantized) = (loss("mine"), loss("mine.gguf"));
    // In 16 bits, and in 8.
    assert!((merged - adapted).abs() < 5e-3, "{merged} {adapted}");
    assert!((quantized - adapted).abs() < 5e-2, "{quantized} {adapted}");
}

#[test]
fn an_adapter_is_exported_alone() {
    let lab = taught();
    lab.succeed(&format!("export {ADAPTER} -o adapter.gguf"));
    let file = GgufFile::open(&lab.path("adapter.gguf")).unwrap();
    assert_eq!(file.metadata().text("adapter.type").unwrap(), Some("lora"));
    assert_eq!(file.tensors().len(), 2 * 2 * 7);
    assert!(file.tensor("blk.1.ffn_down.weight.lora_a").is_some());
    lab.succeed(&format!("export {ADAPTER} -o adapter --dtype f16"));
    let loss = |adapter: &str| {
        let flags = "--file chat.jsonl --max-seq-len 64 --json --device cpu";
        lab.succeed(&format!(
            "eval --model wide.gguf --adapter {adapter} {flags}"
        ))
    };
    let loss_in = |line: String| {
        serde_json::from_str::<Value>(&line).unwrap()["loss"]
            .as_f64()
            .unwrap()
    };
    assert!((loss_in(loss("adapter")) - loss_in(loss(ADAPTER))).abs() < 1e-2);
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let lab = taught();
    let refused = |line: &str, code: i32, words: &[&str]| {
        let output = lab.run(line);
        assert_clear_error(&output, code, words);
        stderr(&output)
    };
    refused("export wide -o out --merge", 2, &["--merge", "--adapter"]);
    refused(
        "export wide -o out --dtype q8_0",
        2,
        &["q8_0", "--format gguf"],
    );
    refused(
        "export wide -o wide.gguf",
        2,
        &["wide.gguf", "there already"],
    );
    refused("export nowhere -o out", 1, &["nowhere"]);
    lab.train("actv1", "--steps 1");
    refused("export brains/actv1 -o out", 2, &["ACT-v1"]);
    lab.succeed(
        "finetune --model wide --dataset-file chat.jsonl --lora-rank 2 --train-embeddings --steps 1 --max-seq-len 64 \
         --batch-size 1 --device cpu --quiet --save-dir whole",
    );
    refused("export whole -o out.gguf", 1, &["modules_to_save", "merge"]);
}
