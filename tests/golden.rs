//! The model against the authors' published code: see tests/golden/README.md.

use crate::common::{
    DeviceJob, Golden, assert_close, cuda, golden_files, ndarray, on, run_on, wgpu,
};
use aios_base::config::HaltReward;
use aios_base::execution::{Chunking, Place};
use aios_base::micro_batch::{IGNORE, MicroBatch};
use aios_device::Selected;
use aios_memory::Decoration;
use aios_memory::checkpoint::Keep;
use aios_models::actv1::{
    ActV1, Carry, HaltingLogits, ModelConfig, PosEncodings, Supervisor, binary_cross_entropy,
    target,
};
use aios_models::{Recipe, StepPart};
use aios_nn::watch::Unwatched;
use aios_nn::{Backward, Cached, KvCaches, Visit};
use aios_tensor::{
    AttentionPath, AttentionShape, CpuBackend, Ops, Precision, SLICE_BYTES, attention, floats,
};
use burn::tensor::{Tensor, TensorData};

fn config(golden: &Golden) -> ModelConfig {
    let learned = golden.metadata().get("pos").is_some_and(|p| p == "learned");
    ModelConfig {
        vocab_size: golden.number("V", 0),
        hidden_size: golden.number("H", 0),
        num_heads: golden.number("heads", 0),
        expansion: golden.text("exp").parse().unwrap(),
        h_layers: golden.number("Hl", 0),
        l_layers: golden.number("Ll", 0),
        h_cycles: golden.number("Hc", 0),
        l_cycles: golden.number("Lc", 0),
        pos_encodings: if learned {
            PosEncodings::Learned
        } else {
            PosEncodings::Rope
        },
        tie_embeddings: false,
        max_seq_len: golden.number("S", 0),
        window_size: 0,
        causal: golden.text("causal") == "True",
    }
}

fn model<B: Ops>(golden: &Golden, device: &B::Device) -> ActV1<B> {
    let source =
        &mut |info: &aios_nn::ParamInfo, _| Ok(golden.floats(&format!("w.{}", info.name)).into());
    ActV1::build(&config(golden), device, source).unwrap()
}

fn batch(golden: &Golden) -> MicroBatch {
    MicroBatch {
        inputs: golden.ints("inputs"),
        labels: golden.ints("labels"),
        seq: golden.number("S", 0),
        ..MicroBatch::default()
    }
}

/// Forward pass, losses and gradients of each segment, put together by hand from the model's parts.
struct Segments(AttentionPath, Keep);

impl DeviceJob for Segments {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        for path in golden_files("actv1") {
            let golden = Golden::open(&path);
            let mut model = model::<B>(&golden, &device);
            decorate(&mut model, self.1);
            let data = batch(&golden);
            let ctx = model.context(data.sequences(), data.seq, self.0);
            let mut carry = model.initial_carry(data.inputs.len(), Precision::F32);
            for segment in 0..2 {
                let name = format!("{} seg{segment}", path.display());
                carry = check_segment(&name, &golden, &model, &ctx, carry, segment);
            }
        }
    }
}

fn decorate<B: Ops>(model: &mut ActV1<B>, keep: Keep) {
    let decoration = Decoration {
        keep,
        chunking: Chunking::Off,
        place: Place::Device,
        bf16_inputs: false,
    };
    model.decorate(&|blocks| decoration.around(blocks));
}

fn check_segment<B: Ops>(
    name: &str,
    golden: &Golden,
    model: &ActV1<B>,
    ctx: &aios_nn::Context<B>,
    carry: Carry<B>,
    segment: usize,
) -> Carry<B> {
    let want = |what: &str| golden.floats(&format!("seg{segment}.{what}"));
    let data = batch(golden);
    let x = model.embed(ctx, &data.inputs, Precision::F32);
    let mut grads = model.gradients();

    let Carry { z_h, z_l } = model.cycles(ctx, carry, &x, &mut KvCaches::none());
    let z = z_l + z_h.clone() + x.clone();
    let (low_level, high_level) = (model.low.layer(), model.high.layer());
    let (z_l, low) = low_level.forward_saving(ctx, z, Cached::Whole);
    let (z_h, high) = high_level.forward_saving(ctx, z_h + z_l.clone(), Cached::Whole);
    let deciding = model.deciding(ctx, &z_h);
    let halting = model.answers(&deciding).read();
    assert_close(
        &format!("{name} z_H"),
        &floats(z_h.clone()),
        &want("z_H"),
        1e-4,
    );
    assert_close(
        &format!("{name} z_L"),
        &floats(z_l.clone()),
        &want("z_L"),
        1e-4,
    );
    let logits = floats(B::linear_forward(&z_h, &model.head().value()));
    assert_close(&format!("{name} logits"), &logits, &want("logits"), 1e-4);
    let halt: Vec<f32> = halting.iter().map(|q| q.halt).collect();
    assert_close(&format!("{name} q_halt"), &halt, &want("q_halt"), 1e-4);
    let go_on: Vec<f32> = halting.iter().map(|q| q.go_on).collect();
    assert_close(
        &format!("{name} q_continue"),
        &go_on,
        &want("q_continue"),
        1e-4,
    );

    // In the golden run the second segment is the last one.
    let carry = Carry {
        z_h: z_h.clone(),
        z_l,
    };
    let next = model.segment(ctx, carry.clone(), &x, &mut KvCaches::none());
    let next = model.answers(&model.deciding(ctx, &next.z_h)).read();
    let targets: Vec<f32> = next.iter().map(|q| target(q, segment == 1)).collect();
    assert_close(
        &format!("{name} target"),
        &targets,
        &want("target_q_continue"),
        1e-4,
    );

    let weights = vec![1.0 / data.valid_tokens() as f32; data.labels.len()];
    let mut result = None;
    grads.change(model.head(), |sum| {
        let head = &model.head().value();
        let (labels, slice) = (&data.labels, SLICE_BYTES);
        let (loss, dz, dw) = B::cross_entropy_backward(&z_h, head, labels, &weights, sum, slice);
        result = Some((loss.read(), dz));
        dw
    });
    let (loss, d_z_h) = result.unwrap();
    let lm_loss = loss.per_token.iter().sum::<f32>() / data.valid_tokens() as f32;
    assert_close(
        &format!("{name} lm_loss"),
        &[lm_loss],
        &want("lm_loss"),
        1e-5,
    );

    let rewards = exact_matches(&loss.correct, &data);
    let sequences = data.sequences() as f64;
    let (mut halt_loss, mut go_on_loss) = (0.0, 0.0);
    let mut d = Vec::new();
    for (i, q) in halting.iter().enumerate() {
        let (halt, d_halt) = binary_cross_entropy(q.halt, rewards[i]);
        let (go_on, d_go_on) = binary_cross_entropy(q.go_on, targets[i]);
        halt_loss += halt / sequences;
        go_on_loss += go_on / sequences;
        d.push(HaltingLogits {
            halt: (0.5 * d_halt / sequences) as f32,
            go_on: (0.5 * d_go_on / sequences) as f32,
        });
    }
    assert_close(
        &format!("{name} q_halt_loss"),
        &[halt_loss as f32],
        &want("q_halt_loss"),
        1e-5,
    );
    let got = [go_on_loss as f32];
    assert_close(
        &format!("{name} q_continue_loss"),
        &got,
        &want("q_continue_loss"),
        1e-5,
    );
    let total = lm_loss + 0.5 * (halt_loss + go_on_loss) as f32;
    assert_close(&format!("{name} loss"), &[total], &want("loss"), 1e-5);

    let d = HaltingLogits::tensor(&d, &d_z_h.device());
    let d_z_h = model.halting_backward(ctx, &deciding, &d, d_z_h, &mut grads);
    let pass = &mut Backward {
        grads: &mut grads,
        watch: &Unwatched,
        last: true,
    };
    let d_z_l = high_level.backward(ctx, high, d_z_h, pass, Cached::Whole);
    let dx = low_level.backward(ctx, low, d_z_l, pass, Cached::Whole);
    model.embed_backward(ctx, &data.inputs, dx, &mut grads);
    for param in model.params().into_iter().filter(|p| p.info.trained) {
        let got = floats(grads.get(param).unwrap().clone());
        let want = want(&format!("grad.{}", param.info.name));
        assert_close(
            &format!("{name} grad {}", param.info.name),
            &got,
            &want,
            1e-4,
        );
    }
    carry
}

fn exact_matches(correct: &[bool], data: &MicroBatch) -> Vec<f32> {
    let sequences = correct.chunks(data.seq).zip(data.labels.chunks(data.seq));
    let exact = |(c, l): (&[bool], &[i32])| c.iter().zip(l).all(|(&c, &l)| c || l == IGNORE);
    sequences.map(|s| f32::from(u8::from(exact(s)))).collect()
}

/// The training step's own path over both segments: its gradient is the mean of the segments'.
struct Supervised;

impl DeviceJob for Supervised {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        for path in golden_files("actv1") {
            let golden = Golden::open(&path);
            let mut model = model::<B>(&golden, &device);
            decorate(&mut model, Keep::EACH_INPUT);
            let data = batch(&golden);
            let recipe = Recipe {
                halt_max_steps: 2,
                reward: HaltReward::Exact,
                // No sequence halts before its second segment, as in the golden runs, where none
                // halts whatever it answers.
                exploration: 1.0,
                ..Recipe::default()
            };
            let supervisor = Supervisor {
                model: &model,
                recipe: &recipe,
                part: StepPart::whole(1, &data),
                watch: &Unwatched,
            };
            let mut grads = model.gradients();
            let sums = supervisor.run(&data, &mut grads).read();
            assert_eq!(sums.segments, 2 * data.sequences() as u64);
            let mean = |what: &str| {
                let of = |s: usize| golden.floats(&format!("seg{s}.{what}"))[0];
                (of(0) + of(1)) / 2.0
            };
            assert_close(
                "mean lm_loss",
                &[sums.mean_ce() as f32],
                &[mean("lm_loss")],
                1e-5,
            );
            assert_close("mean loss", &[sums.loss() as f32], &[mean("loss")], 1e-5);
            for param in model.params().into_iter().filter(|p| p.info.trained) {
                let name = &param.info.name;
                let got = floats(grads.get(param).unwrap().clone());
                let of = |s: usize| golden.floats(&format!("seg{s}.grad.{name}"));
                let want: Vec<f32> = of(0)
                    .iter()
                    .zip(of(1))
                    .map(|(a, b)| (a + b) / 2.0)
                    .collect();
                assert_close(&format!("mean grad of {name}"), &got, &want, 1e-4);
            }
        }
    }
}

/// Every case of the attention files.
struct Attention(AttentionPath);

impl DeviceJob for Attention {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        for path in golden_files("attention") {
            let golden = Golden::open(&path);
            for (case, description) in golden.metadata() {
                check_attention::<B>(&golden, case, description, self.0, &device);
            }
        }
    }
}

fn check_attention<B: Ops>(
    golden: &Golden,
    case: &str,
    description: &str,
    path: AttentionPath,
    device: &B::Device,
) {
    let value = |key: &str| {
        let words = description.split_whitespace();
        words
            .filter_map(|w| w.split_once('='))
            .find(|(k, _)| *k == key)
            .unwrap()
            .1
    };
    let number = |key: &str| value(key).parse::<usize>().unwrap();
    let (seq_q, seq_kv) = (number("seq_q"), number("seq_kv"));
    let shape = AttentionShape {
        causal: value("causal") == "True",
        window: number("window"),
        ..AttentionShape::new(number("batch"), seq_q, number("heads"), number("head_dim"))
    };
    let tensor = |name: &str, seq: usize| -> Tensor<B, 4> {
        let dims = [shape.batch, shape.heads, seq, shape.head_dim];
        let values = golden.floats(&format!("{case}.{name}"));
        Tensor::from_data(TensorData::new(values, dims), device)
    };
    let [q, d_out] = ["q", "do"].map(|n| tensor(n, seq_q));
    let [k, v] = ["k", "v"].map(|n| tensor(n, seq_kv));
    let (out, lse) = match path {
        AttentionPath::Flash => B::flash_attention(&q, &k, &v, &shape, None).unwrap(),
        AttentionPath::Sdpa => attention::sdpa(&q, &k, &v, &shape, None),
    };
    let check = |what: &str, got: Vec<f32>| {
        let want = golden.floats(&format!("{case}.{what}"));
        assert_close(&format!("{case} {what}"), &got, &want, 1e-4);
    };
    check("o", floats(out.clone()));
    check("lse", floats(lse.clone()));
    let saved = attention::Saved { q, k, v, out, lse };
    let [dq, dk, dv] = match path {
        AttentionPath::Flash => B::flash_attention_backward(&saved, &d_out, &shape, None).unwrap(),
        AttentionPath::Sdpa => attention::sdpa_backward(&saved, &d_out, &shape, None),
    };
    check("dq", floats(dq));
    check("dk", floats(dk));
    check("dv", floats(dv));
}

#[test]
fn segments_on_cpu() {
    on(
        &Selected::Cpu,
        Segments(AttentionPath::Flash, Keep::Everything),
    );
}

#[test]
fn segments_on_cpu_with_recompute() {
    on(
        &Selected::Cpu,
        Segments(AttentionPath::Flash, Keep::EACH_INPUT),
    );
}

#[test]
fn segments_on_cpu_with_sdpa() {
    on(
        &Selected::Cpu,
        Segments(AttentionPath::Sdpa, Keep::Everything),
    );
}

#[test]
fn segments_on_wgpu() {
    run_on(wgpu(), Segments(AttentionPath::Flash, Keep::EACH_INPUT));
}

#[test]
fn segments_on_wgpu_with_sdpa() {
    run_on(wgpu(), Segments(AttentionPath::Sdpa, Keep::EACH_INPUT));
}

#[test]
fn segments_on_cuda() {
    run_on(cuda(), Segments(AttentionPath::Flash, Keep::EACH_INPUT));
}

#[test]
fn segments_on_cuda_with_sdpa() {
    run_on(cuda(), Segments(AttentionPath::Sdpa, Keep::EACH_INPUT));
}

#[test]
fn segments_on_ndarray() {
    run_on(ndarray(), Segments(AttentionPath::Sdpa, Keep::EACH_INPUT));
}

#[test]
fn supervised_on_ndarray() {
    run_on(ndarray(), Supervised);
}

#[test]
fn attention_sdpa_on_ndarray() {
    run_on(ndarray(), Attention(AttentionPath::Sdpa));
}

#[test]
fn supervised_on_cpu() {
    on(&Selected::Cpu, Supervised);
}

#[test]
fn supervised_on_wgpu() {
    run_on(wgpu(), Supervised);
}

#[test]
fn supervised_on_cuda() {
    run_on(cuda(), Supervised);
}

#[test]
fn attention_on_cpu() {
    Attention(AttentionPath::Flash).run::<CpuBackend>(Default::default());
}

#[test]
fn attention_sdpa_on_cpu() {
    Attention(AttentionPath::Sdpa).run::<CpuBackend>(Default::default());
}

#[test]
fn attention_sdpa_on_wgpu() {
    run_on(wgpu(), Attention(AttentionPath::Sdpa));
}

#[test]
fn attention_on_wgpu() {
    run_on(wgpu(), Attention(AttentionPath::Flash));
}

#[test]
fn attention_sdpa_on_cuda() {
    run_on(cuda(), Attention(AttentionPath::Sdpa));
}

#[test]
fn attention_on_cuda() {
    run_on(cuda(), Attention(AttentionPath::Flash));
}
