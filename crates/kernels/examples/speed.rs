//! Speed of the kernels at the default model's shapes: `cargo run --release --example speed`.

use aios_kernels::half::{self, Half};
use aios_kernels::{adamw, adamw_8bit, attention, cross_entropy, matmul, norm, swiglu};
use cross_entropy::{SLICE_BYTES, WeightGradient};
use matmul::{Numbers, View, bf16};
use std::time::Instant;

fn time<R>(name: &str, flops: f64, mut f: impl FnMut() -> R) {
    f();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        std::hint::black_box(f());
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!(
        "{name:32} {:9.2} ms {:8.1} GFLOP/s",
        best * 1e3,
        flops / best / 1e9
    );
}

/// The linear layer and its gradients.
fn linear(x: View, dy: View, w: View) {
    let [(tokens, inputs), (_, outputs)] = [x, dy].map(View::size);
    let flops = 2.0 * (tokens * inputs * outputs) as f64;
    let mut dw = vec![0.0; outputs * inputs];
    time("  forward", flops, || matmul::linear(x, w));
    time("  backward input", flops, || {
        matmul::linear_backward_input(dy, w)
    });
    time("  backward weight", flops, || {
        matmul::add_linear_backward_weight(&mut dw, dy, x)
    });
}

fn main() {
    let (t, h, v, inner) = (1024, 512, 50257, 768);
    let random = |n: usize| -> Vec<f32> {
        let mut s = 1u32;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    };
    let x = random(t * h);
    let unit = bf16::unit().map_or("no instructions", bf16::Unit::name);
    for n in [3 * h, h, 2 * inner] {
        let (w, dy) = (random(n * h), random(t * n));
        let halves = [&x, &dy].map(|all| half::narrow(all, Half::Bf16));
        println!("linear {h}x{n}, f32");
        let w = View::whole(&w, n, h);
        linear(View::whole(&x, t, h), View::whole(&dy, t, n), w);
        println!("linear {h}x{n}, bf16 by {unit}");
        let [x, dy] = halves.each_ref().map(|all| Numbers::Half(all, Half::Bf16));
        linear(View::of(x, t, h, h), View::of(dy, t, n, n), w);
    }
    time("add_rms_norm", 0.0, || norm::add_rms_norm(&x, &x, h, 1e-5));
    let gate_up = random(t * 2 * inner);
    let dy = random(t * inner);
    time("swiglu", 0.0, || swiglu::swiglu(&gate_up, inner));
    time("swiglu backward", 0.0, || {
        swiglu::swiglu_backward(&gate_up, &dy, inner)
    });
    let qkv = random(t * 3 * h);
    for (batch, seq) in [(8, 128), (1, 1024)] {
        let view = |i: usize| attention::Heads {
            data: &qkv[i * h..],
            batch_stride: seq * 3 * h,
            head_stride: 64,
            row_stride: 3 * h,
        };
        let shape = attention::Shape {
            batch,
            heads: 8,
            kv_heads: 8,
            seq_q: seq,
            seq_kv: seq,
            head_dim: 64,
            causal: true,
            window: 0,
            scale: 0.125,
            visible: None,
            unit: None,
        };
        let (q, k, v) = (view(0), view(1), view(2));
        let flops = 2.0 * (batch * seq * seq * h) as f64;
        time(&format!("attention {batch}x{seq}"), flops, || {
            attention::forward(q, k, v, shape)
        });
        let (out, lse) = attention::forward(q, k, v, shape);
        let saved = attention::Saved {
            q,
            k,
            v,
            out: &out,
            lse: &lse,
        };
        time("  backward", 2.5 * flops, || {
            attention::backward(saved, &x, shape)
        });
    }
    let w = random(v * h);
    let mut dw = vec![0.0; v * h];
    let labels: Vec<i32> = (0..t as i32).map(|i| i * 49).collect();
    let weights = vec![1.0 / t as f32; t];
    let flops = 2.0 * (t * h * v) as f64;
    time("cross entropy forward", flops, || {
        cross_entropy::forward(Numbers::F32(&x), Numbers::F32(&w), &labels, h, SLICE_BYTES)
    });
    time("cross entropy forward+backward", 3.0 * flops, || {
        cross_entropy::forward_backward(
            Numbers::F32(&x),
            Numbers::F32(&w),
            &labels,
            &weights,
            Some(WeightGradient::Sum(&mut dw)),
            h,
            SLICE_BYTES,
        )
    });
    let (mut p, mut m, mut v2) = (w.clone(), w.clone(), vec![0.1; v * h]);
    let step = adamw::Step {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 10,
        gradient_scale: 1.0,
    };
    time("adamw 25.7M", 0.0, || {
        adamw::adamw(&mut p, &dw, &mut m, &mut v2, step)
    });
    let blocks = p.len().div_ceil(adamw_8bit::BLOCK);
    let state = || (vec![0; blocks * adamw_8bit::WORDS], vec![0.0; blocks]);
    let (mut m8, mut v8) = (state(), state());
    time("adamw 8-bit 25.7M", 0.0, || {
        let (m, v) = (&mut m8, &mut v8);
        let [m, v] = [m, v].map(|(codes, absmax)| adamw_8bit::Moment { codes, absmax });
        adamw_8bit::adamw_8bit(&mut p, &dw, m, v, step)
    });
}
