//! Deep supervision: the segments of one micro-batch, their losses and their backward passes.
//!
//! Every segment is forward, loss, backward, and its saved values are gone. The target of a
//! segment's "go on" question is the next segment's answer, so each segment waits for the next
//! one's forward pass, which is run once and serves both. The head and its loss go backward at
//! once, since the logits are the largest thing there is; what waits is one gradient and the tapes
//! of two level calls.

use crate::config::HaltReward;
use crate::memory::checkpoint::{Keep, LevelTape};
use crate::memory::watch::{Point, Watch};
use crate::model::{ActV1, Carry, Context, Gradients, Question, uniform};
use crate::ops::{AttentionPath, CrossEntropy, IGNORE, LossPath, Ops, Precision, widened};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Token windows of equal length, sequence after sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MicroBatch {
    pub inputs: Vec<i32>,
    /// The next token of each input; [`IGNORE`] where there is none.
    pub labels: Vec<i32>,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Number of its first sequence within the step, so that the draws of a sequence do not depend
    /// on how the step is split.
    pub first_sequence: u64,
}

impl MicroBatch {
    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.inputs.len() / self.seq
    }

    /// The same sequences in micro-batches of `size`; the last may be smaller.
    pub fn split(&self, size: usize) -> impl Iterator<Item = Self> {
        let tokens = size.max(1) * self.seq;
        let parts = self.inputs.chunks(tokens).zip(self.labels.chunks(tokens));
        parts.enumerate().map(move |(i, (inputs, labels))| Self {
            inputs: inputs.to_vec(),
            labels: labels.to_vec(),
            seq: self.seq,
            first_sequence: self.first_sequence + (i * size) as u64,
        })
    }

    /// Tokens that count in the loss.
    pub fn valid_tokens(&self) -> u64 {
        self.labels.iter().filter(|&&l| l != IGNORE).count() as u64
    }
}

/// How segments are run and when they end.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub halt_max_steps: usize,
    pub reward: HaltReward,
    /// Share of sequences that must run a random number of segments at least; published: 0.1.
    pub exploration: f64,
    pub keep: Keep,
    pub path: AttentionPath,
    pub loss_path: LossPath,
    /// Format of the activations.
    pub precision: Precision,
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
            path: AttentionPath::Flash,
            loss_path: LossPath::Fused,
            precision: Precision::F32,
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

/// One segment's forward pass, taped.
struct Segment<B: Backend> {
    low: LevelTape<B>,
    high: LevelTape<B>,
    deciding: Tensor<B, 2>,
    questions: Vec<Question>,
}

/// A segment whose head has gone backward and which waits for the next segment's answer.
struct Pending<B: Backend> {
    segment: Segment<B>,
    d_z_h: Tensor<B, 2>,
    rewards: Vec<f32>,
    /// Which sequences took part.
    active: Vec<bool>,
    last: bool,
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
        let ctx = self
            .model
            .context(batch.sequences(), batch.seq, self.recipe.path);
        let precision = self.recipe.precision;
        let x = self.model.embed(&batch.inputs, batch.seq, precision);
        let mut carry = self.model.initial_carry(batch.inputs.len(), precision);
        let mut sums = LossSums::default();
        let mut active = vec![true; batch.sequences()];
        let least = self.least_segments(batch);
        let mut pending: Option<Pending<B>> = None;
        let mut dx: Option<Tensor<B, 2>> = None;

        for number in 1..=self.recipe.halt_max_steps {
            let (next, segment) = self.forward(&ctx, carry, &x);
            carry = next;
            if let Some(waiting) = pending.take() {
                self.finish(&ctx, waiting, &segment.questions, &mut sums, &mut dx, grads);
            }
            let last = number == self.recipe.halt_max_steps;
            let (loss, d_z_h) = self.head(batch, &active, &carry.z_h, grads);
            let rewards = self.rewards(&loss, batch, &active);
            sums.ce += loss.per_token.iter().map(|&l| f64::from(l)).sum::<f64>();
            sums.tokens += masked(batch, &active).filter(|&l| l != IGNORE).count() as u64;
            sums.segments += active.iter().filter(|&&a| a).count() as u64;

            let ran = active.clone();
            for (i, q) in segment.questions.iter().enumerate() {
                active[i] &= !(q.halt > q.go_on && number >= least[i]);
            }
            pending = Some(Pending {
                segment,
                d_z_h,
                rewards,
                active: ran,
                last,
            });
            if active.iter().all(|&a| !a) {
                break;
            }
        }

        // With a single segment there is no "go on" to learn, as published.
        if let Some(waiting) = pending {
            let next = match self.recipe.halt_max_steps {
                1 => Vec::new(),
                _ => {
                    let z = self.model.segment(&ctx, carry, &x).z_h;
                    self.model.questions(&self.model.deciding(&ctx, &z))
                }
            };
            self.finish(&ctx, waiting, &next, &mut sums, &mut dx, grads);
        }
        if let Some(dx) = dx {
            self.model
                .embed_backward(&batch.inputs, batch.seq, dx, grads);
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
        x: &Tensor<B, 2>,
    ) -> (Carry<B>, Segment<B>) {
        let (model, keep) = (self.model, self.recipe.keep);
        let Carry { z_h, z_l } = model.cycles(ctx, carry, x);
        let injected = z_l + z_h.clone() + x.clone();
        let (z_l, low) = LevelTape::forward(&model.low, ctx, injected, keep);
        let (z_h, high) = LevelTape::forward(&model.high, ctx, z_h + z_l.clone(), keep);
        let deciding = model.deciding(ctx, &z_h);
        let questions = model.questions(&deciding);
        let segment = Segment {
            low,
            high,
            deciding,
            questions,
        };
        (Carry { z_h, z_l }, segment)
    }

    /// Cross-entropy of the sequences that still run, and its gradient with respect to `z_h`.
    fn head(
        &self,
        batch: &MicroBatch,
        active: &[bool],
        z_h: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> (CrossEntropy, Tensor<B, 2>) {
        let labels: Vec<i32> = masked(batch, active).collect();
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
                    .backward(z_h, &weight.value, &labels, &weights, sum);
            result = Some((loss, dz));
            dw
        });
        self.watch.at(Point::LossEnds);
        result.expect("set by the call above")
    }

    /// Reward of halting now, for each sequence.
    fn rewards(&self, loss: &CrossEntropy, batch: &MicroBatch, active: &[bool]) -> Vec<f32> {
        let labels: Vec<i32> = masked(batch, active).collect();
        let sequences = loss.correct.chunks(batch.seq).zip(labels.chunks(batch.seq));
        let reward = |(correct, labels): (&[bool], &[i32])| {
            let valid = labels.iter().filter(|&&l| l != IGNORE).count();
            let right = correct.iter().filter(|&&c| c).count();
            match self.recipe.reward {
                HaltReward::Accuracy => right as f32 / valid.max(1) as f32,
                HaltReward::Exact => f32::from(u8::from(right == valid)),
            }
        };
        sequences.map(reward).collect()
    }

    /// Halting loss of a waiting segment, then its backward pass.
    fn finish(
        &self,
        ctx: &Context<B>,
        waiting: Pending<B>,
        next: &[Question],
        sums: &mut LossSums,
        dx: &mut Option<Tensor<B, 2>>,
        grads: &mut Gradients<B>,
    ) {
        let segments = self.recipe.halt_max_steps as f64;
        let sequences = self.denominators.sequences.max(1) as f64;
        let factor = 0.5 * self.recipe.loss_scale / (sequences * segments);
        let mut d_questions = Vec::with_capacity(waiting.active.len());
        for (i, q) in waiting.segment.questions.iter().enumerate() {
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
        let model = self.model;
        let Segment {
            low,
            high,
            deciding,
            ..
        } = waiting.segment;
        let d = model.questions_backward(ctx, &deciding, &d_questions, waiting.d_z_h, grads);
        let d = high.backward(&model.high, ctx, d, grads, self.watch);
        let d = widened(low.backward(&model.low, ctx, d, grads, self.watch));
        *dx = Some(match dx.take() {
            Some(sum) => sum + d,
            None => d,
        });
    }
}

/// Labels with those of halted sequences ignored.
fn masked<'a>(batch: &'a MicroBatch, active: &'a [bool]) -> impl Iterator<Item = i32> + 'a {
    let labels = batch.labels.iter().enumerate();
    labels.map(|(i, &l)| if active[i / batch.seq] { l } else { IGNORE })
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
