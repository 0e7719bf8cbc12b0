//! The kernels against plain loops in f64, over shapes and memory layouts.

use super::*;
use crate::testing::{assert_close, values};
use proptest::prelude::*;

/// A tensor `[batch, seq, heads, dim]` in either order of positions and heads, with gaps.
struct Laid {
    data: Vec<f32>,
    strides: [usize; 3],
}

impl Laid {
    fn new(s: &Shape, seq: usize, seed: u32, head_major: bool, gap: usize, factor: f32) -> Self {
        let row = s.head_dim + gap;
        let [head, position] = match head_major {
            true => [seq * row, row],
            false => [row, s.heads * row],
        };
        let strides = [s.heads * seq * row, head, position];
        let data = values(s.batch * strides[0], seed);
        let data = data.into_iter().map(|v| v * factor).collect();
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

struct Case {
    shape: Shape,
    q: Laid,
    k: Laid,
    v: Laid,
    d_out: Vec<f32>,
}

type Results = (Vec<f32>, Vec<f32>, [Vec<f32>; 3]);

impl Case {
    fn new(shape: Shape, head_major: bool, gap: usize, factor: f32) -> Self {
        let laid = |seq, seed, factor| Laid::new(&shape, seq, seed, head_major, gap, factor);
        Self {
            q: laid(shape.seq_q, 1, factor),
            k: laid(shape.seq_kv, 2, factor),
            v: laid(shape.seq_kv, 3, 1.0),
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
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| self.run())
    }

    /// The same by plain loops.
    fn plain(&self) -> Results {
        let s = &self.shape;
        let width = s.heads * s.head_dim;
        let mut out = vec![0.0; s.rows() * s.head_dim];
        let mut lse = vec![f32::NEG_INFINITY; s.rows()];
        let sizes = [s.seq_q, s.seq_kv, s.seq_kv].map(|seq| s.batch * seq * width);
        let mut grads = sizes.map(|size| vec![0.0_f64; size]);
        for (task, lse) in lse.iter_mut().enumerate() {
            let (head, i) = (task / s.seq_q, task % s.seq_q);
            let head = (head / s.heads, head % s.heads);
            let at = |seq: usize, i: usize| (head.0 * seq + i) * width + head.1 * s.head_dim;
            let dims = 0..s.head_dim;
            let dot = |j: usize| -> f64 {
                let terms = dims
                    .clone()
                    .map(|c| self.q.at(head, i, c) * self.k.at(head, j, c));
                terms.sum::<f64>() * f64::from(s.scale)
            };
            let scores: Vec<(usize, f64)> = s.keys(i).map(|j| (j, dot(j))).collect();
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
            let row = at(s.seq_q, i);
            let d = |c: usize| f64::from(self.d_out[row + c]);
            let mut delta = 0.0;
            for c in dims.clone() {
                let sum: f64 = weights
                    .iter()
                    .map(|&(j, w)| w * self.v.at(head, j, c))
                    .sum();
                out[row + c] = sum as f32;
                delta += sum * d(c);
            }
            for &(j, w) in &weights {
                let dp: f64 = dims.clone().map(|c| d(c) * self.v.at(head, j, c)).sum();
                let ds = w * (dp - delta) * f64::from(s.scale);
                let key = at(s.seq_kv, j);
                for c in dims.clone() {
                    grads[0][row + c] += ds * self.k.at(head, j, c);
                    grads[1][key + c] += ds * self.q.at(head, i, c);
                    grads[2][key + c] += w * d(c);
                }
            }
        }
        let grads = grads.map(|g| g.into_iter().map(|x| x as f32).collect());
        (out, lse, grads)
    }
}

fn shape(seq_q: usize, seq_kv: usize, heads: usize, head_dim: usize) -> Shape {
    Shape {
        batch: 1,
        heads,
        seq_q,
        seq_kv,
        head_dim,
        causal: true,
        window: 0,
        scale: 1.0 / (head_dim as f32).sqrt(),
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
        let case = Case::new(shape, head_major, gap, 1.0);
        assert_same(&case.run(), &case.plain());
        prop_assert_eq!(bits(&case.run_on(1)), bits(&case.run_on(7)));
    }
}

#[test]
fn sizes_around_every_tile_match_plain_loops() {
    for size in [BLOCK, panel::PANEL, TILE] {
        for seq in [size - 1, size, size + 1, 2 * size + 1] {
            let case = Case::new(shape(seq, seq, 1, 17), false, 0, 1.0);
            assert_same(&case.run(), &case.plain());
        }
    }
}

/// Few heads make tasks of tiles and blocks, many make a task of each head.
#[test]
fn results_are_the_same_to_the_bit_on_any_number_of_threads() {
    for (heads, window) in [(1, 0), (1, 50), (3, 0), (8, 0), (8, 70)] {
        let shape = Shape {
            window,
            ..shape(300, 300, heads, 24)
        };
        let case = Case::new(shape, false, 0, 1.0);
        let want = bits(&case.run_on(1));
        for threads in [1, 2, 5, 16] {
            assert!(
                bits(&case.run_on(threads)) == want,
                "{heads} heads, {threads} threads"
            );
        }
    }
    assert!(one_task_a_head(8, 2) && !one_task_a_head(1, 2) && !one_task_a_head(8, 16));
}

#[test]
fn a_query_before_every_key_gives_zeros_and_no_gradient() {
    let (out, lse, [dq, dk, dv]) = Case::new(shape(5, 0, 2, 8), false, 0, 1.0).run();
    assert!(out.iter().chain(&dq).all(|&x| x == 0.0) && dk.is_empty() && dv.is_empty());
    assert!(lse.iter().all(|&x| x == f32::NEG_INFINITY));
}

#[test]
fn scores_of_ten_thousand_match_plain_loops() {
    let case = Case::new(shape(150, 150, 1, 4), false, 0, 150.0);
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
