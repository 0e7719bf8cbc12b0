//! Tokens of a segment that were predicted rightly, which is what halting is rewarded for.

use crate::actv1::halting::Rewards;
use crate::losses::Losses;
use aios_base::config::HaltReward;
use aios_base::micro_batch::IGNORE;
use aios_tensor::{Ops, TokenLosses};
use burn::tensor::Tensor;

/// Tokens of each sequence that count, and those predicted rightly, in a segment.
pub struct Tally<B: Ops> {
    valid: Vec<usize>,
    right: Vec<usize>,
    /// Where they are still on the device, both behind the loss, `[sequences, 3]`.
    queued: Option<Tensor<B, 2>>,
}

impl<B: Ops> Tally<B> {
    pub fn new(sequences: usize) -> Self {
        Self {
            valid: vec![0; sequences],
            right: vec![0; sequences],
            queued: None,
        }
    }

    /// Add those of a chunk of as many tokens of each sequence; their loss is added to the losses.
    pub fn count(&mut self, labels: &[i32], of: &TokenLosses<B>, losses: &mut Losses<B>) {
        let sequences = self.valid.len();
        let seq = labels.len() / sequences.max(1);
        for (i, labels) in labels.chunks(seq.max(1)).enumerate() {
            let valid = labels.iter().filter(|&&l| l != IGNORE).count();
            self.valid[i] += valid;
            losses.known.tokens += valid as u64;
        }
        if let TokenLosses::Read(of) = of {
            for (i, correct) in of.correct.chunks(seq.max(1)).enumerate() {
                self.right[i] += correct.iter().filter(|&&c| c).count();
            }
        }
        if let Some(sums) = losses.add_ce(of, sequences) {
            self.queued = Some(match self.queued.take() {
                Some(earlier) => earlier + sums,
                None => sums,
            });
        }
    }

    /// Reward of halting now, for each sequence.
    pub fn rewards(&self, reward: HaltReward) -> Rewards<B> {
        let Some(sums) = &self.queued else {
            let of = |(&right, &valid): (&usize, &usize)| match reward {
                HaltReward::Accuracy => right as f32 / valid.max(1) as f32,
                HaltReward::Exact => f32::from(u8::from(right == valid)),
            };
            return Rewards::Read(self.right.iter().zip(&self.valid).map(of).collect());
        };
        let [right, valid] = [1, 2].map(|column| sums.clone().narrow(1, column, 1));
        Rewards::Queued(match reward {
            HaltReward::Accuracy => right / valid.clamp_min(1.0),
            HaltReward::Exact => right.equal(valid).float(),
        })
    }
}
