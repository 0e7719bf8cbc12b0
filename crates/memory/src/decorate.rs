//! The decorators that a run asks for, put around the blocks of a model.

use crate::bf16_inputs::{self, rounded_inputs};
use crate::checkpoint::{Checkpointed, Keep};
use crate::offload::{self, offloaded};
use crate::tiles::Tiled;
use aios_base::config::TrainConfig;
use aios_base::execution::{Chunking, Kind, Place};
use aios_nn::{Saves, SharedLayer, Stack};
use aios_tensor::Ops;
use std::rc::Rc;

/// What a run asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoration {
    pub keep: Keep,
    pub chunking: Chunking,
    /// Where what is kept waits.
    pub place: Place,
    /// Kept inputs are rounded to bf16.
    pub bf16_inputs: bool,
}

/// Something that was asked for and cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub feature: &'static str,
    pub wanted: &'static str,
    pub used: &'static str,
    pub reason: &'static str,
}

impl Decoration {
    /// As a run is configured, on a kind of device that holds tensors of these formats; and what of it cannot be.
    pub fn of(
        config: &TrainConfig,
        kind: Kind,
        holds: impl Fn(&str) -> bool,
    ) -> (Self, Vec<Refusal>) {
        let mut refusals = Vec::new();
        let no_bf16 = match (holds("bf16"), config.gradient_checkpointing) {
            (true, true) => None,
            (false, _) => Some("this device has no bf16"),
            (_, false) => Some("without --gradient-checkpointing no inputs are kept by themselves"),
        };
        if let Some(reason) = no_bf16.filter(|_| config.bf16_inputs) {
            refusals.push(Refusal {
                feature: "bf16 inputs",
                wanted: "bf16",
                used: "the activations' format",
                reason,
            });
        }
        let decoration = Self {
            keep: match config.gradient_checkpointing {
                true => Keep::Inputs {
                    every: config.checkpoint_every,
                },
                false => Keep::Everything,
            },
            chunking: config.chunking(),
            place: Place::of(config.cpu_offload, kind),
            bf16_inputs: config.bf16_inputs && no_bf16.is_none(),
        };
        (decoration, refusals)
    }

    /// Of a model that is not trained.
    pub fn of_reading(chunking: Chunking) -> Self {
        Self {
            keep: Keep::Everything,
            chunking,
            place: Place::Device,
            bf16_inputs: false,
        }
    }

    /// What is kept on the device of a call of so many blocks that save this.
    pub fn kept(&self, block: &[Saves], blocks: usize) -> Vec<Saves> {
        let kept = self.keep.kept(block, blocks);
        match (self.keep, self.place) {
            (Keep::Everything, _) => kept,
            (Keep::Inputs { .. }, Place::Host) => offload::cost(kept),
            (Keep::Inputs { .. }, Place::Device) if self.bf16_inputs => bf16_inputs::cost(kept),
            (Keep::Inputs { .. }, Place::Device) => kept,
        }
    }

    /// The blocks of a call, decorated.
    pub fn around<B: Ops>(&self, blocks: Vec<SharedLayer<B>>) -> Stack<B> {
        let blocks: Vec<_> = blocks.into_iter().map(|b| self.tiled(b)).collect();
        let every = match self.keep {
            Keep::Everything => return Stack::new(blocks),
            Keep::Inputs { every } => every.max(1),
        };
        let groups = blocks.chunks(every).map(|group| self.checkpointed(group));
        Stack::new(groups.collect())
    }

    fn tiled<B: Ops>(&self, layer: SharedLayer<B>) -> SharedLayer<B> {
        let Some((rows, longest_whole)) = self.chunking.tiles() else {
            return layer;
        };
        Rc::new(Tiled {
            layer,
            rows,
            longest_whole,
            keeps: self.keep == Keep::Everything,
        })
    }

    /// A group of blocks of which the input is kept.
    fn checkpointed<B: Ops>(&self, group: &[SharedLayer<B>]) -> SharedLayer<B> {
        let group: SharedLayer<B> = match group {
            [block] => block.clone(),
            several => Rc::new(Stack::new(several.to_vec())),
        };
        let mut kept: SharedLayer<B> = Rc::new(Checkpointed(group));
        if self.bf16_inputs {
            kept = rounded_inputs(kept);
        }
        match self.place {
            Place::Device => kept,
            Place::Host => offloaded(kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::storage::Storage;
    use aios_nn::{Block, BlockShape, Layer, Linear, Param, ParamInfo};
    use aios_tensor::CpuBackend;
    use burn::tensor::Tensor;

    fn block(shape: BlockShape, number: usize) -> SharedLayer<CpuBackend> {
        let linear = || {
            let info = ParamInfo {
                name: String::new(),
                shape: vec![1, 1],
                decay: true,
                trained: true,
                storage: Storage::F32,
            };
            let value = Tensor::zeros([1, 1], &Default::default());
            Linear::new(Param::new(info, 0, value))
        };
        Rc::new(Block {
            shape,
            number,
            qkv: linear(),
            o: linear(),
            gate_up: linear(),
            down: linear(),
        })
    }

    /// The prediction, which has no layers, counts what the decorated layers declare.
    #[test]
    fn what_a_decoration_costs_is_what_its_layers_declare() {
        let shape = BlockShape {
            hidden: 8,
            inner: 16,
            heads: 2,
            kv_heads: 2,
            head_dim: 4,
        };
        let keeps = [
            Keep::Everything,
            Keep::EACH_INPUT,
            Keep::Inputs { every: 2 },
        ];
        for keep in keeps {
            for (place, bf16_inputs) in [
                (Place::Device, false),
                (Place::Device, true),
                (Place::Host, false),
            ] {
                for chunking in [Chunking::Off, Chunking::Exact { size: 4 }] {
                    let decoration = Decoration {
                        keep,
                        chunking,
                        place,
                        bf16_inputs,
                    };
                    let stack = decoration.around((0..3).map(|n| block(shape, n)).collect());
                    let predicted = decoration.kept(&shape.saves(), 3);
                    assert_eq!(stack.saves(), predicted, "{decoration:?}");
                }
            }
        }
    }
}
