//! ACT-v1 as others use it.

use crate::actv1::act::ActV1;
use crate::actv1::chunked::Chunked;
use crate::actv1::reader::Reader;
use crate::actv1::supervision::Supervisor;
use crate::losses::Losses;
use crate::objective::{Objective, Read, Reading, Recipe, StepPart};
use aios_base::micro_batch::MicroBatch;
use aios_nn::watch::Watch;
use aios_nn::{Gradients, Param, SharedLayer, Stack, Visit};
use aios_tensor::Ops;
use burn::tensor::Tensor;

impl<B: Ops> Objective<B> for ActV1<B> {
    fn as_they_become_final(&self) -> Vec<&Param<B>> {
        let tables = std::iter::once(&self.embedding).chain(&self.positions);
        let levels = self.low.params().into_iter().chain(self.high.params());
        let heads = self.lm_head.iter().chain(self.q_head.params());
        let mut all: Vec<_> = tables.chain(levels).chain(heads).collect();
        all.reverse();
        all
    }

    fn max_seq_len(&self) -> usize {
        self.config.max_seq_len
    }

    fn head(&self) -> &Param<B> {
        self.head()
    }

    fn decorate(&mut self, around: &dyn Fn(Vec<SharedLayer<B>>) -> Stack<B>) {
        self.decorate(around);
    }

    fn micro_batch(
        &self,
        batch: &MicroBatch,
        recipe: &Recipe,
        part: StepPart,
        watch: &dyn Watch<B>,
        grads: &mut Gradients<B>,
    ) -> Losses<B> {
        let supervisor = Supervisor {
            model: self,
            recipe,
            part,
            watch,
        };
        supervisor.run(batch, grads)
    }

    fn settle(&self, grads: &mut Gradients<B>) {
        self.settle(grads);
    }

    fn cross_entropy(&self, batch: &MicroBatch, reading: &Reading, slice_bytes: usize) -> f64 {
        let mut parts = Chunked::new(self, reading.execution, batch);
        for _ in 1..reading.segments {
            parts.segment(true, |_, _, _| {});
        }
        let mut total = 0.0;
        let head = self.head().value();
        parts.segment(false, |chunk, _, z_h| {
            let loss = B::cross_entropy(z_h, &head, &chunk.labels, slice_bytes);
            total += loss.per_token.iter().map(|&l| f64::from(l)).sum::<f64>();
        });
        total
    }

    fn reader(&self, reading: &Reading) -> Box<dyn Read<B> + '_> {
        Box::new(Reader::new(self, reading.execution, reading.segments, 1))
    }
}

impl<B: Ops> Read<B> for Reader<'_, B> {
    fn position(&self) -> usize {
        self.position()
    }

    fn keep(&mut self, tokens: usize) {
        self.keep(tokens);
    }

    fn read(&mut self, ids: &[i32], last: bool) -> Tensor<B, 2> {
        self.read(ids, last)
    }
}
