//! Model families: what llama.cpp calls them and their tensors, and what transformers does.

use aios_base::error::{Error, Result};

use crate::change::Change;
use crate::model::fields::Fields;

/// A family that both have.
pub(crate) struct Family {
    /// `general.architecture`.
    pub(crate) architecture: &'static str,
    /// `model_type`, and the class of `architectures`.
    pub(crate) types: &'static [(&'static str, &'static str)],
    /// Rows of q and k are written as [`Change::PermuteRows`] makes them.
    pub(crate) permuted: bool,
    /// Norms are written plus one.
    pub(crate) shifted_norms: bool,
    /// Of a block.
    pub(crate) parts: &'static [Part],
    /// Around the blocks.
    pub(crate) around: &'static [Part],
    /// What stands before a block's number.
    pub(crate) blocks: &'static str,
    /// What llama.cpp computes between gate and down.
    pub(crate) activations: &'static [&'static str],
    pub(crate) usual: Usual,
}

/// A module, or a norm.
pub(crate) struct Part {
    pub(crate) hugging_face: &'static str,
    pub(crate) gguf: &'static str,
    pub(crate) role: Role,
    pub(crate) bias: Bias,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Plain,
    Q,
    K,
    Norm,
    /// A matrix that transformers has as columns.
    Conv1d,
    /// The head, which is not there if it is tied.
    Head,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    Never,
    Maybe,
    Always,
}

/// What transformers takes where a config.json says nothing.
#[derive(Clone, Copy)]
pub(crate) struct Usual {
    pub(crate) kv_heads: Option<u32>,
    pub(crate) head_dim: Option<u32>,
    pub(crate) positions: u32,
    pub(crate) window: Option<u32>,
    pub(crate) eps: f64,
    pub(crate) theta: f64,
    pub(crate) tied: bool,
}

const USUAL: Usual = Usual {
    kv_heads: None,
    head_dim: None,
    positions: 2048,
    window: None,
    eps: 1e-6,
    theta: 1e4,
    tied: false,
};

const fn part(hugging_face: &'static str, gguf: &'static str, role: Role, bias: Bias) -> Part {
    Part {
        hugging_face,
        gguf,
        role,
        bias,
    }
}

const fn norm(hugging_face: &'static str, gguf: &'static str) -> Part {
    part(hugging_face, gguf, Role::Norm, Bias::Never)
}

const fn maybe(hugging_face: &'static str, gguf: &'static str, role: Role) -> Part {
    part(hugging_face, gguf, role, Bias::Maybe)
}

const fn always(hugging_face: &'static str, gguf: &'static str, role: Role) -> Part {
    part(hugging_face, gguf, role, Bias::Always)
}

const fn bare(hugging_face: &'static str, gguf: &'static str) -> Part {
    part(hugging_face, gguf, Role::Plain, Bias::Never)
}

const AROUND: &[Part] = &[
    bare("model.embed_tokens", "token_embd"),
    norm("model.norm", "output_norm"),
    part("lm_head", "output", Role::Head, Bias::Never),
];

const AROUND_GPT2: &[Part] = &[
    bare("transformer.wte", "token_embd"),
    bare("transformer.wpe", "position_embd"),
    always("transformer.ln_f", "output_norm", Role::Norm),
    part("lm_head", "output", Role::Head, Bias::Never),
];

const LLAMA: &[Part] = &[
    norm("input_layernorm", "attn_norm"),
    maybe("self_attn.q_proj", "attn_q", Role::Q),
    maybe("self_attn.k_proj", "attn_k", Role::K),
    maybe("self_attn.v_proj", "attn_v", Role::Plain),
    maybe("self_attn.o_proj", "attn_output", Role::Plain),
    norm("post_attention_layernorm", "ffn_norm"),
    maybe("mlp.gate_proj", "ffn_gate", Role::Plain),
    maybe("mlp.up_proj", "ffn_up", Role::Plain),
    maybe("mlp.down_proj", "ffn_down", Role::Plain),
];

const QWEN2: &[Part] = &[
    norm("input_layernorm", "attn_norm"),
    always("self_attn.q_proj", "attn_q", Role::Q),
    always("self_attn.k_proj", "attn_k", Role::K),
    always("self_attn.v_proj", "attn_v", Role::Plain),
    bare("self_attn.o_proj", "attn_output"),
    norm("post_attention_layernorm", "ffn_norm"),
    bare("mlp.gate_proj", "ffn_gate"),
    bare("mlp.up_proj", "ffn_up"),
    bare("mlp.down_proj", "ffn_down"),
];

const QWEN3: &[Part] = &[
    norm("input_layernorm", "attn_norm"),
    maybe("self_attn.q_proj", "attn_q", Role::Q),
    maybe("self_attn.k_proj", "attn_k", Role::K),
    maybe("self_attn.v_proj", "attn_v", Role::Plain),
    norm("self_attn.q_norm", "attn_q_norm"),
    norm("self_attn.k_norm", "attn_k_norm"),
    maybe("self_attn.o_proj", "attn_output", Role::Plain),
    norm("post_attention_layernorm", "ffn_norm"),
    bare("mlp.gate_proj", "ffn_gate"),
    bare("mlp.up_proj", "ffn_up"),
    bare("mlp.down_proj", "ffn_down"),
];

const GPT2: &[Part] = &[
    always("ln_1", "attn_norm", Role::Norm),
    always("attn.c_attn", "attn_qkv", Role::Conv1d),
    always("attn.c_proj", "attn_output", Role::Conv1d),
    always("ln_2", "ffn_norm", Role::Norm),
    always("mlp.c_fc", "ffn_up", Role::Conv1d),
    always("mlp.c_proj", "ffn_down", Role::Conv1d),
];

const PHI3: &[Part] = &[
    norm("input_layernorm", "attn_norm"),
    bare("self_attn.qkv_proj", "attn_qkv"),
    bare("self_attn.o_proj", "attn_output"),
    norm("post_attention_layernorm", "ffn_norm"),
    bare("mlp.gate_up_proj", "ffn_up"),
    bare("mlp.down_proj", "ffn_down"),
];

const GEMMA3: &[Part] = &[
    norm("input_layernorm", "attn_norm"),
    maybe("self_attn.q_proj", "attn_q", Role::Q),
    maybe("self_attn.k_proj", "attn_k", Role::K),
    maybe("self_attn.v_proj", "attn_v", Role::Plain),
    norm("self_attn.q_norm", "attn_q_norm"),
    norm("self_attn.k_norm", "attn_k_norm"),
    maybe("self_attn.o_proj", "attn_output", Role::Plain),
    norm("post_attention_layernorm", "post_attention_norm"),
    norm("pre_feedforward_layernorm", "ffn_norm"),
    bare("mlp.gate_proj", "ffn_gate"),
    bare("mlp.up_proj", "ffn_up"),
    bare("mlp.down_proj", "ffn_down"),
    norm("post_feedforward_layernorm", "post_ffw_norm"),
];

const OLMO2: &[Part] = &[
    maybe("self_attn.q_proj", "attn_q", Role::Q),
    maybe("self_attn.k_proj", "attn_k", Role::K),
    maybe("self_attn.v_proj", "attn_v", Role::Plain),
    norm("self_attn.q_norm", "attn_q_norm"),
    norm("self_attn.k_norm", "attn_k_norm"),
    maybe("self_attn.o_proj", "attn_output", Role::Plain),
    norm("post_attention_layernorm", "post_attention_norm"),
    bare("mlp.gate_proj", "ffn_gate"),
    bare("mlp.up_proj", "ffn_up"),
    bare("mlp.down_proj", "ffn_down"),
    norm("post_feedforward_layernorm", "post_ffw_norm"),
];

/// Llama's model of such blocks; families say in what theirs differ.
const fn like_llama(
    architecture: &'static str,
    types: &'static [(&'static str, &'static str)],
    parts: &'static [Part],
    usual: Usual,
) -> Family {
    Family {
        architecture,
        types,
        permuted: false,
        shifted_norms: false,
        parts,
        around: AROUND,
        blocks: "model.layers",
        activations: &["silu", "swish"],
        usual,
    }
}

const FAMILIES: [Family; 8] = [
    Family {
        permuted: true,
        ..like_llama(
            "llama",
            &[
                ("llama", "LlamaForCausalLM"),
                ("mistral", "MistralForCausalLM"),
            ],
            LLAMA,
            USUAL,
        )
    },
    like_llama("qwen2", &[("qwen2", "Qwen2ForCausalLM")], QWEN2, USUAL_QWEN),
    like_llama(
        "qwen3",
        &[("qwen3", "Qwen3ForCausalLM")],
        QWEN3,
        Usual {
            head_dim: Some(128),
            ..USUAL_QWEN
        },
    ),
    Family {
        around: AROUND_GPT2,
        blocks: "transformer.h",
        activations: &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"],
        ..like_llama(
            "gpt2",
            &[("gpt2", "GPT2LMHeadModel")],
            GPT2,
            Usual {
                positions: 1024,
                eps: 1e-5,
                tied: true,
                ..USUAL
            },
        )
    },
    like_llama(
        "phi3",
        &[("phi3", "Phi3ForCausalLM")],
        PHI3,
        Usual {
            positions: 4096,
            eps: 1e-5,
            ..USUAL
        },
    ),
    Family {
        shifted_norms: true,
        activations: &["gelu_pytorch_tanh", "gelu_new", "gelu_fast"],
        ..like_llama(
            "gemma3",
            &[("gemma3_text", "Gemma3ForCausalLM")],
            GEMMA3,
            Usual {
                kv_heads: Some(4),
                head_dim: Some(256),
                positions: 131_072,
                window: Some(4096),
                theta: 1e6,
                tied: true,
                ..USUAL
            },
        )
    },
    like_llama(
        "olmo2",
        &[("olmo2", "Olmo2ForCausalLM")],
        OLMO2,
        Usual { eps: 1e-5, ..USUAL },
    ),
    Family {
        permuted: true,
        ..like_llama(
            "granite",
            &[("granite", "GraniteForCausalLM")],
            LLAMA,
            USUAL,
        )
    },
];

const USUAL_QWEN: Usual = Usual {
    kv_heads: Some(32),
    positions: 32_768,
    window: Some(4096),
    ..USUAL
};

/// Values of `general.architecture` that are known.
pub fn architectures() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.architecture).collect()
}

impl Family {
    /// # Errors
    /// In words: one that is not known.
    pub(crate) fn of_architecture(name: &str) -> Result<&'static Self, String> {
        let found = FAMILIES.iter().find(|family| family.architecture == name);
        found.ok_or_else(|| {
            format!(
                "models of architecture {name:?} are not supported; supported are {}",
                architectures().join(", ")
            )
        })
    }

    /// # Errors
    /// A type that no GGUF file is written of here.
    pub(crate) fn of_model(config: &Fields) -> Result<&'static Self> {
        let name = config.text("model_type")?;
        let name = name.ok_or_else(|| config.wrong("there is no model_type"))?;
        let is_it = |family: &&Family| family.types.iter().any(|(known, _)| *known == name);
        FAMILIES.iter().find(is_it).ok_or_else(|| {
            let known = FAMILIES.iter().flat_map(|family| family.types);
            let known: Vec<&str> = known.map(|(known, _)| *known).collect();
            Error::failed(format!(
                "models of type {name:?} have no place in a GGUF file here; those of type {} have: keep it as a Hugging Face \
                 folder",
                known.join(", ")
            ))
        })
    }

    /// As transformers has it for a model's type.
    pub(crate) fn usual(&self, model_type: &str) -> Usual {
        match model_type {
            "mistral" => Usual {
                kv_heads: Some(8),
                positions: 131_072,
                window: Some(4096),
                ..self.usual
            },
            _ => self.usual,
        }
    }

    /// What is done to a part's numbers to write them.
    pub(crate) fn change(&self, part: &Part, is_weight: bool, heads: Heads) -> Change {
        match part.role {
            Role::Q if self.permuted => Change::PermuteRows { heads: heads.q },
            Role::K if self.permuted => Change::PermuteRows { heads: heads.kv },
            Role::Norm if self.shifted_norms && is_weight => Change::PlusOne,
            Role::Conv1d if is_weight => Change::Transpose,
            _ => Change::Same,
        }
    }
}

/// Of a model's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) q: usize,
    pub(crate) kv: usize,
}

impl Heads {
    /// As a config.json says.
    pub(crate) fn of(config: &Fields, family: &Family) -> Result<Self> {
        if family.architecture == "gpt2" {
            let heads = config.needed("n_head")? as usize;
            return Ok(Self {
                q: heads,
                kv: heads,
            });
        }
        let heads = config.needed("num_attention_heads")?;
        let usual = family.usual(config.text("model_type")?.unwrap_or(""));
        let kv = match config.has("num_key_value_heads") {
            true => config.count("num_key_value_heads")?,
            false => usual.kv_heads,
        };
        Ok(Self {
            q: heads as usize,
            kv: kv.unwrap_or(heads) as usize,
        })
    }
}
