//! A decoder as files and plans see it.

use crate::decoder::config::{DecoderConfig, Naming};
use crate::decoder::layout::{Part, entries, layout};
use crate::decoder::trunk::blocks_of_calls;
use crate::{Architecture, BlockCosts, Decoded};
use aios_adapters::{Frozen, Lora, Module};
use aios_base::error::{Error, Result};
use aios_base::storage::Storage;
use aios_nn::{Init, ParamInfo};
use aios_tensor::AttentionClass;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A Hugging Face decoder: its config.json, and how it is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Described", into = "Described")]
pub struct HfModel {
    described: Box<Described>,
    /// How it is held where it is only read.
    held: Option<Box<Frozen>>,
    /// What the configuration says, with the window of this run.
    pub decoder: DecoderConfig,
    /// The modules that its adapter is of.
    modules: Vec<Module>,
    counts: Counts,
}

/// How a model is trained that stays as it is: what is beside it, and how it is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapted {
    pub lora: Lora,
    pub frozen: Frozen,
}

/// Numbers in its parameters, counted once: a plan asks for them often.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    trained: usize,
    fixed: usize,
    /// Trained ones of the blocks.
    of_blocks: usize,
    /// Bytes of the fixed ones as they are held, and where 16 bits are held as 32.
    fixed_bytes: u64,
    fixed_bytes_wide: u64,
    decoded: Decoded,
}

/// Names of what is not of the blocks.
const AROUND: [&str; 7] = [
    "embed_tokens",
    "wte",
    "wpe",
    "lm_head",
    "z_L_init",
    "model.norm",
    "ln_f",
];

impl Counts {
    fn of(layout: &[(ParamInfo, Init)]) -> Self {
        let mut counts = Self::default();
        for (info, _) in layout {
            let of_blocks = !AROUND.iter().any(|part| info.name.contains(part));
            match info.trained {
                true => {
                    counts.trained += info.elements();
                    counts.of_blocks += usize::from(of_blocks) * info.elements();
                }
                false => counts.add_fixed(info, of_blocks),
            }
        }
        counts
    }

    fn add_fixed(&mut self, info: &ParamInfo, of_blocks: bool) {
        self.fixed += info.elements();
        self.fixed_bytes += info.bytes();
        let is_half = matches!(info.storage, Storage::F16 | Storage::Bf16);
        self.fixed_bytes_wide += match is_half {
            true => Storage::F32.bytes(info.elements()),
            false => info.bytes(),
        };
        let largest = match (is_half, of_blocks) {
            (true, true) => &mut self.decoded.halves,
            // Positions are looked up alone, an untied embedding as well.
            (true, false) => &mut self.decoded.head,
            (false, _) if info.storage.is_quantized() => &mut self.decoded.quantized,
            (false, _) => return,
        };
        *largest = info.elements().max(*largest);
    }
}

/// What is kept of it in files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    /// The contents of config.json.
    config: Value,
    /// Longest sequence, in tokens.
    max_seq_len: usize,
    /// A token sees this many tokens at most, itself included; 0 for as many as the model says.
    window_size: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adapted: Option<Box<Adapted>>,
    /// Tokens of the vocabulary in the files that it is of, where it has more of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grown_from: Option<usize>,
}

impl TryFrom<Described> for HfModel {
    type Error = Error;

    fn try_from(described: Described) -> Result<Self> {
        let decoder = DecoderConfig::read(&described.config)?;
        Self::of_described(described, decoder)
    }
}

impl From<HfModel> for Described {
    fn from(model: HfModel) -> Self {
        *model.described
    }
}

impl HfModel {
    /// Of a config.json, for sequences of up to `max_seq_len` tokens that see `window_size` of them; 0 for what the
    /// model says.
    ///
    /// # Errors
    /// A configuration that is not supported, or lengths that it does not allow.
    pub fn new(config: Value, max_seq_len: usize, window_size: usize) -> Result<Self> {
        let decoder = DecoderConfig::read(&config)?;
        Self::of(config, decoder, max_seq_len, window_size)
    }

    /// The same of a config.json that was read already.
    ///
    /// # Errors
    /// Lengths that it does not allow.
    pub fn of(
        config: Value,
        decoder: DecoderConfig,
        max_seq_len: usize,
        window_size: usize,
    ) -> Result<Self> {
        let described = Described {
            config,
            max_seq_len,
            window_size,
            adapted: None,
            grown_from: None,
        };
        Self::of_described(described, decoder)
    }

    fn of_described(described: Described, mut decoder: DecoderConfig) -> Result<Self> {
        let window = described.window_size;
        for block in &mut decoder.blocks {
            block.window = match (block.window, window) {
                (0, window) | (window, 0) => window,
                (own, window) => own.min(window),
            };
        }
        let (longest, asked) = (decoder.max_positions, described.max_seq_len);
        if decoder.learned_positions && asked > longest {
            return Err(Error::invalid(format!(
                "--max-seq-len {asked}: this model has positions for {longest} tokens only"
            )));
        }
        if asked == 0 {
            return Err(Error::invalid("a sequence needs at least one token"));
        }
        if described.adapted.is_some() {
            decoder.naming = decoder.naming.in_parts();
        }
        let modules = match described.adapted.as_deref() {
            None => Vec::new(),
            Some(Adapted { lora, .. }) if decoder.tied && !lora.whole.is_empty() && !lora.tied => {
                return Err(Error::invalid(format!(
                    "the adapter has {} as a whole without ensure_weight_tying: it would be the embedding and not the \
                     head of a model that has one table for both",
                    lora.whole.join(", ")
                )));
            }
            Some(adapted) => {
                let transposed = decoder.naming == Naming::Gpt2;
                adapted.lora.modules(&layout(&decoder), transposed)?
            }
        };
        let mut model = Self {
            counts: Counts::default(),
            described: Box::new(described),
            held: None,
            decoder,
            modules,
        };
        model.counts = Counts::of(&model.try_layout()?);
        Ok(model)
    }

    /// The same, frozen, with an adapter.
    ///
    /// # Errors
    /// An adapter that is not of this model.
    pub fn with_adapter(self, adapted: Adapted) -> Result<Self> {
        Self::try_from(Described {
            adapted: Some(Box::new(adapted)),
            ..*self.described
        })
    }

    /// The same to be read alone, with nothing trained, held so.
    pub fn held(mut self, frozen: Frozen) -> Self {
        self.held = Some(Box::new(frozen));
        self.counts = Counts::of(&self.layout());
        self
    }

    /// The same for a vocabulary of so many tokens, if that is more than it has. Rows that its files lack are their mean.
    ///
    /// # Errors
    /// A configuration that does not allow it.
    pub fn grown(self, vocabulary: usize) -> Result<Self> {
        let own = self.decoder.vocab_size;
        if vocabulary <= own {
            return Ok(self);
        }
        let mut described = *self.described;
        described.config["vocab_size"] = Value::from(vocabulary);
        described.grown_from = described.grown_from.or(Some(own));
        Self::try_from(described)
    }

    /// Tokens of the vocabulary in the files that it is of, where it has more of them.
    pub fn grown_from(&self) -> Option<usize> {
        self.described.grown_from
    }

    /// What it is trained by, if it is frozen itself.
    pub fn adapted(&self) -> Option<&Adapted> {
        self.described.adapted.as_deref()
    }

    /// The modules that have an adapter.
    pub fn adapted_modules(&self) -> &[Module] {
        &self.modules
    }

    /// Its parameters as they are where it has an adapter, which are named as PEFT names them.
    pub fn adaptable(&self) -> Vec<(ParamInfo, Init)> {
        let mut decoder = self.decoder.clone();
        decoder.naming = decoder.naming.in_parts();
        layout(&decoder)
    }

    /// Its weights are `[inputs, outputs]`.
    pub fn is_transposed(&self) -> bool {
        self.decoder.naming == Naming::Gpt2
    }

    /// The contents of config.json.
    pub fn config(&self) -> &Value {
        &self.described.config
    }

    /// Its `model_type`.
    pub fn model_type(&self) -> &str {
        self.config()
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or("")
    }

    /// Every parameter, and how it starts; those of an adapter last.
    pub fn layout(&self) -> Vec<(ParamInfo, Init)> {
        // What can be wrong was found when the model was made.
        self.try_layout().unwrap_or_default()
    }

    fn try_layout(&self) -> Result<Vec<(ParamInfo, Init)>> {
        let mut all = layout(&self.decoder);
        if let Some(held) = &self.held {
            held.freeze(&mut all, &[])?;
        }
        if let Some(Adapted { lora, frozen }) = self.adapted() {
            frozen.freeze(&mut all, &lora.whole)?;
            all.extend(self.modules.iter().flat_map(Module::parameters));
        }
        Ok(all)
    }

    fn trains(&self, name: &str) -> bool {
        let whole = |adapted: &Adapted| adapted.lora.whole.iter().any(|own| own.ends_with(name));
        self.adapted().is_none_or(whole)
    }

    /// Parameters of each part; their sum is the model.
    pub fn parts(&self) -> Vec<(&'static str, usize)> {
        let mut parts = [
            (Part::Embedding, "embedding"),
            (Part::Positions, "positions"),
            (Part::Attention, "attention"),
            (Part::Mlp, "mlp"),
            (Part::Norms, "norms"),
            (Part::Head, "lm_head"),
        ]
        .map(|(part, name)| (part, name, 0));
        for entry in entries(&self.decoder) {
            let of = parts.iter_mut().find(|(part, ..)| *part == entry.part);
            if let Some((.., numbers)) = of {
                *numbers += entry.info.elements();
            }
        }
        let of_adapter = self.modules.iter().flat_map(Module::parameters);
        let of_adapter = of_adapter.map(|(info, _)| info.elements()).sum();
        let parts = parts.map(|(_, name, numbers)| (name, numbers));
        parts.into_iter().chain([("adapter", of_adapter)]).collect()
    }

    /// The same for sequences of another length.
    fn with_length(&self, max_seq_len: usize) -> Self {
        let mut model = self.clone();
        model.described.max_seq_len = max_seq_len;
        model
    }
}

impl Architecture for HfModel {
    fn parameters(&self) -> Vec<ParamInfo> {
        self.layout().into_iter().map(|(info, _)| info).collect()
    }

    fn trained(&self) -> usize {
        self.counts.trained
    }

    fn fixed(&self) -> usize {
        let tables = self.decoder.ropes.iter().map(|rope| rope.rotated);
        self.counts.fixed + tables.sum::<usize>() * self.max_seq_len()
    }

    fn fixed_bytes(&self, halves: bool) -> u64 {
        let tables = self.fixed() - self.counts.fixed;
        let parameters = match halves {
            true => self.counts.fixed_bytes,
            false => self.counts.fixed_bytes_wide,
        };
        parameters + Storage::F32.bytes(tables)
    }

    fn decoded(&self) -> Decoded {
        self.counts.decoded
    }

    fn trains_head(&self) -> bool {
        match self.decoder.tied {
            true => self.trains_embedding(),
            false => self.trains("lm_head"),
        }
    }

    fn trains_embedding(&self) -> bool {
        self.trains("embed_tokens") || self.trains("wte")
    }

    fn vocabulary(&self) -> usize {
        self.decoder.vocab_size
    }

    fn max_seq_len(&self) -> usize {
        self.described.max_seq_len
    }

    /// The widest of all blocks.
    fn window(&self) -> usize {
        let windows = self.decoder.blocks.iter().map(|block| block.window);
        windows
            .max_by_key(|&w| if w == 0 { usize::MAX } else { w })
            .unwrap_or(0)
    }

    fn is_tied(&self) -> bool {
        self.decoder.tied
    }

    /// A window is no class of its own: kernels take it as a number, and each class is tried with one and without.
    fn attention(&self) -> Vec<AttentionClass> {
        let mut classes = Vec::new();
        for block in &self.decoder.blocks {
            let class = AttentionClass {
                head_dim: block.head_dim,
                group: block.heads / block.kv_heads.max(1),
                ranges: false,
            };
            if !classes.contains(&class) {
                classes.push(class);
            }
        }
        classes
    }

    fn block(&self) -> BlockCosts {
        let blocks = self.distinct_blocks().max(1);
        let shape = self.decoder.blocks.first();
        shape.map_or_else(BlockCosts::default, |shape| BlockCosts {
            hidden: shape.hidden,
            inner: shape.inner,
            heads: shape.heads,
            q: shape.q_width(),
            qkv: shape.projected_width(),
            kv: shape.kv_heads * shape.head_dim,
            up: shape.up_width(),
            parameters: self.counts.of_blocks / blocks,
            saves: shape.saves(),
        })
    }

    fn backward_calls(&self) -> Vec<usize> {
        blocks_of_calls(self.decoder.cycles.as_ref(), self.decoder.blocks.len()).0
    }

    fn distinct_blocks(&self) -> usize {
        self.decoder.stacks() * self.decoder.blocks.len()
    }

    fn kept_casts(&self) -> usize {
        let modules = self.modules.iter().flat_map(Module::parameters);
        let of_adapter = modules.map(|(info, _)| info.elements()).sum();
        match (self.adapted(), &self.decoder.cycles) {
            (Some(_), _) => of_adapter,
            (None, Some(_)) => self.counts.of_blocks,
            (None, None) => 0,
        }
    }

    fn drops(&self) -> bool {
        self.modules.iter().any(|module| module.dropout > 0.0)
    }

    fn cached_blocks(&self) -> usize {
        blocks_of_calls(self.decoder.cycles.as_ref(), self.decoder.blocks.len()).1
    }

    fn halved(&self) -> Box<dyn Architecture> {
        Box::new(self.with_length(self.max_seq_len().div_ceil(2)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn block(config: Value) -> BlockCosts {
        HfModel::new(config, 64, 0).unwrap().block()
    }

    #[test]
    fn a_device_is_tried_with_the_heads_that_the_model_has() {
        let gemma = json!({"model_type": "gemma3_text", "vocab_size": 100, "hidden_size": 48, "intermediate_size": 80,
            "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8,
            "max_position_embeddings": 64});
        let mut model = HfModel::new(gemma, 64, 0).unwrap();
        let class = |head_dim, group| AttentionClass {
            head_dim,
            group,
            ranges: false,
        };
        assert_eq!(model.attention(), [class(16, 4)]);
        // Blocks with and without a window take the same kernels; other heads take others.
        model.decoder.blocks[3].head_dim = 32;
        assert_eq!(model.attention(), [class(16, 4), class(32, 4)]);
    }

    #[test]
    fn a_block_costs_what_its_own_widths_are() {
        let mut llama = json!({"model_type": "llama", "vocab_size": 100, "hidden_size": 48, "intermediate_size": 80,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": false});
        let costs = block(llama.clone());
        assert_eq!([costs.q, costs.kv, costs.qkv], [64, 32, 128]);
        assert_eq!([costs.inner, costs.up], [80, 160]);
        assert_eq!(costs.after_attention(), 48 + 160);
        assert_eq!(costs.parameters, 48 * (128 + 64 + 3 * 80) + 2 * 48);

        // Norms after attention and the MLP read what these gave.
        llama["model_type"] = json!("olmo2");
        assert_eq!(block(llama).after_attention(), 48 + 160 + 2 * 48);

        let gpt2 = json!({"model_type": "gpt2", "vocab_size": 100, "n_embd": 48, "n_layer": 2, "n_head": 4,
            "n_positions": 64, "n_ctx": 64, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5});
        let costs = block(gpt2);
        assert_eq!([costs.q, costs.kv, costs.qkv], [48, 48, 144]);
        assert_eq!([costs.inner, costs.up], [192, 192]);
        assert_eq!(costs.after_attention(), 48 + 192);
    }
}
