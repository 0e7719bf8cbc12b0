//! Gradients of the whole training step: against finite differences, and alike on every path.

mod chunks;
mod frozen;
use crate::common::{DeviceJob, assert_close, cuda, ndarray, on, wgpu};
use aios_base::config::HaltReward;
use aios_base::execution::{Chunking, Execution};
use aios_base::micro_batch::{IGNORE, MicroBatch};
use aios_device::{Selected, Selection};
use aios_memory::Decoration;
use aios_memory::checkpoint::Keep;
use aios_models::actv1::{ActV1, ModelConfig, PosEncodings, Supervisor};
use aios_models::{Denominators, LossSums, Recipe, StepPart};
use aios_nn::watch::{Unwatched, Watch};
use aios_nn::{Gradients, Init, Param, Visit};
use aios_tensor::{AttentionPath, CpuBackend, LossPath, Ops, floats};
use burn::tensor::{Tensor, TensorData};
use std::cell::RefCell;
use std::ops::Deref;

type Model = ActV1<CpuBackend>;

/// Names and gradients.
type Named = Vec<(String, Vec<f32>)>;

const SEQ: usize = 8;
const VOCABULARY: usize = 40;

fn shape(pos_encodings: PosEncodings, window_size: usize) -> ModelConfig {
    ModelConfig {
        vocab_size: VOCABULARY,
        hidden_size: 16,
        num_heads: 2,
        expansion: 2.0,
        h_layers: 2,
        l_layers: 1,
        h_cycles: 1,
        l_cycles: 1,
        pos_encodings,
        tie_embeddings: false,
        max_seq_len: SEQ,
        window_size,
        causal: true,
    }
}

/// Random weights, the halting head's too: where it starts from, all its gradients but one vanish.
fn model(shape: &ModelConfig) -> Model {
    model_on(shape, &Default::default())
}

fn model_on<B: Ops>(shape: &ModelConfig, device: &B::Device) -> ActV1<B> {
    let source = &mut |info: &aios_nn::ParamInfo, init| {
        let init = match info.name.starts_with("q_head") {
            true => Init::TruncatedNormal(0.3),
            false => init,
        };
        Ok(init
            .values(info.shape.iter().product(), 7, &info.name)
            .into())
    };
    ActV1::build(shape, device, source).unwrap()
}

/// Two sequences, one of which ends early.
fn batch() -> MicroBatch {
    let id = |i: usize| ((i * 7 + i * i * 3) % VOCABULARY) as i32;
    let mut labels: Vec<i32> = (1..=2 * SEQ).map(id).collect();
    labels[SEQ + 5..].fill(IGNORE);
    MicroBatch {
        inputs: (0..2 * SEQ).map(id).collect(),
        labels,
        seq: SEQ,
        ..MicroBatch::default()
    }
}

/// How a step is computed, and what is put around the model's blocks for it.
#[derive(Clone)]
struct Step {
    recipe: Recipe,
    keep: Keep,
}

impl Deref for Step {
    type Target = Recipe;

    fn deref(&self) -> &Recipe {
        &self.recipe
    }
}

impl Step {
    fn decorate<B: Ops>(&self, model: &mut ActV1<B>) {
        let decoration = Decoration {
            keep: self.keep,
            chunking: self.execution.chunking,
            place: self.execution.place,
            bf16_inputs: false,
        };
        model.decorate(&|blocks| decoration.around(blocks));
    }
}

/// One segment with nothing that moves while weights do: no exploration, no target from a next
/// segment, and a reward that stays at zero.
fn recipe() -> Recipe {
    Recipe {
        halt_max_steps: 1,
        reward: HaltReward::Exact,
        exploration: 0.0,
        ..Recipe::default()
    }
}

/// That, with each block's input kept.
fn step(recipe: Recipe) -> Step {
    Step {
        recipe,
        keep: Keep::EACH_INPUT,
    }
}

fn run<B: Ops>(model: &mut ActV1<B>, step: &Step) -> (LossSums, Gradients<B>) {
    run_on(model, step, &batch())
}

fn run_on<B: Ops>(
    model: &mut ActV1<B>,
    step: &Step,
    batch: &MicroBatch,
) -> (LossSums, Gradients<B>) {
    step.decorate(model);
    let supervisor = Supervisor {
        model,
        recipe: step,
        part: StepPart::whole(1, batch),
        watch: &Unwatched,
    };
    let mut grads = model.gradients();
    let sums = supervisor.run(batch, &mut grads).read();
    (sums, grads)
}

/// Every trained parameter's name and gradient.
fn gradients<B: Ops>(model: &mut ActV1<B>, step: &Step) -> Named {
    let grads = run(model, step).1;
    named(model, &grads)
}

fn named<B: Ops>(model: &ActV1<B>, grads: &Gradients<B>) -> Named {
    let trained = model.params().into_iter().filter(|p| p.info.trained);
    trained
        .map(|p| (p.info.name.clone(), floats(grads.get(p).unwrap().clone())))
        .collect()
}

/// The objective with one entry of one parameter changed.
fn objective(model: &mut Model, parameter: usize, entry: usize, change: f32) -> f64 {
    let set = |model: &Model, changed: &dyn Fn(&mut f32)| {
        model.params()[parameter].change(|value| {
            let (dims, device) = (value.dims(), value.device());
            let mut values = floats(value);
            let before = values[entry];
            changed(&mut values[entry]);
            let value = Tensor::from_data(TensorData::new(values, dims), &device);
            (value, before)
        })
    };
    let before = set(model, &|value| *value += change);
    let loss = run(model, &step(recipe())).0.loss();
    set(model, &|value| *value = before);
    loss
}

/// The entries with the largest gradients, where rounding matters least, and a few others.
fn entries(gradient: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..gradient.len()).collect();
    order.sort_by(|&a, &b| gradient[b].abs().total_cmp(&gradient[a].abs()));
    let others = (0..gradient.len()).step_by(gradient.len() / 2 + 1);
    order.iter().copied().take(3).chain(others).collect()
}

fn check(pos_encodings: PosEncodings, window_size: usize) {
    check_shape(&shape(pos_encodings, window_size));
}

fn check_shape(shape: &ModelConfig) {
    const CHANGE: f32 = 5e-3;
    let mut model = model(shape);
    let gradients = gradients(&mut model, &step(recipe()));
    let indices = model.params().into_iter().filter(|p| p.info.trained);
    let indices: Vec<usize> = indices.map(|p| p.index).collect();
    for ((name, gradient), index) in gradients.iter().zip(indices) {
        let largest = gradient.iter().fold(0.0_f32, |m, g| m.max(g.abs()));
        assert!(largest > 1e-4, "{name} has next to no gradient");
        for entry in entries(gradient) {
            let mut at = |change| objective(&mut model, index, entry, change);
            let slope = (at(CHANGE) - at(-CHANGE)) / f64::from(2.0 * CHANGE);
            let off = (slope - f64::from(gradient[entry])).abs() / f64::from(largest);
            // Written so that NaN fails.
            assert!(
                off <= 1e-2,
                "{name}[{entry}]: gradient {}, slope {slope}",
                gradient[entry]
            );
        }
    }
}

#[test]
fn finite_differences_with_rope() {
    check(PosEncodings::Rope, 0);
}

#[test]
fn finite_differences_with_learned_positions() {
    check(PosEncodings::Learned, 0);
}

#[test]
fn finite_differences_with_a_window() {
    check(PosEncodings::Rope, 3);
}

/// The table's gradient is the sum of what it does as embedding and as head.
#[test]
fn finite_differences_with_tied_embeddings() {
    check_shape(&ModelConfig {
        tie_embeddings: true,
        ..shape(PosEncodings::Rope, 0)
    });
}

/// Two segments with several cycles each, as in training.
struct WholeStep {
    keep: Keep,
    path: AttentionPath,
    window: usize,
}

impl DeviceJob for WholeStep {
    type Output = Named;

    fn run<B: Ops>(self, device: B::Device) -> Named {
        let shape = ModelConfig {
            h_cycles: 2,
            l_cycles: 2,
            ..shape(PosEncodings::Rope, self.window)
        };
        let recipe = Recipe {
            halt_max_steps: 2,
            execution: Execution {
                path: self.path,
                ..recipe().execution
            },
            ..recipe()
        };
        let step = Step {
            recipe,
            keep: self.keep,
        };
        gradients(&mut model_on::<B>(&shape, &device), &step)
    }
}

fn whole_step(keep: Keep, path: AttentionPath, window: usize) -> Named {
    on(&Selected::Cpu, WholeStep { keep, path, window })
}

#[test]
fn checkpointing_gives_the_same_gradients_bit_for_bit() {
    for path in [AttentionPath::Flash, AttentionPath::Sdpa] {
        let recomputed = whole_step(Keep::EACH_INPUT, path, 0);
        for ((name, a), (_, b)) in recomputed.iter().zip(whole_step(Keep::Everything, path, 0)) {
            let same = a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{name} differs with {path:?}");
        }
    }
}

#[test]
fn flash_and_sdpa_give_the_same_gradients() {
    for window in [0, 3] {
        let flash = whole_step(Keep::EACH_INPUT, AttentionPath::Flash, window);
        let sdpa = whole_step(Keep::EACH_INPUT, AttentionPath::Sdpa, window);
        for ((name, flash), (_, sdpa)) in flash.iter().zip(&sdpa) {
            assert_close(&format!("{name}, window {window}"), flash, sdpa, 1e-5);
        }
    }
}

/// Notes which gradients were said to be final, and what they were then.
#[derive(Default)]
struct Finals(RefCell<Named>);

impl Watch<CpuBackend> for Finals {
    fn gradient_is_final(
        &self,
        param: &Param<CpuBackend>,
        gradient: &mut Option<Tensor<CpuBackend, 2>>,
    ) {
        let gradient = gradient.clone().unwrap();
        let entry = (param.info.name.clone(), floats(gradient));
        self.0.borrow_mut().push(entry);
    }
}

/// In the last of two micro-batches every gradient is said to be final once, when it is, heads before blocks, blocks from
/// the last to the first, tables at the end.
#[test]
fn gradients_are_final_when_they_are_said_to_be() {
    let chunks = [
        Chunking::Off,
        Chunking::Exact { size: 3 },
        Chunking::Truncated { size: 3 },
    ];
    for (tie_embeddings, embedding_waits) in [(false, false), (false, true), (true, false)] {
        for (keep, chunking) in [Keep::Everything, Keep::Inputs { every: 2 }]
            .into_iter()
            .flat_map(|keep| chunks.map(|chunking| (keep, chunking)))
        {
            let mut model = model(&ModelConfig {
                tie_embeddings,
                ..shape(PosEncodings::Learned, 0)
            });
            let mut step = step(Recipe {
                halt_max_steps: 2,
                embedding_waits,
                ..recipe()
            });
            step.keep = keep;
            step.recipe.execution.chunking = chunking;
            step.decorate(&mut model);
            let (whole, finals) = (batch(), Finals::default());
            let mut grads = model.gradients();
            let batches: Vec<_> = whole.split(1).collect();
            for (i, batch) in batches.iter().enumerate() {
                assert!(finals.0.borrow().is_empty());
                let supervisor = Supervisor {
                    model: &model,
                    recipe: &step,
                    part: StepPart {
                        step: 1,
                        denominators: Denominators::of(std::slice::from_ref(&whole)),
                        last: i + 1 == batches.len(),
                    },
                    watch: &finals,
                };
                supervisor.run(batch, &mut grads);
            }
            let finals = finals.0.into_inner();
            let mut sorted = finals.clone();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            let mut want = named(&model, &grads);
            want.sort_by(|a, b| a.0.cmp(&b.0));
            assert!(sorted == want, "{keep:?} {chunking:?}");
            let place = |part: &str| finals.iter().position(|(name, _)| name.contains(part));
            assert!(place("q_head") < place("H_level.layers.1"));
            assert!(place("H_level.layers.1") < place("H_level.layers.0"));
            assert!(place("H_level.layers.0") < place("L_level.layers.0"));
            assert!(place("mlp.down_proj") < place("self_attn.qkv_proj"));
            assert!(place("L_level.layers.0") < place("embed_tokens"));
        }
    }
}

/// Of a step of two micro-batches, which may leave the embedding's gradient for its end.
fn two_micro_batches(embedding_waits: bool, positions: PosEncodings) -> Named {
    let mut model = model(&shape(positions, 0));
    let step = step(Recipe {
        halt_max_steps: 2,
        embedding_waits,
        ..recipe()
    });
    step.decorate(&mut model);
    let whole = batch();
    let mut grads = model.gradients();
    for batch in whole.split(1) {
        let supervisor = Supervisor {
            model: &model,
            recipe: &step,
            part: StepPart {
                step: 1,
                denominators: Denominators::of(std::slice::from_ref(&whole)),
                last: false,
            },
            watch: &Unwatched,
        };
        supervisor.run(&batch, &mut grads);
        assert_eq!(grads.get(&model.embedding).is_none(), embedding_waits);
    }
    model.settle(&mut grads);
    named(&model, &grads)
}

#[test]
fn an_embedding_that_waits_gets_the_same_gradient_bit_for_bit() {
    for positions in [PosEncodings::Rope, PosEncodings::Learned] {
        let at_once = two_micro_batches(false, positions);
        assert_eq!(two_micro_batches(true, positions), at_once);
    }
}

/// The loss in slices of one token, of five, and of all of them.
#[test]
fn the_size_of_the_losss_slices_only_changes_rounding() {
    let mut model = model(&shape(PosEncodings::Rope, 0));
    let mut of = |tokens: usize| {
        let recipe = Recipe {
            loss_path: LossPath::Fused {
                slice_bytes: 4 * VOCABULARY * tokens,
            },
            ..recipe()
        };
        let (sums, grads) = run(&mut model, &step(recipe));
        (sums, named(&model, &grads))
    };
    let (sums, whole) = of(2 * SEQ);
    for tokens in [1, 5] {
        let (sliced_sums, sliced) = of(tokens);
        assert!((sliced_sums.ce - sums.ce).abs() < 1e-5 * sums.ce);
        for ((name, sliced), (_, whole)) in sliced.iter().zip(&whole) {
            assert_close(name, sliced, whole, 1e-6);
        }
        assert_eq!(of(tokens).1, sliced, "not the same twice");
    }
}

/// Recomputed on the device, kept on the CPU.
fn gradients_are_those_of_the_cpu(device: Option<Selection>) {
    let Some(device) = device else { return };
    for (path, window) in [(AttentionPath::Flash, 3), (AttentionPath::Sdpa, 0)] {
        let got = on(
            &device.adapter.selected,
            WholeStep {
                keep: Keep::EACH_INPUT,
                path,
                window,
            },
        );
        let want = whole_step(Keep::Everything, path, window);
        for ((name, got), (_, want)) in got.iter().zip(&want) {
            assert_close(&format!("{name} with {path:?}"), got, want, 1e-4);
        }
    }
}

#[test]
fn gradients_on_wgpu_are_those_of_the_cpu() {
    gradients_are_those_of_the_cpu(wgpu());
}

#[test]
fn gradients_on_cuda_are_those_of_the_cpu() {
    gradients_are_those_of_the_cpu(cuda());
}

#[test]
fn gradients_on_ndarray_are_those_of_the_cpu() {
    gradients_are_those_of_the_cpu(ndarray());
}
