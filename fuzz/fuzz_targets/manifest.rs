//! A bundle from elsewhere: the manifest of a checkpoint whose other files are good ones.

#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aios_bundle::{Bundle, BundleWriter, Lock};
use aios_fuzz::{folder, in_proportion};
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// As the bundle's own, so that one with the right hash of itself can be made of nearly anything.
#[derive(Deserialize, Serialize)]
struct Manifest {
    format: u32,
    sequence: u64,
    step: u64,
    files: BTreeMap<String, Entry>,
    xxh3: String,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    bytes: u64,
    xxh3: String,
}

fuzz_target!(|input: &[u8]| {
    in_proportion(input, || read(input));
});

fn read(input: &[u8]) {
    let manifest = sealed(input).unwrap_or_else(|| input.to_vec());
    let bundle = folder().join("bundle");
    let _ = fs::remove_dir_all(&bundle);
    write(&bundle, &manifest);
    write(&bundle.join("checkpoints/step-000001"), &manifest);
    write(&bundle.join("checkpoints/best-step-000001"), &manifest);

    let good = |_: &Bundle| Ok(());
    let _ = Bundle::open(&bundle, &good);
    Bundle::newest_config(&bundle);
    let writer = Lock::acquire(&bundle).and_then(|lock| BundleWriter::new(lock, 0, &good));
    if let Ok(writer) = writer {
        let _ = writer.require_room(1, true);
        writer.best();
        let _ = writer.set_earlier_run_aside();
    }
}

/// What is a manifest but for its hash, with the right one. An entry without a hash gets that of the file.
fn sealed(input: &[u8]) -> Option<Vec<u8>> {
    let mut manifest: Manifest = serde_json::from_slice(input).ok()?;
    for (name, entry) in &mut manifest.files {
        let content = FILES.iter().find(|(file, _)| file == name);
        if let Some((_, content)) = content.filter(|_| entry.xxh3.is_empty()) {
            *entry = Entry {
                bytes: content.len() as u64,
                xxh3: hash(content),
            };
        }
    }
    manifest.xxh3 = String::new();
    manifest.xxh3 = hash(&to_json(&manifest)?);
    to_json(&manifest)
}

fn to_json(manifest: &Manifest) -> Option<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(manifest).ok()?;
    text.push(b'\n');
    Some(text)
}

fn hash(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

/// Tensors without any, settings without any.
const FILES: [(&str, &[u8]); 6] = [
    ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
    ("optimizer.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
    ("trainer.json", b"{}"),
    ("config.toml", b"steps = 1\n"),
    ("tokenizer/tokenizer.json", b"{}"),
    ("config.json", b"{}"),
];

fn write(folder: &Path, manifest: &[u8]) {
    fs::create_dir_all(folder.join("tokenizer")).expect("a folder");
    for (name, content) in FILES.into_iter().chain([("manifest.json", manifest)]) {
        fs::write(folder.join(name), content).expect("room for a file");
    }
}
