//! Each family goes into a GGUF file and comes back the same.

use super::exported;
use crate::common::assert_close;
use crate::decoders::{Tiny, folder};
use aios_data::Tokenizer;
use aios_hf::{Folder, Weights};
use aios_models::Recipe;
use aios_models::decoder::{DecoderConfig, HfModel};
use aios_tensor::{CpuBackend, floats};
use aios_train::export::Numbers;

const NAMES: [&str; 10] = [
    "llama",
    "llama3_scaled_tied",
    "mistral_window",
    "qwen2",
    "qwen3",
    "gpt2",
    "phi3",
    "gemma3",
    "olmo2",
    "granite",
];

fn logits(tiny: &Tiny) -> Vec<f32> {
    let model = tiny.on::<CpuBackend>(&Default::default());
    floats(model.logits(&tiny.batch(), None, &Recipe::default().execution))
}

#[test]
fn every_family_comes_back_from_gguf() {
    let dir = tempfile::tempdir().unwrap();
    for name in NAMES {
        let own = Tiny::named(name);
        let file = exported(
            &own.path,
            Numbers::F32,
            &dir.path().join(format!("{name}.gguf")),
        );
        let back = Tiny {
            path: file,
            golden: crate::common::Golden::open(&own.path.join("golden.safetensors")),
        };
        let [folder, gguf] = [&own, &back].map(|tiny| Folder::open(&tiny.path).unwrap());
        let [before, after] = [&folder, &gguf].map(|folder| Weights::open(folder).unwrap());
        assert_eq!(
            before.names().collect::<Vec<_>>(),
            after.names().collect::<Vec<_>>(),
            "{name}"
        );
        for tensor in before.names() {
            assert_eq!(before.info(tensor), after.info(tensor), "{name} {tensor}");
            let [before, after] = [&before, &after].map(|all| all.read_f32(tensor).unwrap());
            // Gemma's norms are written plus one.
            assert_close(&format!("{name} {tensor}"), &after, &before, 1e-6);
        }
        let described = |folder: &Folder| DecoderConfig {
            // How weights are drawn is nothing to those who have them.
            init_std: 0.0,
            ..HfModel::new(folder.config().clone(), 64, 0)
                .unwrap()
                .decoder
        };
        assert_eq!(described(&folder), described(&gguf), "{name}");
        assert_close(name, &logits(&back), &logits(&own), 1e-5);
        // And those that llama.cpp knows by their names.
        let ends = &gguf.generation().eos;
        assert!(
            folder.generation().eos.iter().all(|id| ends.contains(id)),
            "{name}"
        );
        let [before, after] = [&folder, &gguf].map(|folder| Tokenizer::of_folder(folder).unwrap());
        let text = "Once upon a time, 12 cats'  naïve \n\n tale 😀 <|endoftext|>";
        assert_eq!(
            before.encode(text).unwrap(),
            after.encode(text).unwrap(),
            "{name}"
        );
        assert_eq!(before.end_of_text(), after.end_of_text(), "{name}");
    }
}

#[test]
fn what_has_no_place_in_gguf_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Folder::open(&folder("hrm_text")).unwrap();
    let whole = aios_train::whole::Whole::open(whole, None).unwrap();
    let file = dir.path().join("m.gguf");
    let error = aios_train::export::gguf(&whole, "m", None, &file).unwrap_err();
    assert!(error.to_string().contains("hrm_text"), "{error}");
    assert!(!file.exists());
}
