//! Sequences in chunks against whole ones.

use super::{Model, SEQ, Step, batch, gradients, model, recipe, run, shape, step};
use crate::common::assert_close;
use aios_base::execution::{Chunking, Execution, Place};
use aios_base::micro_batch::MicroBatch;
use aios_engine::Sampling;
use aios_engine::generate::{GenerateOptions, Text};
use aios_engine::optimizer::AdamW;
use aios_memory::checkpoint::Keep;
use aios_models::actv1::{ModelConfig, PosEncodings, Reader};
use aios_models::{Reading, Recipe};
use aios_nn::Visit;
use aios_tensor::{AttentionPath, Precision, floats};

/// Several cycles of several blocks, as in training.
fn deep(pos_encodings: PosEncodings, window: usize) -> Model {
    model(&ModelConfig {
        h_cycles: 2,
        l_cycles: 2,
        l_layers: 2,
        ..shape(pos_encodings, window)
    })
}

fn of(chunking: Chunking, segments: usize, path: AttentionPath) -> Step {
    step(Recipe {
        execution: execution(path, chunking),
        halt_max_steps: segments,
        ..recipe()
    })
}

/// Ragged, a single token, even, one token less than the sequence.
const SIZES: [usize; 4] = [3, 1, 4, SEQ - 1];

fn every_case(check: impl Fn(&str, &mut Model, usize, AttentionPath, usize)) {
    for (positions, window) in [
        (PosEncodings::Rope, 0),
        (PosEncodings::Rope, 1),
        (PosEncodings::Rope, 3),
        (PosEncodings::Rope, 6),
        (PosEncodings::Learned, 3),
    ] {
        let mut model = deep(positions, window);
        for path in [AttentionPath::Flash, AttentionPath::Sdpa] {
            for segments in [1, 3] {
                for size in SIZES {
                    let case = format!("{path:?}, window {window}, {segments} x {size}");
                    check(&case, &mut model, segments, path, size);
                }
            }
        }
    }
}

#[test]
fn losses_are_those_of_the_whole_sequence() {
    every_case(|case, model, segments, path, size| {
        let whole = run(model, &of(Chunking::Off, segments, path)).0;
        for chunking in [Chunking::Truncated { size }, Chunking::Exact { size }] {
            let chunked = run(model, &of(chunking, segments, path)).0;
            for (a, b) in [
                (chunked.ce, whole.ce),
                (chunked.halt, whole.halt),
                (chunked.go_on, whole.go_on),
            ] {
                assert!((a - b).abs() <= 1e-5 * b.abs(), "{case}: {a} {b}");
            }
            assert_eq!(chunked.tokens, whole.tokens);
            assert_eq!(chunked.segments, whole.segments);
        }
    });
}

#[test]
fn exact_gradients_are_those_of_the_whole_sequence() {
    every_case(|case, model, segments, path, size| {
        let whole = gradients(model, &of(Chunking::Off, segments, path));
        let chunked = gradients(model, &of(Chunking::Exact { size }, segments, path));
        for ((name, whole), (_, chunked)) in whole.iter().zip(&chunked) {
            assert_close(&format!("{name}, {case}"), chunked, whole, 1e-5);
        }
    });
}

#[test]
fn exact_gradients_of_groups_of_blocks() {
    let mut model = deep(PosEncodings::Rope, 3);
    let step = |chunking| Step {
        keep: Keep::Inputs { every: 2 },
        ..of(chunking, 2, AttentionPath::Flash)
    };
    let whole = gradients(&mut model, &step(Chunking::Off));
    let chunked = gradients(&mut model, &step(Chunking::Exact { size: 3 }));
    for ((name, whole), (_, chunked)) in whole.iter().zip(&chunked) {
        assert_close(name, chunked, whole, 1e-5);
    }
}

/// What is truncated is what passes through earlier chunks' keys and values, and nothing else: with a
/// window of one there is no such thing, and the last matrices never have it.
#[test]
fn truncated_gradients_lack_what_passes_between_chunks() {
    every_case(|case, model, segments, path, size| {
        let whole = gradients(model, &of(Chunking::Off, segments, path));
        let chunked = gradients(model, &of(Chunking::Truncated { size }, segments, path));
        for ((name, whole), (_, chunked)) in whole.iter().zip(&chunked) {
            let after = ["lm_head.weight", "q_head.weight", "q_head.bias"];
            if model.config.window_size == 1 || after.contains(&name.as_str()) {
                assert_close(&format!("{name}, {case}"), chunked, whole, 1e-5);
            }
        }
        let cosine = cosine(&whole, &chunked);
        assert!(cosine > 0.8, "{case}: cosine {cosine}");
    });
}

fn cosine(a: &[(String, Vec<f32>)], b: &[(String, Vec<f32>)]) -> f64 {
    let all = |g: &[(String, Vec<f32>)]| -> Vec<f64> {
        g.iter()
            .flat_map(|(_, g)| g.iter().map(|&x| f64::from(x)))
            .collect()
    };
    let (a, b) = (all(a), all(b));
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
}

#[test]
fn a_single_chunk_is_the_whole_sequence_bit_for_bit() {
    let mut model = deep(PosEncodings::Rope, 0);
    let mut step = |chunking| gradients(&mut model, &of(chunking, 2, AttentionPath::Flash));
    for size in [SEQ, 100] {
        assert!(step(Chunking::Truncated { size }) == step(Chunking::Off));
        assert!(step(Chunking::Exact { size }) == step(Chunking::Off));
    }
}

#[test]
fn keeping_or_recomputing_gives_the_same_truncated_gradients() {
    let mut model = deep(PosEncodings::Rope, 3);
    let step = |keep| Step {
        keep,
        ..of(Chunking::Truncated { size: 3 }, 2, AttentionPath::Flash)
    };
    let kept = gradients(&mut model, &step(Keep::Everything));
    for every in [1, 2] {
        let recomputed = gradients(&mut model, &step(Keep::Inputs { every }));
        for ((name, kept), (_, recomputed)) in kept.iter().zip(&recomputed) {
            assert_close(name, recomputed, kept, 1e-5);
        }
    }
}

#[test]
fn what_waits_in_host_memory_comes_back_bit_for_bit() {
    let size = 3;
    for chunking in [
        Chunking::Off,
        Chunking::Truncated { size },
        Chunking::Exact { size },
    ] {
        for window in [0, 3] {
            let mut model = deep(PosEncodings::Rope, window);
            let step = |place, precision| {
                let mut step = of(chunking, 2, AttentionPath::Flash);
                step.recipe.execution = Execution {
                    place,
                    precision,
                    ..step.execution
                };
                step
            };
            for precision in [Precision::F32, Precision::Bf16] {
                let device = gradients(&mut model, &step(Place::Device, precision));
                let host = gradients(&mut model, &step(Place::Host, precision));
                assert!(host == device, "{chunking:?}, window {window}");
            }
        }
    }
}

fn execution(path: AttentionPath, chunking: Chunking) -> Execution {
    Execution {
        chunking,
        place: Place::Device,
        path,
        precision: Precision::F32,
    }
}

#[test]
fn what_is_read_in_chunks_is_what_is_read_at_once() {
    every_case(|case, model, _, path, size| {
        let batch = batch();
        let mut whole = |chunking| {
            of(chunking, 2, path).decorate(model);
            let mut reader = Reader::new(model, execution(path, chunking), 2, 2);
            floats(reader.read(&batch.inputs, true))
        };
        let want = whole(Chunking::Off);
        assert_close(case, &whole(Chunking::Exact { size }), &want, 1e-5);

        of(Chunking::Off, 2, path).decorate(model);
        let mut reader = Reader::new(model, execution(path, Chunking::Off), 2, 2);
        let width = model.config.hidden_size;
        for chunk in batch.chunks(size) {
            let got = floats(reader.read(&chunk.inputs, chunk.last));
            let n = chunk.positions.len() * width;
            for (sequence, got) in got.chunks(n).enumerate() {
                let start = (sequence * SEQ + chunk.positions.start) * width;
                assert_close(case, got, &want[start..start + n], 1e-5);
            }
        }
    });
}

/// Text longer than the model's longest sequence: first with what it remembers, then without.
#[test]
fn generated_text_does_not_depend_on_the_chunks_of_the_prompt() {
    let model = deep(PosEncodings::Rope, 0);
    let text = |chunk| {
        let options = GenerateOptions {
            reading: Reading {
                segments: 2,
                execution: execution(AttentionPath::Flash, Chunking::Off),
            },
            chunk,
            most: 2 * SEQ,
            sampling: Sampling::likeliest(),
        };
        let mut text = vec![3, 1, 4, 1, 5];
        let mut token = |id| {
            text.extend(id);
            true
        };
        let mut whole = Text::new(&model, options.reading);
        whole.go_on(&[3, 1, 4, 1, 5], &options, &mut token).unwrap();
        text
    };
    let mut anew = vec![3, 1, 4, 1, 5];
    for _ in 0..2 * SEQ {
        let seen: Vec<i32> = anew.iter().map(|&id| id as i32).collect();
        let seen = &seen[seen.len().saturating_sub(SEQ)..];
        let mut reader = Reader::new(&model, execution(AttentionPath::Flash, Chunking::Off), 2, 1);
        let z = reader.read(seen, true).narrow(0, seen.len() - 1, 1);
        let logits = floats(z.matmul(model.head().value().transpose()));
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        anew.push(best.unwrap() as u32);
    }
    assert_eq!(text(100), anew);
    assert_eq!(text(2), anew);
}

/// Of a model that has learned something: bytes of the sample corpus, 512 at a time.
///
/// `cargo test --release --test all -- --ignored --nocapture cosine_of_a_trained_model`
#[test]
#[ignore = "a measurement, of a minute"]
fn cosine_of_a_trained_model() {
    const TOKENS: usize = 512;
    let text = std::fs::read("training_data/curated_datasets/test_sample.txt").unwrap();
    let step = |number: usize| {
        let start = number * TOKENS * 4 % (text.len() - TOKENS * 4 - 1);
        let ids = |from: usize| text[from..from + TOKENS * 4].iter().map(|&b| i32::from(b));
        MicroBatch {
            inputs: ids(start).collect(),
            labels: ids(start + 1).collect(),
            seq: TOKENS,
            ..MicroBatch::default()
        }
    };
    let mut model = model(&ModelConfig {
        vocab_size: 256,
        hidden_size: 128,
        num_heads: 4,
        expansion: 2.0,
        h_layers: 2,
        l_layers: 2,
        h_cycles: 2,
        l_cycles: 2,
        max_seq_len: TOKENS,
        ..shape(PosEncodings::Rope, 0)
    });
    let mut optimizer = AdamW::new(model.params().len(), 0.1, 1.0);
    let of = |model: &mut Model, number: usize, chunking| {
        let batch = step(number);
        super::run_on(model, &of(chunking, 2, AttentionPath::Flash), &batch)
    };
    let mut loss = 0.0;
    for number in 1..=150 {
        let (sums, grads) = of(&mut model, number, Chunking::Off);
        loss = sums.mean_ce();
        optimizer.step(&model, grads, 2e-3, 1.0);
    }
    println!(
        "cross-entropy of a byte {loss:.3}\n| window | chunk | cosine |\n| ---: | ---: | ---: |"
    );
    for window in [0, 256, 64] {
        model.config.window_size = window;
        let mut all = |chunking| {
            let grads = of(&mut model, 200, chunking).1;
            super::named(&model, &grads)
        };
        let whole = all(Chunking::Off);
        for size in [256, 128, 64, 32, 16] {
            let cosine = cosine(&whole, &all(Chunking::Truncated { size }));
            println!("| {window} | {size} | {cosine:.4} |");
        }
    }
}
