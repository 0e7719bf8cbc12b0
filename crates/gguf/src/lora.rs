//! PEFT's adapters as GGUF, which llama.cpp puts on a model's file.

use aios_base::error::{Error, Result};
use serde_json::Value as Json;

use crate::change::Change;
use crate::model::{Family, Fields, Names, Role};
use crate::value::Value;

/// Keys and values of an adapter's file. `architecture` is [`architecture`] of the model, `alpha` as [`alpha`] gives it.
pub fn metadata(architecture: &str, alpha: f64) -> Vec<(String, Value)> {
    let text = |text: &str| Value::Text(text.to_string());
    [
        ("general.architecture", text(architecture)),
        ("general.type", text("adapter")),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::F32(alpha as f32)),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .to_vec()
}

/// What llama.cpp calls a model, given its config.json.
///
/// # Errors
/// A model that has no place in a GGUF file.
pub fn architecture(config: &Json) -> Result<&'static str> {
    let family = Family::of_model(&Fields::of(config)?)?;
    Ok(family.architecture)
}

/// What an adapter's file has as alpha, given its adapter_config.json: llama.cpp divides it by the rank of each pair of
/// tensors.
///
/// # Errors
/// An adapter that is more than pairs of matrices with one alpha: names the setting.
pub fn alpha(adapter_config: &Json) -> Result<f64> {
    let fields = Fields::of_file(adapter_config, "adapter_config.json")?;
    let refused = |what: &str| {
        Err(fields.wrong(format!(
            "{what}, which has no place in a GGUF file: merge the adapter into the model and write that"
        )))
    };
    match fields.text("peft_type")? {
        None | Some("LORA") => {}
        Some(other) => return refused(&format!("peft_type is {other:?}")),
    }
    for name in ["use_dora", "lora_bias", "use_qalora"] {
        if fields.flag(name)? == Some(true) {
            return refused(&format!("{name} is true"));
        }
    }
    if let Some(bias) = fields.text("bias")?.filter(|bias| *bias != "none") {
        return refused(&format!("bias is {bias:?}"));
    }
    for name in [
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
        "layer_replication",
    ] {
        if fields.get(name).is_some_and(|value| !is_empty(value)) {
            return refused(&format!("there is {name}"));
        }
    }
    let alpha = fields.positive("lora_alpha")?.unwrap_or(8.0);
    let alphas = fields.object("alpha_pattern")?;
    let mut others = alphas.iter().flat_map(Fields::entries);
    if let Some((name, other)) = others.find(|(_, other)| other.as_f64() != Some(alpha)) {
        return refused(&format!(
            "alpha_pattern has {other} for {name}, and lora_alpha is {alpha}"
        ));
    }
    if fields.flag("use_rslora")? != Some(true) {
        return Ok(alpha);
    }
    let rank = fields.count("r")?.unwrap_or(8);
    let ranks = fields.object("rank_pattern")?;
    let mut others = ranks.iter().flat_map(Fields::entries);
    match others.find(|(_, other)| other.as_u64() != Some(u64::from(rank))) {
        // Divided by the rank, it is alpha over the rank's root.
        None => Ok(alpha * f64::from(rank).sqrt()),
        Some((name, other)) => refused(&format!(
            "use_rslora is true and rank_pattern has {other} for {name}, where r is {rank}"
        )),
    }
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Array(all) => all.is_empty(),
        Json::Object(all) => all.is_empty(),
        _ => false,
    }
}

/// What a tensor of `adapter_model.safetensors` is called in a file, and what has to be done to its numbers, given the
/// config.json of the model that it is for.
///
/// # Errors
/// One that is no A or B of a matrix that files have; and one of a tied head or embedding, which llama.cpp would put on only
/// one of the two.
pub fn tensor(config: &Json, name: &str) -> Result<(String, Change)> {
    let refused = |what: &str| {
        Err(Error::failed(format!(
            "tensor {name} of the adapter {what}: merge the adapter into the model and write that"
        )))
    };
    let module = name.strip_prefix("base_model.model.").unwrap_or(name);
    let sides = [
        (".lora_A.weight", "lora_a", false),
        (".lora_B.weight", "lora_b", false),
        (".lora_embedding_A", "lora_a", true),
        (".lora_embedding_B", "lora_b", true),
    ];
    let side = sides.iter().find_map(|(end, side, is_embedding)| {
        let module = module.strip_suffix(end)?;
        Some((module, *side, *is_embedding))
    });
    let Some((module, side, is_embedding)) = side else {
        return refused("is not A or B of LoRA, and a GGUF file has nothing else");
    };
    let names = Names::of(config)?;
    let Some((part, gguf)) = names.module(module) else {
        return refused("is of a module that a GGUF file does not have");
    };
    let is_tied_one = part.gguf == "token_embd" || part.role == Role::Head;
    if is_tied_one && names.tied()? {
        return refused("is of a head that is also the embedding, which llama.cpp takes for two");
    }
    if part.role == Role::Norm || is_embedding != (part.gguf == "token_embd") {
        return refused("is of a module that a GGUF file has no LoRA of");
    }
    let change = match (names.weight_change(part), side) {
        // Rows of B are those of the matrix.
        (change @ Change::PermuteRows { .. }, "lora_b") => change,
        // llama.cpp takes columns of the embedding's A.
        _ if is_embedding && side == "lora_a" => Change::Transpose,
        // Conv1D's A and B are those of a matrix of rows already.
        _ => Change::Same,
    };
    Ok((format!("{gguf}.weight.{side}"), change))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn model(model_type: &str) -> Json {
        json!({"model_type": model_type, "num_attention_heads": 4, "num_key_value_heads": 2, "n_head": 4,
            "tie_word_embeddings": false})
    }

    #[track_caller]
    fn named(model_type: &str, name: &str) -> (String, Change) {
        tensor(&model(model_type), &format!("base_model.model.{name}")).unwrap()
    }

    #[test]
    fn only_rows_of_b_are_permuted() {
        let of = |heads| Change::PermuteRows { heads };
        let q = "model.layers.3.self_attn.q_proj";
        assert_eq!(
            named("llama", &format!("{q}.lora_B.weight")),
            ("blk.3.attn_q.weight.lora_b".to_string(), of(4))
        );
        assert_eq!(
            named("llama", &format!("{q}.lora_A.weight")),
            ("blk.3.attn_q.weight.lora_a".to_string(), Change::Same)
        );
        let k = "model.layers.0.self_attn.k_proj.lora_B.weight";
        assert_eq!(named("mistral", k).1, of(2));
        assert_eq!(named("qwen2", k).1, Change::Same);
        let down = named("llama", "model.layers.0.mlp.down_proj.lora_B.weight");
        assert_eq!(
            down,
            ("blk.0.ffn_down.weight.lora_b".to_string(), Change::Same)
        );
        let attention = named("gpt2", "transformer.h.1.attn.c_attn.lora_B.weight");
        assert_eq!(
            attention,
            ("blk.1.attn_qkv.weight.lora_b".to_string(), Change::Same)
        );
        let embedding = named("llama", "model.embed_tokens.lora_embedding_A");
        assert_eq!(
            embedding,
            ("token_embd.weight.lora_a".to_string(), Change::Transpose)
        );
    }

    #[test]
    fn what_a_file_cannot_have_is_refused() {
        let mut tied = model("llama");
        tied["tie_word_embeddings"] = json!(true);
        for (config, name, word) in [
            (&tied, "lm_head.lora_A.weight", "also the embedding"),
            (
                &tied,
                "model.embed_tokens.lora_embedding_B",
                "also the embedding",
            ),
            (&tied, "model.embed_tokens.weight", "not A or B"),
            (
                &tied,
                "model.layers.0.mlp.down_proj.lora_magnitude_vector",
                "not A or B",
            ),
            (
                &tied,
                "model.layers.0.mlp.none.lora_A.weight",
                "does not have",
            ),
            (&tied, "model.norm.lora_A.weight", "no LoRA of"),
        ] {
            let error = tensor(config, &format!("base_model.model.{name}"));
            let error = error.unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(name), "{error}");
        }
        for (setting, word) in [
            (json!({"use_dora": true}), "use_dora"),
            (json!({"modules_to_save": ["lm_head"]}), "modules_to_save"),
            (json!({"bias": "all"}), "bias is \"all\""),
            (json!({"lora_bias": true}), "lora_bias"),
            (json!({"peft_type": "IA3"}), "IA3"),
            (
                json!({"lora_alpha": 16, "alpha_pattern": {"q_proj": 8}}),
                "alpha_pattern has 8",
            ),
            (
                json!({"r": 8, "use_rslora": true, "rank_pattern": {"q_proj": 4}}),
                "rank_pattern has 4",
            ),
        ] {
            let error = alpha(&setting).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn alpha_is_what_llama_cpp_divides_by_the_rank() {
        let of = |config: Json| alpha(&config).unwrap();
        assert_eq!(of(json!({"lora_alpha": 32, "r": 16})), 32.0);
        assert_eq!(
            of(json!({"lora_alpha": 32, "r": 16, "use_rslora": true})),
            128.0
        );
        let patterns = json!({"lora_alpha": 32, "r": 16, "rank_pattern": {"q_proj": 4},
            "alpha_pattern": {"q_proj": 32}, "modules_to_save": null});
        assert_eq!(of(patterns), 32.0);
        let pairs = metadata(architecture(&model("mistral")).unwrap(), 128.0);
        assert_eq!(
            pairs[0],
            (
                "general.architecture".to_string(),
                Value::Text("llama".to_string())
            )
        );
        assert_eq!(pairs[3].1, Value::F32(128.0));
    }
}
