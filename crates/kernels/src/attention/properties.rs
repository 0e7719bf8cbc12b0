//! The kernels against plain loops in f64, over shapes and memory layouts.

use super::*;
use crate::matmul::bf16::Unit;
use crate::testing::{assert_close, values};
use proptest::prelude::*;

/// A tensor `[batch, seq, heads, dim]` in either order of positions and heads, with gaps.
struct Laid {
    data: Vec<f32>,
    strides: [usize; 3],
}

/// How a tensor is laid out, and the factor of its numbers.
#[derive(Clone, Copy)]
struct Layout {
    head_major: bool,
    gap: usize,
    factor: f32,
}

const PLAIN: Layout = Layout {
    head_major: false,
    gap: 0,
    factor: 1.0,
};

impl Laid {
    fn new(s: &Shape, heads: usize, seq: usize, seed: u32, layout: Layout) -> Self {
        let row = s.head_dim + layout.gap;
        let [head, position] = match layout.head_major {
            true => [seq * row, row],
            false => [row, heads * row],
        };
        let strides = [heads * seq * row, head, position];
        let data = values(s.batch * strides[0], seed);
        let data = data.into_iter().map(|v| v * layout.factor).collect();
        Self { data, strides }
    }

    fn heads(&self) -> Heads<'_> {
        let [batch_stride, head_stride, row_stride] = self.strides;
        Heads {
            data: &self.data,
            batch_stride,
            head_stride,
            row_stride,
        }
    }

    fn at(&self, (b, h): (usize, usize), i: usize, c: usize) -> f64 {
        let [batch, head, row] = self.strides;
        f64::from(self.data[b * batch + h * head + i * row + c])
    }
}

struct Case<'a> {
    shape: Shape<'a>,
    q: Laid,
    k: Laid,
    v: Laid,
    d_out: Vec<f32>,
}

type Results = (Vec<f32>, Vec<f32>, [Vec<f32>; 3]);

impl<'a> Case<'a> {
    fn new(shape: Shape<'a>, layout: Layout) -> Self {
        let one = Layout {
            factor: 1.0,
            ..layout
        };
        Self {
            q: Laid::new(&shape, shape.heads, shape.seq_q, 1, layout),
            k: Laid::new(&shape, shape.kv_heads, shape.seq_kv, 2, layout),
            v: Laid::new(&shape, shape.kv_heads, shape.seq_kv, 3, one),
            d_out: values(shape.rows() * shape.head_dim, 4),
            shape,
        }
    }

    fn run(&self) -> Results {
        let (q, k, v) = (self.q.heads(), self.k.heads(), self.v.heads());
        let (out, lse) = forward(q, k, v, self.shape);
        let saved = Saved {
            q,
            k,
            v,
            out: &out,
            lse: &lse,
        };
        let gradients = backward(saved, &self.d_out, self.shape);
        (out, lse, gradients)
    }

    fn run_on(&self, threads: usize) -> Results {
        crate::team::tests::with_threads(threads, || self.run())
    }

    /// The same by plain loops.
    fn plain(&self) -> Results {
        let s = &self.shape;
        let mut out = vec![0.0; s.rows() * s.head_dim];
        let mut lse = vec![f32::NEG_INFINITY; s.rows()];
        let keys = s.seq_kv * s.kv_heads;
        let sizes = [s.seq_q * s.heads, keys, keys].map(|rows| s.batch * rows * s.head_dim);
        let mut grads = sizes.map(|size| vec![0.0_f64; size]);
        for (task, lse) in lse.iter_mut().enumerate() {
            let (head, i) = (task / s.seq_q, task % s.seq_q);
            let head = (head / s.heads, head % s.heads);
            let kv_head = (head.0, head.1 / (s.heads / s.kv_heads));
            let dims = 0..s.head_dim;
            let dot = |j: usize| -> f64 {
                let terms = dims
                    .clone()
                    .map(|c| self.q.at(head, i, c) * self.k.at(kv_head, j, c));
                terms.sum::<f64>() * f64::from(s.scale)
            };
            let scores: Vec<(usize, f64)> = (0..s.seq_kv)
                .filter(|&j| sees(s, head.0, i, j))
                .map(|j| (j, dot(j)))
                .collect();
            if scores.is_empty() {
                continue;
            }
            let top = scores.iter().fold(f64::MIN, |m, s| m.max(s.1));
            let total: f64 = scores.iter().map(|s| (s.1 - top).exp()).sum();
            *lse = (top + total.ln()) as f32;
            let weights: Vec<(usize, f64)> = scores
                .iter()
                .map(|&(j, score)| (j, (score - top).exp() / total))
                .collect();
            let row = ((head.0 * s.seq_q + i) * s.heads + head.1) * s.head_dim;
            let d = |c: usize| f64::from(self.d_out[row + c]);
            let mut delta = 0.0;
            for c in dims.clone() {
                let sum: f64 = weights
                    .iter()
                    .map(|&(j, w)| w * self.v.at(kv_head, j, c))
                    .sum();
                out[row + c] = sum as f32;
                delta += sum * d(c);
            }
            for &(j, w) in &weights {
                let dp: f64 = dims.clone().map(|c| d(c) * self.v.at(kv_head, j, c)).sum();
                let ds = w * (dp - delta) * f64::from(s.scale);
                let key = ((head.0 * s.seq_kv + j) * s.kv_heads + kv_head.1) * s.head_dim;
                for c in dims.clone() {
                    grads[0][row + c] += ds * self.k.at(kv_head, j, c);
                    grads[1][key + c] += ds * self.q.at(head, i, c);
                    grads[2][key + c] += w * d(c);
                }
            }
        }
        let grads = grads.map(|g| g.into_iter().map(|x| x as f32).collect());
        (out, lse, grads)
    }
}

/// Whether query i of a sequence sees key j.
fn sees(s: &Shape, sequence: usize, i: usize, j: usize) -> bool {
    let distance = (i + s.seq_kv) as i64 - (s.seq_q + j) as i64;
    let near = s.window == 0 || distance < s.window as i64;
    near && match s.visible {
        Some(keys) => {
            let [first, end] = keys[sequence * s.seq_q + i];
            (first..end).contains(&(j as u32))
        }
        None => !s.causal || distance >= 0,
    }
}

fn shape(seq_q: usize, seq_kv: usize, heads: usize, head_dim: usize) -> Shape<'static> {
    Shape {
        batch: 1,
        heads,
        kv_heads: heads,
        seq_q,
        seq_kv,
        head_dim,
        causal: true,
        window: 0,
        scale: 1.0 / (head_dim as f32).sqrt(),
        visible: None,
        unit: None,
    }
}

fn bits(results: &Results) -> Vec<u32> {
    let (out, lse, grads) = results;
    let all = out.iter().chain(lse).chain(grads.iter().flatten());
    all.map(|x| x.to_bits()).collect()
}

fn assert_same(got: &Results, want: &Results) {
    assert_close(&got.0, &want.0, 1e-5);
    for (got, want) in got.1.iter().zip(&want.1) {
        // Infinite for a query without keys.
        assert!(
            got == want || (got - want).abs() < 1e-5 * want.abs().max(1.0),
            "{got} {want}"
        );
    }
    for (got, want) in got.2.iter().zip(&want.2) {
        assert_eq!(got.len(), want.len());
        // Gradients that cancel to nothing keep the rounding of their terms, which are about 1.
        let scale = want.iter().fold(1.0_f32, |m, x| m.max(x.abs()));
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-5 * scale, "{got} {want}");
        }
    }
}

/// Ranges of two bounds that rise from query to query, as they may fall.
fn random_ranges(batch: usize, seq_q: usize, seq_kv: usize, mut seed: u64) -> Vec<[u32; 2]> {
    let mut bounds = || {
        let mut all: Vec<u32> = (0..seq_q)
            .map(|_| {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) as u32 % (seq_kv as u32 + 1)
            })
            .collect();
        all.sort_unstable();
        all
    };
    let mut sequence = || {
        let (first, end) = (bounds(), bounds());
        first.into_iter().zip(end).map(|(a, b)| [a, b.max(a)])
    };
    (0..batch).flat_map(|_| sequence()).collect()
}

/// A token sees those of its document up to itself.
fn documents(starts: &[u32], seq: u32) -> Vec<[u32; 2]> {
    let start = |i| *starts.iter().rfind(|start| **start <= i).unwrap();
    (0..seq).map(|i| [start(i), i + 1]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn any_shape_and_layout_matches_plain_loops(
        (batch, heads, head_dim) in (1usize..3, 1usize..4, 1usize..40),
        (seq_q, seq_kv) in (1usize..280, 0usize..280),
        window in prop_oneof![Just(0usize), 1usize..300],
        (causal, head_major, gap) in (any::<bool>(), any::<bool>(), 0usize..5),
    ) {
        let shape = Shape { batch, causal, window, ..shape(seq_q, seq_kv, heads, head_dim) };
        let case = Case::new(shape, Layout { head_major, gap, factor: 1.0 });
        assert_same(&case.run(), &case.plain());
        prop_assert_eq!(bits(&case.run_on(1)), bits(&case.run_on(7)));
    }

    #[test]
    fn products_in_bf16_match_plain_loops(
        (heads, head_dim) in (1usize..4, 1usize..100),
        (seq_q, seq_kv) in (1usize..150, 0usize..150),
        window in prop_oneof![Just(0usize), 1usize..200],
    ) {
        let shape = Shape { window, ..shape(seq_q, seq_kv, heads, head_dim) };
        let run = |unit, threads| {
            let layout = Layout { head_major: false, gap: 0, factor: 1.0 };
            Case::new(Shape { unit, ..shape }, layout).run_on(threads)
        };
        let (want, own) = (run(None, 1), run(Some(Unit::LikeAmx), 1));
        let near = |own: &[f32], want: &[f32]| {
            let most = want.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
            own.iter().zip(want).all(|(own, want)| own == want || (own - want).abs() < 0.03 * most)
        };
        prop_assert!(near(&own.0, &want.0) && near(&own.1, &want.1));
        prop_assert!(own.2.iter().zip(&want.2).all(|(own, want)| near(own, want)));
        prop_assert_eq!(bits(&own), bits(&run(Some(Unit::LikeAmx), 7)));
        if Unit::all().contains(&Unit::Amx) {
            prop_assert_eq!(bits(&own), bits(&run(Some(Unit::Amx), 1)));
        }
    }

    /// Among them queries and whole sequences that see nothing.
    #[test]
    fn any_group_and_ranges_match_plain_loops(
        (batch, kv_heads, group) in (1usize..3, 1usize..3, 1usize..5),
        (seq_q, seq_kv, head_dim) in (1usize..200, 0usize..280, 1usize..24),
        window in prop_oneof![Just(0usize), 1usize..300],
        (causal, ranges, seed) in (any::<bool>(), any::<bool>(), any::<u64>()),
    ) {
        let keys = random_ranges(batch, seq_q, seq_kv, seed);
        let shape = Shape {
            batch,
            kv_heads,
            causal,
            window,
            visible: ranges.then_some(&keys),
            unit: None,
            ..shape(seq_q, seq_kv, kv_heads * group, head_dim)
        };
        let case = Case::new(shape, PLAIN);
        assert_same(&case.run(), &case.plain());
        prop_assert_eq!(bits(&case.run_on(1)), bits(&case.run_on(7)));
    }
}

#[test]
fn sizes_around_every_tile_match_plain_loops() {
    for size in [BLOCK, panel::PANEL, TILE] {
        for seq in [size - 1, size, size + 1, 2 * size + 1] {
            let case = Case::new(shape(seq, seq, 1, 17), PLAIN);
            assert_same(&case.run(), &case.plain());
        }
    }
}

/// Few heads make tasks of tiles and blocks, many make a task of each head.
#[test]
fn results_are_the_same_to_the_bit_on_any_number_of_threads() {
    let documents = documents(&[0, 1, 100, 228], 300);
    for (heads, kv_heads, window, visible) in [
        (1, 1, 0, None),
        (1, 1, 50, None),
        (3, 3, 0, None),
        (8, 8, 0, None),
        (8, 8, 70, None),
        (8, 1, 0, None),
        (8, 2, 70, None),
        (6, 3, 0, Some(&documents[..])),
    ] {
        let shape = Shape {
            kv_heads,
            window,
            visible,
            ..shape(300, 300, heads, 24)
        };
        let case = Case::new(shape, PLAIN);
        let want = bits(&case.run_on(1));
        for threads in [1, 2, 5, 16] {
            assert!(
                bits(&case.run_on(threads)) == want,
                "{heads} heads over {kv_heads}, {threads} threads"
            );
        }
    }
    assert!(one_task_a_head(8, 2) && !one_task_a_head(1, 2) && !one_task_a_head(8, 16));
}

#[test]
fn a_query_before_every_key_gives_zeros_and_no_gradient() {
    let (out, lse, [dq, dk, dv]) = Case::new(shape(5, 0, 2, 8), PLAIN).run();
    assert!(out.iter().chain(&dq).all(|&x| x == 0.0) && dk.is_empty() && dv.is_empty());
    assert!(lse.iter().all(|&x| x == f32::NEG_INFINITY));
}

#[test]
fn scores_of_ten_thousand_match_plain_loops() {
    let large = Layout {
        factor: 150.0,
        ..PLAIN
    };
    let case = Case::new(shape(150, 150, 1, 4), large);
    let (got, want) = (case.run(), case.plain());
    let top = want.1.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    assert!(top > 1e4, "{top}");
    // A score of 1e4 is known to 1e-3 in f32, and so is its weight.
    assert_close(&got.0, &want.0, 2e-2);
    assert_close(&got.2[2], &want.2[2], 2e-2);
    // Those of q and k all but vanish, since nearly every weight is 0 or 1.
    for (got, want) in got.2[..2].iter().zip(&want.2) {
        let off = got.iter().zip(want).map(|(g, w)| (g - w).abs());
        assert!(
            off.clone().all(|off| off <= 1.0),
            "{:?}",
            off.reduce(f32::max)
        );
    }
}

#[test]
fn heads_of_256_that_share_keys_match_plain_loops() {
    for (kv_heads, window) in [(1, 0), (2, 40)] {
        let shape = Shape {
            kv_heads,
            window,
            ..shape(70, 133, 2, 256)
        };
        let case = Case::new(shape, PLAIN);
        assert_same(&case.run(), &case.plain());
    }
}

/// Side by side as well as each by itself.
#[test]
fn gradients_of_a_fused_projection_are_those_of_its_parts() {
    let (seq, heads, dim) = (150, 6, 8);
    let ranges = documents(&[0, 70], seq);
    for (kv_heads, visible) in [(1, None), (2, Some(&ranges[..])), (6, None)] {
        let shape = Shape {
            kv_heads,
            visible,
            ..shape(seq as usize, seq as usize, heads, dim)
        };
        let case = Case::new(shape, PLAIN);
        let (out, lse, parts) = case.run();
        let saved = Saved {
            q: case.q.heads(),
            k: case.k.heads(),
            v: case.v.heads(),
            out: &out,
            lse: &lse,
        };
        let fused = backward_fused(saved, &case.d_out, shape);
        for (i, row) in fused.chunks((heads + 2 * kv_heads) * dim).enumerate() {
            let of = |part: &Vec<f32>, heads| part[i * heads * dim..][..heads * dim].to_vec();
            let [dq, dk, dv] = &parts;
            let want = [of(dq, heads), of(dk, kv_heads), of(dv, kv_heads)].concat();
            assert_eq!(row, want);
        }
    }
}

#[test]
fn documents_and_prefixes_match_plain_loops() {
    let seq = 300;
    let packed = documents(&[0, 1, 64, 100, 250], seq);
    let prefix: Vec<[u32; 2]> = (0..seq).map(|i| [0, (i + 1).max(140)]).collect();
    for (ranges, window) in [(&packed, 0), (&packed, 20), (&prefix, 0), (&prefix, 50)] {
        let shape = Shape {
            kv_heads: 2,
            window,
            visible: Some(ranges),
            unit: None,
            ..shape(seq as usize, seq as usize, 4, 16)
        };
        let case = Case::new(shape, PLAIN);
        assert_same(&case.run(), &case.plain());
    }
}

/// Each document by itself gives the same, to the bit where it begins with a block of keys.
#[test]
fn packed_documents_know_nothing_of_each_other() {
    let (start, seq, dim) = (2 * BLOCK, 3 * BLOCK + 5, 16);
    let ranges = documents(&[0, start as u32], seq as u32);
    let together = Shape {
        kv_heads: 1,
        visible: Some(&ranges),
        unit: None,
        ..shape(seq, seq, 2, dim)
    };
    let (out, _, [dq, dk, _]) = Case::new(together, PLAIN).run();
    let whole = Case::new(together, PLAIN);
    let alone = Shape {
        visible: None,
        unit: None,
        seq_q: seq - start,
        seq_kv: seq - start,
        ..together
    };
    let rest = |x: &Laid| Laid {
        data: x.data[start * x.strides[2]..].to_vec(),
        strides: x.strides,
    };
    let alone = Case {
        shape: alone,
        q: rest(&whole.q),
        k: rest(&whole.k),
        v: rest(&whole.v),
        d_out: whole.d_out[start * 2 * dim..].to_vec(),
    };
    let (out_alone, _, [dq_alone, dk_alone, _]) = alone.run();
    assert_eq!(out[start * 2 * dim..], out_alone);
    assert_eq!(dq[start * 2 * dim..], dq_alone);
    assert_eq!(dk[start * dim..], dk_alone);
}

#[test]
fn queries_of_empty_ranges_give_zeros_and_no_gradient() {
    let seq = 70;
    let mut ranges = documents(&[0], seq);
    // Padding at either end.
    ranges[..40].fill([0, 0]);
    ranges[60..].fill([seq, seq]);
    let shape = Shape {
        visible: Some(&ranges),
        unit: None,
        ..shape(seq as usize, seq as usize, 1, 8)
    };
    let case = Case::new(shape, PLAIN);
    let (out, lse, [dq, ..]) = case.run();
    assert_same(&(out.clone(), lse.clone(), case.run().2), &case.plain());
    for (i, [first, end]) in ranges.iter().enumerate() {
        let row = i * 8..i * 8 + 8;
        let nothing = first == end;
        assert_eq!(nothing, lse[i] == f32::NEG_INFINITY);
        assert_eq!(nothing, out[row.clone()].iter().all(|&x| x == 0.0));
        assert!(!nothing || dq[row].iter().all(|&x| x == 0.0));
    }
}

#[test]
#[should_panic]
fn ranges_that_fall_are_refused() {
    let ranges = [[0, 2], [1, 2], [0, 3]];
    let shape = Shape {
        visible: Some(&ranges),
        unit: None,
        ..shape(3, 3, 1, 8)
    };
    Case::new(shape, PLAIN).run();
}
