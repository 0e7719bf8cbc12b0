//! How a step is computed, and in what smaller ways it could be.

use crate::Plan;
use crate::estimate::Run;
use aios_base::config::TrainConfig;
use aios_base::meter::format_bytes;
use aios_models::Architecture;
use aios_process::split::Split;
use aios_tensor::{LossPath, SLICE_BYTES};

/// Sizes of the loss's slices, each half of the one before. The first three cost a step less than
/// a quarter of its speed (at 20 and 10 MiB the loss takes 1.1 and 1.3 times as long with a hidden
/// size of 128, 1.2 and 1.6 times with 512), the others are for when nothing else is left.
pub const SLICES: [usize; 6] = [
    SLICE_BYTES,
    SLICE_BYTES / 2,
    SLICE_BYTES / 4,
    SLICE_BYTES / 8,
    SLICE_BYTES / 16,
    SLICE_BYTES / 32,
];
/// The smallest that is still quick.
pub const QUICK_SLICE: usize = SLICES[2];

/// How a step is computed, as far as it does not matter for its result: but for rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub split: Split,
    pub loss_path: LossPath,
}

impl Form {
    pub fn of(config: &TrainConfig, plan: &Plan) -> Self {
        Self {
            split: Split::of(config),
            loss_path: plan.loss_path,
        }
    }

    pub fn apply(self, config: &mut TrainConfig, plan: &mut Plan) {
        self.split.apply(config);
        plan.loss_path = self.loss_path;
    }

    /// Bytes that it is predicted to take.
    pub fn needed(self, plan: &Plan, config: &TrainConfig, model: &dyn Architecture) -> u64 {
        let run = Run {
            batch_size: self.split.batch_size,
            accumulation: self.split.accumulation,
            loss_path: self.loss_path,
            ..plan.run(config, model)
        };
        run.estimate().total
    }

    /// Forms that may take less, the quickest first: smaller slices, then smaller micro-batches, then
    /// still smaller slices.
    pub fn smaller(self) -> Vec<Self> {
        let splits: Vec<Split> = std::iter::once(self.split)
            .chain(self.split.smaller())
            .collect();
        let with = |split, slice_bytes: Option<usize>| Self {
            split,
            loss_path: match slice_bytes {
                Some(slice_bytes) => LossPath::Fused { slice_bytes },
                None => self.loss_path,
            },
        };
        let Some(now) = self.loss_path.slice_bytes() else {
            let smaller = splits.into_iter().skip(1);
            return smaller.map(|split| with(split, None)).collect();
        };
        let less = SLICES.into_iter().filter(|&bytes| bytes < now);
        let sizes: Vec<usize> = std::iter::once(now).chain(less).collect();
        let (quick, slow): (Vec<usize>, Vec<usize>) = sizes
            .into_iter()
            .partition(|&bytes| bytes == now || bytes >= QUICK_SLICE);
        let quickly = splits
            .iter()
            .flat_map(|&split| quick.iter().map(move |&bytes| (split, bytes)));
        let slowly = slow
            .iter()
            .flat_map(|&bytes| splits.iter().map(move |&split| (split, bytes)));
        quickly
            .chain(slowly)
            .skip(1)
            .map(|(split, bytes)| with(split, Some(bytes)))
            .collect()
    }

    /// What is different from `before`, in words.
    pub fn instead_of(self, before: Self) -> String {
        let slices = |form: Self| form.loss_path.slice_bytes();
        match (slices(self), slices(before)) {
            (Some(now), Some(then)) if now != then => format!(
                " with the loss in slices of {} instead of {}",
                format_bytes(now as u64),
                format_bytes(then as u64)
            ),
            _ => String::new(),
        }
    }
}
