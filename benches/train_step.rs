//! One training step of the default model, without data loading and files:
//! `cargo bench --bench train_step [-- DEVICE]` (default: cpu).
//!
//! Prints the median of the measured steps and the exact peak of the heap (on the CPU), for one
//! batch of 8 x 128 and one of 1 x 1024 tokens, with and without gradient checkpointing.

use aios::backend::{self, DeviceJob};
use aios::config::{DeviceChoice, HaltReward, TrainConfig};
use aios::memory::checkpoint::Keep;
use aios::memory::meter::{format_bytes, peak_bytes, reset_peak};
use aios::model::ActV1;
use aios::ops::{AttentionPath, Ops};
use aios::train::optimizer::AdamW;
use aios::train::setup::model_config;
use aios::train::supervision::{Denominators, MicroBatch, Recipe, Supervisor};
use std::time::Instant;

const GPT2_VOCABULARY: usize = 50_257;
const WARM_UP: usize = 2;
const MEASURED: usize = 5;

fn main() {
    let device = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let choice: DeviceChoice = device
        .as_deref()
        .unwrap_or("cpu")
        .parse()
        .expect("a device");
    let selection = backend::select(&choice).expect("the device exists");
    selection
        .adapter
        .selected
        .open()
        .expect("the device starts");
    println!("{} ({})", selection.adapter.name, selection.adapter.flag());
    println!("batch        checkpointing   ms/step   tokens/s   peak heap");
    for (batch, seq) in [(8, 128), (1, 1024)] {
        for keep in [Keep::Everything, Keep::Inputs] {
            selection.adapter.selected.run(Bench { batch, seq, keep });
        }
    }
}

struct Bench {
    batch: usize,
    seq: usize,
    keep: Keep,
}

impl DeviceJob for Bench {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        let config = TrainConfig {
            max_seq_len: self.seq,
            ..TrainConfig::default()
        };
        let mut model = ActV1::<B>::init(&model_config(&config, GPT2_VOCABULARY), 0, &device)
            .expect("the default model is valid");
        let mut optimizer = AdamW::new(model.params().len(), 0.1, 1.0);
        let tokens = self.batch * self.seq;
        // A fixed walk through the vocabulary: the work does not depend on what the tokens are.
        let ids: Vec<i32> = (0..=tokens)
            .map(|i| (i * 7919 % GPT2_VOCABULARY) as i32)
            .collect();
        let data = MicroBatch {
            inputs: ids[..tokens].to_vec(),
            labels: ids[1..].to_vec(),
            seq: self.seq,
            first_sequence: 0,
        };
        let recipe = Recipe {
            halt_max_steps: config.halt_max_steps,
            reward: HaltReward::Accuracy,
            exploration: 0.0,
            keep: self.keep,
            path: AttentionPath::Flash,
            seed: 0,
        };
        let mut seconds = Vec::new();
        for step in 1..=WARM_UP + MEASURED {
            if step == WARM_UP {
                reset_peak();
            }
            let started = Instant::now();
            let mut grads = model.gradients();
            let supervisor = Supervisor {
                model: &model,
                recipe: &recipe,
                denominators: Denominators::of(std::slice::from_ref(&data)),
                step: step as u64,
            };
            supervisor.run(&data, &mut grads);
            optimizer.step(&mut model, grads, 1e-4);
            B::sync(&device).expect("the device answers");
            seconds.push(started.elapsed().as_secs_f64());
        }
        let mut seconds = seconds.split_off(WARM_UP);
        seconds.sort_by(f64::total_cmp);
        let median = seconds[MEASURED / 2];
        println!(
            "{:>2} x {:<5} {:>14} {:>11.0} {:>10.0} {:>11}",
            self.batch,
            self.seq,
            if self.keep == Keep::Inputs {
                "on"
            } else {
                "off"
            },
            median * 1e3,
            tokens as f64 / median,
            format_bytes(peak_bytes()),
        );
    }
}
