//! A decoder on a device: embedding, trunk and head.

use crate::decoder::architecture::HfModel;
use crate::decoder::build::Builder;
use crate::decoder::config::DecoderConfig;
use crate::decoder::rope::{RopeConfig, RopeKind};
use crate::decoder::trunk::{Level, Trunk};
use crate::embedding::Embedding;
use crate::parameters::ParamSource;
use aios_base::error::Result;
use aios_base::execution::Place;
use aios_base::micro_batch::{Chunk, MicroBatch};
use aios_nn::{Context, KvCaches, Param, Visit};
use aios_tensor::attention::Visible;
use aios_tensor::{AttentionPath, AttentionShape, Ops, Rope, ids_tensor};
use burn::tensor::{Int, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// The model.
pub struct Decoder<B: Ops> {
    pub config: DecoderConfig,
    /// Longest sequence.
    positions: usize,
    pub embedding: Param<B>,
    /// With learned positions.
    pub embedded_positions: Option<Param<B>>,
    pub trunk: Trunk<B>,
    /// `None` if the embedding's table serves as it.
    pub lm_head: Option<Param<B>>,
    tables: Vec<Tables<B>>,
    /// Something is drawn by chance in training.
    pub(crate) draws: bool,
}

/// A rotary table, and what holds above some length.
struct Tables<B: Ops> {
    usual: Rope<B>,
    longer: Option<(usize, Longer<B>)>,
}

/// What holds for longer sequences.
enum Longer<B: Ops> {
    One(Rope<B>),
    /// Another one for each length.
    ByLength(RopeConfig),
}

impl<B: Ops> Tables<B> {
    fn new(config: &RopeConfig, positions: usize, device: &B::Device) -> Self {
        let table = |length| {
            let (frequencies, factor) = config.frequencies(length);
            Rope::from_frequencies(0..positions, &frequencies, factor, device)
        };
        let switch = config.switches_at().filter(|at| *at < positions);
        let longer = |at: usize| match config.kind {
            RopeKind::Dynamic { .. } => (at, Longer::ByLength(config.clone())),
            _ => (at, Longer::One(table(positions))),
        };
        Self {
            usual: table(switch.unwrap_or(positions)),
            longer: switch.map(longer),
        }
    }

    /// A row for each token of documents that follow each other, of these lengths.
    fn of_documents(&self, lengths: &[usize], positions: &[i32]) -> Rope<B> {
        match &self.longer {
            None => self.usual.select(positions),
            Some(_) => Rope::joined(lengths.iter().map(|&n| self.at(0..n, n)).collect()),
        }
    }

    /// Those of these positions in a sequence of this length.
    fn at(&self, positions: Range<usize>, length: usize) -> Rope<B> {
        match &self.longer {
            Some((at, Longer::One(table))) if length > *at => table.slice(positions),
            Some((at, Longer::ByLength(config))) if length > *at => {
                let (frequencies, factor) = config.frequencies(length);
                let device = self.usual.cos.device();
                Rope::from_frequencies(positions, &frequencies, factor, &device)
            }
            _ => self.usual.slice(positions),
        }
    }

    /// Whether keys of a sequence of this length are turned by one table in all of its positions, and those of a sequence
    /// that has grown to `longer` tokens by another.
    fn switch(&self, length: usize, longer: usize) -> bool {
        match &self.longer {
            Some((at, Longer::One(_))) => length <= *at && longer > *at,
            _ => false,
        }
    }
}

impl<B: Ops> Visit<B> for Decoder<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        each(&self.embedding);
        self.embedded_positions.iter().for_each(&mut *each);
        self.trunk.visit(each);
        self.lm_head.iter().for_each(each);
    }
}

impl<B: Ops> Decoder<B> {
    /// Build the model on a device from a source of values, for sequences of no more than `positions` tokens; with the
    /// adapter that it is described with.
    ///
    /// # Errors
    /// Whatever the source reports.
    pub fn build(
        model: &HfModel,
        positions: usize,
        device: &B::Device,
        source: ParamSource,
    ) -> Result<Self> {
        let config = &model.decoder;
        let mut b = Builder::<B>::new(config, model.layout(), device, source);
        b.parameters.decodes_halves = model.adapted().is_some();
        let embedding = b.parameters.next()?;
        let embedded_positions = b.parameters.next_if(config.learned_positions)?;
        let low_start = b.parameters.next_if(config.cycles.is_some())?;
        let levels = (0..config.stacks()).map(|_| {
            let blocks = config.blocks.iter().enumerate();
            let blocks = blocks.map(|(number, shape)| b.block(number, *shape));
            let blocks = blocks.collect::<Result<_>>()?;
            Ok(Level::new(blocks, b.norm()?))
        });
        let levels = levels.collect::<Result<Vec<_>>>()?;
        if config.cycles.is_some() {
            let linears = levels.iter().flat_map(Level::linears);
            let trained = linears.filter(|linear| linear.weight.info.trained);
            // Each cycle multiplies by all of them.
            trained.for_each(|linear| linear.weight.keep_cast());
        }
        let lm_head = b.parameters.next_if(!config.tied)?;
        for module in model.adapted_modules() {
            b.adapt(module, levels.iter().flat_map(Level::linears))?;
        }
        let tables = config.ropes.iter();
        Ok(Self {
            tables: tables
                .map(|rope| Tables::new(rope, positions, device))
                .collect(),
            trunk: Trunk::new(levels, low_start, config.cycles.as_ref()),
            config: config.clone(),
            positions,
            draws: model.adapted_modules().iter().any(|m| m.dropout > 0.0),
            embedding,
            embedded_positions,
            lm_head,
        })
    }

    /// Longest sequence.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Weight of the language-model head, `[vocabulary, hidden]`.
    pub fn head(&self) -> &Param<B> {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// What the blocks need for these positions of `batch` sequences of `length` tokens.
    pub fn context(
        &self,
        batch: usize,
        positions: Range<usize>,
        length: usize,
        last: bool,
        path: AttentionPath,
    ) -> Context<B> {
        let block = self.config.blocks.first().expect("a model has blocks");
        Context {
            shape: AttentionShape {
                kv_heads: block.kv_heads,
                ..AttentionShape::new(batch, positions.len(), block.heads, block.head_dim)
            },
            path,
            length,
            start: positions.start,
            last,
            ropes: (self.tables.iter())
                .map(|table| table.at(positions.clone(), length))
                .collect(),
            positions: None,
            visible: None,
            draws: None,
        }
    }

    /// Whether keys of the first `read` tokens no longer hold once a sequence has grown to `length` tokens, as with longrope
    /// in Phi-3. (Dynamic tables change too, yet the keys that were cached stay: both as in transformers.)
    pub fn turns_anew(&self, read: usize, length: usize) -> bool {
        read > 0 && self.tables.iter().any(|table| table.switch(read, length))
    }

    /// [`Decoder::context`] for a chunk of a micro-batch; whole sequences where documents are packed.
    pub fn context_of(&self, batch: &MicroBatch, chunk: &Chunk, path: AttentionPath) -> Context<B> {
        let positions = chunk.positions.clone();
        let ctx = self.context(batch.sequences(), positions, batch.seq, chunk.last, path);
        match batch.is_packed() {
            true => self.packed(ctx, batch),
            false => ctx,
        }
    }

    /// Documents see themselves alone, and their positions count from 0.
    fn packed(&self, ctx: Context<B>, batch: &MicroBatch) -> Context<B> {
        let (starts, seq) = (batch.starts(), batch.seq);
        let lengths: Vec<usize> = starts
            .iter()
            .flat_map(|starts| {
                let ends = starts[1..].iter().chain([&seq]);
                ends.zip(starts).map(|(end, start)| end - start)
            })
            .collect();
        let positions: Vec<i32> = lengths.iter().flat_map(|&n| 0..n as i32).collect();
        let visible = Visible::documents(&starts, seq, &self.embedding.device());
        Context {
            ropes: (self.tables.iter())
                .map(|table| table.of_documents(&lengths, &positions))
                .collect(),
            positions: Some(Arc::new(positions)),
            visible: Some(visible.expect("starts rise within their sequence")),
            ..ctx
        }
    }

    /// What the calls leave for the next chunk: nothing yet; or nothing ever for whole sequences.
    pub fn caches(&self, chunks: usize, place: Place) -> KvCaches<B> {
        match chunks {
            1 => KvCaches::none(),
            _ => KvCaches::new(self.trunk.blocks_of_calls(), place),
        }
    }

    /// Token ids on the model's device.
    pub(crate) fn ids(&self, ids: &[i32]) -> Tensor<B, 1, Int> {
        ids_tensor(ids, &self.embedding.device())
    }

    /// What looks tokens and positions up.
    pub(crate) fn embedded(&self) -> Embedding<'_, B> {
        Embedding {
            table: &self.embedding,
            positions: self.embedded_positions.as_ref(),
            scale: self.config.embedding_scale,
        }
    }

    /// What the head multiplies, of what the trunk gives; its own gradient likewise.
    pub fn before_head(&self, z: Tensor<B, 2>) -> Tensor<B, 2> {
        match self.config.logits_divisor == 1.0 {
            true => z,
            false => z * (1.0 / self.config.logits_divisor),
        }
    }
}
