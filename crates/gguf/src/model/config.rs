//! A file's settings as a config.json.

mod reader;

use aios_base::error::Result;
use serde_json::{Value as Json, json};

use crate::file::GgufFile;
use crate::metadata::Metadata;
use crate::model::family::Family;
use crate::model::keys::Keys;

use reader::Reader;

const ARCHITECTURE: &str = "general.architecture";
const EMBEDDING: &str = "token_embd.weight";

/// The config.json that transformers would have for the model of a file.
///
/// # Errors
/// A file of something else, of an architecture that is not supported, or one that does not say what it must.
pub fn config(file: &GgufFile) -> Result<Json> {
    let metadata = file.metadata();
    match metadata.text("general.type")? {
        None | Some("model") => {}
        Some(other) => {
            return Err(file.wrong(&format!(
                "it is of type {other:?}: it must be a model's file"
            )));
        }
    }
    let architecture = metadata.text(ARCHITECTURE)?;
    let architecture = architecture
        .ok_or_else(|| file.wrong(&format!("it has no {ARCHITECTURE}: it is no model's file")))?;
    let family = Family::of_architecture(architecture).map_err(|cause| file.wrong(&cause))?;
    let keys = Keys {
        metadata,
        architecture,
    };
    if keys
        .count("expert_count")?
        .is_some_and(|experts| experts > 0)
    {
        return Err(file.wrong("it is a mixture of experts, which is not supported"));
    }
    let mut config = match architecture {
        "gpt2" => gpt2(file, &keys)?,
        _ => Reader::of(file, &keys, family)?.config()?,
    };
    for (key, id) in ids(metadata)? {
        config[key] = id;
    }
    config["tie_word_embeddings"] = json!(file.tensor("output.weight").is_none());
    if let Some(name) = float_type(file) {
        config["torch_dtype"] = json!(name);
    }
    Ok(config)
}

/// What a generation_config.json would say: ids of control tokens.
///
/// # Errors
/// A key of another type.
pub fn generation_config(file: &GgufFile) -> Result<Json> {
    let metadata = file.metadata();
    let mut config = json!({});
    for (key, id) in ids(metadata)? {
        config[key] = id;
    }
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        if let Some(id) = metadata.number(&format!("tokenizer.ggml.{name}_token_id"))?
            && !ends.contains(&id)
        {
            ends.push(id);
        }
    }
    match ends.as_slice() {
        [] => {}
        [id] => config["eos_token_id"] = json!(id),
        ids => config["eos_token_id"] = json!(ids),
    }
    Ok(config)
}

/// Ids of control tokens that a config.json has.
fn ids(metadata: &Metadata) -> Result<Vec<(&'static str, Json)>> {
    let names = [
        ("bos_token_id", "bos"),
        ("eos_token_id", "eos"),
        ("pad_token_id", "padding"),
    ];
    let mut found = Vec::new();
    for (key, name) in names {
        if let Some(id) = metadata.number(&format!("tokenizer.ggml.{name}_token_id"))? {
            found.push((key, json!(id)));
        }
    }
    Ok(found)
}

/// What the embedding is in, if that is no quantized format.
fn float_type(file: &GgufFile) -> Option<&'static str> {
    match file.tensor(EMBEDDING)?.kind.name() {
        "F32" => Some("float32"),
        "F16" => Some("float16"),
        "BF16" => Some("bfloat16"),
        _ => None,
    }
}

/// Layers of a file: each has a tensor at least, so that no number of them is believed that is not there.
fn layers(file: &GgufFile, keys: &Keys) -> Result<u32> {
    let layers = keys.needed("block_count")?;
    match layers as usize <= file.tensors().len() {
        true => Ok(layers),
        false => Err(keys.wrong(
            "block_count",
            &format!(
                "{layers}, and the file has {} tensors in all",
                file.tensors().len()
            ),
        )),
    }
}

/// Rows of the embedding: some files have fewer than the folder that they were made of.
fn vocabulary(file: &GgufFile, hidden: u32) -> Result<usize> {
    let embedding = file.tensor(EMBEDDING);
    let shape = embedding.map(|tensor| tensor.shape.as_slice());
    match shape {
        Some(&[rows, columns]) if columns == hidden as usize => Ok(rows),
        Some(shape) => Err(file.wrong(&format!(
            "tensor {EMBEDDING} has the shape {shape:?}: its rows must have {hidden} numbers, which is the model's \
             embedding_length"
        ))),
        None => Err(file.wrong(&format!(
            "it has no tensor {EMBEDDING}: it is no model's file, or not whole"
        ))),
    }
}

fn gpt2(file: &GgufFile, keys: &Keys) -> Result<Json> {
    let hidden = keys.needed("embedding_length")?;
    let inner = keys.count("feed_forward_length")?;
    Ok(json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocabulary(file, hidden)?,
        "n_positions": keys.needed("context_length")?,
        "n_embd": hidden,
        "n_layer": layers(file, keys)?,
        "n_head": keys.needed("attention.head_count")?,
        "n_inner": inner.filter(|inner| Some(*inner) != hidden.checked_mul(4)),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": keys.epsilon("attention.layer_norm_epsilon")?,
        "scale_attn_weights": true,
        "scale_attn_by_inverse_layer_idx": false,
    }))
}

/// Every sixth layer of Gemma 3 sees all.
pub(crate) const GEMMA3_PATTERN: u32 = 6;
/// Gemma 3 27B is known by them to llama.cpp, and scales by other numbers.
pub(crate) const LAYERS_OF_27B: u32 = 62;
