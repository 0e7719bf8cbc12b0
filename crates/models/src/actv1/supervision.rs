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

use crate::actv1::act::{ActV1, Carry, HaltingLogits};
use crate::actv1::chunked::Chunked;
use crate::objective::{LossSums, Recipe, StepPart};
use aios_base::config::HaltReward;
use aios_base::micro_batch::{IGNORE, MicroBatch};
use aios_nn::watch::{Point, Watch, are_final};
use aios_nn::{Backward, Context, Gradients, KvCaches, Saved, Visit, added, head_loss, uniform};
use aios_tensor::{CrossEntropy, Ops, widened};
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What the two level calls of a segment that go backward saved on a chunk.
struct Calls<B: Ops> {
    low: Saved<B>,
    high: Saved<B>,
}

/// The end of a segment, whose head has gone backward and which waits for the next segment's answer.
struct Pending<B: Ops> {
    calls: Calls<B>,
    deciding: Tensor<B, 2>,
    logits: Vec<HaltingLogits>,
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
pub struct Supervisor<'a, B: Ops> {
    pub model: &'a ActV1<B>,
    pub recipe: &'a Recipe,
    pub part: StepPart,
    pub watch: &'a dyn Watch<B>,
}

impl<B: Ops> Supervisor<'_, B> {
    /// Forward and backward over all segments.
    pub fn run(&self, batch: &MicroBatch, grads: &mut Gradients<B>) -> LossSums {
        let mut run = Run::new(self, batch, grads);
        for number in 1..=self.recipe.halt_max_steps {
            run.segment(number);
            if run.all_have_halted() {
                break;
            }
        }
        run.end()
    }

    /// Segments each sequence has to run before it may halt: 1, or for the explorers a number
    /// drawn from 2 to the most.
    fn least_segments(&self, batch: &MicroBatch) -> Vec<usize> {
        let most = self.recipe.halt_max_steps;
        let draw = |i: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.recipe.seed);
            rng.set_stream(self.part.step);
            // Two draws of 16 words at most a sequence: its own block of the stream.
            rng.set_word_pos(u128::from(batch.first_sequence + i as u64) * 16);
            match most >= 2 && uniform(&mut rng) < self.recipe.exploration {
                true => 2 + (uniform(&mut rng) * (most - 1) as f64) as usize,
                false => 1,
            }
        };
        (0..batch.sequences()).map(draw).collect()
    }

    /// With a single segment there is no "go on" to learn, as published, and nothing follows.
    fn goes_on(&self) -> bool {
        self.recipe.halt_max_steps > 1
    }
}

/// One micro-batch on its way through the segments.
struct Run<'a, B: Ops> {
    by: &'a Supervisor<'a, B>,
    grads: &'a mut Gradients<B>,
    parts: Chunked<'a, B>,
    sums: LossSums,
    /// Sequences that have not halted.
    active: Vec<bool>,
    least: Vec<usize>,
    pending: Option<Pending<B>>,
    /// Gradients of the embedding's results, of each chunk, as far as they have not become the table's.
    d_embedded: Vec<Option<Tensor<B, 2>>>,
    /// They wait for the end of the micro-batch, as long as they are less than the table's own.
    embedded_waits: bool,
}

impl<'a, B: Ops> Run<'a, B> {
    fn new(by: &'a Supervisor<'a, B>, batch: &MicroBatch, grads: &'a mut Gradients<B>) -> Self {
        let model = by.model;
        let parts = Chunked::new(model, by.recipe.execution, batch);
        let own = model.lm_head.is_some() && model.embedding.info.trained;
        let apart = own && grads.get(&model.embedding).is_none();
        Self {
            by,
            sums: LossSums::default(),
            active: vec![true; batch.sequences()],
            least: by.least_segments(batch),
            pending: None,
            d_embedded: vec![None; parts.chunks.len()],
            embedded_waits: apart && batch.inputs.len() < model.config.vocab_size,
            parts,
            grads,
        }
    }

    fn all_have_halted(&self) -> bool {
        self.active.iter().all(|&active| !active)
    }

    fn segment(&mut self, number: usize) {
        let mut caches = self.parts.caches();
        let mut tally = Tally::new(self.active.len());
        let ran = self.active.clone();
        for at in 0..self.parts.chunks.len() {
            self.chunk(number, at, &ran, &mut tally, &mut caches);
        }
        self.sums.tokens += tally.valid.iter().sum::<usize>() as u64;
        self.sums.segments += ran.iter().filter(|&&a| a).count() as u64;
    }

    /// A chunk goes forward. Its head goes backward at once, and all of it but for the last chunk, which decides about
    /// halting and waits.
    fn chunk(
        &mut self,
        number: usize,
        at: usize,
        ran: &[bool],
        tally: &mut Tally,
        caches: &mut KvCaches<B>,
    ) {
        let carry = self.parts.carry(at);
        let chunk = &self.parts.chunks[at];
        let (last, labels) = (chunk.last, chunk.masked(ran));
        let seq = chunk.positions.len();
        let ctx = self.parts.context(chunk);
        let x = self.parts.embed(&ctx, chunk);
        let (carry, calls) = self.forward(&ctx, carry, x, caches);
        let asked = last.then(|| self.ask(&ctx, &carry));
        if let Some((_, logits)) = &asked {
            self.answer(logits);
        }
        let (loss, d_z_h) = self.head(&labels, &carry.z_h);
        self.sums.ce += loss.per_token.iter().map(|&l| f64::from(l)).sum::<f64>();
        tally.count(&labels, &loss, seq);
        if self.by.goes_on() {
            self.parts.stow(at, carry);
        }
        match asked {
            None => self.leave_embedded(at, &ctx, calls, d_z_h, caches),
            Some((deciding, logits)) => {
                self.halt(number, &logits);
                self.pending = Some(Pending {
                    calls,
                    deciding,
                    logits,
                    d_z_h,
                    rewards: tally.rewards(self.by.recipe.reward),
                    active: ran.to_vec(),
                    last: number == self.by.recipe.halt_max_steps,
                });
            }
        }
    }

    fn ask(&self, ctx: &Context<B>, carry: &Carry<B>) -> (Tensor<B, 2>, Vec<HaltingLogits>) {
        let deciding = self.by.model.deciding(ctx, &carry.z_h);
        let logits = self.by.model.halting_logits(&deciding);
        (deciding, logits)
    }

    /// The segment before has waited for these answers.
    fn answer(&mut self, logits: &[HaltingLogits]) {
        if let Some(waiting) = self.pending.take() {
            self.finish(waiting, logits, false);
        }
    }

    fn halt(&mut self, number: usize, logits: &[HaltingLogits]) {
        for (i, q) in logits.iter().enumerate() {
            self.active[i] &= !(q.halt > q.go_on && number >= self.least[i]);
        }
    }

    /// A chunk that nothing waits for goes backward.
    fn leave_embedded(
        &mut self,
        at: usize,
        ctx: &Context<B>,
        calls: Calls<B>,
        d_z_h: Tensor<B, 2>,
        caches: &mut KvCaches<B>,
    ) {
        let d = self.backward(ctx, calls, d_z_h, caches, false);
        match self.embedded_waits {
            true => self.add_embedded(at, d),
            false => {
                let inputs = &self.parts.chunks[at].inputs;
                self.by.model.embed_backward(ctx, inputs, d, self.grads);
            }
        }
    }

    fn add_embedded(&mut self, at: usize, d: Tensor<B, 2>) {
        let sum = &mut self.d_embedded[at];
        *sum = Some(added(sum.take(), d));
    }

    /// The last segment's end, and the embedding's gradient.
    fn end(mut self) -> LossSums {
        if let Some(waiting) = self.pending.take() {
            let next = self.next_answers();
            self.finish(waiting, &next, true);
        }
        let model = self.by.model;
        for (chunk, d) in self.parts.chunks.iter().zip(self.d_embedded) {
            let Some(d) = d else { continue };
            let ctx = self.parts.context(chunk);
            let later = self.by.recipe.embedding_waits;
            let embedded = model.embedded();
            embedded.backward(&ctx, &chunk.inputs, d, later, self.grads);
        }
        if self.by.part.last {
            model.settle(self.grads);
            let tables = model.positions.iter().chain([&model.embedding]);
            are_final(self.by.watch, self.grads, tables);
        }
        self.sums
    }

    /// What a segment after the last one would answer, which is what going on is worth.
    fn next_answers(&mut self) -> Vec<HaltingLogits> {
        let mut next = Vec::new();
        let model = self.by.model;
        if self.by.goes_on() {
            self.parts.segment(false, |chunk, ctx, z_h| {
                if chunk.last {
                    next = model.halting_logits(&model.deciding(ctx, z_h));
                }
            });
        }
        next
    }

    fn forward(
        &self,
        ctx: &Context<B>,
        carry: Carry<B>,
        x: Tensor<B, 2>,
        caches: &mut KvCaches<B>,
    ) -> (Carry<B>, Calls<B>) {
        let model = self.by.model;
        let Carry { z_h, z_l } = model.cycles(ctx, carry, &x, caches);
        let [low_call, high_call] = model.last_calls();
        let (low, high) = (model.low.layer(), model.high.layer());
        let z = z_l + z_h.clone() + x;
        let (z_l, low) = low.forward_saving(ctx, z, caches.call(low_call));
        let z = z_h + z_l.clone();
        let (z_h, high) = high.forward_saving(ctx, z, caches.call(high_call));
        (Carry { z_h, z_l }, Calls { low, high })
    }

    /// Gradient with respect to the embedding's result, in f32. The `last` one of the micro-batch completes the levels'
    /// gradients.
    fn backward(
        &mut self,
        ctx: &Context<B>,
        calls: Calls<B>,
        d_z_h: Tensor<B, 2>,
        caches: &mut KvCaches<B>,
        last: bool,
    ) -> Tensor<B, 2> {
        let (model, Calls { low, high }) = (self.by.model, calls);
        let [low_call, high_call] = model.last_calls();
        let pass = &mut Backward {
            grads: self.grads,
            watch: self.by.watch,
            last: last && self.by.part.last,
        };
        let (low_level, high_level) = (model.low.layer(), model.high.layer());
        let d = high_level.backward(ctx, high, d_z_h, pass, caches.call(high_call));
        widened(low_level.backward(ctx, low, d, pass, caches.call(low_call)))
    }

    /// Cross-entropy of the tokens that count, and its gradient with respect to `z_h`.
    fn head(&mut self, labels: &[i32], z_h: &Tensor<B, 2>) -> (CrossEntropy, Tensor<B, 2>) {
        let Recipe {
            halt_max_steps,
            loss_scale,
            loss_path,
            ..
        } = *self.by.recipe;
        let tokens = self.by.part.denominators.tokens.max(1) as f64;
        let weight = (loss_scale / (tokens * halt_max_steps as f64)) as f32;
        let weights = vec![weight; labels.len()];
        let head = self.by.model.head();
        self.by.watch.at(Point::LossBegins);
        let result = head_loss(head, loss_path, z_h, labels, &weights, self.grads);
        self.by.watch.at(Point::LossEnds);
        result
    }

    /// Halting loss of a waiting segment, then the backward pass of its end.
    fn finish(&mut self, waiting: Pending<B>, next: &[HaltingLogits], last: bool) {
        let Self { by, parts, .. } = self;
        let end = parts.chunks.len() - 1;
        let ctx = parts.context(&parts.chunks[end]);
        let model = by.model;
        let d_logits = self.halting_loss(&waiting, next);
        let Pending {
            calls,
            deciding,
            d_z_h,
            ..
        } = waiting;
        let d = model.halting_backward(&ctx, &deciding, &d_logits, d_z_h, self.grads);
        if last && self.by.part.last {
            let heads = model.lm_head.iter().chain(model.q_head.params());
            are_final(self.by.watch, self.grads, heads);
        }
        // No chunk follows.
        let d = self.backward(&ctx, calls, d, &mut KvCaches::none(), last);
        self.add_embedded(end, d);
    }

    /// Adds to the sums; the gradients of the logits.
    fn halting_loss(&mut self, waiting: &Pending<B>, next: &[HaltingLogits]) -> Vec<HaltingLogits> {
        let sums = &mut self.sums;
        let segments = self.by.recipe.halt_max_steps as f64;
        let sequences = self.by.part.denominators.sequences.max(1) as f64;
        let factor = 0.5 * self.by.recipe.loss_scale / (sequences * segments);
        let mut of = |i: usize, q: &HaltingLogits| {
            let mut d = HaltingLogits {
                halt: 0.0,
                go_on: 0.0,
            };
            if !waiting.active[i] {
                return d;
            }
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
            d
        };
        let logits = waiting.logits.iter().enumerate();
        logits.map(|(i, q)| of(i, q)).collect()
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

/// Value of going on, from the next segment's answers: what the better of its two choices is
/// worth, or halting's alone if no segment follows the next.
pub fn target(next: &HaltingLogits, last: bool) -> f32 {
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
