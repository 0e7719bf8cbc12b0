//! Compresses the texts that are part of the program (`src/builtin.rs`).

use std::io::Write;
use std::path::Path;
use std::{env, fs};

use flate2::Compression;
use flate2::write::ZlibEncoder;

const FILES: [&str; 3] = [
    "curated_datasets/test_sample.txt",
    "curated_datasets/chat_sample.jsonl",
    "sample_tokenizer/tokenizer.json",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let root = Path::new("../../training_data");
    let out = env::var("OUT_DIR")?;
    for file in FILES {
        let path = root.join(file);
        println!("cargo::rerun-if-changed={}", path.display());
        let name = path.file_name().ok_or("a file has a name")?;
        let target = fs::File::create(Path::new(&out).join(name).with_extension("zlib"))?;
        let mut encoder = ZlibEncoder::new(target, Compression::best());
        encoder.write_all(&fs::read(&path)?)?;
        encoder.finish()?;
    }
    Ok(())
}
