//! A model's folder with one safetensors file: its header, then every tensor by all ways that there are.

#![no_main]

use std::path::Path;

use aios_fuzz::{file, folder, in_proportion};
use aios_hf::{Folder, Weights};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    in_proportion(input, || read(input));
});

/// The length of the header is given as it is, or, for a beginning of all ones, as what goes up to the last bracket.
fn read(input: &[u8]) {
    let sized = |json: &[u8]| {
        let header = json.iter().rposition(|&byte| byte == b'}');
        header.map_or(0, |at| at as u64 + 1).to_le_bytes()
    };
    file("config.json", &[b"{}"]);
    match input.split_first_chunk() {
        Some(([0xFF, 0xFF, 0xFF, 0xFF], json)) => file("model.safetensors", &[&sized(json), json]),
        _ => file("model.safetensors", &[input]),
    };
    let opened = Folder::open(folder()).and_then(|folder| Weights::open(&folder));
    if let Ok(weights) = opened {
        assert!(weights.data_bytes() <= input.len() as u64);
        weights.names().for_each(|name| use_all_of(&weights, name));
    }
}

fn use_all_of(weights: &Weights, name: &str) {
    let (dtype, shape) = weights.info(name).expect("a tensor that has a name");
    let elements: usize = shape.iter().product();
    let bytes = weights.bytes(name).expect("a whole file").len();
    assert!(dtype.size() == 0 || bytes == elements * dtype.size());
    let finite = weights.finite(name).is_ok();
    match weights.read_f32(name) {
        Ok(values) => {
            assert!(dtype.is_float());
            assert_eq!(values.len(), elements);
            assert_eq!(values.iter().all(|value| value.is_finite()), finite);
        }
        Err(_) => assert!(!dtype.is_float()),
    }
    weights.release(name);
    assert_eq!(weights.bytes(name).ok().map(|bytes| bytes.len()), Some(bytes));
    assert!(weights.path(name).is_ok_and(Path::is_file));
}
