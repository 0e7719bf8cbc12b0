//! The config.json of a model of Llama's kind.

use aios_base::error::Result;
use serde_json::{Value as Json, json};

use crate::file::GgufFile;
use crate::model::config::{GEMMA3_PATTERN, LAYERS_OF_27B, layers, vocabulary};
use crate::model::family::Family;
use crate::model::keys::Keys;
use crate::model::rope::{Around, Scaling};
use crate::value::Value;

/// What a model of Llama's kind says, and its sizes.
pub(super) struct Reader<'a> {
    file: &'a GgufFile,
    keys: &'a Keys<'a>,
    family: &'static Family,
    layers: u32,
    hidden: u32,
    heads: u32,
    head_dim: u32,
    positions: u32,
}

impl<'a> Reader<'a> {
    pub(super) fn of(
        file: &'a GgufFile,
        keys: &'a Keys<'a>,
        family: &'static Family,
    ) -> Result<Self> {
        let hidden = keys.needed("embedding_length")?;
        let heads = keys.needed("attention.head_count")?;
        let head_dim = match keys.count("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(keys.wrong(
                    "embedding_length",
                    &format!("{hidden}, which is no multiple of {heads} heads, and there is no key_length"),
                ));
            }
        };
        let values = keys.count("attention.value_length")?.unwrap_or(head_dim);
        if values != head_dim || head_dim == 0 {
            return Err(keys.wrong(
                "attention.value_length",
                &format!(
                    "{values}, and a head's keys have {head_dim} numbers: they must be as many"
                ),
            ));
        }
        Ok(Self {
            file,
            keys,
            family,
            layers: layers(file, keys)?,
            hidden,
            heads,
            head_dim,
            positions: keys.needed("context_length")?,
        })
    }

    pub(super) fn config(&self) -> Result<Json> {
        let keys = self.keys;
        let window = keys
            .count("attention.sliding_window")?
            .filter(|window| *window > 0);
        let of_window = usize::from(self.family.architecture == "llama" && window.is_some());
        // Llama's second type is Mistral.
        let (model_type, class) = self.family.types[of_window];
        let kv_heads = keys.count("attention.head_count_kv")?;
        let around = self.around()?;
        let scaling = Scaling::read(self.file, keys, &around)?;
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": vocabulary(self.file, self.hidden)?,
            "hidden_size": self.hidden,
            "intermediate_size": keys.needed("feed_forward_length")?,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": kv_heads.filter(|heads| *heads > 0).unwrap_or(self.heads),
            "head_dim": self.head_dim,
            "max_position_embeddings": self.positions,
            "rms_norm_eps": keys.epsilon("attention.layer_norm_rms_epsilon")?,
            "rope_theta": around.theta,
            "rope_scaling": scaling.json(),
        });
        self.biases(&mut config, model_type)?;
        match model_type {
            "gemma3_text" => self.gemma3(&mut config, window)?,
            _ => config["hidden_act"] = json!("silu"),
        }
        match model_type {
            "mistral" => config["sliding_window"] = json!(window),
            "phi3" => {
                config["sliding_window"] = json!(window);
                let own = keys.count("rope.scaling.original_context_length")?;
                let original = scaling.original().or(own).unwrap_or(self.positions);
                config["original_max_position_embeddings"] = json!(original);
            }
            "qwen2" | "qwen3" => {
                config["sliding_window"] = Json::Null;
                config["use_sliding_window"] = json!(false);
            }
            "olmo2" if window.is_some() => {
                return Err(keys.wrong(
                    "attention.sliding_window",
                    "there, so that it is an OLMo 3, which is not supported",
                ));
            }
            "granite" => self.granite(&mut config)?,
            _ => {}
        }
        if around.share < 1.0 {
            config["partial_rotary_factor"] = json!(around.share);
        }
        Ok(config)
    }

    fn around(&self) -> Result<Around> {
        let keys = self.keys;
        let rotated = keys.count("rope.dimension_count")?.unwrap_or(self.head_dim);
        let is_partial = rotated != self.head_dim;
        if rotated > self.head_dim || rotated < 2 || (is_partial && self.family.permuted) {
            return Err(keys.wrong(
                "rope.dimension_count",
                &format!(
                    "{rotated}, of {} numbers of a head: that is not supported",
                    self.head_dim
                ),
            ));
        }
        let theta = keys.float("rope.freq_base")?.filter(|theta| *theta > 0.0);
        Ok(Around {
            theta: theta.unwrap_or(1e4),
            rotated: rotated as usize,
            positions: self.positions,
            original: None,
            share: share(rotated, self.head_dim),
            is_phi3: false,
        })
    }

    /// Says whether there are biases, where the family may have them.
    fn biases(&self, config: &mut Json, model_type: &str) -> Result<()> {
        let has = |part: &str| self.file.tensor(&format!("blk.0.{part}.bias")).is_some();
        let attention = ["attn_q", "attn_k", "attn_v", "attn_output"];
        let mlp = ["ffn_gate", "ffn_up", "ffn_down"];
        let flags: &[(&str, &[&str])] = match model_type {
            "llama" | "granite" => &[("attention_bias", &attention), ("mlp_bias", &mlp)],
            "qwen3" | "olmo2" | "gemma3_text" => &[("attention_bias", &attention)],
            "mistral" if attention.iter().chain(&mlp).any(|part| has(part)) => {
                return Err(self.file.wrong(
                    "it has both a sliding window and biases, as in no model of transformers: it is not supported",
                ));
            }
            _ => &[],
        };
        for (flag, parts) in flags {
            let there = parts.iter().filter(|part| has(part)).count();
            if there > 0 && there < parts.len() {
                return Err(self.file.wrong(&format!(
                    "only some of {} have a bias: models of type {model_type} have all or none",
                    parts.join(", ")
                )));
            }
            config[*flag] = json!(there > 0);
        }
        Ok(())
    }

    fn gemma3(&self, config: &mut Json, window: Option<u32>) -> Result<()> {
        let keys = self.keys;
        for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
            config[name] = json!(keys.float(name)?.filter(|cap| *cap > 0.0));
        }
        let every = self.every()?;
        let types = (1..=self.layers).map(|layer| match window {
            Some(_) if !layer.is_multiple_of(every) => "sliding_attention",
            _ => "full_attention",
        });
        config["layer_types"] = json!(types.collect::<Vec<_>>());
        config["sliding_window"] = json!(window);
        config["hidden_activation"] = json!("gelu_pytorch_tanh");
        let local = keys
            .float("rope.freq_base_swa")?
            .filter(|theta| *theta > 0.0);
        config["rope_local_base_freq"] = json!(local.unwrap_or(1e4));
        let scale = keys.float("attention.scale")?.filter(|scale| *scale > 0.0);
        config["query_pre_attn_scalar"] = match scale {
            Some(scale) => whole_if_near(scale.powi(-2)),
            // As llama.cpp has it: the files do not say.
            None if self.layers == LAYERS_OF_27B => json!(self.hidden / self.heads),
            None => json!(self.head_dim),
        };
        Ok(())
    }

    /// Which layers of Gemma 3 see all: those whose number, counted from 1, is a multiple of this.
    fn every(&self) -> Result<u32> {
        let name = "attention.sliding_window_pattern";
        match self.keys.metadata.get(&self.keys.key(name)) {
            // llama.cpp passes over a list of layers here.
            None | Some(Value::Array(_)) => Ok(GEMMA3_PATTERN),
            Some(_) => self.keys.needed(name),
        }
    }

    fn granite(&self, config: &mut Json) -> Result<()> {
        let usual = (f64::from(self.head_dim)).powf(-0.5);
        let numbers = [
            ("attention_multiplier", "attention.scale", usual),
            ("embedding_multiplier", "embedding_scale", 1.0),
            ("residual_multiplier", "residual_scale", 1.0),
            ("logits_scaling", "logit_scale", 1.0),
        ];
        for (name, key, usual) in numbers {
            let given = self.keys.float(key)?.filter(|number| *number > 0.0);
            config[name] = json!(given.unwrap_or(usual));
        }
        Ok(())
    }
}

/// A number in f32 that was made of a whole one.
fn whole_if_near(number: f64) -> Json {
    let whole = number.round();
    match (number - whole).abs() <= 1e-5 * whole && whole >= 1.0 {
        true => json!(whole as u64),
        false => json!(number),
    }
}

/// The share of a head of which so many numbers are made by cutting off what is behind the point.
fn share(rotated: u32, head_dim: u32) -> f64 {
    let share = f64::from(rotated) / f64::from(head_dim);
    match (share * f64::from(head_dim)) as u32 == rotated {
        true => share,
        false => share.next_up(),
    }
}
