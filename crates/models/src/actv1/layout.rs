//! The table of a model's parameters: names and shapes as published, in the order of their index.

use crate::actv1::config::{ModelConfig, PosEncodings};
use aios_base::storage::Storage;
use aios_nn::{Init, ParamInfo};

/// Every parameter of a model of this shape, and how it starts.
pub fn layout(config: &ModelConfig) -> Vec<(ParamInfo, Init)> {
    let (vocabulary, hidden) = (config.vocab_size, config.hidden_size);
    let unit = Init::TruncatedNormal(1.0);
    let embed = Init::TruncatedNormal(1.0 / (hidden as f64).sqrt());
    let embedding = "embed_tokens.embedding_weight";
    let mut all = vec![match config.tie_embeddings {
        // It multiplies as the head.
        true => matrix(embedding, &[vocabulary, hidden], embed),
        false => (plain(embedding, &[vocabulary, hidden]), embed),
    }];
    if config.pos_encodings == PosEncodings::Learned {
        let shape = [config.max_seq_len, hidden];
        all.push((plain("embed_pos.embedding_weight", &shape), embed));
    }
    level(&mut all, "H_level", config.h_layers, config);
    level(&mut all, "L_level", config.l_layers, config);
    if !config.tie_embeddings {
        all.push(linear("lm_head.weight", vocabulary, hidden));
    }
    // Zero weight and a bias of -5: at first the model almost never halts early, as published.
    all.push(matrix("q_head.weight", &[2, hidden], Init::Constant(0.0)));
    all.push((plain("q_head.bias", &[2]), Init::Constant(-5.0)));
    for name in ["H_init", "L_init"] {
        let info = ParamInfo {
            trained: false,
            ..plain(name, &[hidden])
        };
        all.push((info, unit));
    }
    all
}

fn level(all: &mut Vec<(ParamInfo, Init)>, name: &str, layers: usize, config: &ModelConfig) {
    let (hidden, inner) = (config.hidden_size, config.inner_size());
    for layer in 0..layers {
        let at = |part: &str| format!("{name}.layers.{layer}.{part}.weight");
        all.extend([
            linear(&at("self_attn.qkv_proj"), 3 * hidden, hidden),
            linear(&at("self_attn.o_proj"), hidden, hidden),
            linear(&at("mlp.gate_up_proj"), 2 * inner, hidden),
            linear(&at("mlp.down_proj"), hidden, inner),
        ]);
    }
}

/// Weight of a bias-free linear layer: truncated LeCun normal.
fn linear(name: &str, outputs: usize, inputs: usize) -> (ParamInfo, Init) {
    let init = Init::TruncatedNormal(1.0 / (inputs as f64).sqrt());
    matrix(name, &[outputs, inputs], init)
}

/// A matrix that multiplies, so that it decays.
fn matrix(name: &str, shape: &[usize], init: Init) -> (ParamInfo, Init) {
    let info = ParamInfo {
        decay: true,
        ..plain(name, shape)
    };
    (info, init)
}

/// A parameter without weight decay.
fn plain(name: &str, shape: &[usize]) -> ParamInfo {
    ParamInfo {
        name: name.to_string(),
        shape: shape.to_vec(),
        decay: false,
        trained: true,
        storage: Storage::F32,
    }
}
