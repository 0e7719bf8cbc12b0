//! A model's folder of two safetensors files: their index, then, after a byte that is in no text, `config.json`,
//! `generation_config.json` and `tokenizer_config.json`.

#![no_main]

use std::fs;

use aios_fuzz::{file, folder, in_proportion};
use aios_hf::{Folder, Weights};
use libfuzzer_sys::fuzz_target;

const COMPANIONS: [&str; 3] = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
];

fuzz_target!(|input: &[u8]| {
    in_proportion(input, || read(input));
});

fn read(input: &[u8]) {
    let mut parts = input.split(|&byte| byte == 0xFF);
    let index = parts.next().unwrap_or_default();
    file("model.safetensors.index.json", &[index]);
    for name in COMPANIONS {
        match parts.next().filter(|part| !part.is_empty()) {
            Some(part) => drop(file(name, &[part])),
            None if name == "config.json" => drop(file(name, &[b"{}"])),
            None => drop(fs::remove_file(folder().join(name))),
        }
    }
    for (name, tensor) in [("1.safetensors", "a"), ("2.safetensors", "b")] {
        file(name, &[&shard(tensor)]);
    }
    let Ok(folder) = Folder::open(folder()) else {
        return;
    };
    let _ = folder.chat_templates();
    let _ = folder.load_passengers();
    if let Ok(weights) = Weights::open(&folder) {
        // No index makes more of the files than there is.
        assert!(weights.names().all(|name| ["a", "b"].contains(&name)));
        for name in weights.names() {
            assert_eq!(weights.read_f32(name).ok(), Some(vec![0.0]));
        }
    }
}

/// A safetensors file of one number.
fn shard(tensor: &str) -> Vec<u8> {
    let header = format!(r#"{{"{tensor}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 4]);
    bytes
}
