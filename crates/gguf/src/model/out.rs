//! A config.json as keys of a file.

mod gemma;
mod remarks;
mod rotary;

use aios_base::error::Result;
use serde_json::Value as Json;

use crate::kind::Kind;
use crate::model::family::{Family, Heads, Usual};
use crate::model::fields::Fields;
use crate::value::Value;

/// Of ggml's blocks.
const QUANTIZATION_VERSION: u32 = 2;

/// Keys and values of a model's file, all but those of its tokenizer. `file_type` is [`file_type`] of what most of its
/// matrices are in.
///
/// # Errors
/// A model that has no place in such a file, or a setting that has none; names it.
pub fn metadata_of(config: &Json, name: &str, file_type: u32) -> Result<Vec<(String, Value)>> {
    let model = Model::of(config)?;
    let mut pairs = Pairs::of(model.family.architecture);
    pairs.general("type", Value::Text("model".to_string()));
    if !name.is_empty() {
        pairs.general("name", Value::Text(name.to_string()));
    }
    match model.family.architecture {
        "gpt2" => model.gpt2(&mut pairs)?,
        _ => model.like_llama(&mut pairs)?,
    }
    pairs.general("file_type", Value::U32(file_type));
    pairs.general("quantization_version", Value::U32(QUANTIZATION_VERSION));
    Ok(pairs.all)
}

/// Tensors in F32 of one dimension that a file has besides the folder's: factors of rotary embeddings.
///
/// # Errors
/// As of [`metadata_of`].
pub fn extra_tensors(config: &Json) -> Result<Vec<(String, Vec<f32>)>> {
    let model = Model::of(config)?;
    if model.family.architecture == "gpt2" {
        return Ok(Vec::new());
    }
    let (sizes, rope) = (model.sizes()?, model.rope()?);
    let rotated = model.rotated(&rope, &sizes)?;
    let tensors = rope.scaling.tensors(rope.theta, rotated as usize);
    tensors.map_err(|cause| model.config.wrong(cause))
}

/// What llama.cpp does not do as the model does, each in a line: to be told where a file is written for it.
///
/// # Errors
/// As of [`metadata_of`].
pub fn remarks(config: &Json) -> Result<Vec<String>> {
    let model = Model::of(config)?;
    match model.family.architecture {
        "gpt2" => Ok(Vec::new()),
        _ => model.remarks(),
    }
}

/// The number for `general.file_type` of a file whose matrices are in a format, if there is one.
pub fn file_type(kind: Kind) -> Option<u32> {
    Some(match kind {
        Kind::F32 => 0,
        Kind::F16 => 1,
        Kind::Q4_0 => 2,
        Kind::Q4_1 => 3,
        Kind::Q8_0 => 7,
        Kind::Q5_0 => 8,
        Kind::Q5_1 => 9,
        Kind::Q4K => 14,
        Kind::Q5K => 16,
        Kind::Q6K => 18,
        Kind::BF16 => 32,
        Kind::Other(_) => return None,
    })
}

/// Keys and values, those of the architecture under its name.
struct Pairs {
    architecture: &'static str,
    all: Vec<(String, Value)>,
}

impl Pairs {
    fn of(architecture: &'static str) -> Self {
        let mut pairs = Self {
            architecture,
            all: Vec::new(),
        };
        pairs.general("architecture", Value::Text(architecture.to_string()));
        pairs
    }

    fn general(&mut self, name: &str, value: Value) {
        self.all.push((format!("general.{name}"), value));
    }

    fn put(&mut self, name: &str, value: Value) {
        self.all
            .push((format!("{}.{name}", self.architecture), value));
    }

    fn count(&mut self, name: &str, count: u32) {
        self.put(name, Value::U32(count));
    }

    fn float(&mut self, name: &str, number: f64) {
        self.put(name, Value::F32(number as f32));
    }
}

struct Model<'a> {
    config: Fields<'a>,
    family: &'static Family,
    model_type: &'a str,
    usual: Usual,
}

/// Of a model of Llama's kind.
struct Sizes {
    hidden: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    positions: u32,
}

impl<'a> Model<'a> {
    fn of(config: &'a Json) -> Result<Self> {
        let config = Fields::of(config)?;
        let family = Family::of_model(&config)?;
        let model_type = config.text("model_type")?.unwrap_or("");
        Ok(Self {
            config,
            family,
            model_type,
            usual: family.usual(model_type),
        })
    }

    fn no_place<T>(&self, what: &str) -> Result<T> {
        let architecture = self.family.architecture;
        Err(self.config.wrong(format!(
            "{what}, which has no place in a GGUF file of architecture {architecture}"
        )))
    }

    fn require_activation(&self, name: &str) -> Result<()> {
        let known = self.family.activations;
        match self.config.text(name)? {
            Some(activation) if !known.contains(&activation) => self.no_place(&format!(
                "{name} is {activation:?} instead of {:?}",
                known[0]
            )),
            _ => Ok(()),
        }
    }

    fn gpt2(&self, pairs: &mut Pairs) -> Result<()> {
        let config = &self.config;
        self.require_activation("activation_function")?;
        for (name, needed) in [
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
            ("add_cross_attention", false),
        ] {
            if config.flag(name)?.unwrap_or(needed) != needed {
                return self.no_place(&format!("{name} is {}", !needed));
            }
        }
        let hidden = config.needed("n_embd")?;
        let inner = match config.count("n_inner")? {
            Some(inner) => inner,
            None => hidden
                .checked_mul(4)
                .ok_or_else(|| config.wrong(format!("n_embd is {hidden}: that is too much")))?,
        };
        let positions = config.count("n_positions")?;
        pairs.count("block_count", config.needed("n_layer")?);
        pairs.count("context_length", positions.unwrap_or(self.usual.positions));
        pairs.count("embedding_length", hidden);
        pairs.count("feed_forward_length", inner);
        pairs.count("attention.head_count", config.needed("n_head")?);
        let eps = config.positive("layer_norm_epsilon")?;
        pairs.float(
            "attention.layer_norm_epsilon",
            eps.unwrap_or(self.usual.eps),
        );
        Ok(())
    }

    fn sizes(&self) -> Result<Sizes> {
        let config = &self.config;
        let hidden = config.needed("hidden_size")?;
        let heads = Heads::of(config, self.family)?;
        let (heads, kv_heads) = (heads.q as u32, heads.kv as u32);
        let head_dim = match config.count("head_dim")?.or(self.usual.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(config.wrong(format!(
                    "hidden_size {hidden} is no multiple of {heads} heads, and there is no head_dim"
                )));
            }
        };
        let positions = config.count("max_position_embeddings")?;
        Ok(Sizes {
            hidden,
            layers: config.needed("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            positions: positions.unwrap_or(self.usual.positions),
        })
    }

    fn like_llama(&self, pairs: &mut Pairs) -> Result<()> {
        let (config, sizes) = (&self.config, self.sizes()?);
        let is_gemma = self.family.architecture == "gemma3";
        self.require_activation(match is_gemma {
            true => "hidden_activation",
            false => "hidden_act",
        })?;
        pairs.count("block_count", sizes.layers);
        pairs.count("context_length", sizes.positions);
        pairs.count("embedding_length", sizes.hidden);
        pairs.count("feed_forward_length", config.needed("intermediate_size")?);
        pairs.count("attention.head_count", sizes.heads);
        pairs.count("attention.head_count_kv", sizes.kv_heads);
        let eps = config.positive("rms_norm_eps")?;
        pairs.float(
            "attention.layer_norm_rms_epsilon",
            eps.unwrap_or(self.usual.eps),
        );
        if sizes.head_dim.checked_mul(sizes.heads) != Some(sizes.hidden) || config.has("head_dim") {
            pairs.count("attention.key_length", sizes.head_dim);
            pairs.count("attention.value_length", sizes.head_dim);
        }
        self.put_rope(pairs, &sizes)?;
        pairs.count("vocab_size", config.needed("vocab_size")?);
        match self.model_type {
            "gemma3_text" => self.gemma3(pairs, &sizes),
            "granite" => self.granite(pairs),
            "qwen2" | "qwen3" => self.require_no_window(&sizes),
            "mistral" => {
                if let Some(window) = self.window()? {
                    pairs.count("attention.sliding_window", window);
                }
                Ok(())
            }
            "phi3" => {
                // As llama.cpp's converter does, none is 0.
                pairs.count("attention.sliding_window", self.window()?.unwrap_or(0));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// `sliding_window`, or where the file says nothing, not even null, what transformers takes then.
    fn window(&self) -> Result<Option<u32>> {
        match self.config.has("sliding_window") {
            true => self.config.count("sliding_window"),
            false => Ok(self.usual.window),
        }
    }

    fn granite(&self, pairs: &mut Pairs) -> Result<()> {
        for (name, key) in [
            ("attention_multiplier", "attention.scale"),
            ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"),
            ("logits_scaling", "logit_scale"),
        ] {
            pairs.float(key, self.config.positive(name)?.unwrap_or(1.0));
        }
        Ok(())
    }

    /// Qwen's windows are of the last layers, if of any.
    fn require_no_window(&self, sizes: &Sizes) -> Result<()> {
        let config = &self.config;
        if config.flag("use_sliding_window")? != Some(true) || self.window()?.is_none() {
            return Ok(());
        }
        let slides = match config.texts("layer_types")? {
            Some(types) => types.contains(&"sliding_attention"),
            None => config.count("max_window_layers")?.unwrap_or(28) < sizes.layers,
        };
        match slides {
            false => Ok(()),
            true => self.no_place("use_sliding_window is true"),
        }
    }
}
