//! Prediction of a training run's peak memory from its shapes.

use aios_base::config::WeightsDtype;
use aios_base::execution::{Kind, Place};
use aios_kernels::matmul;
use aios_memory::checkpoint::Keep;
use aios_memory::moments::Moments;
use aios_memory::{Decoration, bf16_weights};
use aios_models::{Architecture, Decoded};
use aios_nn::{Format, ParamInfo, Saves, saved_bytes};
use aios_tensor::attention::{SDPA_BACKWARD_BUFFERS, SDPA_CPU_BUFFERS};
use aios_tensor::{
    AttentionPath, LossPath, PLAIN_LOSS_BUFFERS, Precision, TOGETHER, TOGETHER_ELEMENTS, dtype,
    head_rows, slice_tokens, summed_rows, widened_rows,
};
use serde::{Deserialize, Serialize};

/// Bytes of an f32.
const F32: u64 = 4;
/// Bytes of a token's id and its label.
const IDS: u64 = 8;

/// What is to be estimated.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    pub model: &'a dyn Architecture,
    pub kind: Kind,
    /// Sequences of a micro-batch, and tokens of each.
    pub batch_size: usize,
    pub seq_len: usize,
    /// Micro-batches a step.
    pub accumulation: usize,
    pub halt_max_steps: usize,
    pub decoration: Decoration,
    pub path: AttentionPath,
    pub loss_path: LossPath,
    pub precision: Precision,
    pub weights: WeightsDtype,
    pub moments: Moments,
    /// Ranks among which the optimizer's state is parted.
    pub parts: usize,
    /// Weights and momentum of the last exchange of ranks by themselves are kept.
    pub keeps_exchange: bool,
}

/// Bytes by purpose, each at its own largest. They are not all there at once: `total` is the peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    pub weights: u64,
    pub gradients: u64,
    pub optimizer: u64,
    /// What the tapes keep, the states handed about, what chunks leave, and the blocks at work.
    pub activations: u64,
    /// Head and loss: logits, whole or a slice, and by tensor operations what is beside them.
    pub loss: u64,
    /// On the CPU, what matrix products keep for themselves and the step's token ids.
    #[serde(default)]
    pub scratch: u64,
    pub total: u64,
}

impl Run<'_> {
    /// Estimate the peak of a step.
    pub fn estimate(&self) -> Estimate {
        self.with(self.embedding_waits())
    }

    /// Whether the gradients of looked-up rows wait for the end of a step of several micro-batches,
    /// where only then the embedding's own is made: if they take less until then. Either way the
    /// result is the same.
    pub fn embedding_waits(&self) -> bool {
        let several = self.accumulation > 1 && !self.model.is_tied() && !self.many();
        let several = several && self.model.trains_embedding();
        several && self.with(true).total < self.with(false).total
    }

    /// The estimate if they wait, or if not.
    fn with(&self, waits: bool) -> Estimate {
        let m = self.model;
        let parameters = m.parameters();
        let trained = parameters.iter().filter(|info| info.trained);
        let weights = ParamInfo::bytes_in(self.weights, trained)
            + m.fixed_bytes(self.kind != Kind::Ndarray)
            + self.casts();
        let gradients = F32 * m.trained() as u64;
        let optimizer = self.moments.state_bytes(&parameters) / self.parts as u64;
        let scratch = self.scratch();
        let loss = self.loss();
        let (activations, during_segments) = match self.chunk() < self.seq_len {
            true => self.in_chunks(waits, loss),
            false => self.whole(loss),
        };
        // The embedding's gradient is made at the end of a micro-batch, when the tapes are gone, or at
        // the end of the step; a second micro-batch or chunk may find it there, and the head finds it
        // if it is the embedding.
        let late = match self.embedding_gradient_is_there(waits) {
            true => 0,
            false => self.table(),
        };
        let rows = self.rows(self.batch_size);
        let earlier = match waits {
            true => (self.accumulation as u64 - 1) * rows,
            false => 0,
        };
        // The states, the sum of the embedding's rows and the scaled copy of a chunk's; but at the step's
        // end the states are gone.
        let of_a_chunk = F32 * self.tokens() * self.hidden() as u64;
        let own = match self.many() {
            true => of_a_chunk,
            false => rows,
        };
        let states = 2 * self.bytes() * self.tokens() * self.hidden() as u64;
        let at_the_end = match waits {
            true => earlier + own + of_a_chunk,
            false => states + own + of_a_chunk,
        };
        let passing = (earlier + during_segments)
            .saturating_sub(late)
            .max(at_the_end)
            .max(self.update());
        Estimate {
            weights,
            gradients,
            optimizer,
            activations,
            loss,
            scratch,
            total: weights + gradients + optimizer + scratch + passing,
        }
    }

    /// Weights that a GPU keeps in the activations' format as well.
    fn casts(&self) -> u64 {
        let same = match self.precision {
            Precision::F32 => self.weights == WeightsDtype::F32,
            Precision::Bf16 => self.weights == WeightsDtype::Bf16,
            Precision::F16 => false,
        };
        match self.kind {
            Kind::Cuda | Kind::Wgpu if !same => self.bytes() * self.model.kept_casts() as u64,
            _ => 0,
        }
    }

    /// What whole sequences take at the most, and what of it is there beyond all gradients.
    fn whole(&self, loss: u64) -> (u64, u64) {
        let (blocks, distinct) = (self.blocks(), self.model.distinct_blocks());
        let of_blocks = |n: usize| F32 * (n * self.model.block().parameters) as u64;
        let work = self.gradient() + self.work(0);
        let all = self.tapes() * self.tape() + self.states() + work;
        // At a loss no block is at work, and of two tapes there is one.
        let at_loss = self.state_at_loss() + self.tape() + loss;
        // Before any block of the step has gone backward its gradient is not there.
        let first = |bytes: u64| bytes.saturating_sub(of_blocks(distinct - 1));
        let during = match (self.accumulation, self.halt_max_steps) {
            (1, 1) => {
                let last = work + self.tape() / blocks as u64;
                let at_loss = at_loss.saturating_sub(of_blocks(distinct));
                first(all).max(last).max(at_loss)
            }
            // Later the other segment's tape and the states are gone.
            (1, 2) => first(all)
                .max(self.tape() + self.rows(self.batch_size) + work)
                .max(at_loss),
            _ => all.max(at_loss),
        };
        (all, during)
    }

    /// The same in chunks: at the last one, which sees the most, or at the one before, which leaves the
    /// most.
    fn in_chunks(&self, waits: bool, loss: u64) -> (u64, u64) {
        let of_states = self.states() + self.gradient();
        let at = |seen: u64, left: u64| {
            let waiting = self.waiting(waits, seen, left);
            let all = waiting + self.tapes() * self.tape() + of_states + self.work(seen);
            // The end of the segment before still waits.
            let at_loss = waiting + self.tapes() * self.tape() + self.state_at_loss() + loss;
            (all, all.max(at_loss))
        };
        let chunk = self.chunk();
        let last = at(self.seen(), 0);
        let before = at(
            self.seen_after(self.seq_len.saturating_sub(2 * chunk)),
            self.seen(),
        );
        (last.0.max(before.0), last.1.max(before.1))
    }

    /// The embedding's table.
    fn table(&self) -> u64 {
        F32 * (self.model.vocabulary() * self.hidden()) as u64
    }

    /// Gradients of the rows that so many sequences look up: in chunks, of one chunk.
    fn rows(&self, sequences: usize) -> u64 {
        F32 * (sequences * self.seq_len * self.hidden()) as u64
    }

    /// Whether a micro-batch in chunks looks up as many rows as the table has.
    fn many(&self) -> bool {
        let tokens = self.batch_size * self.seq_len;
        self.chunk() < self.seq_len && tokens >= self.model.vocabulary()
    }

    /// Whether the embedding's gradient exists while tapes do, or never will: either way no rows wait for it.
    fn embedding_gradient_is_there(&self, waits: bool) -> bool {
        let again = self.accumulation > 1 && !waits;
        again || self.model.is_tied() || self.many() || !self.model.trains_embedding()
    }

    /// On the CPU, what there is besides tensors.
    fn scratch(&self) -> u64 {
        let tokens = self.accumulation as u64 * (self.batch_size * self.seq_len) as u64;
        let exchange = match self.keeps_exchange {
            true => 2 * F32 * self.model.trained() as u64,
            false => 0,
        };
        match self.kind {
            Kind::Cpu => matmul::kept_bytes() as u64 + IDS * tokens + exchange,
            Kind::Ndarray => IDS * tokens + exchange,
            Kind::Cuda | Kind::Wgpu => 0,
        }
    }

    /// Bytes of activations a token, at the moment a block goes backward.
    pub fn activations_per_token(&self) -> u64 {
        self.estimate().activations / ((self.batch_size * self.seq_len) as u64).max(1)
    }

    /// A segment goes backward when the next one's tape is there as well.
    fn tapes(&self) -> u64 {
        self.halt_max_steps.min(2) as u64
    }

    /// Tokens of a sequence that go forward and backward at once.
    fn chunk(&self) -> usize {
        self.decoration.chunking.at_once(self.seq_len)
    }

    fn tokens(&self) -> u64 {
        (self.batch_size * self.chunk()) as u64
    }

    /// Rows of a tile, where blocks run in tiles; what keeps everything goes backward as a whole.
    fn tile(&self) -> Option<usize> {
        match self.decoration.keep {
            Keep::Everything => None,
            Keep::Inputs { .. } => self.decoration.chunking.tile(self.seq_len),
        }
    }

    /// All attention scores at once, in f32.
    pub fn scores_bytes(&self) -> u64 {
        self.scores(self.seen())
    }

    /// The same of queries that see so many tokens of earlier chunks.
    fn scores(&self, seen: u64) -> u64 {
        F32 * (self.model.block().heads * self.chunk()) as u64 * (seen + self.tokens())
    }

    /// The largest of a chunk's keys, or values, with those of earlier chunks that it sees.
    pub fn seen_bytes(&self) -> u64 {
        (self.seen() + self.tokens()) * self.bytes() * self.kv_width()
    }

    /// Tokens of earlier chunks whose keys and values the last chunk sees.
    fn seen(&self) -> u64 {
        self.seen_after(self.seq_len - self.chunk())
    }

    /// The same after so many tokens of a sequence.
    fn seen_after(&self, earlier: usize) -> u64 {
        let seen = match self.model.window() {
            0 => earlier,
            window => earlier.min(window.max(3) - 1),
        };
        (self.batch_size * seen) as u64
    }

    /// What chunks leave: the states of all tokens for the next segment, keys and values of each call
    /// for the next chunk; and of the calls that go backward both the old ones and the new.
    fn waiting(&self, waits: bool, seen: u64, left: u64) -> u64 {
        let m = self.model;
        let hidden = self.bytes() * self.hidden() as u64;
        let kv = self.bytes() * self.kv_width();
        let layers = self.blocks() as u64;
        let all = m.cached_blocks();
        let both = 2 * kv * seen.max(left) * layers;
        let states = match self.halt_max_steps {
            1 => 0,
            _ => 2 * hidden * (self.batch_size * self.seq_len) as u64,
        };
        let embedded = match self.embedding_gradient_is_there(waits) {
            true => 0,
            false => self.rows(self.batch_size),
        };
        match self.decoration.place {
            // The end of the segment before holds what it saw, and so does the chunk at work.
            Place::Host => 2 * both + embedded,
            Place::Device => both + embedded + states + 2 * kv * left * all as u64,
        }
    }

    /// Bytes of an activation's element.
    fn bytes(&self) -> u64 {
        self.precision.bytes() as u64
    }

    /// Whether activations are kept in half precision but computed with in f32, by all that is no product at least.
    fn widens(&self) -> bool {
        self.kind == Kind::Cpu && self.precision != Precision::F32
    }

    /// Whether a CPU multiplies activations as they are kept.
    fn multiplies_bf16(&self) -> bool {
        self.precision == Precision::Bf16 && matmul::bf16::unit().is_some()
    }

    /// Both states of the tokens at work, while another segment follows.
    fn states(&self) -> u64 {
        match self.halt_max_steps {
            1 => 0,
            _ => 2 * self.bytes() * self.tokens() * self.hidden() as u64,
        }
    }

    /// The gradient at work; in tiles it counts with the block.
    fn gradient(&self) -> u64 {
        match self.tile() {
            Some(_) => 0,
            None => self.bytes() * self.tokens() * self.hidden() as u64,
        }
    }

    /// At a loss, both states and the gradient of one, and the sum of the embedding's rows so far.
    fn state_at_loss(&self) -> u64 {
        let rows = match self.halt_max_steps {
            1 => 0,
            _ => F32,
        };
        self.tokens() * (3 * self.bytes() + rows) * self.hidden() as u64
    }

    /// What one segment keeps for its backward pass.
    fn tape(&self) -> u64 {
        let m = self.model;
        let calls = m.backward_calls().into_iter();
        let kept: Vec<Saves> = calls
            .flat_map(|n| self.decoration.kept(&self.saves(), n))
            .collect();
        self.tokens() * saved_bytes(&kept, self.precision.bytes()) as u64
    }

    /// What a block saves of each token.
    fn saves(&self) -> Vec<Saves> {
        self.model.block().saves
    }

    /// Blocks that go backward: what they saved anew, and the largest gradients of one.
    fn work(&self, seen: u64) -> u64 {
        let block = self.model.block();
        let [hidden, inner, up] = [block.hidden, block.inner, block.up].map(|n| n as u64);
        if let Some(tile) = self.tile() {
            return self.tiled_work(tile as u64, seen);
        }
        let layers = self.longest_call();
        let recomputed = self.decoration.keep.recomputed(&self.saves(), layers);
        let saved = saved_bytes(&recomputed, self.precision.bytes()) as u64;
        // As the MLP's activation goes backward, and as the layer before it does, for which its weight may be decoded.
        // Beside the gradient of what it read a GPU has the activation again, of which an adapter may drop some.
        let dropped = match self.kind {
            Kind::Cuda | Kind::Wgpu if self.model.drops() => inner,
            _ => 0,
        };
        let activation = self.tokens() * (dropped + inner + up + 2 * hidden) * self.bytes();
        let layer = self.tokens() * (up + 3 * hidden) * self.bytes() + self.decoded();
        let products =
            self.tokens() * saved + activation.max(layer) + self.widened(inner + up + hidden);
        let earlier = 4 * seen * self.kv_width() * self.bytes();
        // What follows attention is gone by then, and its input counts with the tape.
        let gradients = self.q_width() + self.qkv_width();
        let left = (saved + gradients * self.bytes())
            .saturating_sub(block.after_attention() as u64 * self.bytes());
        let attention = self.tokens() * left + earlier + self.attention(seen);
        products.max(attention)
    }

    /// The same where all but attention runs in tiles. Of all tokens there are the projection, what
    /// attention gave and the block's gradient in two parts, and beside them either the result's
    /// gradient and a tile, or the projection's gradient. Inputs count with the tape.
    fn tiled_work(&self, tile: u64, seen: u64) -> u64 {
        let block = self.model.block();
        let [hidden, inner, up] = [block.hidden, block.inner, block.up].map(|n| n as u64);
        let layers = self.longest_call();
        let every = match self.decoration.keep {
            Keep::Everything => 1,
            Keep::Inputs { every } => every.min(layers) as u64,
        };
        let inputs = match self.decoration.place {
            Place::Device => every - 1,
            Place::Host => every,
        };
        let unit = self.tokens() * hidden * self.bytes();
        let projected = self.tokens() * self.qkv_width() * self.bytes();
        let attended = self.tokens() * self.q_width() * self.bytes();
        let whole = (inputs + 1) * unit
            + projected
            + 2 * attended
            + self.tokens() * F32 * self.statistics();
        let in_a_tile = tile.min(self.tokens()) * (inner + 2 * up + 4 * hidden) * self.bytes();
        let tiles =
            whole + 2 * unit + in_a_tile + self.widened(inner + up + hidden) + self.decoded();
        let earlier = 4 * seen * self.kv_width() * self.bytes();
        let attention = whole + projected + earlier + self.attention(seen);
        tiles.max(attention)
    }

    /// The largest weight of a block that is decoded for a product.
    fn decoded(&self) -> u64 {
        let Decoded {
            halves, quantized, ..
        } = self.model.decoded();
        let halves = halves.max(self.held_in_a_block());
        // Tensor operations hold the codes of all numbers and two steps of their values.
        let quantized = match self.kind {
            Kind::Cpu => F32 * quantized as u64,
            Kind::Cuda | Kind::Wgpu => self.bytes() * quantized as u64,
            Kind::Ndarray => 3 * F32 * quantized as u64,
        };
        quantized.max(self.widened_weight(halves))
    }

    /// Numbers of a block's largest weight that is trained in bf16.
    fn held_in_a_block(&self) -> usize {
        let table = self.model.vocabulary() * self.hidden();
        let of_a_block =
            |info: &&ParamInfo| !info.is_embedding() && info.elements() != table && info.trained;
        match self.weights {
            WeightsDtype::F32 => 0,
            WeightsDtype::Bf16 => {
                let parameters = self.model.parameters();
                let of_blocks = parameters.iter().filter(of_a_block);
                of_blocks.map(ParamInfo::elements).max().unwrap_or(0)
            }
        }
    }

    /// Numbers of the head, if it is in 16 bits.
    fn held_head(&self) -> usize {
        match (self.weights, self.model.trains_head()) {
            (WeightsDtype::Bf16, true) => self.model.vocabulary() * self.hidden(),
            _ => self.model.decoded().head,
        }
    }

    /// A weight in 16 bits in the format that it is multiplied in; the CPU's kernels widen it as they read it.
    fn widened_weight(&self, numbers: usize) -> u64 {
        match self.kind {
            Kind::Cuda | Kind::Wgpu => self.bytes() * numbers as u64,
            Kind::Cpu | Kind::Ndarray => 0,
        }
    }

    /// f32 copies of so many elements a token, as long as they are computed with.
    fn widened(&self, elements: u64) -> u64 {
        match self.widens() {
            true => {
                let rows = widened_rows(self.precision) as u64;
                (F32 * elements * self.tokens().min(rows)).max(self.summed())
            }
            false => 0,
        }
    }

    /// A product in f32, if it is kept in less and cannot be summed up in it: each of a block that is so deep gives the
    /// width of the model.
    fn summed(&self) -> u64 {
        let block = self.model.block();
        // Sums over what a layer reads, and, going backward, over what it gives.
        let deepest = block.inner.max(block.up).max(block.hidden).max(block.qkv);
        let rows = summed_rows(self.precision, deepest) as u64;
        F32 * block.hidden as u64 * self.tokens().min(rows)
    }

    /// What attention's backward pass takes by itself.
    fn attention(&self, seen: u64) -> u64 {
        match self.path {
            AttentionPath::Flash => self.widened_for_attention(seen),
            AttentionPath::Sdpa => match self.kind {
                Kind::Cpu => {
                    SDPA_CPU_BUFFERS as u64 * self.scores(seen) + self.widened_for_attention(seen)
                }
                Kind::Cuda | Kind::Wgpu | Kind::Ndarray => {
                    SDPA_BACKWARD_BUFFERS as u64 * self.scores(seen)
                }
            },
        }
    }

    /// Inputs and gradients of attention in f32, if they are kept in less.
    fn widened_for_attention(&self, seen: u64) -> u64 {
        if !self.widens() {
            return 0;
        }
        // Whole sequences are widened one at a time, chunks of all of them together.
        let tokens = match self.chunk() == self.seq_len {
            true => self.seq_len as u64,
            false => self.tokens() + seen,
        };
        F32 * 4 * (self.q_width() + self.kv_width()) * tokens
    }

    fn loss(&self) -> u64 {
        let hidden = F32 * self.tokens() * self.hidden() as u64;
        // The gradient of the states, and the states where they are not multiplied as they are kept.
        let wide = match self.widens() {
            true if self.multiplies_bf16() => hidden,
            true => 2 * hidden,
            false => 0,
        };
        let wide = wide + self.widened_weight(self.held_head());
        let (tokens, vocabulary) = (self.tokens() as usize, self.model.vocabulary());
        let at_once = match self.loss_path {
            LossPath::Plain => tokens,
            LossPath::Fused { slice_bytes } => slice_tokens(tokens, vocabulary, slice_bytes),
        };
        let logits = F32 * (at_once * vocabulary) as u64;
        // The states of a slice, times the factors of its rows.
        let scaled = match self.model.trains_head() {
            true => F32 * (at_once * self.hidden()) as u64,
            false => 0,
        };
        // Kernels turn logits into their gradient, but for the CPU's plain one, which holds both; tensor operations hold the
        // exponentials as well.
        match (self.loss_path, self.kind) {
            (LossPath::Plain, Kind::Cpu) => PLAIN_LOSS_BUFFERS as u64 * logits + wide + scaled,
            (LossPath::Fused { .. }, Kind::Cpu) => logits + wide + scaled,
            // CUDA has rows begin at multiples of 512 bytes.
            (_, Kind::Cuda) => at_once as u64 * self.logits_row(512) + self.beside_logits(),
            (_, Kind::Wgpu) => at_once as u64 * self.logits_row(1) + self.beside_logits(),
            (_, Kind::Ndarray) => 3 * logits + self.beside_logits(),
        }
    }

    /// Rows of the head as tensor operations multiply it in training.
    fn head_rows(&self) -> u64 {
        head_rows(self.model.vocabulary(), dtype(self.precision)) as u64
    }

    /// Bytes of a token's logits, in rows of a multiple of so many.
    fn logits_row(&self, aligned: u64) -> u64 {
        (self.bytes() * self.head_rows()).next_multiple_of(aligned)
    }

    /// What tensor operations hold at a loss beside the logits: the head's weight in the activations' format, its gradient of a
    /// slice, and the gradient of the states, in parts and put together.
    fn beside_logits(&self) -> u64 {
        let table = self.head_rows() * self.hidden() as u64;
        let half = match self.precision {
            Precision::F32 => self.widened_weight(self.held_head()),
            Precision::F16 | Precision::Bf16 => self.bytes() * table,
        };
        // Beside the gradient the cast and the padded weight have been forgotten.
        let gradient = match self.model.trains_head() {
            true => F32 * table,
            false if self.head_rows() > self.model.vocabulary() as u64 => half,
            false => 0,
        };
        half + gradient + 2 * self.bytes() * self.tokens() * self.hidden() as u64
    }

    /// Tensor operations make an update out of place, one parameter at a time; kernels do it in place.
    fn update(&self) -> u64 {
        let tables = self.model.trains_head() || self.model.trains_embedding();
        let largest = match tables {
            true => self.model.vocabulary() * self.hidden(),
            false => self.model.block().parameters,
        };
        let rounded = match self.weights {
            WeightsDtype::F32 => 0,
            WeightsDtype::Bf16 => bf16_weights::update_bytes(largest),
        };
        match (self.kind, self.weights) {
            (Kind::Cpu, _) | (Kind::Wgpu, WeightsDtype::F32) => rounded,
            // CUDA's products may have rows of 512 bytes, of which kernels take copies: of one, or of some small ones.
            (Kind::Cuda, WeightsDtype::F32) => {
                let together = TOGETHER * largest.min(TOGETHER_ELEMENTS);
                rounded + F32 * largest.max(together) as u64
            }
            _ => rounded + 3 * F32 * largest as u64,
        }
    }

    fn hidden(&self) -> usize {
        self.model.block().hidden
    }

    /// Numbers in the queries of a token, and in what attention gives.
    fn q_width(&self) -> u64 {
        self.model.block().q as u64
    }

    /// Numbers in its keys, or in its values.
    fn kv_width(&self) -> u64 {
        self.model.block().kv as u64
    }

    /// Numbers in its fused projection.
    fn qkv_width(&self) -> u64 {
        self.model.block().qkv as u64
    }

    /// Blocks of the calls that go backward.
    fn blocks(&self) -> usize {
        self.model.backward_calls().iter().sum()
    }

    /// Blocks of the longest of them.
    fn longest_call(&self) -> usize {
        self.model.backward_calls().into_iter().max().unwrap_or(0)
    }

    /// Numbers a token that a block saves in f32: log-sum-exps and norms.
    fn statistics(&self) -> u64 {
        let saves = self.saves().into_iter();
        let f32 = saves.filter(|saves| saves.format == Format::F32);
        f32.map(|saves| saves.numbers as u64).sum()
    }
}

#[cfg(test)]
mod tests;
