//! Speed of decoders of weights, and of products with few rows: `cargo run --release --example blocks`.

use aios_kernels::ggml::{self, Format};
use aios_kernels::half::{Half, narrow};
use aios_kernels::matmul::{self, Numbers, View};
use aios_kernels::{nf4, q8_0};
use std::hint::black_box;
use std::time::Instant;

/// Seconds of the fastest of some runs.
fn best(mut f: impl FnMut()) -> f64 {
    let started = Instant::now();
    let run = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..499)
        .take_while(|_| started.elapsed().as_secs_f64() < 0.2)
        .map(run)
        .fold(f64::MAX, f64::min)
}

fn main() {
    // Decoded piece by piece, so that what is measured is the arithmetic rather than the memory of the result.
    let (n, piece) = (1 << 19, 1 << 14);
    let mut values = vec![0.0_f32; piece];
    for format in Format::ALL {
        let size = piece / format.block() * format.bytes();
        let bytes = random(n / piece * size);
        let seconds = best(|| {
            for bytes in bytes.chunks(size) {
                ggml::decode(format, bytes, &mut values);
                black_box(&values);
            }
        });
        println!(
            "{:5} {:6.2} G values/s, {:6.2} GB/s of blocks",
            format.name(),
            n as f64 / seconds / 1e9,
            bytes.len() as f64 / seconds / 1e9
        );
    }

    let values = vec![0.5; piece];
    let (codes, scales) = q8_0::quantize(&values);
    let held = nf4::quantize(&values);
    let absmax = nf4::absmaxes(&held.absmax, &held.nested, held.offset);
    let speed = |seconds: f64| piece as f64 / seconds / 1e9;
    let q8_0 = best(|| drop(black_box(q8_0::dequantize(&codes, &scales, piece))));
    let nf4 = best(|| drop(black_box(nf4::dequantize(&held.codes, &absmax, piece))));
    println!("Q8_0 in words {:.2} G values/s", speed(q8_0));
    println!("NF4 {:.2} G values/s", speed(nf4));
    products();
}

/// A few tokens by weights of usual shapes, on all threads, beside a sum over as many bytes.
fn products() {
    println!("GB/s of weights, {} threads", aios_kernels::team::threads());
    for [outputs, inputs] in [
        [49152, 576],
        [1536, 576],
        [576, 1536],
        [4096, 4096],
        [14336, 4096],
    ] {
        let (n, dims) = (outputs * inputs, [outputs, inputs]);
        let x: Vec<f32> = (0..8 * inputs).map(|i| (i as f32 * 0.37).sin()).collect();
        for format in Format::ALL {
            if inputs % format.block() != 0 {
                continue;
            }
            let bytes = random(n / format.block() * format.bytes());
            show(dims, format.name(), bytes.len(), |n| {
                ggml::multiply(format, &bytes, dims, &x[..n * inputs])
            });
        }
        let values: Vec<f32> = (0..n).map(|i| (i % 1009) as f32 - 500.0).collect();
        let (codes, scales) = q8_0::quantize(&values);
        show(dims, "Q8_0 in words", n + 4 * scales.len(), |n| {
            q8_0::multiply(&codes, &scales, dims, &x[..n * inputs])
        });
        let held = nf4::quantize(&values);
        let absmax = nf4::AbsmaxOf::Nested {
            codes: &held.absmax,
            nested: &held.nested,
            offset: held.offset,
        };
        show(dims, "NF4", n / 2 + held.absmax.len(), |n| {
            nf4::multiply(&held.codes, absmax, dims, &x[..n * inputs])
        });
        let whole = |n: usize| View::whole(&x, n, inputs);
        let w = View::whole(&values, outputs, inputs);
        show(dims, "f32", 4 * n, |n| matmul::linear(whole(n), w));
        for half in [Half::Bf16, Half::F16] {
            let bits = narrow(&values, half);
            let w = View::of(Numbers::Half(&bits, half), outputs, inputs, inputs);
            let name = format!("{half:?}");
            show(dims, &name, 2 * n, |n| matmul::linear(whole(n), w));
        }
    }
}

fn show([outputs, inputs]: [usize; 2], name: &str, bytes: usize, f: impl Fn(usize) -> Vec<f32>) {
    let memory = vec![1_u8; bytes];
    let speed = |seconds: f64| bytes as f64 / seconds / 1e9;
    let read = speed(best(|| {
        black_box(sum(&memory));
    }));
    let rows = [1, 2, 4, 8].map(|n| speed(best(|| drop(black_box(f(n))))));
    print!("{outputs:6} x {inputs:4} {name:14} read {read:5.1}; products of 1, 2, 4, 8 rows:");
    rows.iter().for_each(|speed| print!(" {speed:5.1}"));
    println!("; read / product of 1: {:.2}", read / rows[0]);
}

fn random(n: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..n).map(|_| next()).collect()
}

/// Of all bytes, as words.
fn sum(bytes: &[u8]) -> u64 {
    use rayon::prelude::*;
    let part = |bytes: &[u8]| {
        aios_kernels::simd::dispatch(
            #[inline(always)]
            || {
                let words = bytes.as_chunks::<8>().0.iter();
                words.fold(0_u64, |sum, word| sum ^ u64::from_le_bytes(*word))
            },
        )
    };
    bytes
        .par_chunks(1 << 16)
        .map(part)
        .reduce(|| 0, |a, b| a ^ b)
}
