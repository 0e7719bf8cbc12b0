//! What a training step computes of a batch, and what else is done with a model, whichever it is.

use crate::losses::Losses;
use aios_base::config::HaltReward;
use aios_base::execution::{Chunking, Execution, Place};
use aios_base::micro_batch::MicroBatch;
use aios_nn::watch::Watch;
use aios_nn::{Gradients, Param, SharedLayer, Stack, Visit};
use aios_tensor::{AttentionPath, LossPath, Ops, Precision};
use burn::tensor::Tensor;

/// A model on a device, and what it learns from a batch.
pub trait Objective<B: Ops>: Visit<B> {
    /// The parameters that are trained, and perhaps others, about as their gradients become final in a backward pass.
    fn as_they_become_final(&self) -> Vec<&Param<B>> {
        let mut all = self.params();
        all.reverse();
        all
    }

    /// The longest sequence.
    fn max_seq_len(&self) -> usize;

    /// Weight of the language-model head, `[vocabulary, hidden]`.
    fn head(&self) -> &Param<B>;

    /// Put decorators around the blocks, in place of those that are there.
    fn decorate(&mut self, around: &dyn Fn(Vec<SharedLayer<B>>) -> Stack<B>);

    /// Forward and backward: the losses, which the device may have yet to tell, and their gradients added to the sums.
    fn micro_batch(
        &self,
        batch: &MicroBatch,
        recipe: &Recipe,
        part: StepPart,
        watch: &dyn Watch<B>,
        grads: &mut Gradients<B>,
    ) -> Losses<B>;

    /// Make the gradients that wait for the end of a step.
    fn settle(&self, grads: &mut Gradients<B>);

    /// Cross-entropy of a batch, in nats, summed, with logits in slices of so many bytes.
    fn cross_entropy(&self, batch: &MicroBatch, reading: &Reading, slice_bytes: usize) -> f64;

    /// At the beginning of one sequence.
    fn reader(&self, reading: &Reading) -> Box<dyn Read<B> + '_>;

    /// Gradient sums for this model, empty.
    fn gradients(&self) -> Gradients<B> {
        Gradients::new(self.params().len())
    }
}

/// Reads a sequence in parts and remembers the keys and values of what it has read.
pub trait Read<B: Ops> {
    /// Tokens read so far.
    fn position(&self) -> usize;

    /// The sequence is of so many tokens once the next reads are done, which its positions may depend on. Where what was read
    /// no longer holds then, it is forgotten: [`Read::position`] says so.
    fn expect(&mut self, _length: usize) {}

    /// Forgets all but the first so many of the tokens that it has read, or all where it cannot: [`Read::position`] says so.
    fn keep(&mut self, tokens: usize);

    /// What the head gets for the next tokens, `[tokens, hidden]`; with `last` nothing is remembered. Together they are at
    /// most the model's longest sequence.
    fn read(&mut self, ids: &[i32], last: bool) -> Tensor<B, 2>;
}

/// How a model is run without a backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    pub execution: Execution,
    /// Segments run on every token (1 at least), where a model has them; the last one's prediction counts.
    pub segments: usize,
}

/// How segments are run and when they end.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub halt_max_steps: usize,
    pub reward: HaltReward,
    /// Share of sequences that must run a random number of segments at least; published: 0.1.
    pub exploration: f64,
    pub execution: Execution,
    pub loss_path: LossPath,
    /// What waits for the embedding's gradient does so until the step's end ([`Objective::settle`]).
    pub embedding_waits: bool,
    /// Factor on the loss in the backward pass, and so on every gradient.
    pub loss_scale: f64,
    pub seed: u64,
}

/// As the program's defaults on a CPU.
impl Default for Recipe {
    fn default() -> Self {
        Self {
            halt_max_steps: 2,
            reward: HaltReward::Accuracy,
            exploration: 0.1,
            execution: Execution {
                chunking: Chunking::Off,
                place: Place::Device,
                path: AttentionPath::Flash,
                precision: Precision::F32,
            },
            loss_path: LossPath::FUSED,
            embedding_waits: false,
            loss_scale: 1.0,
            seed: 0,
        }
    }
}

/// Of which step a micro-batch is a part.
#[derive(Clone, Copy, Debug)]
pub struct StepPart {
    /// The step's number, which the exploration's draws depend on.
    pub step: u64,
    pub denominators: Denominators,
    /// No other micro-batch of the step follows.
    pub last: bool,
}

impl StepPart {
    /// A step of this number that is a single micro-batch.
    pub fn whole(step: u64, batch: &MicroBatch) -> Self {
        Self {
            step,
            denominators: Denominators::of(std::slice::from_ref(batch)),
            last: true,
        }
    }
}

/// By what the sums over the step are divided, so that any split of the step gives one gradient.
#[derive(Clone, Copy, Debug)]
pub struct Denominators {
    /// Valid tokens of the whole step.
    pub tokens: u64,
    /// Sequences of the whole step.
    pub sequences: u64,
}

impl Denominators {
    /// Totals of a step made of these micro-batches.
    pub fn of(step: &[MicroBatch]) -> Self {
        Self {
            tokens: step.iter().map(MicroBatch::valid_tokens).sum(),
            sequences: step.iter().map(|batch| batch.sequences() as u64).sum(),
        }
    }
}

/// Sums over segments and micro-batches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSums {
    /// Cross-entropy, and how many tokens it is over.
    pub ce: f64,
    pub tokens: u64,
    /// Halting losses, and how many sequences each is over.
    pub halt: f64,
    pub halt_count: u64,
    pub go_on: f64,
    pub go_on_count: u64,
    /// Segments run, over all sequences.
    pub segments: u64,
}

impl LossSums {
    /// Add another micro-batch's.
    pub fn add(&mut self, other: &Self) {
        self.ce += other.ce;
        self.tokens += other.tokens;
        self.halt += other.halt;
        self.halt_count += other.halt_count;
        self.go_on += other.go_on;
        self.go_on_count += other.go_on_count;
        self.segments += other.segments;
    }

    /// Mean cross-entropy a token, in nats.
    pub fn mean_ce(&self) -> f64 {
        self.ce / self.tokens.max(1) as f64
    }

    /// Mean loss of the "halt" question a sequence.
    pub fn mean_halt(&self) -> f64 {
        self.halt / self.halt_count.max(1) as f64
    }

    /// Mean loss of the "go on" question a sequence.
    pub fn mean_go_on(&self) -> f64 {
        self.go_on / self.go_on_count.max(1) as f64
    }

    /// The objective: cross-entropy and half of both halting losses.
    pub fn loss(&self) -> f64 {
        self.mean_ce() + 0.5 * (self.mean_halt() + self.mean_go_on())
    }
}
