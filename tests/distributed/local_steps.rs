//! `--local-steps` against a plain loop, in one process: ranks that are threads.

use crate::common::assert_close;
use aios_base::config::WeightsDtype;
use aios_base::execution::{Chunking, Execution, Place};
use aios_base::micro_batch::MicroBatch;
use aios_bundle::TensorSource;
use aios_distributed::World;
use aios_engine::{
    Denominators, Engine, On, OpenDevice, Recipe, Settings, Sharing, StepPart, Unobserved, Weights,
};
use aios_models::actv1::{ModelConfig, PosEncodings};
use aios_models::{Architecture, Model};
use aios_tensor::{AttentionPath, CpuBackend, LossPath, Precision};

const RANKS: usize = 3;
const ROUND: u64 = 2;
const ROUNDS: u64 = 3;

fn settings() -> Settings {
    let model = Model::ActV1(ModelConfig {
        vocab_size: 50,
        hidden_size: 32,
        num_heads: 2,
        expansion: 1.0,
        h_layers: 1,
        l_layers: 1,
        h_cycles: 1,
        l_cycles: 1,
        pos_encodings: PosEncodings::Rope,
        tie_embeddings: false,
        max_seq_len: 8,
        window_size: 0,
        causal: true,
    });
    Settings {
        weights: WeightsDtype::F32,
        weight_decay: 0.1,
        grad_clip: 1.0,
        ..Settings::fixed(&model, 8, Chunking::Off)
    }
}

fn recipe(loss_scale: f64) -> Recipe {
    Recipe {
        halt_max_steps: 1,
        reward: aios_base::config::HaltReward::Accuracy,
        exploration: 0.0,
        execution: Execution {
            chunking: Chunking::Off,
            place: Place::Device,
            path: AttentionPath::Sdpa,
            precision: Precision::F32,
        },
        loss_path: LossPath::Plain,
        embedding_waits: false,
        loss_scale,
        seed: 0,
    }
}

fn engine() -> Box<dyn Engine> {
    let device = On::<CpuBackend>(Default::default());
    device.model(&settings(), Weights::Seed(1)).unwrap()
}

fn batch(rank: usize, step: u64) -> MicroBatch {
    let mut at = 7 * rank as i32 + 13 * step as i32;
    MicroBatch::of(2, 8, &mut |inputs, labels| {
        inputs.extend((0..8).map(|i| (at + 3 * i) % 50));
        labels.extend((0..8).map(|i| (at + 3 * i + 3) % 50));
        at += 5;
        Vec::new()
    })
    .unwrap()
}

/// One step of a rank by itself.
fn step(engine: &mut dyn Engine, rank: usize, step: u64) {
    let batch = batch(rank, step);
    let part = StepPart::whole(step, &batch);
    engine.prepare().unwrap();
    engine
        .micro_batch(&batch, &recipe(1.0), part, &Unobserved)
        .unwrap();
    engine.complete().unwrap();
    engine.update(1e-2, 1.0).unwrap();
}

fn floats(sources: Vec<TensorSource>) -> Vec<(String, Vec<f32>)> {
    let of = |source: TensorSource| {
        let bytes = (source.fetch)().unwrap();
        let floats = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        (source.name, floats.collect())
    };
    sources.into_iter().map(of).collect()
}

/// All that the rounds come to, rank by rank.
fn by_ranks() -> Vec<Vec<(String, Vec<f32>)>> {
    let worlds = World::threads(RANKS).unwrap();
    std::thread::scope(|scope| {
        let each = worlds.into_iter().map(|world| {
            scope.spawn(move || {
                let mut engine = engine();
                engine.join(&world, Sharing::Weights).unwrap();
                engine.share_weights().unwrap();
                for round in 0..ROUNDS {
                    for i in 1..=ROUND {
                        step(&mut *engine, world.rank(), ROUND * round + i);
                    }
                    engine.outer_step().unwrap();
                }
                floats(engine.weights())
            })
        });
        let each: Vec<_> = each.collect();
        each.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The same by one engine after the other, each from the weights of the last exchange with moments of its own: the
/// published algorithm, whose inner optimizer's state stays with its worker.
fn plainly() -> Vec<(String, Vec<f32>)> {
    let names: Vec<String> = floats(engine().weights())
        .into_iter()
        .map(|w| w.0)
        .collect();
    let mut shared: Vec<Vec<f32>> = floats(engine().weights())
        .into_iter()
        .map(|w| w.1)
        .collect();
    let mut velocity: Vec<Vec<f32>> = shared.iter().map(|w| vec![0.0; w.len()]).collect();
    // Weights of an engine can only be set by an exchange: of a world of one, whose mean is its own.
    let mut engines: Vec<_> = (0..RANKS).map(|_| Plain::new()).collect();
    for round in 0..ROUNDS {
        let mut moved: Vec<Vec<f32>> = shared.iter().map(|w| vec![0.0; w.len()]).collect();
        for (rank, plain) in engines.iter_mut().enumerate() {
            plain.set(&shared);
            for i in 1..=ROUND {
                step(&mut *plain.0, rank, ROUND * round + i);
            }
            for ((moved, before), (_, now)) in
                moved.iter_mut().zip(&shared).zip(floats(plain.0.weights()))
            {
                for ((moved, before), now) in moved.iter_mut().zip(before).zip(now) {
                    *moved += before - now;
                }
            }
        }
        for ((weights, velocity), moved) in shared.iter_mut().zip(&mut velocity).zip(&moved) {
            for ((weight, velocity), moved) in weights.iter_mut().zip(velocity).zip(moved) {
                let gradient = moved / RANKS as f32;
                *velocity = 0.9 * *velocity + gradient;
                *weight -= 0.7 * (gradient + 0.9 * *velocity);
            }
        }
    }
    names.into_iter().zip(shared).collect()
}

/// An engine whose weights can be set: it is the second of two ranks, of which the first only says what they are.
struct Plain(Box<dyn Engine>, World);

impl Plain {
    fn new() -> Self {
        let mut worlds = World::threads(2).unwrap();
        let mut engine = engine();
        engine.join(&worlds[1], Sharing::Weights).unwrap();
        Self(engine, worlds.swap_remove(0))
    }

    fn set(&mut self, weights: &[Vec<f32>]) {
        let leader = self.1.clone();
        let named: Vec<(String, Vec<f32>)> = floats(self.0.weights())
            .into_iter()
            .zip(weights)
            .map(|((name, _), w)| (name, w.clone()))
            .collect();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let all = settings().model.parameters();
                let trained = |name: &String| all.iter().any(|i| i.name == *name && i.trained);
                let trained = named.into_iter().filter(|(name, _)| trained(name));
                // In the order in which ranks share them, which is that of a backward pass.
                let mut trained: Vec<_> = trained.rev().collect();
                trained.sort_by_key(|(name, _)| match name {
                    _ if name.contains("head") => 0,
                    _ if name.starts_with("H_level") => 1,
                    _ if name.starts_with("L_level") => 2,
                    _ => 3,
                });
                for (_, weights) in trained {
                    let bytes = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
                    leader.broadcast(bytes, 0).wait().unwrap();
                }
            });
            self.0.share_weights().unwrap();
        });
    }
}

#[test]
fn ranks_that_meet_after_some_steps_do_what_the_plain_loop_does() {
    let ranks = by_ranks();
    let want = plainly();
    for rank in &ranks {
        assert_eq!(rank.len(), want.len());
        for ((name, got), (_, want)) in rank.iter().zip(&want) {
            assert_close(name, got, want, 1e-6);
        }
    }
    assert!(ranks.iter().all(|rank| rank == &ranks[0]));
}

/// What is not finite on one rank changes nothing on any.
#[test]
fn a_gradient_that_is_not_finite_on_one_rank_skips_the_step_on_all() {
    for sharing in [Sharing::Gradients, Sharing::OptimizerParts] {
        let worlds = World::threads(2).unwrap();
        let updates: Vec<_> = std::thread::scope(|scope| {
            let each = worlds.into_iter().map(|world| {
                scope.spawn(move || {
                    let mut engine = engine();
                    engine.join(&world, sharing).unwrap();
                    engine.share_weights().unwrap();
                    let before = floats(engine.weights());
                    let batch = batch(world.rank(), 1);
                    let part = StepPart {
                        step: 1,
                        denominators: Denominators {
                            tokens: 32,
                            sequences: 4,
                        },
                        last: true,
                    };
                    engine.prepare().unwrap();
                    let scale = [1.0, f64::INFINITY][world.rank()];
                    engine
                        .micro_batch(&batch, &recipe(scale), part, &Unobserved)
                        .unwrap();
                    engine.complete().unwrap();
                    let update = engine.update(1e-2, scale).unwrap();
                    assert!(before == floats(engine.weights()));
                    update
                })
            });
            let each: Vec<_> = each.collect();
            each.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert!(updates.iter().all(|update| update.skipped), "{updates:?}");
    }
}
