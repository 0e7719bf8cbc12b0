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

use crate::actv1::act::{ActV1, Carry};
use crate::actv1::chunked::Chunked;
use crate::actv1::halting::{Answers, Halting};
use crate::actv1::tally::Tally;
use crate::losses::Losses;
use crate::objective::{Recipe, StepPart};
use aios_base::micro_batch::MicroBatch;
use aios_nn::watch::{Point, Watch, are_final};
use aios_nn::{Backward, Context, Gradients, KvCaches, Saved, Visit, head_loss, uniform};
use aios_tensor::{Ops, TokenLosses, added, widened};
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
    halting: Halting<B>,
    d_z_h: Tensor<B, 2>,
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
    pub fn run(&self, batch: &MicroBatch, grads: &mut Gradients<B>) -> Losses<B> {
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

    /// Factor of a sequence's halting loss in the backward pass.
    fn halting_factor(&self) -> f64 {
        let segments = self.recipe.halt_max_steps as f64;
        let sequences = self.part.denominators.sequences.max(1) as f64;
        0.5 * self.recipe.loss_scale / (sequences * segments)
    }
}

/// One micro-batch on its way through the segments.
struct Run<'a, B: Ops> {
    by: &'a Supervisor<'a, B>,
    grads: &'a mut Gradients<B>,
    parts: Chunked<'a, B>,
    losses: Losses<B>,
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
            losses: Losses::default(),
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
        self.losses.known.segments += ran.iter().filter(|&&a| a).count() as u64;
    }

    /// A chunk goes forward. Its head goes backward at once, and all of it but for the last chunk, which decides about
    /// halting and waits.
    fn chunk(
        &mut self,
        number: usize,
        at: usize,
        ran: &[bool],
        tally: &mut Tally<B>,
        caches: &mut KvCaches<B>,
    ) {
        let carry = self.parts.carry(at);
        let chunk = &self.parts.chunks[at];
        let (last, labels) = (chunk.last, chunk.masked(ran));
        let ctx = self.parts.context(chunk);
        let x = self.parts.embed(&ctx, at);
        let (carry, calls) = self.forward(&ctx, carry, x, caches);
        let asked = last.then(|| self.ask(&ctx, &carry));
        if let Some((_, answers)) = &asked {
            self.answer(answers);
        }
        let (loss, d_z_h) = self.head(&labels, &carry.z_h);
        tally.count(&labels, &loss, &mut self.losses);
        if self.by.goes_on() {
            self.parts.stow(at, carry);
        }
        match asked {
            None => self.leave_embedded(at, &ctx, calls, d_z_h, caches),
            Some((deciding, answers)) => {
                self.halt(number, &answers);
                let halting = Halting {
                    answers,
                    rewards: tally.rewards(self.by.recipe.reward),
                    active: ran.to_vec(),
                    last: number == self.by.recipe.halt_max_steps,
                };
                self.pending = Some(Pending {
                    calls,
                    deciding,
                    halting,
                    d_z_h,
                });
            }
        }
    }

    fn ask(&self, ctx: &Context<B>, carry: &Carry<B>) -> (Tensor<B, 2>, Answers<B>) {
        let deciding = self.by.model.deciding(ctx, &carry.z_h);
        let answers = self.by.model.answers(&deciding);
        (deciding, answers)
    }

    /// The segment before has waited for these answers.
    fn answer(&mut self, answers: &Answers<B>) {
        if let Some(waiting) = self.pending.take() {
            self.finish(waiting, Some(answers), false);
        }
    }

    /// Which sequences have a next segment. Where answers have to be waited for, this is the one place that does, and only
    /// if they can matter.
    fn halt(&mut self, number: usize, answers: &Answers<B>) {
        let may_halt = |(&active, &least): (&bool, &usize)| active && number >= least;
        let follows = number < self.by.recipe.halt_max_steps;
        if !follows || !self.active.iter().zip(&self.least).any(may_halt) {
            return;
        }
        for (i, q) in answers.read().iter().enumerate() {
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
    fn end(mut self) -> Losses<B> {
        if let Some(waiting) = self.pending.take() {
            let next = self.next_answers();
            self.finish(waiting, next.as_ref(), true);
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
        self.losses
    }

    /// What a segment after the last one would answer, which is what going on is worth.
    fn next_answers(&mut self) -> Option<Answers<B>> {
        let mut next = None;
        let model = self.by.model;
        if self.by.goes_on() {
            self.parts.segment(false, |chunk, ctx, z_h| {
                if chunk.last {
                    next = Some(model.answers(&model.deciding(ctx, z_h)));
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
    fn head(&mut self, labels: &[i32], z_h: &Tensor<B, 2>) -> (TokenLosses<B>, Tensor<B, 2>) {
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
    fn finish(&mut self, waiting: Pending<B>, next: Option<&Answers<B>>, last: bool) {
        let Self { by, parts, .. } = self;
        let end = parts.chunks.len() - 1;
        let ctx = parts.context(&parts.chunks[end]);
        let model = by.model;
        let Pending {
            calls,
            deciding,
            halting,
            d_z_h,
        } = waiting;
        let d = halting.loss(next, by.halting_factor(), &mut self.losses, &d_z_h.device());
        let d = model.halting_backward(&ctx, &deciding, &d, d_z_h, self.grads);
        if last && self.by.part.last {
            let heads = model.lm_head.iter().chain(model.q_head.params());
            are_final(self.by.watch, self.grads, heads);
        }
        // No chunk follows.
        let d = self.backward(&ctx, calls, d, &mut KvCaches::none(), last);
        self.add_embedded(end, d);
    }
}
