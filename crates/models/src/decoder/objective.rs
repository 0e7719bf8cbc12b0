//! A plain causal loss on a decoder.

use crate::decoder::model::Decoder;
use crate::losses::Losses;
use crate::objective::{Objective, Read, Reading, Recipe, StepPart};
use aios_base::execution::Execution;
use aios_base::micro_batch::{Chunk, MicroBatch};
use aios_nn::watch::{Point, Watch, are_final};
use aios_nn::{
    Backward, Context, Draws, Gradients, KvCaches, Param, SharedLayer, Stack, head_loss,
};
use aios_tensor::attention::Visible;
use aios_tensor::{Ops, widened};
use burn::tensor::Tensor;

/// One micro-batch on its way.
struct Pass<'a, B: Ops> {
    model: &'a Decoder<B>,
    batch: &'a MicroBatch,
    recipe: &'a Recipe,
    part: StepPart,
    watch: &'a dyn Watch<B>,
    caches: KvCaches<B>,
    losses: Losses<B>,
}

impl<B: Ops> Pass<'_, B> {
    /// A chunk of each sequence, or whole ones, forward and backward.
    fn chunk(&mut self, chunk: &Chunk, grads: &mut Gradients<B>) {
        let (model, execution) = (self.model, &self.recipe.execution);
        let ctx = Context {
            draws: self.draws(chunk),
            ..model.context_of(self.batch, chunk, execution.path)
        };
        let x = (model.embedded()).forward(&ctx, &model.ids(&chunk.inputs), execution.precision);
        let (z, tape) = model.trunk.forward_saving(&ctx, x, &mut self.caches);
        let last = chunk.last && self.part.last;
        let dz = self.head(&chunk.labels, model.before_head(z), grads);
        if last {
            are_final(self.watch, grads, &model.lm_head);
        }
        let pass = &mut Backward {
            grads: &mut *grads,
            watch: self.watch,
            last,
        };
        let dz = model.before_head(dz);
        let dx = (model.trunk).backward(&ctx, tape, dz, pass, &mut self.caches);
        let later = self.recipe.embedding_waits && model.lm_head.is_some();
        let embedded = model.embedded();
        embedded.backward(&ctx, &chunk.inputs, widened(dx), later, grads);
    }

    fn draws(&self, chunk: &Chunk) -> Option<Draws> {
        let (batch, first) = (self.batch, self.batch.first_sequence);
        let sequences = first..first + batch.sequences() as u64;
        let (seed, step) = (self.recipe.seed, self.part.step);
        (self.model.draws).then(|| Draws::new(seed, step, sequences, chunk.positions.clone()))
    }

    fn head(&mut self, labels: &[i32], z: Tensor<B, 2>, grads: &mut Gradients<B>) -> Tensor<B, 2> {
        let tokens = self.part.denominators.tokens.max(1) as f64;
        let weights = vec![(self.recipe.loss_scale / tokens) as f32; labels.len()];
        self.watch.at(Point::LossBegins);
        let head = self.model.head();
        let (loss, dz) = head_loss(head, self.recipe.loss_path, &z, labels, &weights, grads);
        self.watch.at(Point::LossEnds);
        self.losses.add_ce(&loss, self.batch.sequences());
        dz
    }

    fn end(mut self, grads: &mut Gradients<B>) -> Losses<B> {
        let model = self.model;
        if self.part.last {
            model.embedded().settle(grads);
            let tables = model.embedded_positions.iter().chain([&model.embedding]);
            are_final(self.watch, grads, tables);
        }
        self.losses.known.tokens = self.batch.valid_tokens();
        self.losses.known.segments = self.batch.sequences() as u64;
        self.losses
    }
}

fn chunks_of(batch: &MicroBatch, execution: &Execution) -> Vec<Chunk> {
    batch.chunks(execution.chunking.at_once(batch.seq))
}

impl<B: Ops> Objective<B> for Decoder<B> {
    fn max_seq_len(&self) -> usize {
        self.positions()
    }

    fn head(&self) -> &Param<B> {
        self.head()
    }

    fn decorate(&mut self, around: &dyn Fn(Vec<SharedLayer<B>>) -> Stack<B>) {
        self.trunk.decorate(around);
    }

    fn micro_batch(
        &self,
        batch: &MicroBatch,
        recipe: &Recipe,
        part: StepPart,
        watch: &dyn Watch<B>,
        grads: &mut Gradients<B>,
    ) -> Losses<B> {
        let chunks = chunks_of(batch, &recipe.execution);
        let mut pass = Pass {
            model: self,
            batch,
            recipe,
            part,
            watch,
            caches: self.caches(chunks.len(), recipe.execution.place),
            losses: Losses::default(),
        };
        for chunk in &chunks {
            pass.chunk(chunk, grads);
        }
        pass.end(grads)
    }

    fn settle(&self, grads: &mut Gradients<B>) {
        self.embedded().settle(grads);
    }

    fn cross_entropy(&self, batch: &MicroBatch, reading: &Reading, slice_bytes: usize) -> f64 {
        let execution = &reading.execution;
        let chunks = chunks_of(batch, execution);
        let mut caches = self.caches(chunks.len(), execution.place);
        let head = self.head().value();
        let mut total = 0.0;
        for chunk in &chunks {
            let ctx = self.context_of(batch, chunk, execution.path);
            let x = (self.embedded()).forward(&ctx, &self.ids(&chunk.inputs), execution.precision);
            let z = self.before_head(self.trunk.forward(&ctx, x, &mut caches));
            let loss = B::cross_entropy(&z, &head, &chunk.labels, slice_bytes);
            total += loss.per_token.iter().map(|&l| f64::from(l)).sum::<f64>();
        }
        total
    }

    fn reader(&self, reading: &Reading) -> Box<dyn Read<B> + '_> {
        Box::new(Reader {
            model: self,
            execution: reading.execution,
            read: 0,
            length: 0,
            caches: None,
        })
    }
}

/// Reads a sequence and remembers its keys and values.
struct Reader<'a, B: Ops> {
    model: &'a Decoder<B>,
    execution: Execution,
    read: usize,
    /// Of the sequence, as far as it is known.
    length: usize,
    caches: Option<KvCaches<B>>,
}

impl<B: Ops> Read<B> for Reader<'_, B> {
    fn position(&self) -> usize {
        self.read
    }

    fn expect(&mut self, length: usize) {
        if self.model.turns_anew(self.read, length) {
            (self.read, self.caches) = (0, None);
        }
        self.length = length;
    }

    fn keep(&mut self, tokens: usize) {
        if tokens >= self.read {
            return;
        }
        let kept = self.caches.as_mut().is_some_and(|caches| {
            tokens > 0
                && !self.model.turns_anew(tokens, self.read)
                && caches.keep(tokens, self.read)
        });
        match kept {
            true => self.read = tokens,
            false => (self.read, self.caches) = (0, None),
        }
    }

    fn read(&mut self, ids: &[i32], last: bool) -> Tensor<B, 2> {
        let positions = self.read..self.read + ids.len();
        let chunks = 1 + usize::from(!(last && positions.start == 0));
        self.read = positions.end;
        let place = self.execution.place;
        let model = self.model;
        let caches = (self.caches).get_or_insert_with(|| model.caches(chunks, place).growing());
        let length = self.length.max(positions.end);
        let ctx = model.context(1, positions, length, last, self.execution.path);
        let x = (model.embedded()).forward(&ctx, &model.ids(ids), self.execution.precision);
        model.before_head(model.trunk.forward(&ctx, x, caches))
    }
}

impl<B: Ops> Decoder<B> {
    /// Logits `[batch * seq, vocabulary]` of whole sequences, in f32; with the keys that each query sees, if these are not
    /// all earlier ones.
    pub fn logits(
        &self,
        batch: &MicroBatch,
        visible: Option<Visible<B>>,
        execution: &Execution,
    ) -> Tensor<B, 2> {
        let ctx = Context {
            visible,
            ..self.context(
                batch.sequences(),
                0..batch.seq,
                batch.seq,
                true,
                execution.path,
            )
        };
        let x = (self.embedded()).forward(&ctx, &self.ids(&batch.inputs), execution.precision);
        let z = self.trunk.forward(&ctx, x, &mut KvCaches::none());
        widened(B::linear_forward(
            &self.before_head(z),
            &self.head().value(),
        ))
    }
}
