//! A GGUF file: its header, every tensor, and what it says of a model.

#![no_main]

use std::path::Path;

use aios_fuzz::{file, in_proportion};
use aios_gguf::{GgufFile, model};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    in_proportion(input, || read(input));
});

fn read(input: &[u8]) {
    let path = file("model.gguf", &[input]);
    let Ok(file) = GgufFile::open(&path) else {
        return;
    };
    assert!(file.data_bytes() <= input.len() as u64);
    for tensor in file.tensors() {
        let bytes = file.bytes(&tensor.name).expect("a whole file").len();
        assert_eq!(Some(bytes), tensor.kind.bytes(tensor.elements()));
        file.release(&tensor.name);
        assert!(file.path(&tensor.name).is_ok_and(Path::is_file));
    }
    for (key, _) in file.metadata().iter() {
        let _ = file.metadata().text(key);
        let _ = file.metadata().texts(key);
        let _ = file.metadata().integers(key);
        let _ = file.metadata().floats(key);
    }
    let _ = model::generation_config(&file);
    if let Ok(config) = model::config(&file) {
        use_model(&file, &config);
    }
}

fn use_model(file: &GgufFile, config: &serde_json::Value) {
    let Ok(found) = model::tensors(file, config) else {
        return;
    };
    for named in found.named {
        let tensor = file.tensor(&named.gguf).expect("a tensor of the file");
        // Rows that are permuted are so in whatever format.
        if let aios_gguf::Change::UnpermuteRows { heads } = named.change {
            let bytes = file.bytes(&named.gguf).expect("a whole file");
            let changed = aios_gguf::unpermute(bytes, tensor.shape[0], heads);
            assert_eq!(changed.expect("rows of heads").len(), bytes.len());
        }
        assert_eq!(named.shape.iter().product::<usize>(), tensor.elements());
        let out = model::tensor_out(config, &named.hugging_face);
        let out = out.expect("a model that is known");
        assert_eq!(out, Some((named.gguf, named.change.inverse())));
    }
    let _ = model::metadata_of(config, "fuzz", 0);
    let _ = model::extra_tensors(config);
    let _ = model::remarks(config);
}
