use super::*;
use crate::testing::{assert_close, values};

fn heads(data: &[f32], shape: &Shape) -> impl Fn() -> Heads<'static> {
    let data: &'static [f32] = Box::leak(data.to_vec().into_boxed_slice());
    let (heads, dim) = (shape.heads, shape.head_dim);
    let seq = data.len() / (shape.batch * heads * dim);
    move || Heads {
        data,
        batch_stride: seq * heads * dim,
        head_stride: dim,
        row_stride: heads * dim,
    }
}

/// Loss `sum(d_out * attention)` in f64 by plain loops.
fn objective(q: &[f32], k: &[f32], v: &[f32], d: &[f32], s: &Shape) -> f64 {
    let (w, dim) = (s.heads * s.head_dim, s.head_dim);
    let mut total = 0.0;
    for (b, h, i) in (0..s.batch)
        .flat_map(|b| (0..s.heads).flat_map(move |h| (0..s.seq_q).map(move |i| (b, h, i))))
    {
        let at = |seq: usize, i: usize| (b * seq + i) * w + h * dim;
        let keys: Vec<usize> = s.keys(b, i).collect();
        let scores: Vec<f64> = keys
            .iter()
            .map(|&j| {
                let dot = |c| f64::from(q[at(s.seq_q, i) + c]) * f64::from(k[at(s.seq_kv, j) + c]);
                (0..dim).map(dot).sum::<f64>() * f64::from(s.scale)
            })
            .collect();
        let sum: f64 = scores.iter().map(|s| s.exp()).sum();
        for (score, &j) in scores.iter().zip(&keys) {
            for c in 0..dim {
                let weight = score.exp() / sum * f64::from(d[at(s.seq_q, i) + c]);
                total += weight * f64::from(v[at(s.seq_kv, j) + c]);
            }
        }
    }
    total
}

fn check(shape: Shape) {
    let width = shape.heads * shape.head_dim;
    let (nq, nk) = (
        shape.batch * shape.seq_q * width,
        shape.batch * shape.seq_kv * width,
    );
    let (q, k, v, d) = (values(nq, 1), values(nk, 2), values(nk, 3), values(nq, 4));
    let (vq, vk, vv) = (
        heads(&q, &shape)(),
        heads(&k, &shape)(),
        heads(&v, &shape)(),
    );
    let (out, lse) = forward(vq, vk, vv, shape);
    let got: f64 = out.iter().zip(&d).map(|(o, d)| f64::from(o * d)).sum();
    let want = objective(&q, &k, &v, &d, &shape);
    assert!(
        (got - want).abs() < 1e-4 * want.abs().max(1.0),
        "{got} {want} {shape:?}"
    );

    let saved = Saved {
        q: vq,
        k: vk,
        v: vv,
        out: &out,
        lse: &lse,
    };
    let grads = backward(saved, &d, shape);
    if shape.seq_q == shape.seq_kv {
        let fused = backward_fused(saved, &d, shape);
        for (part, grad) in grads.iter().enumerate() {
            let rows = fused.chunks(3 * width).map(|r| &r[part * width..][..width]);
            assert!(rows.zip(grad.chunks(width)).all(|(a, b)| a == b));
        }
    }
    for (which, grad) in grads.iter().enumerate() {
        let inputs = [&q, &k, &v];
        let picks: Vec<usize> = (0..grad.len()).step_by(grad.len() / 7 + 1).collect();
        let numeric: Vec<f32> = picks
            .iter()
            .map(|&i| {
                let moved = |by: f32| {
                    let mut x = inputs.map(|x| x.to_vec());
                    x[which][i] += by;
                    objective(&x[0], &x[1], &x[2], &d, &shape)
                };
                ((moved(1e-2) - moved(-1e-2)) / 2e-2) as f32
            })
            .collect();
        let analytic: Vec<f32> = picks.iter().map(|&i| grad[i]).collect();
        for (a, n) in analytic.iter().zip(&numeric) {
            assert!((a - n).abs() < 2e-3, "gradient {which}: {a} {n} {shape:?}");
        }
    }
    assert_eq!(forward(vq, vk, vv, shape).0, out, "not repeatable");
}

#[test]
fn matches_plain_loops_and_finite_differences() {
    for (seq_q, seq_kv, window, causal) in [
        (1, 1, 0, true),
        (70, 70, 0, true),
        (70, 70, 1, true),
        (70, 70, 20, true),
        (70, 70, 500, true),
        (9, 75, 0, true),
        (66, 75, 12, true),
        (67, 67, 0, false),
    ] {
        check(Shape {
            batch: 2,
            heads: 2,
            kv_heads: 2,
            seq_q,
            seq_kv,
            head_dim: 8,
            causal,
            window,
            scale: 0.35,
            visible: None,
            unit: None,
        });
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = Shape {
        batch: 1,
        heads: 1,
        kv_heads: 1,
        seq_q: 3,
        seq_kv: 3,
        head_dim: 1,
        causal: true,
        window: 0,
        scale: 1.0,
        visible: None,
        unit: None,
    };
    let q = heads(&[1e4, 1e4, -1e4], &shape)();
    let v = heads(&[1.0, 2.0, 3.0], &shape)();
    let (out, lse) = forward(q, heads(&[1.0, -1.0, 1.0], &shape)(), v, shape);
    assert_close(&out, &[1.0, 1.0, 2.0], 1e-6);
    assert_close(&lse, &[1e4, 1e4, 1e4], 1e-6);
}
