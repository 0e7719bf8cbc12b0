//! What transformers takes where a config.json says nothing, as far as model families differ in it.

/// Of transformers' configuration class of a family (`configuration_*.py`, version 5.24).
#[derive(Clone, Copy, Debug)]
pub struct Usual {
    /// `num_key_value_heads`; as many as there are heads if none.
    pub kv_heads: Option<usize>,
    /// `head_dim`; what the heads have of the width if none.
    pub head_dim: Option<usize>,
    /// `max_position_embeddings`.
    pub positions: usize,
    /// `original_max_position_embeddings`, of a family that has it beside the description of its rotary embeddings.
    pub original: Option<usize>,
    /// `sliding_window`.
    pub window: Option<usize>,
    /// `rms_norm_eps`.
    pub eps: f64,
    /// `attention_bias` is read, rather than passed over.
    pub attention_bias: bool,
    /// `mlp_bias` likewise.
    pub mlp_bias: bool,
    /// `tie_word_embeddings`.
    pub tied: bool,
}

impl Usual {
    pub fn of(model_type: &str) -> Self {
        let llama = Self {
            kv_heads: None,
            head_dim: None,
            positions: 2048,
            original: None,
            window: None,
            eps: 1e-6,
            attention_bias: true,
            mlp_bias: true,
            tied: false,
        };
        let without_biases = Self {
            attention_bias: false,
            mlp_bias: false,
            ..llama
        };
        let qwen2 = Self {
            kv_heads: Some(32),
            positions: 32_768,
            window: Some(4096),
            ..without_biases
        };
        match model_type {
            "mistral" => Self {
                kv_heads: Some(8),
                positions: 131_072,
                window: Some(4096),
                ..without_biases
            },
            "qwen2" => qwen2,
            "qwen3" => Self {
                head_dim: Some(128),
                attention_bias: true,
                ..qwen2
            },
            "phi3" => Self {
                positions: 4096,
                original: Some(4096),
                eps: 1e-5,
                ..without_biases
            },
            "gemma3_text" => Self {
                kv_heads: Some(4),
                head_dim: Some(256),
                positions: 131_072,
                window: Some(4096),
                attention_bias: true,
                tied: true,
                ..without_biases
            },
            "olmo2" => Self {
                eps: 1e-5,
                mlp_bias: false,
                ..llama
            },
            "hrm_text" => Self {
                head_dim: Some(128),
                ..llama
            },
            "gpt2" => Self {
                tied: true,
                ..without_biases
            },
            _ => llama,
        }
    }
}
