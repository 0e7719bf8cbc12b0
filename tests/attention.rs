//! FlashAttention of each backend against SDPA in plain tensor operations on the CPU.

use crate::common::{DeviceJob, assert_close, cuda, ndarray, on, run_on, wgpu};
use aios_base::meter;
use aios_device::{Selected, Selection};
use aios_tensor::attention::{self, Room, Saved, sdpa, sdpa_backward};
use aios_tensor::{
    AttentionPath, AttentionShape, CpuBackend, Ops, Precision, Rope, Turn, Visible, dtype, floats,
    in_format, widened,
};
use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
struct Case {
    shape: AttentionShape,
    seq_kv: usize,
    precision: Precision,
    /// What takes the place of causality.
    ranges: Option<Ranges>,
}

/// Ranges that differ between sequences, but for the last two.
#[derive(Clone, Copy, Debug)]
enum Ranges {
    /// Of which one is a single token, and some end beside a tile's border.
    Documents,
    Prefix,
    /// Bounds that rise by fits and starts, and queries between that see nothing.
    Gaps,
    /// Padding at both ends, which sees nothing, around one document.
    Padded,
    /// Documents of sixteen tokens.
    Short,
}

impl Case {
    fn grouped(mut self, heads: usize, kv_heads: usize) -> Self {
        (self.shape.heads, self.shape.kv_heads) = (heads, kv_heads);
        self
    }

    fn in_two_sequences(mut self) -> Self {
        self.shape.batch = 2;
        self
    }

    /// In two sequences.
    fn seeing(self, ranges: Ranges) -> Self {
        Self {
            ranges: Some(ranges),
            ..self.in_two_sequences()
        }
    }

    fn scaled(mut self, scale: f32) -> Self {
        self.shape.scale = scale;
        self
    }

    fn visible<B: Ops>(&self, device: &B::Device) -> Option<Visible<B>> {
        let (seq, all) = (self.shape.seq, self.seq_kv);
        let whole = match self.ranges? {
            Ranges::Documents => Visible::documents(&self.documents(), all, device),
            Ranges::Short => {
                let starts: Vec<usize> = (0..all).step_by(16).collect();
                Visible::documents(&vec![starts; self.shape.batch], all, device)
            }
            Ranges::Prefix => {
                let lengths = [all - seq / 2, 1];
                let lengths: Vec<_> = lengths.into_iter().cycle().take(self.shape.batch).collect();
                Visible::prefix(&lengths, all, device)
            }
            Ranges::Padded => {
                let (from, to) = (all / 3, (all - all / 16).max(all / 3));
                self.alike(all, device, |i| match i {
                    _ if i < from => [0, 0],
                    _ if i >= to => [to, to],
                    _ => [from, i + 1],
                })
            }
            Ranges::Gaps => {
                let gaps = self.alike(seq, device, |i| match i % 50 {
                    20..35 => [i, i],
                    _ => [i / 9 * 9, i + 1 + all - seq],
                });
                return Some(gaps.unwrap());
            }
        };
        Some(whole.unwrap().chunk(all - seq..all, 0..all).unwrap())
    }

    /// Where those of each sequence start; the last of some begins in most cases amid the queries.
    fn documents(&self) -> Vec<Vec<usize>> {
        let all = self.seq_kv;
        let (one, two) = (
            vec![0, 3, 4, 32, 90, 5 * all / 6],
            vec![0, 64, 9 * all / 10],
        );
        let starts = [one, two].map(|mut starts| {
            starts.retain(|start| *start < all);
            starts.sort_unstable();
            starts.dedup();
            starts
        });
        starts.into_iter().cycle().take(self.shape.batch).collect()
    }

    /// Ranges of so many queries, of each sequence the same.
    fn alike<B: Ops>(
        &self,
        queries: usize,
        device: &B::Device,
        range: impl Fn(usize) -> [usize; 2],
    ) -> aios_base::error::Result<Visible<B>> {
        let keys = (0..queries).map(|i| range(i).map(|bound| bound as u32));
        let mut keys: Vec<_> = keys.collect();
        // Neither bound may fall.
        for i in 1..queries {
            keys[i] = std::array::from_fn(|b| keys[i][b].max(keys[i - 1][b]));
        }
        let batch = self.shape.batch;
        Visible::new(keys.repeat(batch), batch, self.seq_kv, device)
    }
}

/// One sequence with two heads.
fn case(seq_q: usize, seq_kv: usize, head_dim: usize, window: usize) -> Case {
    let shape = AttentionShape {
        window,
        ..AttentionShape::new(1, seq_q, 2, head_dim)
    };
    Case {
        shape,
        seq_kv,
        precision: Precision::F32,
        ranges: None,
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
    let shape = &case.shape;
    let (queries, keys) = ((shape.heads, shape.seq), (shape.kv_heads, case.seq_kv));
    [(queries, 1), (keys, 2), (keys, 3), (queries, 4)].map(|((heads, seq), seed)| {
        let dims = [shape.batch, heads, seq, shape.head_dim];
        let data = TensorData::new(values(case, dims.iter().product(), seed), dims);
        in_format(Tensor::from_data(data, device), dtype(case.precision))
    })
}

fn flash<B: Ops>(case: &Case, [q, k, v, d_out]: [Tensor<B, 4>; 4]) -> Results {
    let visible = case.visible(&q.device());
    let (out, lse) = B::flash_attention(&q, &k, &v, &case.shape, visible.as_ref()).unwrap();
    assert_eq!(out.dtype(), q.dtype());
    let saved = Saved { q, k, v, out, lse };
    let grads = B::flash_attention_backward(&saved, &d_out, &case.shape, visible.as_ref());
    results(saved, grads.unwrap())
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
    plain::<CpuBackend>(case, &Default::default())
}

fn plain<B: Ops>(case: &Case, device: &B::Device) -> Results {
    let [q, k, v, d_out] = inputs::<B>(case, device).map(widened);
    let visible = case.visible::<B>(device);
    let (out, lse) = sdpa(&q, &k, &v, &case.shape, visible.as_ref());
    let saved = Saved { q, k, v, out, lse };
    let grads = sdpa_backward(&saved, &d_out, &case.shape, visible.as_ref());
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
        // The log-sum-exp of queries that see nothing.
        let infinite = |x: &f32| *x == f32::NEG_INFINITY;
        let nothing = |x: &[f32]| x.iter().map(infinite).collect::<Vec<_>>();
        assert_eq!(nothing(got), nothing(want), "{name}: who sees nothing");
        let finite = |x: &[f32]| {
            x.iter()
                .copied()
                .filter(|x| !infinite(x))
                .collect::<Vec<_>>()
        };
        let (got, want) = (finite(got), finite(want));
        assert_close(&name, &got, &want, tolerance(case.precision));
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

/// Keys and values of fewer heads than queries have, up to all of one.
fn grouped() -> Vec<Case> {
    vec![
        case(77, 77, 64, 0).grouped(4, 1).in_two_sequences(),
        case(33, 150, 40, 20).grouped(6, 2).in_two_sequences(),
        case(70, 70, 32, 0).grouped(6, 2).in_two_sequences(),
        case(33, 100, 64, 20).grouped(4, 1),
        case(100, 100, 128, 0).grouped(2, 1),
        case(50, 50, 32, 0)
            .grouped(3, 3)
            .in_two_sequences()
            .scaled(0.3),
    ]
}

/// Given ranges of keys, with and without a window, of whole sequences and of the last tokens.
fn visible() -> Vec<Case> {
    let sizes = [(150, 150, 0), (150, 150, 17), (70, 203, 0)];
    let shared = |ranges| {
        let case = move |(q, kv, window)| case(q, kv, 24, window).seeing(ranges).grouped(2, 1);
        sizes.map(case)
    };
    let all = [Ranges::Documents, Ranges::Prefix, Ranges::Padded];
    let own = [
        case(150, 150, 32, 0).seeing(Ranges::Documents),
        case(150, 150, 64, 20)
            .seeing(Ranges::Documents)
            .grouped(4, 2),
        case(100, 100, 128, 0).seeing(Ranges::Prefix),
        case(131, 131, 16, 30).seeing(Ranges::Prefix),
        case(120, 170, 24, 0).seeing(Ranges::Gaps),
        case(120, 170, 64, 50).seeing(Ranges::Gaps).grouped(3, 1),
        case(64, 64, 40, 0).seeing(Ranges::Prefix).scaled(0.5),
    ];
    all.into_iter().flat_map(shared).chain(own).collect()
}

/// A sequence so long that its work is several launches where none may take long, by as much as it could see; it sees little.
struct Long;

impl DeviceJob for Long {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        let case = Case {
            ranges: Some(Ranges::Short),
            ..case(40_001, 40_001, 8, 0)
        };
        let cpu = Default::default();
        let want = flash(&case, inputs::<CpuBackend>(&case, &cpu));
        let got = flash(&case, inputs::<B>(&case, &device));
        assert_agree(&case, &got, &want);
    }
}

fn large_heads() -> Vec<Case> {
    vec![
        case(70, 70, 256, 0),
        case(70, 133, 256, 0).grouped(1, 1).in_two_sequences(),
        case(1, 65, 256, 0).grouped(8, 1).in_two_sequences(),
        case(40, 90, 192, 25).grouped(4, 2),
        case(70, 70, 200, 30).grouped(4, 2).in_two_sequences(),
        case(33, 33, 136, 0),
        case(100, 100, 256, 0).seeing(Ranges::Documents),
        case(50, 80, 200, 0).seeing(Ranges::Gaps),
    ]
}

fn for_plain_operations() -> PlainOperations {
    PlainOperations([grouped(), visible(), large_heads()].concat())
}

fn in_precision(precision: Precision) -> Vec<Case> {
    let cases = [
        case(77, 77, 64, 0),
        case(33, 70, 128, 20),
        case(50, 50, 24, 0).grouped(4, 2),
        case(100, 100, 64, 0)
            .seeing(Ranges::Documents)
            .grouped(2, 1),
        case(60, 60, 256, 0),
    ];
    cases.map(|case| Case { precision, ..case }).to_vec()
}

/// More tiles than workgroups are launched.
fn many_heads() -> Vec<Case> {
    let mut case = case(3, 3, 8, 0).grouped(4, 4);
    case.shape.batch = 1100;
    vec![case]
}

/// q, k and v as a fused projection has them, and as strided views of other tensors.
struct Layouts;

impl DeviceJob for Layouts {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        self.one::<B>(case(45, 45, 24, 17).seeing(Ranges::Prefix), &device);
        let shared = case(45, 45, 24, 17).grouped(4, 2);
        self.one::<B>(shared.in_two_sequences(), &device);
        let documents = shared.seeing(Ranges::Documents).grouped(2, 1);
        self.one::<B>(documents, &device);
    }
}

impl Layouts {
    fn one<B: Ops>(&self, case: Case, device: &B::Device) {
        let want = reference(&case);
        let strided = inputs::<B>(&case, device).map(|t| {
            let position_major = t.swap_dims(1, 2);
            // Adding is what makes the memory so.
            (position_major.clone() + position_major.zeros_like()).swap_dims(1, 2)
        });
        assert_agree(&case, &flash(&case, strided), &want);

        let shape = &case.shape;
        let tokens = |t: Tensor<B, 4>| -> Tensor<B, 2> {
            let [batch, heads, seq, head_dim] = t.dims();
            t.swap_dims(1, 2).reshape([batch * seq, heads * head_dim])
        };
        let [q, k, v, d_out] = inputs::<B>(&case, device).map(tokens);
        let qkv = Tensor::cat(vec![q, k, v], 1);
        let visible = case.visible(device);
        let (visible, path) = (visible.as_ref(), AttentionPath::Flash);
        let (out, lse) = B::attention_fused(&qkv, shape, visible, path);
        let d_qkv = B::attention_fused_backward(&qkv, &out, &lse, &d_out, shape, visible, path);
        let heads = |t: Tensor<B, 2>| -> Tensor<B, 4> {
            let heads = t.dims()[1] / shape.head_dim;
            t.reshape([shape.batch, shape.seq, heads, shape.head_dim])
                .swap_dims(1, 2)
        };
        let (q, kv) = (shape.q_width(), shape.kv_width());
        let parts = [(0, q), (q, kv), (q + kv, kv)];
        let grads = parts.map(|(column, width)| heads(d_qkv.clone().narrow(1, column, width)));
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

/// Plain tensor operations give what the CPU's kernels do.
struct PlainOperations(Vec<Case>);

impl DeviceJob for PlainOperations {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        for case in self.0 {
            let want = flash(&case, inputs::<CpuBackend>(&case, &Default::default()));
            assert_agree(&case, &plain::<B>(&case, &device), &want);
        }
    }
}

/// The fused projection of grouped heads and packed documents, whole and in two chunks, in a format and on both paths.
struct Chunks(Precision);

impl DeviceJob for Chunks {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        let case = Case {
            precision: self.0,
            ..case(90, 90, 16, 30).grouped(6, 2).in_two_sequences()
        };
        for path in [AttentionPath::Flash, AttentionPath::Sdpa] {
            chunked::<B>(case, path, &device);
            chunked::<B>(case.seeing(Ranges::Documents), path, &device);
        }
    }
}

fn chunked<B: Ops>(case: Case, path: AttentionPath, device: &B::Device) {
    let (shape, split) = (&case.shape, 37);
    let matrix = |columns: usize, seed| -> Tensor<B, 3> {
        let dims = [shape.batch, shape.seq, columns];
        let data = TensorData::new(values(&case, dims.iter().product(), seed), dims);
        in_format(Tensor::from_data(data, device), dtype(case.precision))
    };
    let (qkv, d_out) = (matrix(shape.qkv_width(), 1), matrix(shape.q_width(), 2));
    let rows = |x: &Tensor<B, 3>, positions: std::ops::Range<usize>| -> Tensor<B, 2> {
        let x = x.clone().narrow(1, positions.start, positions.len());
        let columns = x.dims()[2];
        x.reshape([shape.batch * positions.len(), columns])
    };
    let visible = case.visible::<B>(device);
    let visible = visible.as_ref();
    let [all, first, second] = [0..shape.seq, 0..split, split..shape.seq];
    let (qkv_all, d_all) = (rows(&qkv, all.clone()), rows(&d_out, all));
    let (out, lse) = B::attention_fused(&qkv_all, shape, visible, path);
    let d_qkv = B::attention_fused_backward(&qkv_all, &out, &lse, &d_all, shape, visible, path);
    let back = |x: Tensor<B, 2>, seq: usize| -> Tensor<B, 3> {
        let columns = x.dims()[1];
        x.reshape([shape.batch, seq, columns])
    };
    let (out, d_qkv) = (back(out, shape.seq), back(d_qkv, shape.seq));

    for room in [Room::Exact, Room::Spare] {
        let mut past = None;
        for (number, at) in [&first, &second].into_iter().cloned().enumerate() {
            let part = AttentionShape {
                seq: at.len(),
                ..*shape
            };
            let visible = visible.map(|all| all.chunk(at.clone(), 0..at.end).unwrap());
            let visible = visible.as_ref();
            let (q, seen) =
                attention::split_chunk(rows(&qkv, at.clone()), past.take(), &part, room);
            let seen_dims = seen.parts().map(|x| x.dims());
            assert_eq!(seen_dims, [[shape.batch, at.end, shape.kv_width()]; 2]);
            let (got, lse) = attention::chunk(&q, &seen, &part, visible, path);
            let what = format!("chunk {number} of {case:?} on {path:?}, room: {room:?}");
            let want = floats(rows(&out, at.clone()));
            assert_close(
                &what,
                &floats(got.clone()),
                &want,
                tolerance(case.precision),
            );
            let outputs = [&got, &rows(&d_out, at.clone())];
            let d = attention::chunk_backward(&q, &seen, outputs, &lse, &part, visible, path);
            // Only the last chunk's keys have all of their gradient; queries of every chunk do.
            let columns = if number == 0 {
                shape.q_width()
            } else {
                shape.qkv_width()
            };
            let own = |x: Tensor<B, 2>| floats(x.narrow(1, 0, columns));
            let want = own(rows(&d_qkv, at));
            assert_close(
                &format!("gradient of {what}"),
                &own(d),
                &want,
                tolerance(case.precision),
            );
            past = Some(seen);
        }
    }
}

/// A part of each head turns, by a factor, in queries and in the fewer keys; the way back is the
/// transpose.
struct PartOfAHead;

impl DeviceJob for PartOfAHead {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        let shape = AttentionShape {
            kv_heads: 1,
            ..AttentionShape::new(2, 5, 3, 10)
        };
        let (width, frequencies, factor) = (shape.qkv_width(), [1.0, 0.3, 0.02], 1.25);
        let dims = [shape.batch * shape.seq, width];
        let x: Vec<f32> = (0..dims[0] * width)
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        let table = Rope::<B>::from_frequencies(0..7, &frequencies, factor, &device);
        let given = Tensor::<B, 2>::from_data(TensorData::new(x.clone(), dims), &device);
        let turned = B::rope(given, &table, &shape, Turn::Forward);
        let back = floats(B::rope(turned.clone(), &table, &shape, Turn::Backward));
        for (e, y) in floats(turned).into_iter().enumerate() {
            let (position, column) = (e / width % 5, e % width);
            let (head, c) = (column / 10, column % 10);
            let [cos, sin] = [f64::cos, f64::sin]
                .map(|f| (factor * f(position as f64 * frequencies[c % 3])) as f32);
            let (want, grown) = match (head < 4, c) {
                (true, 0..3) => (x[e] * cos - x[e + 3] * sin, factor * factor),
                (true, 3..6) => (x[e] * cos + x[e - 3] * sin, factor * factor),
                _ => (x[e], 1.0),
            };
            assert!((y - want).abs() < 1e-5, "element {e}: {y} {want}");
            let restored = x[e] * grown as f32;
            assert!(
                (back[e] - restored).abs() < 1e-5,
                "element {e}, turned back"
            );
        }
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
        let (out, lse) = B::flash_attention(&q, &k, &v, &case.shape, None).unwrap();
        let want: Vec<f32> = (0..heads * seq * 16).map(|e| (e % 16) as f32).collect();
        assert_close("output of large scores", &floats(out.clone()), &want, 1e-6);
        let want = vec![1e4; heads * seq];
        assert_close("lse of large scores", &floats(lse.clone()), &want, 1e-6);
        let d_out = tensor(&|_, _| 1.0);
        let saved = Saved { q, k, v, out, lse };
        let grads = B::flash_attention_backward(&saved, &d_out, &case.shape, None).unwrap();
        for grad in grads {
            assert!(floats(grad).iter().all(|g| g.is_finite()));
        }

        let k = tensor(&|j, _| if j == 5 { f32::NAN } else { 0.1 });
        let (out, _) = B::flash_attention(&saved.q, &k, &saved.v, &case.shape, None).unwrap();
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
fn grouped_heads_on_cpu() {
    on(&Selected::Cpu, Agree(grouped()));
}

#[test]
fn grouped_heads_on_wgpu() {
    run_on(wgpu(), Agree(grouped()));
}

#[test]
fn grouped_heads_on_cuda() {
    run_on(cuda(), Agree(grouped()));
}

#[test]
fn visible_keys_on_cpu() {
    on(&Selected::Cpu, Agree(visible()));
}

#[test]
fn visible_keys_on_wgpu() {
    run_on(wgpu(), Agree(visible()));
}

#[test]
fn visible_keys_on_cuda() {
    run_on(cuda(), Agree(visible()));
}

#[test]
fn long_sequences_on_wgpu() {
    run_on(wgpu(), Long);
}

#[test]
fn long_sequences_on_cuda() {
    run_on(cuda(), Long);
}

#[test]
fn large_heads_on_cpu() {
    on(&Selected::Cpu, Agree(large_heads()));
}

#[test]
fn large_heads_on_wgpu() {
    run_on(wgpu(), Agree(large_heads()));
}

#[test]
fn large_heads_on_cuda() {
    run_on(cuda(), Agree(large_heads()));
}

#[test]
fn plain_operations_on_ndarray() {
    run_on(ndarray(), for_plain_operations());
}

#[test]
fn plain_operations_on_wgpu() {
    // Each takes a software renderer many seconds.
    let PlainOperations(all) = for_plain_operations();
    let some = all.into_iter().step_by(7).collect();
    run_on(wgpu(), PlainOperations(some));
}

#[test]
fn plain_operations_on_cuda() {
    run_on(cuda(), for_plain_operations());
}

#[test]
fn chunks_on_cpu() {
    on(&Selected::Cpu, Chunks(Precision::F32));
    on(&Selected::Cpu, Chunks(Precision::Bf16));
}

#[test]
fn chunks_on_wgpu() {
    run_on(wgpu(), Chunks(Precision::F32));
}

#[test]
fn chunks_on_cuda() {
    run_on(cuda(), Chunks(Precision::F32));
}

#[test]
fn part_of_a_head_turns_on_cpu() {
    on(&Selected::Cpu, PartOfAHead);
}

#[test]
fn part_of_a_head_turns_on_ndarray() {
    run_on(ndarray(), PartOfAHead);
}

#[test]
fn part_of_a_head_turns_on_wgpu() {
    run_on(wgpu(), PartOfAHead);
}

#[test]
fn part_of_a_head_turns_on_cuda() {
    run_on(cuda(), PartOfAHead);
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
        (batch, kv_heads, group, eighths) in (1..3usize, 1..4usize, 1..4usize, 1..9usize),
        (seq_q, before) in (1..150usize, 0..90usize),
        window in prop_oneof![Just(0), 1..200usize],
        (causal, ranges) in (any::<bool>(), prop_oneof![
            Just(None),
            Just(Some(Ranges::Documents)),
            Just(Some(Ranges::Prefix)),
            Just(Some(Ranges::Gaps)),
            Just(Some(Ranges::Padded)),
        ]),
    ) {
        let heads = group * kv_heads;
        let mut case = case(seq_q, seq_q + before, 8 * eighths, window);
        case.shape = AttentionShape { batch, heads, kv_heads, causal, ..case.shape };
        case.ranges = ranges;
        let got = flash(&case, inputs::<CpuBackend>(&case, &Default::default()));
        assert_agree(&case, &got, &reference(&case));
    }
}

#[test]
fn a_token_is_written_behind_earlier_ones_without_a_copy_of_them() {
    let shape = |seq| AttentionShape::new(1, seq, 1, 64);
    let qkv = |seq| Tensor::<CpuBackend, 2>::ones([seq, 3 * 64], &Default::default());
    let (_, mut seen) = attention::split_chunk(qkv(2000), None, &shape(2000), Room::Spare);
    let before = meter::live_bytes();
    meter::reset_peak();
    for _ in 0..3 {
        let (q, more) = attention::split_chunk(qkv(1), Some(seen), &shape(1), Room::Spare);
        attention::chunk(&q, &more, &shape(1), None, AttentionPath::Flash);
        seen = more;
    }
    // Keys or values of all tokens are 500 KiB.
    let more = meter::peak_bytes() - before;
    assert!(seen.tokens() == 2003 && more < 256 << 10, "{more}");
}
