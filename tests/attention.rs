//! FlashAttention of each backend against SDPA in plain tensor operations on the CPU.

use crate::common::{DeviceJob, assert_close, cuda, on, run_on, wgpu};
use aios_device::{Selected, Selection};
use aios_tensor::attention::{Saved, sdpa, sdpa_backward};
use aios_tensor::{
    AttentionPath, AttentionShape, CpuBackend, Ops, Precision, dtype, floats, in_format, widened,
};
use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
struct Case {
    shape: AttentionShape,
    seq_kv: usize,
    precision: Precision,
}

/// One sequence with two heads.
const fn case(seq_q: usize, seq_kv: usize, head_dim: usize, window: usize) -> Case {
    let shape = AttentionShape {
        batch: 1,
        seq: seq_q,
        heads: 2,
        head_dim,
        causal: true,
        window,
    };
    Case {
        shape,
        seq_kv,
        precision: Precision::F32,
    }
}

/// out, lse, dq, dk, dv
type Results = [Vec<f32>; 5];

const NAMES: [&str; 5] = ["out", "lse", "dq", "dk", "dv"];

/// Smooth numbers between -1 and 1, no two tensors alike, in the case's format.
fn values(case: &Case, n: usize, seed: usize) -> Vec<f32> {
    let value = |i: usize| ((i * (seed + 7)) as f32 * 0.137 + seed as f32).sin();
    let data = TensorData::new((0..n).map(value).collect::<Vec<f32>>(), [1, n]);
    let rounded = in_format(
        Tensor::<CpuBackend, 2>::from_data(data, &Default::default()),
        dtype(case.precision),
    );
    floats(widened(rounded))
}

fn inputs<B: Ops>(case: &Case, device: &B::Device) -> [Tensor<B, 4>; 4] {
    let AttentionShape {
        batch,
        heads,
        head_dim,
        seq,
        ..
    } = case.shape;
    [(seq, 1), (case.seq_kv, 2), (case.seq_kv, 3), (seq, 4)].map(|(seq, seed)| {
        let dims = [batch, heads, seq, head_dim];
        let data = TensorData::new(values(case, dims.iter().product(), seed), dims);
        in_format(Tensor::from_data(data, device), dtype(case.precision))
    })
}

fn flash<B: Ops>(case: &Case, [q, k, v, d_out]: [Tensor<B, 4>; 4]) -> Results {
    let (out, lse) = B::flash_attention(&q, &k, &v, &case.shape).unwrap();
    assert_eq!(out.dtype(), q.dtype());
    let saved = Saved { q, k, v, out, lse };
    let grads = B::flash_attention_backward(&saved, &d_out, &case.shape).unwrap();
    results(saved, grads)
}

fn results<B: Ops>(saved: Saved<B>, [dq, dk, dv]: [Tensor<B, 4>; 3]) -> Results {
    [
        floats(saved.out),
        floats(saved.lse),
        floats(dq),
        floats(dk),
        floats(dv),
    ]
}

/// In f32, from the rounded inputs.
fn reference(case: &Case) -> Results {
    let [q, k, v, d_out] = inputs::<CpuBackend>(case, &Default::default()).map(widened);
    let (out, lse) = sdpa(&q, &k, &v, &case.shape);
    let saved = Saved { q, k, v, out, lse };
    let grads = sdpa_backward(&saved, &d_out, &case.shape);
    results(saved, grads)
}

/// Half precision rounds the output once, and weights and score gradients before a product.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 1e-4,
        Precision::F16 => 3e-3,
        Precision::Bf16 => 2e-2,
    }
}

#[track_caller]
fn assert_agree(case: &Case, got: &Results, want: &Results) {
    for ((name, got), want) in NAMES.iter().zip(got).zip(want) {
        let name = format!("{name} of {case:?}");
        assert_close(&name, got, want, tolerance(case.precision));
    }
}

/// Every case, twice, to the same bits.
struct Agree(Vec<Case>);

impl DeviceJob for Agree {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        for case in self.0 {
            let got = flash(&case, inputs::<B>(&case, &device));
            assert_agree(&case, &got, &reference(&case));
            let again = flash(&case, inputs::<B>(&case, &device));
            assert_eq!(got, again, "not repeatable: {case:?}");
        }
    }
}

/// Lengths around the tiles of every kernel, windows, prefixes.
fn ragged() -> Vec<Case> {
    [
        (1, 1, 8, 0),
        (1, 70, 64, 0),
        (31, 31, 16, 0),
        (33, 33, 40, 0),
        (64, 64, 64, 1),
        (65, 129, 64, 0),
        (127, 127, 128, 30),
        (130, 200, 24, 64),
        (100, 100, 80, 100),
        (100, 100, 96, 5000),
    ]
    .map(|(q, kv, d, w)| case(q, kv, d, w))
    .to_vec()
}

fn bidirectional() -> Vec<Case> {
    let both_ways = |mut case: Case| {
        case.shape.causal = false;
        case
    };
    [
        case(70, 70, 32, 0),
        case(70, 70, 32, 9),
        case(20, 90, 32, 0),
    ]
    .map(both_ways)
    .to_vec()
}

fn in_precision(precision: Precision) -> Vec<Case> {
    let cases = [
        case(77, 77, 64, 0),
        case(33, 70, 128, 20),
        case(50, 50, 24, 0),
    ];
    cases.map(|case| Case { precision, ..case }).to_vec()
}

/// More tiles than workgroups are launched.
fn many_heads() -> Vec<Case> {
    let mut case = case(3, 3, 8, 0);
    case.shape.batch = 1100;
    case.shape.heads = 4;
    vec![case]
}

/// q, k and v as a fused projection has them, and as strided views of other tensors.
struct Layouts;

impl DeviceJob for Layouts {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        let mut case = case(45, 45, 24, 17);
        case.shape.batch = 2;
        let want = reference(&case);
        let strided = inputs::<B>(&case, &device).map(|t| {
            let position_major = t.swap_dims(1, 2);
            // Adding is what makes the memory so.
            (position_major.clone() + position_major.zeros_like()).swap_dims(1, 2)
        });
        assert_agree(&case, &flash(&case, strided), &want);

        let shape = &case.shape;
        let tokens = |t: Tensor<B, 4>| -> Tensor<B, 2> {
            let width = shape.heads * shape.head_dim;
            t.swap_dims(1, 2).reshape([shape.batch * shape.seq, width])
        };
        let [q, k, v, d_out] = inputs::<B>(&case, &device).map(tokens);
        let qkv = Tensor::cat(vec![q, k, v], 1);
        let path = AttentionPath::Flash;
        let (out, lse) = B::attention_fused(&qkv, shape, path);
        let d_qkv = B::attention_fused_backward(&qkv, &out, &lse, &d_out, shape, path);
        let heads = |t: Tensor<B, 2>| -> Tensor<B, 4> {
            t.reshape([shape.batch, shape.seq, shape.heads, shape.head_dim])
                .swap_dims(1, 2)
        };
        let width = shape.heads * shape.head_dim;
        let grads = [0, 1, 2].map(|part| heads(d_qkv.clone().narrow(1, part * width, width)));
        let saved = Saved {
            q: heads(out.clone()),
            k: heads(out.clone()),
            v: heads(out.clone()),
            out: heads(out),
            lse,
        };
        assert_agree(&case, &results(saved, grads), &want);
    }
}

/// Scores of +-1e4 choose one key each, and a NaN reaches exactly the queries that see it.
struct Extremes;

impl DeviceJob for Extremes {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        let case = case(40, 40, 16, 0);
        let AttentionShape { heads, seq, .. } = case.shape;
        let tensor = |value: &dyn Fn(usize, usize) -> f32| -> Tensor<B, 4> {
            let all = (0..heads * seq * 16).map(|e| value(e / 16 % seq, e % 16));
            let data = TensorData::new(all.collect::<Vec<f32>>(), [1, heads, seq, 16]);
            Tensor::from_data(data, &device)
        };
        // The scale is 1/4: every query scores 1e4 at key 0 and -1e4 at all others.
        let q = tensor(&|_, c| if c == 0 { 4e4 } else { 0.0 });
        let k = tensor(&|j, c| match (j, c) {
            (0, 0) => 1.0,
            (_, 0) => -1.0,
            _ => 0.0,
        });
        let v = tensor(&|j, c| (j * 16 + c) as f32);
        let (out, lse) = B::flash_attention(&q, &k, &v, &case.shape).unwrap();
        let want: Vec<f32> = (0..heads * seq * 16).map(|e| (e % 16) as f32).collect();
        assert_close("output of large scores", &floats(out.clone()), &want, 1e-6);
        let want = vec![1e4; heads * seq];
        assert_close("lse of large scores", &floats(lse.clone()), &want, 1e-6);
        let d_out = tensor(&|_, _| 1.0);
        let saved = Saved { q, k, v, out, lse };
        let grads = B::flash_attention_backward(&saved, &d_out, &case.shape).unwrap();
        for grad in grads {
            assert!(floats(grad).iter().all(|g| g.is_finite()));
        }

        let k = tensor(&|j, _| if j == 5 { f32::NAN } else { 0.1 });
        let (out, _) = B::flash_attention(&saved.q, &k, &saved.v, &case.shape).unwrap();
        for (e, x) in floats(out).iter().enumerate() {
            let query = e / 16 % seq;
            assert_eq!(x.is_nan(), query >= 5, "query {query}: {x}");
        }
    }
}

#[test]
fn ragged_lengths_on_cpu() {
    on(&Selected::Cpu, Agree(ragged()));
}

#[test]
fn ragged_lengths_on_wgpu() {
    run_on(wgpu(), Agree(ragged()));
}

#[test]
fn ragged_lengths_on_cuda() {
    run_on(cuda(), Agree(ragged()));
}

#[test]
fn both_directions_on_cpu() {
    on(&Selected::Cpu, Agree(bidirectional()));
}

#[test]
fn both_directions_on_wgpu() {
    run_on(wgpu(), Agree(bidirectional()));
}

#[test]
fn both_directions_on_cuda() {
    run_on(cuda(), Agree(bidirectional()));
}

#[test]
fn half_precision_on_cpu() {
    on(&Selected::Cpu, Agree(in_precision(Precision::F16)));
    on(&Selected::Cpu, Agree(in_precision(Precision::Bf16)));
}

#[test]
fn half_precision_on_wgpu() {
    in_half_precision(wgpu);
}

#[test]
fn half_precision_on_cuda() {
    in_half_precision(cuda);
}

/// In each that the device has.
fn in_half_precision(device: fn() -> Option<Selection>) {
    for precision in [Precision::F16, Precision::Bf16] {
        let has = |device: &Selection| device.adapter.dtypes.contains(&precision.as_str());
        run_on(device().filter(has), Agree(in_precision(precision)));
    }
}

#[test]
fn many_heads_on_cpu() {
    on(&Selected::Cpu, Agree(many_heads()));
}

#[test]
fn many_heads_on_wgpu() {
    run_on(wgpu(), Agree(many_heads()));
}

#[test]
fn many_heads_on_cuda() {
    run_on(cuda(), Agree(many_heads()));
}

#[test]
fn layouts_on_cpu() {
    on(&Selected::Cpu, Layouts);
}

#[test]
fn layouts_on_wgpu() {
    run_on(wgpu(), Layouts);
}

#[test]
fn layouts_on_cuda() {
    run_on(cuda(), Layouts);
}

#[test]
fn extremes_on_cpu() {
    on(&Selected::Cpu, Extremes);
}

#[test]
fn extremes_on_wgpu() {
    run_on(wgpu(), Extremes);
}

#[test]
fn extremes_on_cuda() {
    run_on(cuda(), Extremes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_on_cpu(
        (batch, heads, eighths) in (1..3usize, 1..4usize, 1..9usize),
        (seq_q, before) in (1..150usize, 0..90usize),
        window in prop_oneof![Just(0), 1..200usize],
        causal in any::<bool>(),
    ) {
        let mut case = case(seq_q, seq_q + before, 8 * eighths, window);
        case.shape = AttentionShape { batch, heads, causal, ..case.shape };
        let got = flash(&case, inputs::<CpuBackend>(&case, &Default::default()));
        assert_agree(&case, &got, &reference(&case));
    }
}
