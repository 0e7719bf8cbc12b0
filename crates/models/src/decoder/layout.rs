//! The tables of a decoder's parameters: names and shapes as in its files, in the order of their index.

use crate::decoder::config::{DecoderConfig, Naming};
use aios_base::storage::Storage;
use aios_nn::{DecoderShape, Init, ParamInfo};

/// Every parameter of a model of this configuration, and how it starts.
pub fn layout(config: &DecoderConfig) -> Vec<(ParamInfo, Init)> {
    let entries = entries(config).into_iter();
    entries.map(|entry| (entry.info, entry.init)).collect()
}

/// The same, and what each is a part of.
pub fn entries(config: &DecoderConfig) -> Vec<Entry> {
    Table {
        config,
        all: Vec::new(),
        part: Part::Embedding,
    }
    .whole()
}

/// A parameter.
#[derive(Clone, Debug)]
pub struct Entry {
    pub info: ParamInfo,
    pub init: Init,
    pub part: Part,
}

/// What a parameter is a part of, as the architecture summary shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Embedding,
    Positions,
    Attention,
    Mlp,
    Norms,
    Head,
    /// Where a state starts, which is not trained.
    Start,
}

/// Names of the tensors around the blocks.
struct Names {
    embedding: &'static str,
    positions: &'static str,
    /// What stands before a block's number.
    stacks: &'static [&'static str],
    norm: &'static str,
    norm_bias: &'static str,
}

fn names(naming: Naming) -> Names {
    match naming {
        Naming::Llama | Naming::Phi3 => Names {
            embedding: "model.embed_tokens.weight",
            positions: "",
            stacks: &["model.layers"],
            norm: "model.norm.weight",
            norm_bias: "",
        },
        Naming::Gpt2 => Names {
            embedding: "transformer.wte.weight",
            positions: "transformer.wpe.weight",
            stacks: &["transformer.h"],
            norm: "transformer.ln_f.weight",
            norm_bias: "transformer.ln_f.bias",
        },
        Naming::HrmText | Naming::HrmTextParts => Names {
            embedding: "model.embed_tokens.weight",
            positions: "",
            stacks: &["model.L_module.layers", "model.H_module.layers"],
            norm: "",
            norm_bias: "",
        },
    }
}

struct Table<'a> {
    config: &'a DecoderConfig,
    all: Vec<Entry>,
    /// Of what comes next.
    part: Part,
}

impl Table<'_> {
    fn whole(mut self) -> Vec<Entry> {
        let config = self.config;
        let (names, hidden) = (names(config.naming), config.hidden());
        let drawn = Init::Normal(config.init_std);
        self.put(
            names.embedding,
            &[config.vocab_size, hidden],
            config.tied,
            drawn,
        );
        if config.learned_positions {
            self.of(Part::Positions).put(
                names.positions,
                &[config.max_positions, hidden],
                false,
                drawn,
            );
        }
        if config.cycles.is_some() {
            self.of(Part::Start).put(
                "model.z_L_init",
                &[hidden],
                false,
                Init::TruncatedNormal(1.0),
            );
        }
        for stack in names.stacks {
            for (number, block) in config.blocks.iter().enumerate() {
                self.block(&format!("{stack}.{number}"), block);
            }
        }
        if config.norm_weights {
            self.norm(names.norm, names.norm_bias, hidden);
        }
        if !config.tied {
            self.of(Part::Head)
                .put("lm_head.weight", &[config.vocab_size, hidden], true, drawn);
        }
        self.all
    }

    /// What comes next is of this part.
    fn of(&mut self, part: Part) -> &mut Self {
        self.part = part;
        self
    }

    fn put(&mut self, name: &str, shape: &[usize], decay: bool, init: Init) {
        let info = ParamInfo {
            name: name.to_string(),
            shape: shape.to_vec(),
            decay,
            trained: self.part != Part::Start,
            storage: Storage::F32,
        };
        self.all.push(Entry {
            info,
            init,
            part: self.part,
        });
    }

    /// A norm's weight, and its bias if it is a LayerNorm.
    fn norm(&mut self, name: &str, bias: &str, width: usize) {
        let one = Init::Constant(1.0 - self.config.norm.offset);
        self.of(Part::Norms).put(name, &[width], false, one);
        if self.config.norm.centered {
            self.put(bias, &[width], false, Init::Constant(0.0));
        }
    }

    fn linear(&mut self, at: &str, outputs: usize, inputs: usize, bias: bool) {
        self.linear_of(at, outputs, inputs, bias, self.config.init_std);
    }

    fn linear_of(&mut self, at: &str, outputs: usize, inputs: usize, bias: bool, std: f64) {
        let shape = match self.config.naming {
            Naming::Gpt2 => [inputs, outputs],
            _ => [outputs, inputs],
        };
        self.put(&format!("{at}.weight"), &shape, true, Init::Normal(std));
        if bias {
            self.put(
                &format!("{at}.bias"),
                &[outputs],
                false,
                Init::Constant(0.0),
            );
        }
    }

    fn block(&mut self, at: &str, block: &DecoderShape) {
        match self.config.naming {
            Naming::Llama | Naming::Phi3 => self.llama_block(at, block),
            Naming::Gpt2 => self.gpt2_block(at, block),
            Naming::HrmText => self.hrm_block(at, block),
            Naming::HrmTextParts => self.hrm_block_in_parts(at, block),
        }
    }

    fn llama_block(&mut self, at: &str, block: &DecoderShape) {
        let config = self.config;
        let (hidden, inner) = (block.hidden, block.inner);
        let (q, kv) = (block.q_width(), block.kv_heads * block.head_dim);
        let name = |part: &str| format!("{at}.{part}");
        if config.pre_norms {
            self.norm(&name("input_layernorm.weight"), "", hidden);
        }
        if config.naming == Naming::Phi3 {
            let rows = block.qkv_width();
            self.of(Part::Attention).linear(
                &name("self_attn.qkv_proj"),
                rows,
                hidden,
                config.qkv_bias,
            );
        } else {
            for (part, rows) in [("q", q), ("k", kv), ("v", kv)] {
                let part = name(&format!("self_attn.{part}_proj"));
                self.of(Part::Attention)
                    .linear(&part, rows, hidden, config.qkv_bias);
            }
        }
        if let Some(kind) = block.qk_norm {
            let width = |all| match kind {
                aios_nn::QkNorm::Head => block.head_dim,
                aios_nn::QkNorm::Token => all,
            };
            self.norm(&name("self_attn.q_norm.weight"), "", width(q));
            self.norm(&name("self_attn.k_norm.weight"), "", width(kv));
        }
        self.of(Part::Attention)
            .linear(&name("self_attn.o_proj"), hidden, q, config.o_bias);
        if block.post_norms {
            self.norm(&name("post_attention_layernorm.weight"), "", hidden);
        }
        if config.pre_norms {
            let before_mlp = match block.post_norms {
                true => "pre_feedforward_layernorm.weight",
                false => "post_attention_layernorm.weight",
            };
            self.norm(&name(before_mlp), "", hidden);
        }
        if config.naming == Naming::Phi3 {
            let rows = block.up_width();
            self.of(Part::Mlp)
                .linear(&name("mlp.gate_up_proj"), rows, hidden, config.mlp_bias);
        } else {
            for part in ["gate", "up"] {
                let part = name(&format!("mlp.{part}_proj"));
                self.of(Part::Mlp)
                    .linear(&part, inner, hidden, config.mlp_bias);
            }
        }
        self.of(Part::Mlp)
            .linear(&name("mlp.down_proj"), hidden, inner, config.mlp_bias);
        if block.post_norms {
            self.norm(&name("post_feedforward_layernorm.weight"), "", hidden);
        }
    }

    fn gpt2_block(&mut self, at: &str, block: &DecoderShape) {
        let (hidden, inner) = (block.hidden, block.inner);
        let name = |part: &str| format!("{at}.{part}");
        // Fresh residual branches are drawn smaller the more of them add up, as published.
        let branches = 2.0 * self.config.blocks.len() as f64;
        let residual = self.config.init_std / branches.sqrt();
        self.norm(&name("ln_1.weight"), &name("ln_1.bias"), hidden);
        self.of(Part::Attention)
            .linear(&name("attn.c_attn"), 3 * hidden, hidden, true);
        self.of(Part::Attention)
            .linear_of(&name("attn.c_proj"), hidden, hidden, true, residual);
        self.norm(&name("ln_2.weight"), &name("ln_2.bias"), hidden);
        self.of(Part::Mlp)
            .linear(&name("mlp.c_fc"), inner, hidden, true);
        self.of(Part::Mlp)
            .linear_of(&name("mlp.c_proj"), hidden, inner, true, residual);
    }

    fn hrm_block_in_parts(&mut self, at: &str, block: &DecoderShape) {
        let config = self.config;
        let (hidden, inner, q) = (block.hidden, block.inner, block.q_width());
        let name = |part: &str| format!("{at}.{part}_proj");
        self.of(Part::Attention);
        for part in ["gate", "q", "k", "v"] {
            let part = name(&format!("self_attn.{part}"));
            self.linear(&part, q, hidden, config.qkv_bias);
        }
        self.linear(&name("self_attn.o"), hidden, q, config.o_bias);
        self.of(Part::Mlp);
        for part in ["gate", "up"] {
            self.linear(
                &name(&format!("mlp.{part}")),
                inner,
                hidden,
                config.mlp_bias,
            );
        }
        self.linear(&name("mlp.down"), hidden, inner, config.mlp_bias);
    }

    fn hrm_block(&mut self, at: &str, block: &DecoderShape) {
        let config = self.config;
        let name = |part: &str| format!("{at}.{part}");
        let rows = block.projected_width();
        self.of(Part::Attention).linear(
            &name("attn.gqkv_proj"),
            rows,
            block.hidden,
            config.qkv_bias,
        );
        self.of(Part::Attention).linear(
            &name("attn.o_proj"),
            block.hidden,
            block.q_width(),
            config.o_bias,
        );
        let rows = block.up_width();
        self.of(Part::Mlp).linear(
            &name("mlp.gate_up_proj"),
            rows,
            block.hidden,
            config.mlp_bias,
        );
        self.of(Part::Mlp).linear(
            &name("mlp.down_proj"),
            block.hidden,
            block.inner,
            config.mlp_bias,
        );
    }
}
