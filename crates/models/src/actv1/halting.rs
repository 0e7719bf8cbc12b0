//! The halting head's answers and their loss: on the host where results are there as soon as they are computed, and
//! where they would have to be waited for, on the device.

use crate::losses::{Loss, Losses};
use aios_tensor::{Ops, floats};
use burn::tensor::activation::sigmoid;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

/// The halting head's two logits of one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HaltingLogits {
    pub halt: f32,
    pub go_on: f32,
}

impl HaltingLogits {
    /// Those of some sequences, `[sequences, 2]`.
    pub fn tensor<B: Backend>(of: &[Self], device: &B::Device) -> Tensor<B, 2> {
        let values: Vec<f32> = of.iter().flat_map(|q| [q.halt, q.go_on]).collect();
        Tensor::from_data(TensorData::new(values, [of.len(), 2]), device)
    }
}

/// What the halting head says of each sequence.
#[derive(Clone, Debug)]
pub enum Answers<B: Backend> {
    Read(Vec<HaltingLogits>),
    /// Still on the device, `[sequences, 2]`.
    Queued(Tensor<B, 2>),
}

impl<B: Ops> Answers<B> {
    /// Of the head's result, `[sequences, 2]`.
    pub fn new(logits: Tensor<B, 2>) -> Self {
        match B::ON_HOST {
            true => Self::Read(read(logits)),
            false => Self::Queued(logits),
        }
    }

    /// On the host; waits for the device, if need be.
    pub fn read(&self) -> Vec<HaltingLogits> {
        match self {
            Self::Read(logits) => logits.clone(),
            Self::Queued(logits) => read(logits.clone()),
        }
    }

    /// On the device.
    fn tensor(&self, device: &B::Device) -> Tensor<B, 2> {
        match self {
            Self::Read(logits) => HaltingLogits::tensor(logits, device),
            Self::Queued(logits) => logits.clone(),
        }
    }
}

fn read<B: Ops>(logits: Tensor<B, 2>) -> Vec<HaltingLogits> {
    let pair = |q: &[f32]| HaltingLogits {
        halt: q[0],
        go_on: q[1],
    };
    floats(logits).chunks_exact(2).map(pair).collect()
}

/// What halting now is worth for each sequence.
#[derive(Clone, Debug)]
pub enum Rewards<B: Backend> {
    Read(Vec<f32>),
    /// Still on the device, `[sequences, 1]`.
    Queued(Tensor<B, 2>),
}

/// A segment's answers, and what the next segment's do not tell of their loss.
pub struct Halting<B: Backend> {
    pub answers: Answers<B>,
    pub rewards: Rewards<B>,
    /// Which sequences took part.
    pub active: Vec<bool>,
    /// No segment follows the next.
    pub last: bool,
}

impl<B: Ops> Halting<B> {
    /// Adds to the losses; gives their gradient with respect to the answers times `factor`, `[sequences, 2]`. Without the
    /// next segment's answers there is no "go on" to learn.
    pub fn loss(
        &self,
        next: Option<&Answers<B>>,
        factor: f64,
        losses: &mut Losses<B>,
        device: &B::Device,
    ) -> Tensor<B, 2> {
        let active = self.active.iter().filter(|&&active| active).count() as u64;
        losses.known.halt_count += active;
        losses.known.go_on_count += next.map_or(0, |_| active);
        match &self.rewards {
            Rewards::Read(rewards) => {
                let next = next.map(Answers::read);
                let d = self.on_host(rewards, next.as_deref(), factor, losses);
                HaltingLogits::tensor(&d, device)
            }
            Rewards::Queued(rewards) => {
                let next = next.map(|next| next.tensor(device));
                self.on_device(rewards, next, factor as f32, losses)
            }
        }
    }

    fn on_host(
        &self,
        rewards: &[f32],
        next: Option<&[HaltingLogits]>,
        factor: f64,
        losses: &mut Losses<B>,
    ) -> Vec<HaltingLogits> {
        let sums = &mut losses.known;
        let mut of = |i: usize, q: &HaltingLogits| {
            let mut d = HaltingLogits {
                halt: 0.0,
                go_on: 0.0,
            };
            if !self.active[i] {
                return d;
            }
            let (loss, slope) = binary_cross_entropy(q.halt, rewards[i]);
            sums.halt += loss;
            d.halt = (slope * factor) as f32;
            if let Some(next) = next {
                let (loss, slope) = binary_cross_entropy(q.go_on, target(&next[i], self.last));
                sums.go_on += loss;
                d.go_on = (slope * factor) as f32;
            }
            d
        };
        let answers = self.answers.read();
        let each = answers.iter().enumerate();
        each.map(|(i, q)| of(i, q)).collect()
    }

    /// The same in f32.
    fn on_device(
        &self,
        rewards: &Tensor<B, 2>,
        next: Option<Tensor<B, 2>>,
        factor: f32,
        losses: &mut Losses<B>,
    ) -> Tensor<B, 2> {
        let (sequences, device) = (self.active.len(), rewards.device());
        let x = self.answers.tensor(&device);
        let column = |t: &Tensor<B, 2>, i: usize| t.clone().narrow(1, i, 1);
        let (of, worth): (&[_], _) = match &next {
            // The answer itself, from which it does not differ.
            None => (&[Some(Loss::Halt), None], column(&x, 1)),
            Some(next) if self.last => (&[Some(Loss::Halt), Some(Loss::GoOn)], column(next, 0)),
            Some(next) => {
                let better = column(next, 0).max_pair(column(next, 1));
                (&[Some(Loss::Halt), Some(Loss::GoOn)], better)
            }
        };
        let targets = Tensor::cat(vec![rewards.clone(), sigmoid(worth)], 1);
        let softplus = x.clone().clamp_min(0.0) + (-x.clone().abs()).exp().log1p();
        let mut loss = softplus - x.clone() * targets.clone();
        let mut d = (sigmoid(x) - targets) * factor;
        if !self.active.iter().all(|&active| active) {
            let flags = self
                .active
                .iter()
                .flat_map(|&a| [f32::from(u8::from(a)); 2]);
            let flags = TensorData::new(flags.collect::<Vec<_>>(), [sequences, 2]);
            let halted = Tensor::<B, 2>::from_data(flags, &device).equal_elem(0.0);
            (loss, d) = (
                loss.mask_fill(halted.clone(), 0.0),
                d.mask_fill(halted, 0.0),
            );
        }
        losses.queue(of, loss.reshape([2 * sequences]));
        d
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
    use aios_tensor::CpuBackend;

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

    /// Three sequences, as the host computes and as a device does.
    fn both(
        active: [bool; 3],
        last: bool,
        next: bool,
        first: f32,
    ) -> [(crate::LossSums, Vec<f32>); 2] {
        let device = Default::default();
        let logits = |values: [f32; 6]| -> Tensor<CpuBackend, 2> {
            Tensor::from_data(TensorData::new(values.to_vec(), [3, 2]), &device)
        };
        let answers = logits([first, 0.5, -30.0, 40.0, 2.0, -1.0]);
        let following = logits([0.3, -0.2, 1.5, 2.5, -4.0, 0.0]);
        let rewards = vec![0.25, 0.0, 1.0];
        let column = TensorData::new(rewards.clone(), [3, 1]);
        let ways = [
            (Answers::Read(read(answers.clone())), Rewards::Read(rewards)),
            (
                Answers::Queued(answers),
                Rewards::Queued(Tensor::from_data(column, &device)),
            ),
        ];
        ways.map(|(answers, rewards)| {
            let halting = Halting {
                answers,
                rewards,
                active: active.to_vec(),
                last,
            };
            let next = next.then(|| Answers::Queued(following.clone()));
            let mut losses = Losses::default();
            let d = halting.loss(next.as_ref(), 0.125, &mut losses, &device);
            (losses.read(), floats(d))
        })
    }

    #[test]
    fn a_device_computes_what_the_host_does() {
        for active in [[true; 3], [true, false, true], [false; 3]] {
            for (last, next) in [(false, true), (true, true), (true, false)] {
                let [(host, d_host), (device, d_device)] = both(active, last, next, -0.7);
                let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (1.0 + a.abs());
                assert!(near(host.halt, device.halt) && near(host.go_on, device.go_on));
                let counts = |s: &crate::LossSums| [s.halt_count, s.go_on_count];
                assert_eq!(counts(&host), counts(&device));
                for (a, b) in d_host.into_iter().zip(d_device) {
                    assert!(
                        near(a.into(), b.into()),
                        "{active:?} {last} {next}: {a} {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_counts_while_its_sequence_is_active() {
        let [(host, d_host), (device, d_device)] = both([true; 3], true, true, f32::NAN);
        assert!(host.halt.is_nan() && device.halt.is_nan());
        assert!(d_host[0].is_nan() && d_device[0].is_nan());
        let [_, (device, d)] = both([false, true, true], true, true, f32::NAN);
        assert!(device.halt.is_finite() && d.iter().all(|d| d.is_finite()));
    }
}
