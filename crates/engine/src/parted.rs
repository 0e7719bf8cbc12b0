//! The optimizer's state in parts, one a rank.

use crate::buckets::{Slot, from_ranks, part, sum_of_squares};
use crate::optimizer::{AdamW, Update};
use crate::ranked::{Ranked, by_index, set};
use aios_base::error::{Error, Result};
use aios_bundle::{Dtype, TensorSource};
use aios_distributed::{Pending, World};
use aios_hf::encode;
use aios_memory::moments::Moments;
use aios_memory::record::{Contents, MOMENTS, suffix};
use aios_nn::{Param, ParamInfo, Visit};
use aios_tensor::{Ops, adamw_8bit};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Change this rank's parts of the weights by their sums, by bucket, and get those of the others. One bucket travels while the
/// next is computed: more at once would be as much memory as the weights.
pub(crate) fn update<B: Ops>(
    ranked: &Ranked<B>,
    model: &dyn Visit<B>,
    optimizer: &mut AdamW<B>,
    sums: Vec<Vec<f32>>,
    learning_rate: f64,
) -> Result<Update> {
    let (world, parameters) = (&ranked.world, by_index(model));
    // As bits, since text has no NaN.
    let squares = world.gather(&sum_of_squares(&sums).to_bits())?;
    let squares = squares.into_iter().map(f64::from_bits);
    let grad_norm = squares.sum::<f64>().sqrt();
    let Some(step) = optimizer.begin(model, grad_norm, learning_rate, 1.0) else {
        return Ok(Update {
            grad_norm,
            skipped: true,
        });
    };
    let mut before = None;
    for (bucket, sums) in ranked.layout.buckets.iter().zip(sums) {
        let changed = changed(
            world,
            bucket,
            &parameters,
            sums,
            &mut |own, at, gradient| optimizer.update_part(own, at, gradient, step),
        );
        let coming = world.all_gather(encode(&changed, Dtype::F32)?);
        if let Some((bucket, coming)) = before.replace((bucket, coming)) {
            take(world, bucket, &parameters, coming)?;
        }
    }
    if let Some((bucket, coming)) = before {
        take(world, bucket, &parameters, coming)?;
    }
    Ok(Update {
        grad_norm,
        skipped: false,
    })
}

/// Updates these elements of a parameter by their gradient; gives what they become.
type Change<'a, B> = &'a mut dyn FnMut(&Param<B>, Range<usize>, Tensor<B, 2>) -> Vec<f32>;

/// This rank's part of a bucket as it becomes, filled up to the longest.
fn changed<B: Ops>(
    world: &World,
    bucket: &[Slot],
    parameters: &[&Param<B>],
    sums: Vec<f32>,
    change: Change<B>,
) -> Vec<f32> {
    let mut changed = Vec::with_capacity(sums.len());
    for slot in bucket {
        let own = part(slot.elements(), world.rank(), world.size());
        if own.is_empty() {
            continue;
        }
        let start = changed.len();
        let gradient = sums[start..start + own.len()].to_vec();
        let parameter = parameters[slot.index];
        let gradient = TensorData::new(gradient, [1, own.len()]);
        let gradient = Tensor::from_data(gradient, &parameter.device());
        changed.extend(change(parameter, own, gradient));
    }
    changed.resize(sums.len(), 0.0);
    changed
}

/// The weights of a bucket, of which each rank has changed a part.
fn take<B: Ops>(
    world: &World,
    bucket: &[Slot],
    parameters: &[&Param<B>],
    coming: Pending<Vec<u8>>,
) -> Result<()> {
    let parts = coming.wait()?;
    for (slot, values) in bucket.iter().zip(from_ranks(bucket, &parts, world.size())) {
        set(parameters[slot.index], values);
    }
    Ok(())
}

/// What stands before a parameter's name in the saved state of a rank that has its own.
pub(crate) fn of_rank(rank: usize) -> String {
    match rank {
        0 => String::new(),
        rank => format!("rank{rank}."),
    }
}

/// What rank 0 asks the others for as it saves.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Wanted {
    parameter: usize,
    /// Which of its record's.
    tensor: usize,
    /// Of this rank, which has it whole; else the parts of all.
    rank: Option<usize>,
}

/// A tensor of a parameter's state, as it is saved.
struct Kept {
    suffix: String,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// The tensors that a parameter's record has, in its order.
fn kept(moments: Moments, info: &ParamInfo) -> Vec<Kept> {
    let codes = moments.is_8bit(info.elements(), info.is_embedding());
    let of = |moment| {
        let name = suffix(moment);
        let values = Kept {
            suffix: name.to_string(),
            dtype: if codes { Dtype::U8 } else { Dtype::F32 },
            shape: info.shape.clone(),
        };
        let absmax = Kept {
            suffix: format!("{name}.absmax"),
            dtype: Dtype::F32,
            shape: vec![adamw_8bit::blocks(info.elements())],
        };
        std::iter::once(values).chain(codes.then_some(absmax))
    };
    MOMENTS.into_iter().flat_map(of).collect()
}

impl<B: Ops> Ranked<B> {
    /// The whole state, of which each tensor is put together from all ranks' parts when its turn to be written comes: for
    /// rank 0, while the others [serve](Self::serve).
    pub fn state<'a>(
        &'a self,
        model: &'a dyn Visit<B>,
        optimizer: &'a AdamW<B>,
    ) -> Vec<TensorSource<'a>> {
        self.sources(model, optimizer, vec![None])
    }

    /// The whole states of the other ranks where each has its own, fetched likewise.
    pub fn states_of_others<'a>(
        &'a self,
        model: &'a dyn Visit<B>,
        optimizer: &'a AdamW<B>,
    ) -> Vec<TensorSource<'a>> {
        let others = (1..self.world.size()).map(Some).collect();
        self.sources(model, optimizer, others)
    }

    /// The tensors of each of these ranks, or of all together.
    fn sources<'a>(
        &'a self,
        model: &'a dyn Visit<B>,
        optimizer: &'a AdamW<B>,
        ranks: Vec<Option<usize>>,
    ) -> Vec<TensorSource<'a>> {
        let mut sources = Vec::new();
        for parameter in model.params().into_iter().filter(|p| p.info.trained) {
            for &rank in &ranks {
                let kept = kept(optimizer.moments(), &parameter.info);
                sources.extend(kept.into_iter().enumerate().map(|(tensor, kept)| {
                    let wanted = Wanted {
                        parameter: parameter.index,
                        tensor,
                        rank,
                    };
                    let of = of_rank(rank.unwrap_or(0));
                    TensorSource {
                        name: format!("{of}{}.{}", parameter.info.name, kept.suffix),
                        dtype: kept.dtype,
                        shape: kept.shape,
                        fetch: Box::new(move || {
                            // An error before the others are asked.
                            let own = self.own(parameter, optimizer, wanted)?;
                            self.world.share(&Some(wanted))?;
                            Ok(self.exchange(wanted, own)?.concat())
                        }),
                    }
                }));
            }
        }
        sources
    }

    /// What this rank brings to a tensor.
    fn own(&self, parameter: &Param<B>, optimizer: &AdamW<B>, wanted: Wanted) -> Result<Vec<u8>> {
        match wanted.rank {
            Some(rank) if rank != self.world.rank() => {
                let kept = kept(optimizer.moments(), &parameter.info);
                Ok(vec![0; kept[wanted.tensor].bytes()])
            }
            _ => optimizer.part_of_state(parameter, wanted.tensor),
        }
    }

    /// What all ranks bring to a tensor, or the one that has it.
    fn exchange(&self, wanted: Wanted, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        match wanted.rank {
            None => self.world.gather_bytes(own),
            Some(rank) => Ok(vec![self.world.broadcast(own, rank).wait()?]),
        }
    }

    /// Give rank 0 what it asks for, until it has all.
    pub fn serve(&self, model: &dyn Visit<B>, optimizer: &AdamW<B>) -> Result<()> {
        let parameters = by_index(model);
        while let Some(wanted) = self.world.share(&None::<Wanted>)? {
            let own = self.own(parameters[wanted.parameter], optimizer, wanted)?;
            self.exchange(wanted, own)?;
            self.world.progress();
        }
        Ok(())
    }

    /// Rank 0 has all, or wants no more.
    pub fn served(&self) -> Result<()> {
        self.world.share(&None::<Wanted>).map(drop)
    }
}

impl<B: Ops> AdamW<B> {
    /// Bytes of a tensor of a parameter's record; none where this rank has no part of it.
    fn part_of_state(&self, parameter: &Param<B>, at: usize) -> Result<Vec<u8>> {
        let Some(record) = self.record(parameter.index) else {
            return Ok(Vec::new());
        };
        let mut tensors = record.tensors(&[self.own(parameter).len()]);
        if at >= tensors.len() {
            return Err(Error::failed(
                "another rank asks for optimizer state that this one does not have: all have to run the same version",
            ));
        }
        Ok(match tensors.swap_remove(at).contents {
            Contents::F32(fetch) => encode(&fetch(), Dtype::F32)?,
            Contents::U8(fetch) => fetch(),
        })
    }
}
