use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;
use crate::change::Change;
use crate::file::GgufFile;
use crate::kind::Kind;
use crate::value::{Array, Value};
use crate::write::{Tensor, write};

const FILE_TYPE: u32 = 0;

/// The tiny models in `tests/golden` that GGUF files can hold.
fn goldens() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/decoders");
    let groups = ["a", "b"].map(|group| fs::read_dir(root.join(group)).unwrap());
    let folders = groups
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = folders.filter(|path| !path.ends_with("hrm_text")).collect();
    folders.sort();
    assert_eq!(folders.len(), 13);
    folders
}

fn config_of(folder: &Path) -> Json {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

fn tensor(name: &str, shape: &[usize], values: Vec<f32>) -> Tensor<'static> {
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    Tensor {
        name: name.to_string(),
        shape: shape.to_vec(),
        kind: Kind::F32,
        fetch: Box::new(move || Ok(bytes.clone())),
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let fours = bytes.as_chunks().0.iter();
    fours.map(|four| f32::from_le_bytes(*four)).collect()
}

/// A folder's model as a file.
fn written(config: &Json, weights: &SafeTensors) -> (TempDir, GgufFile) {
    let mut tensors = Vec::new();
    for (name, factors) in extra_tensors(config).unwrap() {
        tensors.push(tensor(&name, &[factors.len()], factors));
    }
    for name in weights.names() {
        let view = weights.tensor(name).unwrap();
        let (gguf, change) = tensor_out(config, name).unwrap().unwrap();
        let values = change.apply(floats(view.data()), view.shape()).unwrap();
        tensors.push(tensor(&gguf, &change.shape(view.shape()), values));
    }
    let metadata = metadata_of(config, "golden", FILE_TYPE).unwrap();
    file(&metadata, &tensors)
}

fn file(metadata: &[(String, Value)], tensors: &[Tensor]) -> (TempDir, GgufFile) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    write(&path, metadata, tensors).unwrap();
    let file = GgufFile::open(&path).unwrap();
    (dir, file)
}

/// What a decoder is made by, in one form, with what transformers takes where nothing is said.
fn relevant(config: &Json) -> Json {
    let get = |name: &str| config.get(name).filter(|value| !value.is_null()).cloned();
    let mut all = json!({});
    for name in [
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_act",
        "hidden_activation",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "sliding_window",
        "layer_types",
        "attention_multiplier",
        "embedding_multiplier",
        "residual_multiplier",
        "logits_scaling",
        "n_embd",
        "n_head",
        "n_layer",
        "n_inner",
        "n_positions",
        "activation_function",
        "layer_norm_epsilon",
        "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx",
    ] {
        all[name] = get(name).unwrap_or(Json::Null);
    }
    for name in ["attention_bias", "mlp_bias", "use_sliding_window"] {
        all[name] = get(name).unwrap_or(json!(false));
    }
    let float = |value: Json| json!(value.as_f64().unwrap());
    all["query_pre_attn_scalar"] = get("query_pre_attn_scalar").map_or(Json::Null, float);
    let number = |name: &str| get(name).and_then(|value| value.as_u64());
    if let (Some(hidden), Some(heads)) = (number("hidden_size"), number("num_attention_heads")) {
        all["head_dim"] = json!(number("head_dim").unwrap_or(hidden / heads));
    }
    all["rope"] = rope(config);
    all
}

fn rope(config: &Json) -> Json {
    let newer = &config["rope_parameters"];
    let full = match newer.get("full_attention") {
        Some(full) => full,
        None => newer,
    };
    let described = match config["rope_scaling"].is_object() {
        true => &config["rope_scaling"],
        false => full,
    };
    let mut rope = described.as_object().cloned().unwrap_or_default();
    let theta = described["rope_theta"]
        .as_f64()
        .or(config["rope_theta"].as_f64());
    rope.insert("rope_theta".into(), json!(theta));
    let kind = rope.remove("type").or(rope.remove("rope_type"));
    rope.insert("rope_type".into(), kind.unwrap_or(json!("default")));
    let share = rope
        .remove("partial_rotary_factor")
        .or(config.get("partial_rotary_factor").cloned());
    rope.insert("share".into(), share.unwrap_or(json!(1.0)));
    let sliding = newer["sliding_attention"]["rope_theta"].as_f64();
    let local = sliding.or(config["rope_local_base_freq"].as_f64());
    rope.insert("local".into(), json!(local));
    if let Some(original) = config.get("original_max_position_embeddings") {
        rope.insert("original_max_position_embeddings".into(), original.clone());
    }
    Json::Object(rope)
}

#[test]
fn a_model_comes_back_as_it_was() {
    for folder in goldens() {
        let config = config_of(&folder);
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let weights = SafeTensors::deserialize(&bytes).unwrap();
        let (_dir, file) = written(&config, &weights);
        let back = super::config(&file).unwrap();
        assert_eq!(relevant(&back), relevant(&config), "{}", folder.display());
        let found = tensors(&file, &back).unwrap();
        assert_eq!(found.unknown, Vec::<String>::new());
        assert_eq!(found.named.len(), weights.names().len());
        for named in found.named {
            let stored = &file.tensor(&named.gguf).unwrap().shape;
            let values = floats(file.bytes(&named.gguf).unwrap());
            let values = named.change.apply(values, stored).unwrap();
            let original = weights.tensor(&named.hugging_face).unwrap();
            assert_eq!(named.shape, original.shape(), "{}", named.hugging_face);
            let original = floats(original.data());
            // Norms that were stored plus one are rounded.
            let off = values.iter().zip(&original).map(|(a, b)| (a - b).abs());
            let off = off.fold(0.0, f32::max);
            let most = match named.change {
                Change::MinusOne => 2e-7,
                _ => 0.0,
            };
            assert!(
                off <= most && values.len() == original.len(),
                "{}: {off}",
                named.gguf
            );
        }
    }
}

/// A file of Llama's kind with one layer and no numbers that matter.
fn tiny(architecture: &str) -> (Vec<(String, Value)>, Vec<Tensor<'static>>) {
    let model_type = match architecture {
        "gemma3" => "gemma3_text",
        other => other,
    };
    let config = tiny_config(model_type);
    let metadata = metadata_of(&config, "", FILE_TYPE).unwrap();
    let family = Family::of_architecture(architecture).unwrap();
    let mut tensors = vec![
        tensor("token_embd.weight", &[6, 8], vec![0.0; 48]),
        tensor("output_norm.weight", &[8], vec![0.0; 8]),
    ];
    for part in family.parts {
        let name = format!("blk.0.{}.weight", part.gguf);
        tensors.push(match part.role {
            Role::Norm => tensor(&name, &[8], vec![0.0; 8]),
            _ => tensor(&name, &[8, 8], vec![0.0; 64]),
        });
    }
    (metadata, tensors)
}

fn tiny_config(model_type: &str) -> Json {
    json!({
        "model_type": model_type, "vocab_size": 6, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "query_pre_attn_scalar": 4, "sliding_window": null,
        "layer_types": ["full_attention"], "tie_word_embeddings": true,
    })
}

fn set(metadata: &mut Vec<(String, Value)>, key: &str, value: Value) {
    metadata.retain(|(name, _)| name != key);
    metadata.push((key.to_string(), value));
}

fn read(metadata: &[(String, Value)], tensors: &[Tensor]) -> aios_base::error::Result<Json> {
    let (_dir, file) = file(metadata, tensors);
    super::config(&file)
}

#[track_caller]
fn refused(metadata: &[(String, Value)], tensors: &[Tensor], word: &str) {
    let error = read(metadata, tensors).unwrap_err().to_string();
    assert!(error.contains(word) && error.contains("a.gguf"), "{error}");
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let text = |text: &str| Value::Text(text.to_string());
    for (key, value, word) in [
        (
            "general.architecture",
            text("mamba"),
            "\"mamba\" are not supported; supported are llama, qwen2",
        ),
        (
            "general.architecture",
            Value::U8(1),
            "general.architecture is 1",
        ),
        ("general.type", text("adapter"), "of type \"adapter\""),
        ("llama.expert_count", Value::U32(8), "mixture of experts"),
        (
            "llama.block_count",
            Value::U32(u32::MAX),
            "llama.block_count is 4294967295",
        ),
        (
            "llama.block_count",
            Value::U64(1 << 40),
            "llama.block_count is 1099511627776",
        ),
        (
            "llama.block_count",
            Value::U32(0),
            "no llama.block_count, or it is 0",
        ),
        (
            "llama.embedding_length",
            Value::U32(16),
            "rows must have 16 numbers",
        ),
        (
            "llama.embedding_length",
            text("8"),
            "llama.embedding_length is \"8\"",
        ),
        (
            "llama.rope.dimension_count",
            Value::U32(2),
            "rope.dimension_count is 2",
        ),
        ("llama.rope.scaling.type", text("spiral"), "\"spiral\""),
        ("llama.rope.scaling.type", text("longrope"), "are missing"),
        (
            "llama.attention.value_length",
            Value::U32(3),
            "value_length is 3",
        ),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(f32::NAN),
            "layer_norm_rms_epsilon is NaN",
        ),
        (
            "llama.attention.head_count",
            Value::Array(Array::U32(vec![2, 1])),
            "not the same in all layers",
        ),
    ] {
        let (mut metadata, tensors) = tiny("llama");
        set(&mut metadata, key, value);
        refused(&metadata, &tensors, word);
    }
    let (metadata, mut tensors) = tiny("llama");
    tensors.remove(0);
    refused(&metadata, &tensors, "no tensor token_embd.weight");
}

#[test]
fn what_is_missing_or_belongs_to_nothing_is_told() {
    let (metadata, mut tensors) = tiny("llama");
    for name in [
        "blk.1.attn_q.weight",
        "blk.00.attn_q.weight",
        "blk.0.attn_q.scale",
        "v.patch_embd.weight",
    ] {
        tensors.push(tensor(name, &[8], vec![0.0; 8]));
    }
    let (_dir, whole) = file(&metadata, &tensors);
    let config = super::config(&whole).unwrap();
    let found = super::tensors(&whole, &config).unwrap();
    assert_eq!(found.unknown.len(), 4, "{:?}", found.unknown);
    let q = found
        .named
        .iter()
        .find(|named| named.gguf == "blk.0.attn_q.weight")
        .unwrap();
    assert_eq!(q.hugging_face, "model.layers.0.self_attn.q_proj.weight");
    assert_eq!(q.change, Change::UnpermuteRows { heads: 2 });
    let (_, mut tensors) = tiny("llama");
    tensors.retain(|tensor| tensor.name != "blk.0.attn_q.weight");
    let (_dir, part) = file(&metadata, &tensors);
    let error = super::tensors(&part, &config).unwrap_err().to_string();
    assert!(error.contains("no tensor blk.0.attn_q.weight"), "{error}");
}

#[test]
fn a_window_makes_a_mistral_and_biases_are_seen() {
    let (mut metadata, mut tensors) = tiny("llama");
    assert_eq!(
        read(&metadata, &tensors).unwrap()["attention_bias"],
        json!(false)
    );
    for part in ["attn_q", "attn_k", "attn_v"] {
        tensors.push(tensor(&format!("blk.0.{part}.bias"), &[8], vec![0.0; 8]));
    }
    refused(&metadata, &tensors, "only some of attn_q, attn_k");
    tensors.push(tensor("blk.0.attn_output.bias", &[8], vec![0.0; 8]));
    let config = read(&metadata, &tensors).unwrap();
    assert_eq!(
        (&config["attention_bias"], &config["mlp_bias"]),
        (&json!(true), &json!(false))
    );
    let (_, tensors) = tiny("llama");
    set(
        &mut metadata,
        "llama.attention.sliding_window",
        Value::U32(16),
    );
    let config = read(&metadata, &tensors).unwrap();
    assert_eq!(
        (&config["model_type"], &config["sliding_window"]),
        (&json!("mistral"), &json!(16))
    );
}

#[test]
fn ids_of_control_tokens_are_collected() {
    let (mut metadata, tensors) = tiny("llama");
    for (name, id) in [
        ("bos", 1),
        ("eos", 2),
        ("eot", 5),
        ("eom", 2),
        ("padding", 0),
    ] {
        metadata.push((format!("tokenizer.ggml.{name}_token_id"), Value::U32(id)));
    }
    let (_dir, file) = file(&metadata, &tensors);
    let generation = generation_config(&file).unwrap();
    assert_eq!(
        generation,
        json!({"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 0})
    );
    let config = super::config(&file).unwrap();
    assert_eq!(
        (&config["bos_token_id"], &config["eos_token_id"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(config["torch_dtype"], json!("float32"));
}

#[test]
fn gemma_is_read_as_llama_cpp_takes_it() {
    let (mut metadata, mut tensors) = tiny("gemma3");
    set(&mut metadata, "gemma3.block_count", Value::U32(13));
    set(
        &mut metadata,
        "gemma3.attention.sliding_window",
        Value::U32(16),
    );
    let pattern = Value::Array(Array::Bool(vec![true, false]));
    set(
        &mut metadata,
        "gemma3.attention.sliding_window_pattern",
        pattern,
    );
    metadata.retain(|(key, _)| key != "gemma3.rope.freq_base_swa");
    for number in 0..13 {
        tensors.push(tensor(&format!("blk.{number}.x"), &[1], vec![0.0]));
    }
    let config = read(&metadata, &tensors).unwrap();
    let types = config["layer_types"].as_array().unwrap();
    let full = (0..13).filter(|&layer| types[layer] == json!("full_attention"));
    assert_eq!(full.collect::<Vec<_>>(), [5, 11]);
    assert_eq!(config["rope_local_base_freq"], json!(10000.0));
    assert_eq!(config["query_pre_attn_scalar"], json!(4));
    set(
        &mut metadata,
        "gemma3.rope.scaling.type",
        Value::Text("linear".into()),
    );
    set(&mut metadata, "gemma3.rope.scaling.factor", Value::F32(8.0));
    let config = read(&metadata, &tensors).unwrap();
    assert_eq!(
        config["rope_scaling"],
        json!({"rope_type": "linear", "factor": 8.0})
    );
}

/// What is read of a file that was written of this description.
fn stretched(model_type: &str, described: Json) -> aios_base::error::Result<Json> {
    let mut config = tiny_config(model_type);
    config["head_dim"] = json!(128);
    config["rope_theta"] = json!(500000.0);
    config["rope_scaling"] = described;
    let mut metadata = metadata_of(&config, "", FILE_TYPE)?;
    let architecture = crate::lora::architecture(&config)?;
    let (_, mut tensors) = tiny(architecture);
    for (name, factors) in extra_tensors(&config)? {
        tensors.push(tensor(&name, &[factors.len()], factors));
    }
    // As of llama.cpp's converter.
    metadata.retain(|(key, _)| !(key.contains("original") && described_is_llama3(&config)));
    Ok(read(&metadata, &tensors)?["rope_scaling"].clone())
}

fn described_is_llama3(config: &Json) -> bool {
    config["rope_scaling"]["rope_type"] == json!("llama3")
}

#[test]
fn descriptions_of_rotary_embeddings_come_back() {
    let factors: Vec<f64> = (0..64).map(|n| 1.0 + f64::from(n)).collect();
    let longrope = json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors,
        "original_max_position_embeddings": 32, "attention_factor": 1.25});
    for (model_type, described) in [
        ("llama", Json::Null),
        ("llama", json!({"rope_type": "linear", "factor": 2.5})),
        (
            "llama",
            json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192}),
        ),
        (
            "llama",
            json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 4096}),
        ),
        (
            "qwen3",
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
                "attention_factor": 1.5, "beta_fast": 16.0, "beta_slow": 2.0}),
        ),
        ("llama", longrope),
    ] {
        assert_eq!(stretched(model_type, described.clone()).unwrap(), described);
    }
    let none = json!({"rope_type": "dynamic", "factor": 2.0});
    assert_eq!(stretched("llama", none).unwrap(), Json::Null);
    let error = stretched(
        "qwen3",
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0}),
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("no place in a GGUF file of architecture qwen3"),
        "{error}"
    );
    let odd = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 9.0,
        "original_max_position_embeddings": 8192});
    let error = stretched("llama", odd).unwrap_err().to_string();
    assert!(
        error.contains("rope_freqs.weight has factors up to 8"),
        "{error}"
    );
}

#[test]
fn what_yarn_multiplies_by_is_read_from_either_key() {
    let (mut metadata, tensors) = tiny("qwen3");
    set(
        &mut metadata,
        "qwen3.rope.scaling.type",
        Value::Text("yarn".into()),
    );
    set(&mut metadata, "qwen3.rope.scaling.factor", Value::F32(4.0));
    let described =
        |metadata: &[(String, Value)]| read(metadata, &tensors).unwrap()["rope_scaling"].clone();
    let plain = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    assert_eq!(described(&metadata), plain);
    set(
        &mut metadata,
        "qwen3.rope.scaling.attn_factor",
        Value::F32(2.0),
    );
    // 2 (1 + 0.1 ln 4)
    let times = described(&metadata)["attention_factor"].as_f64().unwrap();
    assert!((times - 2.277_258_87).abs() < 1e-6, "{times}");
    set(
        &mut metadata,
        "qwen3.rope.scaling.yarn_attn_factor",
        Value::F32(1.5),
    );
    assert_eq!(described(&metadata)["attention_factor"], json!(1.5));
}

#[test]
fn factors_of_llama_cpp_s_converter_are_those_of_llama_3() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/rope_freqs.gguf");
    let golden = GgufFile::open(&path).unwrap();
    for (name, head_dim, factor) in [("llama31_8b", 128, 8.0), ("llama32_1b", 64, 32.0)] {
        let mut config = tiny_config("llama");
        config["head_dim"] = json!(head_dim);
        config["rope_theta"] = json!(500000.0);
        let described = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        let metadata = metadata_of(&config, "", FILE_TYPE).unwrap();
        let (_, mut tensors) = tiny("llama");
        let theirs = floats(golden.bytes(name).unwrap());
        tensors.push(tensor("rope_freqs.weight", &[theirs.len()], theirs.clone()));
        assert_eq!(
            read(&metadata, &tensors).unwrap()["rope_scaling"],
            described
        );
        config["rope_scaling"] = described;
        let ours = extra_tensors(&config).unwrap().remove(0).1;
        let off = ours.iter().zip(&theirs).map(|(a, b)| (a / b - 1.0).abs());
        assert!(off.fold(0.0, f32::max) < 1e-5, "{name}");
    }
}

#[test]
fn phi_turns_a_part_of_a_head_by_its_own_factors() {
    let mut config = tiny_config("phi3");
    config["head_dim"] = json!(8);
    config["hidden_size"] = json!(16);
    config["partial_rotary_factor"] = json!(0.75);
    config["original_max_position_embeddings"] = json!(32);
    config["rope_scaling"] =
        json!({"type": "su", "short_factor": [1.0, 1.5, 2.0], "long_factor": [1.0, 3.0, 4.0]});
    let metadata = metadata_of(&config, "", FILE_TYPE).unwrap();
    let get = |key: &str| {
        metadata
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
    };
    assert_eq!(get("phi3.rope.dimension_count"), Some(Value::U32(6)));
    assert_eq!(get("phi3.rope.scaling.type"), None);
    // sqrt(1 + ln(64 / 32) / ln(32))
    assert_eq!(
        get("phi3.rope.scaling.attn_factor"),
        Some(Value::F32(1.0954452))
    );
    let (_, mut tensors) = tiny("phi3");
    tensors[0] = tensor("token_embd.weight", &[6, 16], vec![0.0; 96]);
    for (name, factors) in extra_tensors(&config).unwrap() {
        tensors.push(tensor(&name, &[factors.len()], factors));
    }
    let back = read(&metadata, &tensors).unwrap();
    assert_eq!(back["partial_rotary_factor"], json!(0.75));
    assert_eq!(back["original_max_position_embeddings"], json!(32));
    let described = &back["rope_scaling"];
    assert_eq!(described["long_factor"], json!([1.0, 3.0, 4.0]));
    assert_eq!(
        (&described["rope_type"], described.get("attention_factor")),
        (&json!("longrope"), None)
    );
    config["rope_scaling"]["long_factor"] = json!([1.0]);
    let error = extra_tensors(&config).unwrap_err().to_string();
    assert!(error.contains("there must be 3 of each"), "{error}");
}

#[test]
fn what_has_no_place_is_refused_by_name() {
    for (model_type, key, value, word) in [
        ("hrm_text", "x", json!(0), "\"hrm_text\" have no place"),
        (
            "llama",
            "hidden_act",
            json!("gelu"),
            "hidden_act is \"gelu\"",
        ),
        (
            "llama",
            "partial_rotary_factor",
            json!(0.5),
            "partial_rotary_factor is 0.5",
        ),
        (
            "llama",
            "rope_scaling",
            json!({"rope_type": "spiral"}),
            "\"spiral\"",
        ),
        (
            "qwen2",
            "rope_scaling",
            json!({"rope_type": "yarn", "factor": 2, "truncate": false}),
            "truncate false",
        ),
        (
            "qwen3",
            "partial_rotary_factor",
            json!(0.5),
            "partial_rotary_factor is 0.5",
        ),
        (
            "gemma3_text",
            "attn_logit_softcapping",
            json!(50.0),
            "attn_logit_softcapping",
        ),
        (
            "gemma3_text",
            "use_bidirectional_attention",
            json!(true),
            "use_bidirectional",
        ),
        (
            "llama",
            "num_attention_heads",
            json!(0),
            "num_attention_heads is 0",
        ),
        ("llama", "hidden_size", json!(null), "no hidden_size"),
    ] {
        let mut config = tiny_config(model_type);
        config[key] = value;
        let error = metadata_of(&config, "", FILE_TYPE).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{error}");
    }
    let mut qwen = tiny_config("qwen2");
    (qwen["use_sliding_window"], qwen["sliding_window"]) = (json!(true), json!(8));
    metadata_of(&qwen, "", FILE_TYPE).unwrap();
    qwen["layer_types"] = json!(["sliding_attention"]);
    let error = metadata_of(&qwen, "", FILE_TYPE).unwrap_err().to_string();
    assert!(error.contains("use_sliding_window is true"), "{error}");
    let mut gemma = tiny_config("gemma3_text");
    (gemma["num_hidden_layers"], gemma["sliding_window"]) = (json!(3), json!(8));
    gemma["layer_types"] = json!(["full_attention", "sliding_attention", "full_attention"]);
    let error = metadata_of(&gemma, "", FILE_TYPE).unwrap_err().to_string();
    assert!(error.contains("layer_types does not have"), "{error}");
    let gpt2 = json!({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1,
        "scale_attn_by_inverse_layer_idx": true});
    let error = metadata_of(&gpt2, "", FILE_TYPE).unwrap_err().to_string();
    assert!(
        error.contains("scale_attn_by_inverse_layer_idx is true"),
        "{error}"
    );
}

#[test]
fn what_llama_cpp_does_otherwise_is_remarked() {
    let mut mistral = tiny_config("mistral");
    assert_eq!(remarks(&mistral).unwrap(), Vec::<String>::new());
    mistral["sliding_window"] = json!(16);
    mistral["rope_scaling"] = json!({"rope_type": "dynamic", "factor": 2.0});
    let lines = remarks(&mistral).unwrap();
    assert!(
        lines[0].contains("beyond 16 tokens") && lines[1].contains("dynamic"),
        "{lines:?}"
    );
    mistral["rope_scaling"] = json!({"rope_type": "yarn", "factor": 2.0, "beta_slow": 2.0});
    assert!(remarks(&mistral).unwrap()[1].contains("beta_slow"));
    let mut gemma = tiny_config("gemma3_text");
    assert_eq!(remarks(&gemma).unwrap(), Vec::<String>::new());
    gemma["query_pre_attn_scalar"] = json!(24);
    assert!(remarks(&gemma).unwrap()[0].contains("takes 4 for query_pre_attn_scalar, which is 24"));
}

#[test]
fn names_go_out_with_their_changes() {
    let config = tiny_config("llama");
    let of = |name: &str| tensor_out(&config, name).unwrap();
    let heads = 2;
    assert_eq!(
        of("model.layers.12.self_attn.k_proj.bias"),
        Some(("blk.12.attn_k.bias".into(), Change::PermuteRows { heads }))
    );
    assert_eq!(
        of("model.norm.weight"),
        Some(("output_norm.weight".into(), Change::Same))
    );
    for name in [
        "lm_head.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.x.mlp.up_proj.weight",
    ] {
        assert_eq!(of(name), None, "{name}");
    }
    let gemma = tiny_config("gemma3_text");
    let norm = tensor_out(&gemma, "model.layers.0.self_attn.q_norm.weight").unwrap();
    assert_eq!(
        norm,
        Some(("blk.0.attn_q_norm.weight".into(), Change::PlusOne))
    );
    let gpt2 = json!({"model_type": "gpt2", "n_head": 2});
    for prefix in ["transformer.", ""] {
        let out = |name: &str| tensor_out(&gpt2, &format!("{prefix}{name}")).unwrap();
        assert_eq!(
            out("wpe.weight"),
            Some(("position_embd.weight".into(), Change::Same))
        );
        assert_eq!(
            out("h.3.mlp.c_proj.weight"),
            Some(("blk.3.ffn_down.weight".into(), Change::Transpose))
        );
        assert_eq!(
            out("h.3.mlp.c_proj.bias"),
            Some(("blk.3.ffn_down.bias".into(), Change::Same))
        );
        assert_eq!(out("h.3.attn.bias"), None);
    }
    assert!(is_always_f32("blk.0.attn_q_norm.weight", &[2, 2]));
    assert!(is_always_f32("position_embd.weight", &[2, 2]) && is_always_f32("a.bias", &[2]));
    assert!(!is_always_f32("token_embd.weight", &[2, 2]));
}
