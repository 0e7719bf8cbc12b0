//! Prediction of a training run's peak memory from its shapes.

use super::checkpoint::Keep;
use super::chunking::Chunking;
use super::moments::Moments;
use super::offload::Place;
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
    pub chunking: Chunking,
    /// Where what is not needed at once waits.
    pub place: Place,
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
    /// What the tapes keep, the states handed about, what chunks leave, and the blocks at work.
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
        // At a loss no block is at work, and of two tapes there is one: but in chunks the end of the
        // segment before still waits.
        let tapes = match self.chunk() < self.seq_len {
            true => self.tapes(),
            false => 1,
        };
        let at_loss = self.state() + self.waiting() + tapes * self.tape() + loss;
        let during_segments = activations.max(at_loss);
        // The embedding's gradient is made at the end of a micro-batch, when the tapes are gone; a
        // second micro-batch or chunk finds it there, and so does the head if it is the embedding.
        let embedding = F32 * (m.vocab_size * m.hidden_size) as u64;
        let late = match self.embedding_gradient_is_there() {
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

    /// Whether the embedding's gradient exists while tapes do.
    fn embedding_gradient_is_there(&self) -> bool {
        let m = self.model;
        let many = self.chunk() < self.seq_len && self.batch_size * self.seq_len >= m.vocab_size;
        self.accumulation > 1 || m.tie_embeddings || many
    }

    /// Bytes of activations a token, at the moment a block goes backward.
    pub fn activations_per_token(&self) -> u64 {
        self.activations() / ((self.batch_size * self.seq_len) as u64).max(1)
    }

    /// States, tapes and the blocks at work, when the tapes are largest.
    fn activations(&self) -> u64 {
        self.state() + self.waiting() + self.tapes() * self.tape() + self.work()
    }

    /// A segment goes backward when the next one's tape is there as well.
    fn tapes(&self) -> u64 {
        self.halt_max_steps.min(2) as u64
    }

    /// Tokens of a sequence that go forward and backward at once.
    fn chunk(&self) -> usize {
        self.chunking.taped(self.seq_len)
    }

    fn tokens(&self) -> u64 {
        (self.batch_size * self.chunk()) as u64
    }

    /// Rows of a tile, where blocks run in tiles; what keeps everything goes backward as a whole.
    fn tile(&self) -> Option<usize> {
        match self.keep {
            Keep::Everything => None,
            Keep::Inputs { .. } => self.chunking.tile(self.seq_len),
        }
    }

    /// All attention scores at once, in f32.
    pub fn scores_bytes(&self) -> u64 {
        F32 * (self.model.num_heads * self.chunk()) as u64 * (self.seen() + self.tokens())
    }

    /// The largest of a chunk's keys, or values, with those of earlier chunks that it sees.
    pub fn seen_bytes(&self) -> u64 {
        (self.seen() + self.tokens()) * self.bytes() * self.model.hidden_size as u64
    }

    /// Tokens of earlier chunks whose keys and values a chunk sees.
    fn seen(&self) -> u64 {
        let earlier = self.seq_len - self.chunk();
        let seen = match self.model.window_size {
            0 => earlier,
            window => earlier.min(window.max(3) - 1),
        };
        (self.batch_size * seen) as u64
    }

    /// What chunks leave: the states of all tokens for the next segment, keys and values of each call
    /// for the next chunk; and of the calls that go backward both the old ones and the new.
    fn waiting(&self) -> u64 {
        if self.chunk() == self.seq_len {
            return 0;
        }
        let m = self.model;
        let hidden = self.bytes() * m.hidden_size as u64;
        let layers = (m.h_layers + m.l_layers) as u64;
        let all = m.h_cycles * (m.l_cycles * m.l_layers + m.h_layers);
        let both = 2 * hidden * self.seen() * layers;
        let states = match self.halt_max_steps {
            1 => 0,
            _ => 2 * hidden * (self.batch_size * self.seq_len) as u64,
        };
        let embedded = match self.embedding_gradient_is_there() {
            true => 0,
            false => F32 * (self.batch_size * self.seq_len * m.hidden_size) as u64,
        };
        match self.place {
            // The end of the segment before holds what it saw, and so does the chunk at work.
            Place::Host => 2 * both + embedded,
            Place::Device => both + embedded + states + 2 * hidden * self.seen() * all as u64,
        }
    }

    /// Bytes of an activation's element.
    fn bytes(&self) -> u64 {
        self.precision.bytes() as u64
    }

    /// Whether activations are kept in half precision but computed with in f32.
    fn widens(&self) -> bool {
        self.kind == Kind::Cpu && self.precision != Precision::F32
    }

    /// Both states, the head's gradient and the gradient at work; the sum of the embedding's is f32.
    /// In tiles gradients count with the block at work.
    fn state(&self) -> u64 {
        let bytes = match self.tile() {
            Some(_) => 2 * self.bytes(),
            None => 4 * self.bytes() + F32,
        };
        self.tokens() * bytes * self.model.hidden_size as u64
    }

    /// What one segment keeps for its backward pass.
    fn tape(&self) -> u64 {
        let m = self.model;
        let kept = self.keep.kept(m, m.h_layers) + self.keep.kept(m, m.l_layers);
        let statistics = match self.keep {
            Keep::Everything => (m.h_layers + m.l_layers) as u64 * self.statistics(),
            Keep::Inputs { .. } if self.place == Place::Host => return 0,
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
        if let Some(tile) = self.tile() {
            return self.tiled_work(tile as u64, hidden, inner);
        }
        let layers = m.h_layers.max(m.l_layers);
        let blocks = match self.keep {
            Keep::Everything => 0,
            Keep::Inputs { every } => every.min(layers) as u64,
        };
        let saved =
            self.keep.recomputed(m, layers) as u64 * self.bytes() + blocks * self.statistics();
        let gradients = (3 * inner + 2 * hidden) * self.bytes();
        let products = self.tokens() * (saved + gradients) + self.widened(3 * inner + hidden);
        let earlier = 4 * self.seen() * hidden * self.bytes();
        let attention =
            self.tokens() * (saved + 4 * hidden * self.bytes()) + earlier + self.attention();
        products.max(attention)
    }

    /// The same where all but attention runs in tiles. Of all tokens there are the projection, what
    /// attention gave and the block's gradient in two parts, and beside them either the result's
    /// gradient and a tile, or the projection's gradient. Inputs count with the tape.
    fn tiled_work(&self, tile: u64, hidden: u64, inner: u64) -> u64 {
        let m = self.model;
        let layers = m.h_layers.max(m.l_layers);
        let every = match self.keep {
            Keep::Everything => 1,
            Keep::Inputs { every } => every.min(layers) as u64,
        };
        let inputs = match self.place {
            Place::Device => every - 1,
            Place::Host => every,
        };
        let unit = self.tokens() * hidden * self.bytes();
        let whole = (inputs + 6) * unit + self.tokens() * self.statistics();
        let in_a_tile = tile.min(self.tokens()) * (5 * inner + 4 * hidden) * self.bytes();
        let tiles = whole + 2 * unit + in_a_tile + self.widened(3 * inner + hidden);
        let earlier = 4 * self.seen() * hidden * self.bytes();
        let attention = whole + 3 * unit + earlier + self.attention();
        tiles.max(attention)
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
            // Whole sequences are widened one at a time, chunks of all of them together.
            AttentionPath::Flash if self.widens() => {
                let tokens = match self.chunk() == self.seq_len {
                    true => self.seq_len as u64,
                    false => self.tokens() + self.seen(),
                };
                F32 * 8 * m.hidden_size as u64 * tokens
            }
            AttentionPath::Flash => 0,
            AttentionPath::Sdpa => SDPA_BACKWARD_BUFFERS as u64 * self.scores_bytes(),
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
