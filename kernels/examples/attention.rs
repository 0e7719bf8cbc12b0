//! Speed of the attention kernels: `cargo run --release --example attention -- SEQ DIM WINDOW HEADS`.

use aios_kernels::attention::{self, Heads, Saved, Shape};
use std::time::Instant;

fn main() {
    let args: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse().ok())
        .collect();
    let [seq, dim, window, heads] = args[..] else {
        panic!("give SEQ DIM WINDOW HEADS")
    };
    let width = heads * dim;
    let random = |n: usize| -> Vec<f32> {
        let mut s = 1u32;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    };
    let qkv = random(seq * 3 * width);
    let d_out = random(seq * width);
    let view = |i: usize| Heads {
        data: &qkv[i * width..],
        batch_stride: seq * 3 * width,
        head_stride: dim,
        row_stride: 3 * width,
    };
    let (q, k, v) = (view(0), view(1), view(2));
    let shape = Shape {
        batch: 1,
        heads,
        seq_q: seq,
        seq_kv: seq,
        head_dim: dim,
        causal: true,
        window,
        scale: 1.0 / (dim as f32).sqrt(),
    };
    let seen = match window {
        0 => seq * (seq + 1) / 2,
        w => (0..seq).map(|i| w.min(i + 1)).sum(),
    };
    let flops = 4.0 * (seen * dim * heads) as f64;
    let mut times = [vec![], vec![]];
    let began = Instant::now();
    while began.elapsed().as_secs_f64() < 2.0 || times[0].len() < 4 {
        let start = Instant::now();
        let (out, lse) = attention::forward(q, k, v, shape);
        times[0].push(start.elapsed().as_secs_f64());
        let saved = Saved {
            q,
            k,
            v,
            out: &out,
            lse: &lse,
        };
        let start = Instant::now();
        std::hint::black_box(attention::backward(saved, &d_out, shape));
        times[1].push(start.elapsed().as_secs_f64());
    }
    for (name, factor, times) in [
        ("forward", 1.0, &mut times[0].clone()),
        ("backward", 2.5, &mut times[1].clone()),
    ] {
        times.sort_by(f64::total_cmp);
        let (best, median) = (times[0], times[times.len() / 2]);
        println!(
            "{name:9} {seq:6} d{dim} w{window} h{heads}: best {:8.2} ms median {:8.2} ms, {:6.1} GFLOP/s",
            best * 1e3,
            median * 1e3,
            factor * flops / best / 1e9
        );
    }
}
