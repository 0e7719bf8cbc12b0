//! Deep supervision: the segments of one micro-batch, their losses and their backward passes.
//!
//! Every segment is forward, loss, backward, and its saved values are gone. The target of a
//! segment's "go on" question is the next segment's answer, so each segment waits for the next
//! one's forward pass, which is run once and serves both. The head and its loss go backward at
//! once, since the logits are the largest thing there is; what waits is one gradient and the tapes
//! of two level calls.
//!
//! Long sequences can be run in chunks: a segment goes chunk by chunk, each forward and backward. The
//! halting question is the last token's, so only the last chunk waits for the next segment; between
//! segments the states of all tokens are put aside.

use crate::chunked::Chunked;
use aios_base::config::HaltReward;
use aios_base::execution::{Chunking, Place, Way};
use aios_base::micro_batch::{IGNORE, MicroBatch};
use aios_memory::checkpoint::{Keep, Keeping, LevelTape};
use aios_models::actv1::{ActV1, Carry, Question};
use aios_nn::watch::{Point, Watch};
use aios_nn::{Context, Gradients, Pasts, uniform};
use aios_tensor::{AttentionPath, CrossEntropy, LossPath, Ops, Precision, widened};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// How segments are run and when they end.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub halt_max_steps: usize,
    pub reward: HaltReward,
    /// Share of sequences that must run a random number of segments at least; published: 0.1.
    pub exploration: f64,
    pub keep: Keep,
    pub way: Way,
    pub loss_path: LossPath,
    /// What waits for the embedding's gradient does so until the step's end ([`ActV1::settle`]).
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
            keep: Keep::EACH_INPUT,
            way: Way {
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

/// One segment's forward pass on a chunk, taped.
struct Taped<B: Backend> {
    low: LevelTape<B>,
    high: LevelTape<B>,
}

/// The end of a segment, whose head has gone backward and which waits for the next segment's answer.
struct Pending<B: Backend> {
    taped: Taped<B>,
    deciding: Tensor<B, 2>,
    questions: Vec<Question>,
    d_z_h: Tensor<B, 2>,
    rewards: Vec<f32>,
    /// Which sequences took part.
    active: Vec<bool>,
    last: bool,
}

/// Tokens of each sequence that count, and those predicted rightly, in a segment.
struct Tally {
    valid: Vec<usize>,
    right: Vec<usize>,
}

/// Runs the segments of one micro-batch and adds its gradients to `grads`.
pub struct Supervisor<'a, B: Backend> {
    pub model: &'a ActV1<B>,
    pub recipe: &'a Recipe,
    pub denominators: Denominators,
    /// The step's number, which the exploration's draws depend on.
    pub step: u64,
    pub watch: &'a dyn Watch,
}

impl<B: Ops> Supervisor<'_, B> {
    /// Forward and backward over all segments.
    pub fn run(&self, batch: &MicroBatch, grads: &mut Gradients<B>) -> LossSums {
        let mut parts = Chunked::new(self.model, self.recipe.way, batch);
        let end = parts.chunks.len() - 1;
        let end_ctx = parts.context(&parts.chunks[end]);
        // With a single segment there is no "go on" to learn, as published, and nothing follows.
        let goes_on = self.recipe.halt_max_steps > 1;
        let mut sums = LossSums::default();
        let mut active = vec![true; batch.sequences()];
        let least = self.least_segments(batch);
        let mut pending: Option<Pending<B>> = None;
        // Gradients of the embedding's results, until the end if they are less than the table's own.
        let mut d_embedded: Vec<Option<Tensor<B, 2>>> = vec![None; end + 1];
        let table = self.model.lm_head.is_some() && grads.get(&self.model.embedding).is_none();
        let wait = table && batch.inputs.len() < self.model.config.vocab_size;

        for number in 1..=self.recipe.halt_max_steps {
            let mut pasts = parts.pasts();
            let mut tally = Tally::new(batch.sequences());
            let ran = active.clone();
            for (at, d_embedded) in d_embedded.iter_mut().enumerate() {
                let carry = parts.carry(at);
                let chunk = &parts.chunks[at];
                let ctx = parts.context(chunk);
                let x = parts.embed(&ctx, chunk);
                let (carry, taped) = self.forward(&ctx, carry, x, &mut pasts);
                let asked = chunk.last.then(|| {
                    let deciding = self.model.deciding(&ctx, &carry.z_h);
                    let questions = self.model.questions(&deciding);
                    (deciding, questions)
                });
                if let Some((_, questions)) = &asked
                    && let Some(waiting) = pending.take()
                {
                    let d = self.finish(&end_ctx, waiting, questions, &mut sums, grads);
                    add(d_embedded, d);
                }
                let labels = chunk.masked(&ran);
                let (loss, d_z_h) = self.head(&labels, &carry.z_h, grads);
                sums.ce += loss.per_token.iter().map(|&l| f64::from(l)).sum::<f64>();
                tally.count(&labels, &loss, chunk.positions.len());
                if goes_on {
                    parts.stow(at, carry);
                }

                let Some((deciding, questions)) = asked else {
                    let d = self.backward(&ctx, taped, d_z_h, grads, &mut pasts);
                    match wait {
                        true => add(d_embedded, d),
                        false => {
                            let inputs = &parts.chunks[at].inputs;
                            self.model.embed_backward(&ctx, inputs, d, grads);
                        }
                    }
                    continue;
                };
                for (i, q) in questions.iter().enumerate() {
                    active[i] &= !(q.halt > q.go_on && number >= least[i]);
                }
                pending = Some(Pending {
                    taped,
                    deciding,
                    questions,
                    d_z_h,
                    rewards: tally.rewards(self.recipe.reward),
                    active: ran.clone(),
                    last: number == self.recipe.halt_max_steps,
                });
            }
            sums.tokens += tally.valid.iter().sum::<usize>() as u64;
            sums.segments += ran.iter().filter(|&&a| a).count() as u64;
            if active.iter().all(|&a| !a) {
                break;
            }
        }

        if let Some(waiting) = pending {
            let mut next = Vec::new();
            if goes_on {
                parts.segment(false, |chunk, ctx, z_h| {
                    if chunk.last {
                        next = self.model.questions(&self.model.deciding(ctx, z_h));
                    }
                });
            }
            let d = self.finish(&end_ctx, waiting, &next, &mut sums, grads);
            add(&mut d_embedded[end], d);
        }
        for (chunk, d) in parts.chunks.iter().zip(d_embedded) {
            if let Some(d) = d {
                let ctx = parts.context(chunk);
                match self.recipe.embedding_waits {
                    true => (self.model).embed_backward_later(&ctx, &chunk.inputs, d, grads),
                    false => self.model.embed_backward(&ctx, &chunk.inputs, d, grads),
                }
            }
        }
        sums
    }

    /// Segments each sequence has to run before it may halt: 1, or for the explorers a number
    /// drawn from 2 to the most.
    fn least_segments(&self, batch: &MicroBatch) -> Vec<usize> {
        let most = self.recipe.halt_max_steps;
        let draw = |i: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.recipe.seed);
            rng.set_stream(self.step);
            // Two draws of 16 words at most a sequence: its own block of the stream.
            rng.set_word_pos(u128::from(batch.first_sequence + i as u64) * 16);
            match most >= 2 && uniform(&mut rng) < self.recipe.exploration {
                true => 2 + (uniform(&mut rng) * (most - 1) as f64) as usize,
                false => 1,
            }
        };
        (0..batch.sequences()).map(draw).collect()
    }

    fn forward(
        &self,
        ctx: &Context<B>,
        carry: Carry<B>,
        x: Tensor<B, 2>,
        pasts: &mut Pasts<B>,
    ) -> (Carry<B>, Taped<B>) {
        let model = self.model;
        let keeping = Keeping {
            keep: self.recipe.keep,
            place: self.recipe.way.place,
        };
        let Carry { z_h, z_l } = model.cycles(ctx, carry, &x, pasts);
        let [low_call, high_call] = model.last_calls();
        let z = z_l + z_h.clone() + x;
        let past = pasts.call(low_call);
        let (z_l, low) = LevelTape::forward(&model.low, ctx, z, keeping, past);
        let z = z_h + z_l.clone();
        let past = pasts.call(high_call);
        let (z_h, high) = LevelTape::forward(&model.high, ctx, z, keeping, past);
        (Carry { z_h, z_l }, Taped { low, high })
    }

    /// Gradient with respect to the embedding's result, in f32.
    fn backward(
        &self,
        ctx: &Context<B>,
        taped: Taped<B>,
        d_z_h: Tensor<B, 2>,
        grads: &mut Gradients<B>,
        pasts: &mut Pasts<B>,
    ) -> Tensor<B, 2> {
        let (model, Taped { low, high }) = (self.model, taped);
        let [low_call, high_call] = model.last_calls();
        let past = pasts.call(high_call);
        let d = high.backward(&model.high, ctx, d_z_h, grads, self.watch, past);
        let past = pasts.call(low_call);
        widened(low.backward(&model.low, ctx, d, grads, self.watch, past))
    }

    /// Cross-entropy of the tokens that count, and its gradient with respect to `z_h`.
    fn head(
        &self,
        labels: &[i32],
        z_h: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> (CrossEntropy, Tensor<B, 2>) {
        let segments = self.recipe.halt_max_steps as f64;
        let tokens = self.denominators.tokens.max(1) as f64;
        let weights = vec![(self.recipe.loss_scale / (tokens * segments)) as f32; labels.len()];
        let weight = self.model.head();
        let mut result = None;
        self.watch.at(Point::LossBegins);
        grads.change(weight, |sum| {
            let (loss, dz, dw) =
                self.recipe
                    .loss_path
                    .backward(z_h, &weight.value, labels, &weights, sum);
            result = Some((loss, dz));
            dw
        });
        self.watch.at(Point::LossEnds);
        result.expect("set by the call above")
    }

    /// Halting loss of a waiting segment, then the backward pass of its end.
    fn finish(
        &self,
        ctx: &Context<B>,
        waiting: Pending<B>,
        next: &[Question],
        sums: &mut LossSums,
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let segments = self.recipe.halt_max_steps as f64;
        let sequences = self.denominators.sequences.max(1) as f64;
        let factor = 0.5 * self.recipe.loss_scale / (sequences * segments);
        let mut d_questions = Vec::with_capacity(waiting.active.len());
        for (i, q) in waiting.questions.iter().enumerate() {
            let mut d = Question {
                halt: 0.0,
                go_on: 0.0,
            };
            if waiting.active[i] {
                let (loss, slope) = binary_cross_entropy(q.halt, waiting.rewards[i]);
                sums.halt += loss;
                sums.halt_count += 1;
                d.halt = (slope * factor) as f32;
                if let Some(next) = next.get(i) {
                    let (loss, slope) = binary_cross_entropy(q.go_on, target(next, waiting.last));
                    sums.go_on += loss;
                    sums.go_on_count += 1;
                    d.go_on = (slope * factor) as f32;
                }
            }
            d_questions.push(d);
        }
        let (model, deciding) = (self.model, &waiting.deciding);
        let d = model.questions_backward(ctx, deciding, &d_questions, waiting.d_z_h, grads);
        // No chunk follows.
        self.backward(ctx, waiting.taped, d, grads, &mut Pasts::none())
    }
}

impl Tally {
    fn new(sequences: usize) -> Self {
        Self {
            valid: vec![0; sequences],
            right: vec![0; sequences],
        }
    }

    /// Add those of a chunk of `seq` tokens of each sequence.
    fn count(&mut self, labels: &[i32], loss: &CrossEntropy, seq: usize) {
        for (i, labels) in labels.chunks(seq).enumerate() {
            self.valid[i] += labels.iter().filter(|&&l| l != IGNORE).count();
        }
        for (i, correct) in loss.correct.chunks(seq).enumerate() {
            self.right[i] += correct.iter().filter(|&&c| c).count();
        }
    }

    /// Reward of halting now, for each sequence.
    fn rewards(&self, reward: HaltReward) -> Vec<f32> {
        let of = |(&right, &valid): (&usize, &usize)| match reward {
            HaltReward::Accuracy => right as f32 / valid.max(1) as f32,
            HaltReward::Exact => f32::from(u8::from(right == valid)),
        };
        self.right.iter().zip(&self.valid).map(of).collect()
    }
}

fn add<B: Ops>(sum: &mut Option<Tensor<B, 2>>, d: Tensor<B, 2>) {
    *sum = Some(match sum.take() {
        Some(sum) => sum + d,
        None => d,
    });
}

/// Value of going on, from the next segment's answers: what the better of its two choices is
/// worth, or halting's alone if no segment follows the next.
pub fn target(next: &Question, last: bool) -> f32 {
    let logit = if last {
        next.halt
    } else {
        next.halt.max(next.go_on)
    };
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

/// Binary cross-entropy of a logit, and its slope.
pub fn binary_cross_entropy(logit: f32, target: f32) -> (f64, f64) {
    let (x, t) = (f64::from(logit), f64::from(target));
    let loss = x.max(0.0) - x * t + (-x.abs()).exp().ln_1p();
    (loss, 1.0 / (1.0 + (-x).exp()) - t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_cross_entropy_matches_its_definition() {
        for (x, t) in [(-5.0_f32, 0.2_f32), (0.0, 1.0), (3.0, 0.0)] {
            let p = 1.0 / (1.0 + (-f64::from(x)).exp());
            let t64 = f64::from(t);
            let want = -(t64 * p.ln() + (1.0 - t64) * (1.0 - p).ln());
            let (loss, slope) = binary_cross_entropy(x, t);
            assert!((loss - want).abs() < 1e-9 && (slope - (p - t64)).abs() < 1e-9);
        }
    }

    #[test]
    fn a_nan_logit_shows_in_the_loss() {
        assert!(binary_cross_entropy(f32::NAN, 0.5).0.is_nan());
    }
}
