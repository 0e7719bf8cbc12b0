//! Memory, exactly: on the CPU every tensor is on the heap, whose bytes the allocator counts.

use crate::common::lora;
use aios_adapters::Frozen;
use aios_base::config::{
    AmpDtype, ChunkGradients, DeviceChoice, Subject, TrainConfig, WeightsDtype,
};
use aios_base::storage::{Quantize, Storage};
use aios_device as backend;
use aios_device::{MemoryMeter, Selected};
use aios_models::actv1::{ModelConfig, PosEncodings};
use aios_models::decoder::{Adapted, HfModel};
use aios_models::{Architecture, Model};
use aios_plan::Plan;
use aios_plan::estimate::Estimate;
use aios_train::step::{Measured, TrialStep};

const VOCABULARY: usize = 20_000;
const TOKENS: usize = 1024;

/// Few weights and many tokens, so that activations and logits stand out.
fn config() -> TrainConfig {
    TrainConfig {
        hidden_size: 128,
        num_heads: 2,
        batch_size: TOKENS / 256,
        max_seq_len: 256,
        ..TrainConfig::default()
    }
}

fn plain() -> TrainConfig {
    TrainConfig {
        gradient_checkpointing: false,
        fused_cross_entropy: false,
        use_flash_attn: Some(false),
        ..config()
    }
}

/// Prediction and measurement of the same step. One at a time: the heap is the whole process's,
/// and nextest runs each test in a process of its own.
fn measured(config: &TrainConfig) -> (Estimate, Measured) {
    measured_with(config, VOCABULARY)
}

fn measured_with(config: &TrainConfig, vocabulary: usize) -> (Estimate, Measured) {
    measured_of(config, &ModelConfig::of(config, vocabulary).into())
}

fn measured_of(config: &TrainConfig, model: &Model) -> (Estimate, Measured) {
    let adapter = backend::select(&DeviceChoice::Cpu).unwrap().adapter;
    let plan = Plan::new(config, &adapter, model.attention()).unwrap();
    let meter = MemoryMeter::new(Selected::Cpu);
    let device = aios_backends::open(&adapter.selected).unwrap();
    let step = TrialStep {
        config,
        model,
        plan: &plan,
        meter: &meter,
        device: &*device,
    };
    let measured = step.measure(1).unwrap();
    (plan.run(config, model).estimate(), measured)
}

#[track_caller]
fn assert_predicted(config: &TrainConfig) {
    let (predicted, measured) = measured(config);
    let ratio = predicted.total as f64 / measured.peak as f64;
    assert!(
        (0.9..1.1).contains(&ratio),
        "off by {ratio}: {predicted:?} {measured:?}"
    );
}

/// A Hugging Face decoder of some width.
fn decoder(model_type: &str, config: &TrainConfig) -> Model {
    let json = serde_json::json!({
        "model_type": model_type, "vocab_size": 2000, "hidden_size": 256, "intermediate_size": 640,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 512, "sliding_window": 64, "n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 512,
        "H_cycles": 2, "L_cycles": 3, "L_bp_cycles": [2], "num_layers_per_stack": 2,
    });
    Model::Decoder(HfModel::new(json, config.max_seq_len, config.window_size).unwrap())
}

#[test]
fn prediction_of_decoders() {
    let changes: [(&str, Change); 7] = [
        ("defaults", |_| {}),
        ("f32", |c| c.amp = Some(false)),
        ("everything kept", |c| c.gradient_checkpointing = false),
        ("all scores", |c| c.use_flash_attn = Some(false)),
        ("8-bit state", |c| c.use_8bit_optimizer = true),
        ("bf16", |c| c.amp_dtype = AmpDtype::Bf16),
        ("bf16 weights", |c| c.weights_dtype = WeightsDtype::Bf16),
    ];
    let mut off = Vec::new();
    for model_type in ["llama", "gemma3_text", "gpt2", "hrm_text"] {
        for (name, change) in changes {
            let mut config = TrainConfig {
                max_seq_len: 256,
                batch_size: 2,
                ..TrainConfig::defaults(Subject::Pretrained)
            };
            change(&mut config);
            let (predicted, measured) = measured_of(&config, &decoder(model_type, &config));
            let ratio = predicted.total as f64 / measured.peak as f64;
            if !(0.9..1.1).contains(&ratio) {
                off.push(format!("{model_type} {name}: {ratio:.3}"));
            }
        }
    }
    assert!(off.is_empty(), "{off:#?}");
}

/// The same frozen, with an adapter.
fn adapted(model_type: &str, config: &TrainConfig, frozen: Frozen) -> Model {
    let Model::Decoder(model) = decoder(model_type, config) else {
        unreachable!("a decoder is one");
    };
    let lora = lora(config.lora_dropout.unwrap_or_default());
    Model::Decoder(model.with_adapter(Adapted { lora, frozen }).unwrap())
}

#[test]
fn prediction_of_adapters() {
    let forms = [
        Frozen::new(Storage::F32, None),
        Frozen::new(Storage::Bf16, None),
        Frozen::new(Storage::Bf16, Some(Quantize::Nf4)),
        Frozen::new(Storage::F32, Some(Quantize::Q8_0)),
    ];
    let changes: [(&str, Change); 4] = [
        ("defaults", |_| {}),
        ("everything kept", |c| c.gradient_checkpointing = false),
        ("bf16", |c| c.amp_dtype = AmpDtype::Bf16),
        ("dropout", |c| c.lora_dropout = Some(0.1)),
    ];
    let mut off = Vec::new();
    for model_type in ["llama", "gpt2", "hrm_text"] {
        for form in &forms {
            for (name, change) in changes {
                let mut config = TrainConfig {
                    max_seq_len: 256,
                    batch_size: 2,
                    ..TrainConfig::defaults(Subject::Adapter)
                };
                change(&mut config);
                let model = adapted(model_type, &config, form.clone());
                let (predicted, measured) = measured_of(&config, &model);
                let ratio = predicted.total as f64 / measured.peak as f64;
                if !(0.9..1.1).contains(&ratio) {
                    off.push(format!(
                        "{model_type} {form:?} {name}: {ratio:.3} {predicted:?} {measured:?}"
                    ));
                }
            }
        }
    }
    assert!(off.is_empty(), "{off:#?}");
}

type Change = fn(&mut TrainConfig);

/// Each on its own.
const FEATURES: [(&str, Change); 15] = [
    ("defaults", |_| {}),
    ("f32", |c| c.amp = Some(false)),
    ("everything kept", |c| c.gradient_checkpointing = false),
    ("groups", |c| c.checkpoint_every = 2),
    ("all logits", |c| c.fused_cross_entropy = false),
    ("all scores", |c| c.use_flash_attn = Some(false)),
    ("8-bit state", |c| c.use_8bit_optimizer = true),
    ("bf16", |c| c.amp_dtype = AmpDtype::Bf16),
    ("f16", |c| c.amp_dtype = AmpDtype::F16),
    ("bf16 inputs", |c| c.bf16_inputs = true),
    ("bf16 weights", |c| c.weights_dtype = WeightsDtype::Bf16),
    ("one table", |c| c.tie_embeddings = true),
    ("learned positions", |c| {
        c.pos_encodings = PosEncodings::Learned
    }),
    ("one segment", |c| c.halt_max_steps = 1),
    ("chunks", |c| {
        (c.use_chunked_training, c.chunk_size) = (true, c.max_seq_len / 4);
        c.chunk_gradients = ChunkGradients::Truncated;
    }),
];

/// Models so small that each thing that is only there once is a large part. Sizes are the vocabulary,
/// the hidden size, micro-batches, sequences and tokens.
#[track_caller]
fn assert_small_ones_predicted(sizes: &[[usize; 5]]) {
    let mut off = Vec::new();
    for &[
        vocabulary,
        hidden_size,
        accumulation,
        batch_size,
        max_seq_len,
    ] in sizes
    {
        for (name, change) in FEATURES {
            let mut config = TrainConfig {
                hidden_size,
                num_heads: 2,
                batch_size,
                max_seq_len,
                gradient_accumulation_steps: accumulation,
                ..TrainConfig::default()
            };
            change(&mut config);
            let (predicted, measured) = measured_with(&config, vocabulary);
            let ratio = predicted.total as f64 / measured.peak as f64;
            if !(0.9..1.1).contains(&ratio) {
                off.push(format!(
                    "{name}: {ratio:.3} of {} with a vocabulary of {vocabulary}, hidden size \
                     {hidden_size}, {accumulation} x {batch_size} x {max_seq_len}",
                    measured.peak
                ));
            }
        }
    }
    assert!(off.is_empty(), "{off:#?}");
}

#[test]
fn predictions_of_the_smallest_models() {
    assert_small_ones_predicted(&[
        [257, 32, 1, 1, 16],
        [257, 32, 3, 4, 32],
        [2000, 64, 1, 3, 33],
    ]);
}

#[test]
fn predictions_of_small_models_with_a_large_vocabulary() {
    assert_small_ones_predicted(&[[20_000, 32, 2, 2, 32]]);
}

#[test]
fn predictions_of_the_smallest_models_on_one_thread() {
    // SAFETY: the first line of a test that has its process for itself, as nextest gives it.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    assert_small_ones_predicted(&[[257, 32, 2, 1, 16], [1000, 64, 1, 3, 33]]);
}

/// Micro-batches of half the size take less, as a back-off needs: with many tokens that look up a few
/// rows, and with few that look up some of many.
#[test]
fn smaller_micro_batches_of_the_same_step_take_less() {
    for vocabulary in [500, 20_000] {
        let mut before = u64::MAX;
        for batch_size in [8, 4, 2, 1] {
            let config = TrainConfig {
                batch_size,
                gradient_accumulation_steps: 8 / batch_size,
                max_seq_len: 64,
                hidden_size: 32,
                ..config()
            };
            let (predicted, measured) = measured_with(&config, vocabulary);
            let sizes = [predicted.total, measured.peak];
            assert!(
                measured.peak < before,
                "{batch_size}: {sizes:?} after {before}"
            );
            before = measured.peak;
        }
    }
}

#[test]
fn prediction_of_a_plain_step() {
    assert_predicted(&plain());
}

#[test]
fn prediction_of_the_defaults() {
    assert_predicted(&config());
}

#[test]
fn prediction_in_bf16_without_checkpointing() {
    assert_predicted(&TrainConfig {
        amp_dtype: AmpDtype::Bf16,
        gradient_checkpointing: false,
        ..config()
    });
}

#[test]
fn prediction_in_bf16_with_8bit_state() {
    assert_predicted(&TrainConfig {
        amp_dtype: AmpDtype::Bf16,
        use_8bit_optimizer: true,
        ..config()
    });
}

#[test]
fn prediction_of_accumulation_and_groups_of_blocks() {
    assert_predicted(&TrainConfig {
        batch_size: 1,
        gradient_accumulation_steps: 4,
        checkpoint_every: 2,
        ..config()
    });
}

/// One long sequence.
fn long(gradients: ChunkGradients, window_size: usize) -> TrainConfig {
    TrainConfig {
        batch_size: 1,
        max_seq_len: 4096,
        window_size,
        use_chunked_training: true,
        chunk_size: 256,
        chunk_gradients: gradients,
        ..config()
    }
}

/// Each of its chunks makes the embedding's gradient by itself.
#[test]
fn a_sequence_with_more_tokens_than_the_vocabulary_is_predicted() {
    for halt_max_steps in [1, 2] {
        let config = TrainConfig {
            max_seq_len: 16_384,
            halt_max_steps,
            ..long(ChunkGradients::Truncated, 128)
        };
        let (predicted, measured) = measured_with(&config, 2000);
        let ratio = predicted.total as f64 / measured.peak as f64;
        assert!(
            (0.9..1.1).contains(&ratio),
            "{ratio}: {predicted:?} {measured:?}"
        );
    }
}

#[test]
fn prediction_of_chunks_with_a_window() {
    assert_predicted(&long(ChunkGradients::Truncated, 128));
}

#[test]
fn prediction_of_chunks_without_a_window() {
    assert_predicted(&long(ChunkGradients::Truncated, 0));
}

#[test]
fn prediction_of_exact_chunks() {
    assert_predicted(&long(ChunkGradients::Exact, 0));
}

#[test]
fn prediction_of_chunks_in_bf16() {
    assert_predicted(&TrainConfig {
        amp_dtype: AmpDtype::Bf16,
        ..long(ChunkGradients::Truncated, 128)
    });
}

/// Beyond the window only the embedding's results leave something a token, and token ids.
#[test]
fn chunks_take_the_same_memory_whatever_the_sequence() {
    let step = |max_seq_len| {
        let config = TrainConfig {
            max_seq_len,
            halt_max_steps: 1,
            ..long(ChunkGradients::Truncated, 128)
        };
        measured(&config).1
    };
    let (short, long) = (step(1024), step(8192));
    let a_token = (4 * 128 + 64 + 64) * (8192 - 1024);
    assert!(
        long.peak < short.peak + a_token + (1 << 20),
        "{long:?} {short:?}"
    );
}

#[test]
fn exact_chunks_take_less_than_whole_sequences() {
    let chunks = TrainConfig {
        amp: Some(false),
        ..long(ChunkGradients::Exact, 0)
    };
    let whole = TrainConfig {
        use_chunked_training: false,
        ..chunks.clone()
    };
    let (chunks, whole) = (measured(&chunks).1, measured(&whole).1);
    assert!(
        chunks.activations * 4 < whole.activations * 3,
        "{chunks:?} {whole:?}"
    );
}

#[test]
fn checkpointing_lowers_activations_by_three_fifths() {
    let kept = TrainConfig {
        gradient_checkpointing: false,
        ..config()
    };
    let (kept, recomputed) = (measured(&kept).1, measured(&config()).1);
    assert!(
        recomputed.activations * 10 < kept.activations * 4,
        "{recomputed:?} {kept:?}"
    );
}

#[test]
fn the_fused_loss_holds_a_slice_of_logits_and_the_plain_one_all_of_them_twice() {
    let plain = TrainConfig {
        fused_cross_entropy: false,
        ..config()
    };
    let (fused, plain) = (measured(&config()).1, measured(&plain).1);
    let all = 4 * (VOCABULARY * TOKENS) as u64;
    let slack = all / 50;
    // Two slices of equal size.
    assert!(fused.loss.unwrap() < all / 2 + slack, "{fused:?}");
    assert!(plain.loss.unwrap().abs_diff(2 * all) < slack, "{plain:?}");
}

#[test]
fn half_precision_lowers_saved_activations_by_nine_twentieths() {
    let wide = TrainConfig {
        gradient_checkpointing: false,
        amp: Some(false),
        ..config()
    };
    let half = TrainConfig {
        amp: None,
        amp_dtype: AmpDtype::Bf16,
        ..wide.clone()
    };
    let (half, wide) = (measured(&half).1, measured(&wide).1);
    assert!(
        half.activations * 20 < wide.activations * 11,
        "{half:?} {wide:?}"
    );
}

#[test]
fn memory_does_not_grow_with_the_number_of_micro_batches() {
    let step = |accumulation| {
        let config = TrainConfig {
            batch_size: 1,
            gradient_accumulation_steps: accumulation,
            ..config()
        };
        measured(&config).1.peak
    };
    let (few, many) = (step(2), step(16));
    // Token ids, 8 bytes each, and the gradients of looked-up rows are held for the whole step, these
    // as long as they are less than the table's own.
    let rows = 4 * 128 * 256 * (16 - 2);
    assert!(many < few + rows + few / 100, "{many} {few}");
}

#[test]
fn state_in_8_bits_lowers_the_peak_by_what_it_saves() {
    let eight_bit = TrainConfig {
        use_8bit_optimizer: true,
        ..config()
    };
    let (f32_state, eight_bit) = (measured(&config()), measured(&eight_bit));
    let promised = f32_state.0.optimizer - eight_bit.0.optimizer;
    let saved = f32_state.1.peak - eight_bit.1.peak;
    assert!(
        saved * 100 >= promised * 95,
        "{saved} bytes saved, {promised} promised"
    );
}
