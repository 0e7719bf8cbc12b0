//! A safetensors file: its header, then every tensor.

#![no_main]

use aios_bundle::TensorFile;
use aios_fuzz::{file, in_proportion};
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
    let path = match input.split_first_chunk() {
        Some(([0xFF, 0xFF, 0xFF, 0xFF], json)) => file("model.safetensors", &[&sized(json), json]),
        _ => file("model.safetensors", &[input]),
    };
    let Ok(tensors) = TensorFile::open(&path) else {
        return;
    };
    let mut bytes = 0;
    for name in tensors.names() {
        assert!(tensors.shape(&name).is_some());
        if let Ok(tensor) = tensors.read(&name) {
            let elements: usize = tensor.shape.iter().product();
            let size = tensor.dtype.size();
            assert!(size == 0 || tensor.bytes.len() == elements * size);
            bytes += tensor.bytes.len() as u64;
        }
    }
    assert!(bytes <= tensors.data_bytes());
    let _ = tensors.require(f32::is_finite);
}
