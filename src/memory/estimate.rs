//! Prediction of a training run's peak memory from its shapes.

use super::checkpoint::Keep;
use super::moments::Moments;
use crate::backend::Kind;
use crate::model::ModelConfig;
use crate::ops::attention::SDPA_BACKWARD_BUFFERS;
use crate::ops::{AttentionPath, LossPath, PIECE, PLAIN_LOSS_BUFFERS, Precision, SLICE_BYTES};
use serde::{Deserialize, Serialize};

/// Bytes of an f32.
const F32: u64 = 4;

/// What is to be estimated.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    pub model: &'a ModelConfig,
    pub kind: Kind,
    /// Sequences of a micro-batch, and tokens of each.
    pub batch_size: usize,
    pub seq_len: usize,
    /// Micro-batches a step.
    pub accumulation: usize,
    pub halt_max_steps: usize,
    pub keep: Keep,
    pub path: AttentionPath,
    pub loss_path: LossPath,
    pub precision: Precision,
    pub moments: Moments,
}

/// Bytes by purpose, each at its own largest. They are not all there at once: `total` is the peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    pub weights: u64,
    pub gradients: u64,
    pub optimizer: u64,
    /// What the tapes keep, the states handed about, and the blocks at work.
    pub activations: u64,
    /// Head and loss: logits, whole or a slice.
    pub loss: u64,
    pub total: u64,
}

impl Run<'_> {
    /// Estimate the peak of a step.
    pub fn estimate(&self) -> Estimate {
        let m = self.model;
        let weights = F32 * (m.parameters() + 2 * m.hidden_size) as u64 + self.rope();
        let gradients = F32 * m.parameters() as u64;
        let optimizer = self.moments.state_bytes(m);
        let (activations, loss) = (self.activations(), self.loss());
        // Of the last segment's loss there is one tape and no block at work.
        let at_loss = self.state() + self.tape() + loss;
        let during_segments = activations.max(at_loss);
        // The embedding's gradient is made at the end of a micro-batch, when the tapes are gone; a
        // second micro-batch finds it there, and so does the head if it is the embedding.
        let embedding = F32 * (m.vocab_size * m.hidden_size) as u64;
        let late = match self.accumulation > 1 || m.tie_embeddings {
            true => 0,
            false => embedding,
        };
        let at_the_end = self.tokens() * (2 * self.bytes() + 2 * F32) * m.hidden_size as u64;
        let passing = during_segments
            .saturating_sub(late)
            .max(at_the_end)
            .max(self.update());
        Estimate {
            weights,
            gradients,
            optimizer,
            activations,
            loss,
            total: weights + gradients + optimizer + passing,
        }
    }

    /// Bytes of activations a token, at the moment a block goes backward.
    pub fn activations_per_token(&self) -> u64 {
        self.activations() / self.tokens().max(1)
    }

    /// States, tapes and the blocks at work, when the tapes are largest.
    fn activations(&self) -> u64 {
        // A segment goes backward when the next one's tape is there as well.
        let tapes = self.halt_max_steps.min(2) as u64;
        self.state() + tapes * self.tape() + self.work()
    }

    fn tokens(&self) -> u64 {
        (self.batch_size * self.seq_len) as u64
    }

    /// Bytes of an activation's element.
    fn bytes(&self) -> u64 {
        self.precision.bytes() as u64
    }

    /// Whether activations are kept in half precision but computed with in f32.
    fn widens(&self) -> bool {
        self.kind == Kind::Cpu && self.precision != Precision::F32
    }

    /// x, both states, the head's gradient and the gradient at work; the sum of x's gradients is f32.
    fn state(&self) -> u64 {
        self.tokens() * (5 * self.bytes() + F32) * self.model.hidden_size as u64
    }

    /// What one segment keeps for its backward pass.
    fn tape(&self) -> u64 {
        let m = self.model;
        let kept = self.keep.kept(m, m.h_layers) + self.keep.kept(m, m.l_layers);
        let statistics = match self.keep {
            Keep::Everything => (m.h_layers + m.l_layers) as u64 * self.statistics(),
            Keep::Inputs { .. } => 0,
        };
        self.tokens() * (kept as u64 * self.bytes() + statistics)
    }

    /// A block's log-sum-exps and two norms, a token.
    fn statistics(&self) -> u64 {
        F32 * (self.model.num_heads + 2) as u64
    }

    /// Blocks that go backward: what they saved anew, and the largest gradients of one.
    fn work(&self) -> u64 {
        let m = self.model;
        let (hidden, inner) = (m.hidden_size as u64, m.inner_size() as u64);
        let layers = m.h_layers.max(m.l_layers);
        let blocks = match self.keep {
            Keep::Everything => 0,
            Keep::Inputs { every } => every.min(layers) as u64,
        };
        let saved =
            self.keep.recomputed(m, layers) as u64 * self.bytes() + blocks * self.statistics();
        let gradients = (3 * inner + 2 * hidden) * self.bytes();
        let products = self.tokens() * (saved + gradients) + self.widened(3 * inner + hidden);
        let attention = self.tokens() * (saved + 4 * hidden * self.bytes()) + self.attention();
        products.max(attention)
    }

    /// f32 copies of so many elements a token, as long as they are computed with.
    fn widened(&self, elements: u64) -> u64 {
        match self.widens() {
            true => F32 * elements * self.tokens().min(PIECE as u64),
            false => 0,
        }
    }

    /// What attention's backward pass takes by itself.
    fn attention(&self) -> u64 {
        let m = self.model;
        match self.path {
            AttentionPath::Flash if self.widens() => {
                F32 * 8 * m.hidden_size as u64 * self.seq_len as u64
            }
            AttentionPath::Flash => 0,
            AttentionPath::Sdpa => {
                let scores = (self.batch_size * m.num_heads * self.seq_len * self.seq_len) as u64;
                F32 * SDPA_BACKWARD_BUFFERS as u64 * scores
            }
        }
    }

    fn loss(&self) -> u64 {
        let all = F32 * self.tokens() * self.model.vocab_size as u64;
        let hidden = F32 * self.tokens() * self.model.hidden_size as u64;
        let wide = if self.widens() { 2 * hidden } else { 0 };
        // Slices are of equal size.
        let slice = all / all.div_ceil(SLICE_BYTES as u64).max(1);
        // The CPU's fused kernel turns logits into their gradient, the plain one holds both; tensor
        // operations hold the exponentials as well.
        match (self.loss_path, self.kind) {
            (LossPath::Plain, Kind::Cpu) => PLAIN_LOSS_BUFFERS as u64 * all + wide,
            (LossPath::Plain, Kind::Cuda | Kind::Wgpu) => 3 * all,
            (LossPath::Fused, Kind::Cpu) => slice + wide,
            (LossPath::Fused, Kind::Cuda | Kind::Wgpu) => 3 * slice,
        }
    }

    /// Tensor operations make an update out of place, one parameter at a time; kernels do it in place.
    fn update(&self) -> u64 {
        let largest = F32 * (self.model.vocab_size * self.model.hidden_size) as u64;
        match self.kind {
            Kind::Cpu => 0,
            Kind::Cuda | Kind::Wgpu => 3 * largest,
        }
    }

    /// Cosines and sines of the positions.
    fn rope(&self) -> u64 {
        match self.model.pos_encodings {
            crate::model::PosEncodings::Rope => {
                F32 * (self.model.max_seq_len * self.model.head_dim()) as u64
            }
            crate::model::PosEncodings::Learned => 0,
        }
    }
}
