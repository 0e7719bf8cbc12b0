//! The shape of an ACT-v1 model, and what follows from it.

use crate::actv1::layout::layout;
use crate::{Architecture, BlockCosts};
use aios_base::config::{LARGEST_COUNT, TrainConfig};
use aios_base::error::{Error, Result};
use aios_nn::{BlockShape, ParamInfo};
use aios_tensor::AttentionClass;
use serde::{Deserialize, Serialize};

pub use aios_base::config::PosEncodings;

/// Shape of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_heads: usize,
    pub expansion: f64,
    pub h_layers: usize,
    pub l_layers: usize,
    pub h_cycles: usize,
    pub l_cycles: usize,
    pub pos_encodings: PosEncodings,
    /// The embedding's table is the head's weight too.
    #[serde(default)]
    pub tie_embeddings: bool,
    /// Longest sequence, in tokens: positions of the learned table and of the rotary one.
    pub max_seq_len: usize,
    /// A token sees this many tokens, itself included; 0 for all.
    pub window_size: usize,
    /// Language models are; the published puzzles model is not.
    pub causal: bool,
}

/// Base of the rotary angles, as published.
pub const ROPE_THETA: f64 = 10_000.0;

impl ModelConfig {
    /// As a run is configured, for a vocabulary of this size.
    pub fn of(config: &TrainConfig, vocab_size: usize) -> Self {
        Self {
            vocab_size,
            hidden_size: config.hidden_size,
            num_heads: config.num_heads,
            expansion: config.expansion,
            h_layers: config.h_layers,
            l_layers: config.l_layers,
            h_cycles: config.h_cycles,
            l_cycles: config.l_cycles,
            pos_encodings: config.pos_encodings,
            tie_embeddings: config.tie_embeddings,
            max_seq_len: config.max_seq_len,
            window_size: config.window_size,
            causal: true,
        }
    }

    /// Check what no tensor library would explain, and sizes that a file may hold but no machine: by
    /// the same limits as the flags.
    ///
    /// # Errors
    /// One line that names the values and what to change.
    pub fn validate(&self) -> Result<()> {
        if !(1..=LARGEST_COUNT).contains(&self.vocab_size) {
            return Err(Error::invalid(format!(
                "the vocabulary has {} tokens: it must have from 1 to {LARGEST_COUNT}",
                self.vocab_size
            )));
        }
        let alone = TrainConfig {
            hidden_size: self.hidden_size,
            num_heads: self.num_heads,
            expansion: self.expansion,
            h_layers: self.h_layers,
            l_layers: self.l_layers,
            h_cycles: self.h_cycles,
            l_cycles: self.l_cycles,
            pos_encodings: self.pos_encodings,
            max_seq_len: self.max_seq_len,
            window_size: self.window_size,
            halt_max_steps: 1,
            batch_size: 1,
            ..TrainConfig::default()
        };
        alone.validate_model()
    }

    /// The flag that keeps weights saved with another shape from meaning the same in this one, and
    /// its value then. Cycles and attention span may change: they use the same weights otherwise.
    pub fn other_weights(&self, saved: &Self) -> Option<(&'static str, String)> {
        let name = |positions| match positions {
            PosEncodings::Rope => "rope",
            PosEncodings::Learned => "learned",
        };
        let learned = saved.pos_encodings == PosEncodings::Learned;
        [
            (
                "--hidden-size",
                self.hidden_size == saved.hidden_size,
                saved.hidden_size.to_string(),
            ),
            (
                "--num-heads",
                self.num_heads == saved.num_heads,
                saved.num_heads.to_string(),
            ),
            (
                "--expansion",
                self.inner_size() == saved.inner_size(),
                saved.expansion.to_string(),
            ),
            (
                "--h-layers",
                self.h_layers == saved.h_layers,
                saved.h_layers.to_string(),
            ),
            (
                "--l-layers",
                self.l_layers == saved.l_layers,
                saved.l_layers.to_string(),
            ),
            (
                "--pos-encodings",
                self.pos_encodings == saved.pos_encodings,
                name(saved.pos_encodings).to_string(),
            ),
            (
                "--tie-embeddings",
                self.tie_embeddings == saved.tie_embeddings,
                String::from(if saved.tie_embeddings { "on" } else { "off" }),
            ),
            (
                "--max-seq-len",
                !learned || self.max_seq_len == saved.max_seq_len,
                saved.max_seq_len.to_string(),
            ),
        ]
        .into_iter()
        .find(|(_, same, _)| !same)
        .map(|(flag, _, saved)| (flag, saved))
    }

    /// Elements of an attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Inner width of SwiGLU: two thirds of `expansion * hidden`, rounded up to 256.
    pub fn inner_size(&self) -> usize {
        let width = (self.expansion * self.hidden_size as f64 * 2.0 / 3.0).round() as usize;
        width.max(1).div_ceil(256) * 256
    }

    /// Sizes of a block.
    pub fn block_shape(&self) -> BlockShape {
        BlockShape {
            hidden: self.hidden_size,
            inner: self.inner_size(),
            heads: self.num_heads,
            kv_heads: self.num_heads,
            head_dim: self.head_dim(),
        }
    }

    /// Weights of one block.
    pub fn block_parameters(&self) -> usize {
        self.block_shape().parameters()
    }

    /// Parameters of each part, named as in the architecture summary; their sum is the model.
    pub fn parts(&self) -> Vec<(&'static str, usize)> {
        let h = self.hidden_size;
        let positions = match self.pos_encodings {
            PosEncodings::Rope => 0,
            PosEncodings::Learned => self.max_seq_len * h,
        };
        vec![
            ("embedding", self.vocab_size * h),
            ("positions", positions),
            ("high level", self.h_layers * self.block_parameters()),
            ("low level", self.l_layers * self.block_parameters()),
            (
                "lm_head",
                if self.tie_embeddings {
                    0
                } else {
                    self.vocab_size * h
                },
            ),
            ("q_head", 2 * h + 2),
        ]
    }

    /// Numbers in the trained parameters.
    pub fn parameter_count(&self) -> usize {
        self.parts().iter().map(|part| part.1).sum()
    }
}

impl Architecture for ModelConfig {
    fn parameters(&self) -> Vec<ParamInfo> {
        layout(self).into_iter().map(|(info, _)| info).collect()
    }

    fn trained(&self) -> usize {
        self.parameter_count()
    }

    fn fixed(&self) -> usize {
        let initial_carry = 2 * self.hidden_size;
        match self.pos_encodings {
            PosEncodings::Rope => initial_carry + self.max_seq_len * self.head_dim(),
            PosEncodings::Learned => initial_carry,
        }
    }

    fn vocabulary(&self) -> usize {
        self.vocab_size
    }

    fn max_seq_len(&self) -> usize {
        self.max_seq_len
    }

    fn window(&self) -> usize {
        self.window_size
    }

    fn is_tied(&self) -> bool {
        self.tie_embeddings
    }

    fn attention(&self) -> Vec<AttentionClass> {
        vec![AttentionClass::plain(self.head_dim())]
    }

    fn block(&self) -> BlockCosts {
        self.block_shape().into()
    }

    fn backward_calls(&self) -> Vec<usize> {
        vec![self.l_layers, self.h_layers]
    }

    fn kept_casts(&self) -> usize {
        self.distinct_blocks() * self.block_shape().parameters()
    }

    fn cached_blocks(&self) -> usize {
        self.h_cycles * (self.l_cycles * self.l_layers + self.h_layers)
    }

    fn halved(&self) -> Box<dyn Architecture> {
        Box::new(Self {
            max_seq_len: self.max_seq_len.div_ceil(2),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actv1::{ActV1, layout};
    use aios_nn::Visit;
    use aios_tensor::CpuBackend;

    #[test]
    fn the_layout_is_that_of_the_model() {
        let kinds = [(PosEncodings::Rope, false), (PosEncodings::Learned, true)];
        for (pos_encodings, tie_embeddings) in kinds {
            let config = ModelConfig {
                vocab_size: 7,
                hidden_size: 8,
                num_heads: 2,
                expansion: 2.0,
                h_layers: 2,
                l_layers: 1,
                h_cycles: 1,
                l_cycles: 1,
                pos_encodings,
                tie_embeddings,
                max_seq_len: 5,
                window_size: 0,
                causal: true,
            };
            let model = ActV1::<CpuBackend>::init(&config, 0, &Default::default()).unwrap();
            let built = model.params().into_iter().map(|p| p.info.clone());
            let listed: Vec<_> = layout(&config).into_iter().map(|(info, _)| info).collect();
            let indices: Vec<usize> = model.params().iter().map(|p| p.index).collect();
            assert!(indices.into_iter().eq(0..listed.len()));
            assert_eq!(built.collect::<Vec<_>>(), listed);
            let trained = listed.iter().filter(|info| info.trained);
            let elements: usize = trained.map(|info| info.elements()).sum();
            assert_eq!(elements, config.parameter_count());
        }
    }
}
