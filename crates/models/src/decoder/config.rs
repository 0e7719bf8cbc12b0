//! What a config.json says of a decoder: sizes, and the switches in which model families differ.

use crate::decoder::fields::{Fields, missing};
use crate::decoder::quantization::is_nf4;
use crate::decoder::rope::RopeConfig;
use crate::decoder::ropes::{one_rope, ropes_of_gemma3};
use crate::decoder::usual::Usual;
use crate::decoder::windows::windows;
use aios_base::error::{Error, Result};
use aios_nn::{DecoderShape, QkNorm};
use aios_tensor::{Activation, NormShape};
use serde_json::Value;

/// Values of `model_type` that are known.
pub const MODEL_TYPES: [&str; 10] = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gpt2",
    "phi3",
    "gemma3_text",
    "olmo2",
    "granite",
    "hrm_text",
];

/// How a family's files name and shape their tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// q, k and v, gate and up each by themselves.
    Llama,
    /// The same as fused matrices.
    Phi3,
    /// Fused and transposed, with names of its own.
    Gpt2,
    /// Two stacks, with gates.
    HrmText,
    /// The same with the linear layers apart that its files hold as one: what transformers makes of these, and PEFT adapts.
    HrmTextParts,
}

impl Naming {
    /// As linear layers are adapted.
    pub fn in_parts(self) -> Self {
        match self {
            Self::HrmText => Self::HrmTextParts,
            other => other,
        }
    }
}

/// Cycles of HRM-Text's two stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycles {
    pub high: usize,
    pub low: usize,
    /// Of each high cycle, how many low ones at its end carry gradients.
    pub backward: Vec<usize>,
}

/// A decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    pub naming: Naming,
    pub vocab_size: usize,
    /// Of each block.
    pub blocks: Vec<DecoderShape>,
    /// Longest sequence that the configuration names.
    pub max_positions: usize,
    /// Positions are looked up and added instead of turned.
    pub learned_positions: bool,
    pub ropes: Vec<RopeConfig>,
    pub norm: NormShape,
    /// Norms have a weight.
    pub norm_weights: bool,
    /// Norms of what attention and MLP read.
    pub pre_norms: bool,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    pub embedding_scale: f32,
    /// What logits are divided by.
    pub logits_divisor: f32,
    pub tied: bool,
    /// Standard deviation of fresh weights.
    pub init_std: f64,
    pub cycles: Option<Cycles>,
}

impl DecoderConfig {
    /// Read a config.json.
    ///
    /// # Errors
    /// A type that is not known, or a value that is missing or impossible.
    pub fn read(config: &Value) -> Result<Self> {
        let fields = Fields::of(config)?;
        let model_type = fields
            .text("model_type")?
            .ok_or_else(|| missing("model_type"))?;
        is_nf4(config)?;
        let config = match model_type {
            "gpt2" => gpt2(&fields)?,
            "gemma3_text" => gemma3(&fields)?,
            "hrm_text" => hrm_text(&fields)?,
            "llama" | "mistral" | "qwen2" | "qwen3" | "phi3" | "olmo2" | "granite" => {
                llama_like(model_type, &fields)?
            }
            other => {
                return Err(Error::failed(format!(
                    "config.json: models of type {other:?} are not supported; supported are {}",
                    MODEL_TYPES.join(", ")
                )));
            }
        };
        config.validate()?;
        Ok(config)
    }

    /// Stacks of blocks with weights of their own.
    pub fn stacks(&self) -> usize {
        1 + usize::from(self.cycles.is_some())
    }

    pub fn hidden(&self) -> usize {
        self.blocks.first().map_or(0, |block| block.hidden)
    }

    fn validate(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::failed(format!("config.json: {what}")));
        let Some(block) = self.blocks.first() else {
            return wrong("the model has no layers".to_string());
        };
        if !block.heads.is_multiple_of(block.kv_heads) {
            return wrong(format!(
                "{} heads cannot share {} key and value heads evenly",
                block.heads, block.kv_heads
            ));
        }
        let calls = self.cycles.as_ref().map_or(1, |c| c.high * (c.low + 1));
        if calls > MOST_LAYERS {
            return wrong(format!(
                "H_cycles and L_cycles make {calls} runs of a stack: at most {MOST_LAYERS} are possible here"
            ));
        }
        if self.numbers() > MOST_NUMBERS {
            return wrong("the model is larger than any memory".to_string());
        }
        let eps = self.norm.eps;
        if eps >= 1.0 {
            return wrong(format!("the norms' epsilon is {eps:e}: it must be below 1"));
        }
        let factors = [
            ("the residual multiplier", block.residual),
            ("the attention's scale", block.scale),
            ("the embedding's multiplier", self.embedding_scale),
            ("logits_scaling", self.logits_divisor),
            ("initializer_range", self.init_std as f32),
        ];
        match factors.iter().find(|(_, by)| !(1e-6..=1e6).contains(by)) {
            None => Ok(()),
            Some((name, by)) => wrong(format!("{name} is {by:e}: it must be from 1e-6 to 1e6")),
        }
    }

    /// About as many as its weights have.
    fn numbers(&self) -> f64 {
        let of = |block: &DecoderShape| {
            let (hidden, q) = (block.hidden as f64, block.q_width() as f64);
            let inner = block.up_width() as f64 + block.inner as f64;
            hidden * (block.heads as f64 * 2.0 * block.head_dim as f64 + q + inner)
        };
        let blocks: f64 = self.blocks.iter().map(of).sum();
        blocks + 2.0 * self.vocab_size as f64 * self.hidden() as f64
    }
}

/// More numbers than any memory holds: a petabyte of them.
const MOST_NUMBERS: f64 = 2.5e14;

/// More layers than any model has: a file that asks for more is not believed.
const MOST_LAYERS: usize = 4096;

fn layers(fields: &Fields, name: &str) -> Result<usize> {
    let layers = fields.needed(name)?;
    match layers <= MOST_LAYERS {
        true => Ok(layers),
        false => Err(Error::failed(format!(
            "config.json: {name} is {layers}: models have at most {MOST_LAYERS} layers here"
        ))),
    }
}

fn activation(fields: &Fields, name: &str, usual: &str) -> Result<Activation> {
    match fields.text(name)?.unwrap_or(usual) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        other => Err(Error::failed(format!(
            "config.json: the activation {other:?} is not supported; silu, gelu, gelu_new and gelu_pytorch_tanh are"
        ))),
    }
}

fn rms(fields: &Fields, usual: &Usual, offset: f32) -> Result<NormShape> {
    Ok(NormShape {
        centered: false,
        eps: fields.positive("rms_norm_eps")?.unwrap_or(usual.eps) as f32,
        offset,
    })
}

/// Heads, key and value heads, and a head's size.
fn heads(fields: &Fields, hidden: usize, usual: &Usual) -> Result<[usize; 3]> {
    let heads = fields.needed("num_attention_heads")?;
    let kv_heads = fields.count_or("num_key_value_heads", usual.kv_heads)?;
    let head_dim = match fields.count("head_dim")?.or(usual.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(Error::failed(format!(
                "config.json: hidden_size {hidden} is no multiple of {heads} heads, and there is no head_dim"
            )));
        }
    };
    Ok([heads, kv_heads.unwrap_or(heads), head_dim])
}

/// Llama's block of such sizes; families say in what theirs differ.
fn block(
    hidden: usize,
    inner: usize,
    [heads, kv_heads, head_dim]: [usize; 3],
    activation: Activation,
) -> DecoderShape {
    DecoderShape {
        hidden,
        inner,
        heads,
        kv_heads,
        head_dim,
        window: 0,
        scale: (head_dim as f64).powf(-0.5) as f32,
        rope: Some(0),
        qk_norm: None,
        gated_attention: false,
        activation,
        gated_mlp: true,
        post_norms: false,
        residual: 1.0,
    }
}

/// Llama's model of such blocks; families say in what theirs differ.
fn model(
    fields: &Fields,
    blocks: Vec<DecoderShape>,
    norm: NormShape,
    usual: &Usual,
) -> Result<DecoderConfig> {
    let bias = |name, is_read| Ok::<bool, Error>(is_read && fields.flag(name)? == Some(true));
    let attention_bias = bias("attention_bias", usual.attention_bias)?;
    let positions = fields.count("max_position_embeddings")?;
    Ok(DecoderConfig {
        naming: Naming::Llama,
        vocab_size: fields.needed("vocab_size")?,
        blocks,
        max_positions: positions.unwrap_or(usual.positions),
        learned_positions: false,
        ropes: Vec::new(),
        norm,
        norm_weights: true,
        pre_norms: true,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: bias("mlp_bias", usual.mlp_bias)?,
        embedding_scale: 1.0,
        logits_divisor: 1.0,
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(usual.tied),
        init_std: fields.positive("initializer_range")?.unwrap_or(0.02),
        cycles: None,
    })
}

fn llama_like(model_type: &str, fields: &Fields) -> Result<DecoderConfig> {
    let is = |name| model_type == name;
    let hidden = fields.needed("hidden_size")?;
    let layers = layers(fields, "num_hidden_layers")?;
    let usual = Usual::of(model_type);
    let heads = heads(fields, hidden, &usual)?;
    let inner = fields.needed("intermediate_size")?;
    let multiplier = |name, default: f32| {
        let given = match is("granite") {
            true => fields.number(name)?,
            false => None,
        };
        Ok::<f32, Error>(given.map_or(default, |given| given as f32))
    };
    let shape = block(
        hidden,
        inner,
        heads,
        activation(fields, "hidden_act", "silu")?,
    );
    let shape = DecoderShape {
        scale: match is("granite") {
            true => multiplier("attention_multiplier", 1.0)?,
            false => shape.scale,
        },
        qk_norm: match model_type {
            "qwen3" => Some(QkNorm::Head),
            "olmo2" => Some(QkNorm::Token),
            _ => None,
        },
        post_norms: is("olmo2"),
        residual: multiplier("residual_multiplier", 1.0)?,
        ..shape
    };
    let windows = windows(model_type, fields, layers, &usual)?.into_iter();
    let blocks = windows.map(|window| DecoderShape { window, ..shape });
    let norm = rms(fields, &usual, 0.0)?;
    let model = model(fields, blocks.collect(), norm, &usual)?;
    Ok(DecoderConfig {
        naming: match is("phi3") {
            true => Naming::Phi3,
            false => Naming::Llama,
        },
        ropes: vec![one_rope(fields, shape.head_dim, &usual)?],
        pre_norms: !is("olmo2"),
        qkv_bias: is("qwen2") || model.qkv_bias,
        embedding_scale: multiplier("embedding_multiplier", 1.0)?,
        logits_divisor: multiplier("logits_scaling", 1.0)?,
        ..model
    })
}

fn gemma3(fields: &Fields) -> Result<DecoderConfig> {
    let hidden = fields.needed("hidden_size")?;
    let layers = layers(fields, "num_hidden_layers")?;
    let usual = Usual::of("gemma3_text");
    let heads = heads(fields, hidden, &usual)?;
    let inner = fields.needed("intermediate_size")?;
    for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if fields.number(name)?.is_some() {
            return Err(Error::failed(format!(
                "config.json: {name} is not supported"
            )));
        }
    }
    if fields.flag("use_bidirectional_attention")? == Some(true) {
        return Err(Error::failed(
            "config.json: use_bidirectional_attention is not supported: the model is no causal decoder",
        ));
    }
    let scalar = fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    let activation = activation(fields, "hidden_activation", "gelu_pytorch_tanh")?;
    let shape = DecoderShape {
        scale: scalar.powf(-0.5) as f32,
        qk_norm: Some(QkNorm::Head),
        post_norms: true,
        ..block(hidden, inner, heads, activation)
    };
    let windows = windows("gemma3_text", fields, layers, &usual)?.into_iter();
    let blocks = windows.map(|window| DecoderShape {
        window,
        rope: Some(usize::from(window > 0)),
        ..shape
    });
    let norm = rms(fields, &usual, 1.0)?;
    let model = model(fields, blocks.collect(), norm, &usual)?;
    Ok(DecoderConfig {
        ropes: ropes_of_gemma3(fields, shape.head_dim, &usual)?,
        embedding_scale: (hidden as f32).sqrt(),
        ..model
    })
}

fn gpt2(fields: &Fields) -> Result<DecoderConfig> {
    let hidden = fields.needed("n_embd")?;
    let layers = layers(fields, "n_layer")?;
    let heads = fields.needed("n_head")?;
    if !hidden.is_multiple_of(heads) {
        return Err(Error::failed(format!(
            "config.json: n_embd {hidden} is no multiple of n_head {heads}"
        )));
    }
    if fields.flag("add_cross_attention")? == Some(true) {
        return Err(Error::failed(
            "config.json: add_cross_attention is not supported",
        ));
    }
    let inner = fields.count("n_inner")?.unwrap_or(4 * hidden);
    let activation = activation(fields, "activation_function", "gelu_new")?;
    let shape = block(hidden, inner, [heads, heads, hidden / heads], activation);
    let scale = match fields.flag("scale_attn_weights")? {
        Some(false) => 1.0,
        _ => shape.scale,
    };
    let by_layer = fields.flag("scale_attn_by_inverse_layer_idx")? == Some(true);
    let blocks = (0..layers).map(|layer| DecoderShape {
        scale: match by_layer {
            true => scale / (layer + 1) as f32,
            false => scale,
        },
        rope: None,
        gated_mlp: false,
        ..shape
    });
    let norm = NormShape {
        centered: true,
        eps: fields.positive("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        offset: 0.0,
    };
    Ok(DecoderConfig {
        naming: Naming::Gpt2,
        max_positions: fields.count("n_positions")?.unwrap_or(1024),
        learned_positions: true,
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        ..model(fields, blocks.collect(), norm, &Usual::of("gpt2"))?
    })
}

fn hrm_text(fields: &Fields) -> Result<DecoderConfig> {
    let hidden = fields.needed("hidden_size")?;
    let usual = Usual::of("hrm_text");
    let [heads, _, head_dim] = heads(fields, hidden, &usual)?;
    let inner = fields.needed("intermediate_size")?;
    let activation = activation(fields, "hidden_act", "silu")?;
    let cycles = cycles(fields)?;
    let stack = match fields.get("num_layers_per_stack") {
        Some(_) => layers(fields, "num_layers_per_stack")?,
        None => layers(fields, "num_hidden_layers")?,
    };
    let shape = DecoderShape {
        gated_attention: true,
        // It has no other number of keys.
        ..block(hidden, inner, [heads, heads, head_dim], activation)
    };
    let norm = rms(fields, &usual, 0.0)?;
    let model = model(fields, vec![shape; stack], norm, &usual)?;
    let scale = fields.positive("embedding_scale")?;
    Ok(DecoderConfig {
        naming: Naming::HrmText,
        ropes: vec![one_rope(fields, shape.head_dim, &usual)?],
        norm_weights: false,
        embedding_scale: scale.unwrap_or(1.0 / model.init_std) as f32,
        cycles: Some(cycles),
        ..model
    })
}

fn cycles(fields: &Fields) -> Result<Cycles> {
    let high = layers(fields, "H_cycles")?;
    let low = layers(fields, "L_cycles")?;
    let name = "L_bp_cycles";
    // As transformers has it; a smaller model has no two low cycles.
    let usual = || vec![low.min(2)];
    let given = fields.wholes(name, 0..=low)?.unwrap_or_else(usual);
    if given.len() > high {
        return Err(Error::failed(format!(
            "config.json: {name} has {} numbers for {high} high cycles (H_cycles): it must have {high} at most",
            given.len()
        )));
    }
    let before = std::iter::repeat_n(1, high - given.len());
    Ok(Cycles {
        high,
        low,
        backward: before.chain(given).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::HfModel;
    use crate::{Architecture, decoder::Decoder};
    use aios_nn::Visit;
    use aios_tensor::CpuBackend;
    use serde_json::json;

    fn tiny(model_type: &str) -> Value {
        json!({
            "model_type": model_type, "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
            "max_position_embeddings": 32, "sliding_window": 5, "n_embd": 8, "n_layer": 2, "n_head": 2,
            "H_cycles": 2, "L_cycles": 2, "L_bp_cycles": [1],
        })
    }

    fn with(model_type: &str, key: &str, value: Value) -> Result<DecoderConfig> {
        let mut config = tiny(model_type);
        config[key] = value;
        DecoderConfig::read(&config)
    }

    #[test]
    fn the_layout_is_that_of_the_model() {
        for model_type in MODEL_TYPES {
            let model = HfModel::new(tiny(model_type), 8, 0).unwrap();
            let source = &mut |info: &aios_nn::ParamInfo, _| Ok(vec![0.5; info.elements()].into());
            let built = Decoder::<CpuBackend>::build(&model, 8, &Default::default(), source);
            let built = built.unwrap();
            let infos: Vec<_> = built.params().iter().map(|p| p.info.clone()).collect();
            assert_eq!(infos, model.parameters(), "{model_type}");
            let indices = built.params().into_iter().map(|p| p.index);
            assert!(indices.eq(0..infos.len()), "{model_type}");
            let parts: usize = model.parts().into_iter().map(|(_, n)| n).sum();
            assert_eq!(parts, model.trained(), "{model_type}");
        }
    }

    #[test]
    fn windows_are_of_their_layers() {
        let of = |config: DecoderConfig| -> Vec<usize> {
            config.blocks.iter().map(|block| block.window).collect()
        };
        assert_eq!(of(with("mistral", "x", json!(0)).unwrap()), [5, 5]);
        assert_eq!(of(with("llama", "x", json!(0)).unwrap()), [0, 0]);
        assert_eq!(
            of(with("gemma3_text", "sliding_window_pattern", json!(2)).unwrap()),
            [5, 0]
        );
        let mut qwen = tiny("qwen2");
        (qwen["use_sliding_window"], qwen["max_window_layers"]) = (json!(true), json!(1));
        assert_eq!(of(DecoderConfig::read(&qwen).unwrap()), [0, 5]);
    }

    #[test]
    fn of_two_tables_each_has_its_own_default() {
        let thetas = |key: &str, value: Value, top: &[(&str, f64)]| {
            let mut config = tiny("gemma3_text");
            config[key] = value;
            for (key, value) in top {
                config[*key] = json!(value);
            }
            let ropes = DecoderConfig::read(&config).unwrap().ropes;
            [ropes[0].theta, ropes[1].theta]
        };
        let of = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
        let place = "rope_parameters";
        assert_eq!(thetas(place, json!(null), &[]), [1e6, 1e4]);
        assert_eq!(thetas(place, json!({}), &[("rope_theta", 3.0)]), [3.0, 1e4]);
        let full = json!({"full_attention": of(5.0)});
        let local = [("rope_local_base_freq", 7.0)];
        assert_eq!(thetas(place, full, &local), [5.0, 7.0]);
        let sliding = json!({"sliding_attention": of(5.0), "full_attention": null});
        assert_eq!(thetas(place, sliding, &[("rope_theta", 9.0)]), [9.0, 5.0]);
        let scaling = json!({"rope_type": "linear", "factor": 2.0});
        assert_eq!(
            thetas("rope_scaling", scaling, &[("rope_theta", 3.0)]),
            [3.0, 1e4]
        );
    }

    #[test]
    fn the_older_description_of_two_wins() {
        let mut config = tiny("llama");
        config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5.0});
        config["rope_scaling"] = json!({"type": "linear", "factor": 3.0});
        config["rope_theta"] = json!(9.0);
        let theta = |config: &Value| DecoderConfig::read(config).unwrap().ropes[0].theta;
        assert_eq!(theta(&config), 9.0);
        config["rope_scaling"] = json!({});
        assert_eq!(theta(&config), 5.0);
    }

    #[test]
    fn low_cycles_that_go_backward_are_those_of_transformers() {
        let backward = |given: Value| {
            let config = with("hrm_text", "L_bp_cycles", given).unwrap();
            config.cycles.unwrap().backward
        };
        assert_eq!(backward(json!(null)), [1, 2]);
        assert_eq!(backward(json!([])), [1, 1]);
        assert_eq!(backward(json!([2, 0])), [2, 0]);
    }

    #[test]
    fn what_is_not_said_is_as_in_transformers() {
        let without = |model_type: &str, keys: &[&str]| {
            let mut config = tiny(model_type);
            config["num_attention_heads"] = json!(32);
            for key in keys {
                config.as_object_mut().unwrap().remove(*key);
            }
            DecoderConfig::read(&config).unwrap()
        };
        let mistral = without("mistral", &["sliding_window", "num_key_value_heads"]);
        assert_eq!(mistral.blocks[0].window, 4096);
        assert_eq!(mistral.blocks[0].kv_heads, 8);
        let null = with("mistral", "sliding_window", json!(null)).unwrap();
        assert_eq!(null.blocks[0].window, 0);
        let hrm = without("hrm_text", &["head_dim", "num_key_value_heads"]);
        assert_eq!((hrm.blocks[0].head_dim, hrm.blocks[0].kv_heads), (128, 32));
        assert_eq!(without("granite", &[]).blocks[0].scale, 1.0);
        let biased = with("qwen2", "attention_bias", json!(true)).unwrap();
        assert_eq!((biased.qkv_bias, biased.o_bias), (true, false));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = [
            ("bert", "x", json!(0), "bert"),
            ("llama", "hidden_size", json!(-1), "hidden_size is -1"),
            ("llama", "num_key_value_heads", json!(3), "evenly"),
            (
                "llama",
                "num_hidden_layers",
                json!(1 << 20),
                "num_hidden_layers",
            ),
            ("llama", "hidden_act", json!("relu"), "relu"),
            ("llama", "rms_norm_eps", json!(1e300), "epsilon"),
            (
                "llama",
                "quantization_config",
                json!({"bits": 4}),
                "quantization_config",
            ),
            (
                "llama",
                "layer_types",
                json!(["full_attention"]),
                "layer_types",
            ),
            ("granite", "logits_scaling", json!(0), "logits_scaling"),
            (
                "llama",
                "initializer_range",
                json!(1e300),
                "initializer_range",
            ),
            (
                "granite",
                "embedding_multiplier",
                json!(1e300),
                "embedding's multiplier",
            ),
            (
                "gemma3_text",
                "final_logit_softcapping",
                json!(30.0),
                "softcapping",
            ),
            ("gpt2", "n_head", json!(3), "n_head"),
            ("hrm_text", "H_cycles", json!(4000), "H_cycles"),
            (
                "hrm_text",
                "L_bp_cycles",
                json!([3]),
                "L_bp_cycles is [3]: it must be a list of which each is a whole number from 0 to 2",
            ),
            (
                "hrm_text",
                "L_bp_cycles",
                json!([-1]),
                "L_bp_cycles is [-1]",
            ),
            ("hrm_text", "L_bp_cycles", json!([1.5]), "from 0 to 2"),
            (
                "hrm_text",
                "L_bp_cycles",
                json!([1, 1, 1]),
                "3 numbers for 2",
            ),
            (
                "hrm_text",
                "num_layers_per_stack",
                json!(5000),
                "num_layers_per_stack is 5000",
            ),
            (
                "gemma3_text",
                "rope_parameters",
                json!({"rope_type": "default"}),
                "rope_type",
            ),
            (
                "llama",
                "rope_parameters",
                json!({"full_attention": {}}),
                "full_attention",
            ),
            (
                "mistral",
                "layer_types",
                json!(["full_attention", "sliding_attention"]),
                "contradict",
            ),
            (
                "llama",
                "layer_types",
                json!(["full_attention", "sliding_attention"]),
                "sliding_window",
            ),
            (
                "qwen2",
                "layer_types",
                json!(["full_attention", "sliding_attention"]),
                "use_sliding_window",
            ),
        ];
        for (model_type, key, value, word) in wrong {
            let error = with(model_type, key, value).unwrap_err().to_string();
            assert!(error.contains(word), "{model_type} {key}: {error}");
        }
        let mut huge = tiny("llama");
        for key in ["hidden_size", "intermediate_size", "vocab_size", "head_dim"] {
            huge[key] = json!(1 << 24);
        }
        assert!(
            DecoderConfig::read(&huge)
                .unwrap_err()
                .to_string()
                .contains("memory")
        );
        let mut window = tiny("qwen2");
        (window["use_sliding_window"], window["max_window_layers"]) = (json!(true), json!(-3));
        assert!(DecoderConfig::read(&window).is_err());
    }
}
