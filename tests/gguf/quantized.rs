//! Models whose file has them in blocks: held as they lie, and the same as what these stand for.

use super::{exported, write_wide};
use crate::common::lab::{Lab, assert_clear_error};
use crate::decoders::assert_near;
use aios_base::storage::Storage;
use aios_gguf::{GgufFile, Kind, Tensor, Value};
use aios_hf::{Folder, Weights};
use aios_kernels::ggml::{Format, made_up};
use aios_models::Architecture;
use aios_models::decoder::HfModel;
use aios_train::export::Numbers;
use aios_train::held::{beside_adapter, for_reading};
use serde_json::Value as Json;
use std::path::Path;

const KINDS: [Kind; 7] = [
    Kind::Q4_0,
    Kind::Q4_1,
    Kind::Q5_0,
    Kind::Q8_0,
    Kind::Q4K,
    Kind::Q5K,
    Kind::Q6K,
];

/// Any blocks, with scales by which weights are small; nothing in those that are not read.
fn blocks(kind: Kind, values: usize) -> Vec<u8> {
    let read = Format::ALL
        .into_iter()
        .find(|format| format.name() == kind.name());
    match read {
        Some(format) => made_up(format, values),
        None => vec![0; kind.bytes(values).unwrap()],
    }
}

/// The file once more with all of its matrices in blocks of one kind.
fn in_blocks(file: &Path, kind: Kind, to: &Path) {
    let file = GgufFile::open(file).unwrap();
    let metadata: Vec<(String, Value)> = (file.metadata().iter())
        .map(|(key, value)| (key.to_string(), value.clone()))
        .collect();
    let tensors = file.tensors().iter().map(|tensor| {
        let own = tensor.shape.len() == 2;
        let (name, values) = (tensor.name.clone(), tensor.elements());
        let file = &file;
        Tensor {
            name: name.clone(),
            shape: tensor.shape.clone(),
            kind: if own { kind } else { tensor.kind },
            fetch: Box::new(move || match own {
                true => Ok(blocks(kind, values)),
                false => Ok(file.bytes(&name)?.to_vec()),
            }),
        }
    });
    aios_gguf::write(to, &metadata, &tensors.collect::<Vec<_>>()).unwrap();
}

fn loss(lab: &Lab, model: &str) -> f64 {
    let line = lab.succeed(&format!(
        "eval {model} --file text.txt --max-seq-len 64 --json --device cpu"
    ));
    serde_json::from_str::<Json>(&line).unwrap()["loss"]
        .as_f64()
        .unwrap()
}

#[test]
fn blocks_are_what_they_stand_for() {
    let lab = Lab::new();
    let wide = write_wide(&lab);
    let dense = exported(&wide, Numbers::F32, &lab.path("dense.gguf"));
    for kind in KINDS {
        let (file, decoded) = (lab.path("blocks.gguf"), lab.path("decoded"));
        in_blocks(&dense, kind, &file);
        lab.succeed("export blocks.gguf -o decoded --dtype f32");
        let (own, want) = (loss(&lab, "blocks.gguf"), loss(&lab, "decoded"));
        assert_near(kind.name(), own, want, 1e-5);
        // The head of one row's products by another way.
        let text = |model: &str| {
            lab.succeed(&format!(
                "generate {model} --prompt abc --temperature 0 --max-new-tokens 12 --device cpu"
            ))
        };
        assert_eq!(text("blocks.gguf"), text("decoded"), "{}", kind.name());
        std::fs::remove_file(file).unwrap();
        std::fs::remove_dir_all(decoded).unwrap();
    }
}

#[test]
fn an_adapter_is_trained_beside_blocks_and_resumes() {
    let lab = Lab::new();
    let wide = write_wide(&lab);
    let dense = exported(&wide, Numbers::F32, &lab.path("dense.gguf"));
    in_blocks(&dense, Kind::Q4K, &lab.path("blocks.gguf"));
    lab.succeed("export blocks.gguf -o decoded --dtype f32");
    let train = |model: &str, name: &str, steps: usize| {
        lab.succeed(&format!(
            "finetune --model {model} --dataset-file text.txt --lora-rank 2 --steps {steps} --max-seq-len 32 --batch-size 2 \
             --lr 1e-2 --lr-schedule constant --warmup-steps 0 --no-amp --device cpu --quiet --bundle-dir brains \
             --brain-name {name} --log-file {name}.jsonl"
        ));
        lab.events(name).steps("loss")
    };
    let (own, want) = (train("blocks.gguf", "a", 4), train("decoded", "b", 4));
    for (own, want) in own.iter().zip(&want) {
        // The table and the head are held in 16 bits.
        assert_near("loss", *own, *want, 1e-3);
    }
    train("blocks.gguf", "c", 2);
    lab.succeed(
        "finetune --resume --brain-name c --bundle-dir brains --steps 4 --device cpu --quiet",
    );
    crate::common::lab::assert_same_brain(&lab.brain("a"), &lab.brain("c"));
}

#[test]
fn what_is_frozen_stays_in_the_blocks_of_its_file() {
    let lab = Lab::new();
    let wide = write_wide(&lab);
    let dense = exported(&wide, Numbers::F32, &lab.path("dense.gguf"));
    let file = lab.path("blocks.gguf");
    in_blocks(&dense, Kind::Q6K, &file);
    let folder = Folder::open(&file).unwrap();
    let weights = Weights::open(&folder).unwrap();
    let model = HfModel::new(folder.config().clone(), 64, 0).unwrap();
    let frozen = beside_adapter(&model, &weights);
    assert_eq!(frozen.storage, Storage::F16);
    assert_eq!(frozen.own.len(), 2 * 7);
    assert!(frozen.own.values().all(|own| *own == Storage::Q6K));
    let read = for_reading(model, &weights);
    let held = read
        .parameters()
        .into_iter()
        .filter(|info| info.storage == Storage::Q6K);
    assert_eq!(held.count(), 2 * 7 + 1);
    assert_eq!(read.trained(), 0);
}

#[test]
fn quantizing_twice_and_formats_that_are_not_read_are_refused() {
    let lab = Lab::new();
    let wide = write_wide(&lab);
    let dense = exported(&wide, Numbers::Q8_0, &lab.path("q8.gguf"));
    let output = lab.run(
        "finetune --model q8.gguf --dataset-file text.txt --lora-rank 2 --quantize nf4 --steps 1 --device cpu",
    );
    assert_clear_error(
        &output,
        2,
        &["--quantize nf4", "Q8_0", "leave --quantize out"],
    );
    in_blocks(&dense, Kind::of_id(23).unwrap(), &lab.path("iq.gguf"));
    let output = lab.run("eval iq.gguf --file text.txt --device cpu");
    assert_clear_error(&output, 1, &["IQ4_XS", "token_embd.weight", "Q4_K"]);
}
