//! What a block of each format stands for, and what it is multiplied by.
//!
//! Decoders are loops over 16 or 32 values with codes as bytes in an array of their own, which is what the compiler makes good
//! vector instructions of. Codes that are put together from several places pass through a `black_box`: where the compiler sees
//! both their making and their use, it mixes the two and gives up on vectors.

use super::{from_f16, to_f16};
use crate::few::part;
use crate::lanes::{LANES, Lanes};
use crate::sums::Sums;
use std::hint::black_box;

/// A format. Its functions are a trait's rather than ones that are passed on: a call through the latter is not inlined, and
/// what is not inlined is compiled for the baseline.
pub trait Block<const BYTES: usize, const VALUES: usize> {
    fn decode(block: &[u8; BYTES], values: &mut [f32; VALUES]);

    /// Add the products with as many numbers of some rows, whose sums are given as [`parts`] has them. Scales are multiplied by
    /// sums of products, and what is taken off every value by the sum of the numbers.
    fn multiply<L: Lanes, const ROWS: usize>(
        block: &[u8; BYTES],
        x: [&[f32; VALUES]; ROWS],
        x_parts: [&[f32; LANES]; ROWS],
        to: &mut Sums<L, ROWS>,
    );
}

/// Sums of up to eight times 32 numbers, in the last eight lanes.
pub fn parts(x: &[f32]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for (sum, x) in sums[LANES / 2..].iter_mut().zip(x.chunks(32)) {
        *sum = x.iter().sum();
    }
    sums
}

/// The f16 at a place.
#[inline(always)]
fn scale(block: &[u8], at: usize) -> f32 {
    from_f16(u16::from_le_bytes(part(block, at)))
}

/// The same in all places of a vector.
#[inline(always)]
fn scale_in_lanes<L: Lanes>(lanes: L, block: &[u8], at: usize) -> L::Vector {
    lanes.splat_f16(u16::from_le_bytes(part(block, at)))
}

/// The lower halves of bytes, and the upper ones.
#[inline(always)]
fn halves<const N: usize>(bytes: [u8; N]) -> [[u8; N]; 2] {
    let mut halves = [[0; N]; 2];
    for (low, byte) in halves[0].iter_mut().zip(bytes) {
        *low = byte & 15;
    }
    for (high, byte) in halves[1].iter_mut().zip(bytes) {
        *high = byte >> 4;
    }
    halves
}

#[inline(always)]
fn put<const N: usize>(values: &mut [f32], codes: [u8; N], value: impl Fn(u8) -> f32) {
    for (to, code) in values.iter_mut().zip(codes) {
        *to = value(code);
    }
}

pub struct Q4_0;

impl Block<18, 32> for Q4_0 {
    #[inline(always)]
    fn decode(block: &[u8; 18], values: &mut [f32; 32]) {
        let (d, codes) = (scale(block, 0), halves(part::<_, 16>(block, 2)));
        for (values, codes) in values.as_chunks_mut::<16>().0.iter_mut().zip(codes) {
            put(
                values,
                codes,
                #[inline(always)]
                |code| d * f32::from(code as i8 - 8),
            );
        }
    }

    #[inline(always)]
    fn multiply<L: Lanes, const ROWS: usize>(
        block: &[u8; 18],
        x: [&[f32; 32]; ROWS],
        _: [&[f32; LANES]; ROWS],
        to: &mut Sums<L, ROWS>,
    ) {
        let codes = to.lanes.halves(&part(block, 2), 8);
        to.add(0, scale_in_lanes(to.lanes, block, 0), codes, (&x, 0));
    }
}

pub struct Q4_1;

impl Block<20, 32> for Q4_1 {
    #[inline(always)]
    fn decode(block: &[u8; 20], values: &mut [f32; 32]) {
        let (d, m, codes) = (
            scale(block, 0),
            scale(block, 2),
            halves(part::<_, 16>(block, 4)),
        );
        for (values, codes) in values.as_chunks_mut::<16>().0.iter_mut().zip(codes) {
            put(
                values,
                codes,
                #[inline(always)]
                |code| d * f32::from(code) + m,
            );
        }
    }

    #[inline(always)]
    fn multiply<L: Lanes, const ROWS: usize>(
        block: &[u8; 20],
        x: [&[f32; 32]; ROWS],
        x_parts: [&[f32; LANES]; ROWS],
        to: &mut Sums<L, ROWS>,
    ) {
        let codes = to.lanes.halves(&part(block, 4), 0);
        to.add(0, scale_in_lanes(to.lanes, block, 0), codes, (&x, 0));
        // What is added is taken off with the other sign.
        let minimum = u16::from_le_bytes(part(block, 2)) ^ 1 << 15;
        to.take_off(to.lanes.splat_f16(minimum), &x_parts);
    }
}

/// For each bit that is not set, the bits above the fourth of a byte: they make a code of four bits 16 less.
const NEGATIVE: [u64; 256] = {
    let mut all = [0; 256];
    let mut i = 0;
    while i < 2048 {
        if (i / 8) >> (i % 8) & 1 == 0 {
            all[i / 8] |= 0xf0 << (8 * (i % 8));
        }
        i += 1;
    }
    all
};

pub struct Q5_0;

impl Block<22, 32> for Q5_0 {
    #[inline(always)]
    fn decode(block: &[u8; 22], values: &mut [f32; 32]) {
        let (d, fifths) = (scale(block, 0), u32::from_le_bytes(part(block, 2)));
        let codes = halves(part::<_, 16>(block, 6));
        let values = values.as_chunks_mut::<16>().0.iter_mut();
        for ((values, codes), fifths) in values.zip(codes).zip([fifths, fifths >> 16]) {
            for (l, (value, code)) in values.iter_mut().zip(codes).enumerate() {
                let code = i32::from(code) | (fifths as i32 >> l & 1) << 4;
                *value = d * (code - 16) as f32;
            }
        }
    }

    #[inline(always)]
    fn multiply<L: Lanes, const ROWS: usize>(
        block: &[u8; 22],
        x: [&[f32; 32]; ROWS],
        _: [&[f32; LANES]; ROWS],
        to: &mut Sums<L, ROWS>,
    ) {
        let bytes = u128::from_le_bytes(part(block, 6));
        let bits = part::<_, 4>(block, 2);
        let negative = |i: usize| u128::from(NEGATIVE[usize::from(bits[i])]);
        const LOW: u128 = u128::MAX / 17;
        let low = bytes & LOW | negative(0) | negative(1) << 64;
        let high = bytes >> 4 & LOW | negative(2) | negative(3) << 64;
        let low = to.lanes.signed(&low.to_le_bytes());
        let high = to.lanes.signed(&high.to_le_bytes());
        to.add(0, scale_in_lanes(to.lanes, block, 0), [low, high], (&x, 0));
    }
}

pub struct Q8_0;

impl Block<34, 32> for Q8_0 {
    #[inline(always)]
    fn decode(block: &[u8; 34], values: &mut [f32; 32]) {
        let d = scale(block, 0);
        put(
            values,
            part::<_, 32>(block, 2),
            #[inline(always)]
            |code| f32::from(code as i8) * d,
        );
    }

    #[inline(always)]
    fn multiply<L: Lanes, const ROWS: usize>(
        block: &[u8; 34],
        x: [&[f32; 32]; ROWS],
        _: [&[f32; LANES]; ROWS],
        to: &mut Sums<L, ROWS>,
    ) {
        let codes = to.signed(&part(block, 2));
        to.add(0, scale_in_lanes(to.lanes, block, 0), codes, (&x, 0));
    }
}

/// Scales and minima of a block's eight parts. Each has six bits: those of the first four parts lie in four bytes, of the last
/// four the lower four bits do, and the upper two lie above the six of the first.
#[inline(always)]
fn packed(block: &[u8]) -> [[u8; 8]; 2] {
    let word = |at| u32::from_le_bytes(part(block, at));
    let (scales, minima, last) = (word(4), word(8), word(12));
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    let upper = |word: u32| word >> 2 & 0x3030_3030;
    let eight = |first: u32, last: u32| (u64::from(first) | u64::from(last) << 32).to_le_bytes();
    [
        eight(scales & SIX, last & FOUR | upper(scales)),
        eight(minima & SIX, last >> 4 & FOUR | upper(minima)),
    ]
}

/// What the codes of each of a block's eight parts are multiplied by, and what is taken off then.
#[inline(always)]
fn scaled(block: &[u8]) -> [[f32; 8]; 2] {
    let mut scaled = [[0.0; 8]; 2];
    let factors = [scale(block, 0), scale(block, 2)];
    for ((scaled, packed), factor) in scaled.iter_mut().zip(packed(block)).zip(factors) {
        for (scaled, packed) in scaled.iter_mut().zip(packed) {
            *scaled = factor * f32::from(packed);
        }
    }
    scaled
}

/// The same in a vector: scales, then minima.
#[inline(always)]
fn scaled_in_lanes<L: Lanes>(lanes: L, block: &[u8]) -> L::Vector {
    let [scales, minima] = packed(block);
    let mut both = [0; LANES];
    both[..LANES / 2].copy_from_slice(&scales);
    both[LANES / 2..].copy_from_slice(&minima);
    let mut factors = [u16::from_le_bytes(part(block, 0)); LANES];
    factors[LANES / 2..].fill(u16::from_le_bytes(part(block, 2)));
    lanes.mul(lanes.signed(black_box(&both)), lanes.f16(&factors))
}

/// Codes whose upper bits lie apart.
// By index, since iterators that are zipped are made much slower code of.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn joined<const N: usize>(low: &[u8; N], high: &[u8; N], join: impl Fn(u8, u8) -> u8) -> [u8; N] {
    let mut codes = [0; N];
    for l in 0..N {
        codes[l] = join(low[l], high[l]);
    }
    codes
}

/// Two parts of 32 values, the `i`-th pair of a block.
#[inline(always)]
fn put_parts(values: &mut [f32], codes: &[[u8; 32]; 2], i: usize, scaled: &[[f32; 8]; 2]) {
    let parts = values.as_chunks_mut::<32>().0.iter_mut().zip(codes);
    for ((values, codes), k) in parts.zip(2 * i..) {
        let (scale, minimum) = (scaled[0][k], scaled[1][k]);
        put(
            values,
            *codes,
            #[inline(always)]
            |code| scale * f32::from(code) - minimum,
        );
    }
}

pub struct Q4K;

impl Block<144, 256> for Q4K {
    #[inline(always)]
    fn decode(block: &[u8; 144], values: &mut [f32; 256]) {
        let scaled = scaled(block);
        for (i, values) in values.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            put_parts(values, &q4_k_codes(block, i), i, &scaled);
        }
    }

    #[inline(always)]
    fn multiply<L: Lanes, const ROWS: usize>(
        block: &[u8; 144],
        x: [&[f32; 256]; ROWS],
        x_parts: [&[f32; LANES]; ROWS],
        to: &mut Sums<L, ROWS>,
    ) {
        let scaled = scaled_in_lanes(to.lanes, block);
        to.take_off(scaled, &x_parts);
        // In memory, from where each is spread over a vector for free.
        let scales = to.lanes.array(scaled);
        let scales = black_box(&scales);
        for i in 0..4 {
            let [a, c] = to.lanes.halves(&part(block, 16 + 32 * i), 0);
            let [b, d] = to.lanes.halves(&part(block, 32 + 32 * i), 0);
            to.add(0, to.lanes.splat(scales[2 * i]), [a, b], (&x, 64 * i));
            to.add(
                1,
                to.lanes.splat(scales[2 * i + 1]),
                [c, d],
                (&x, 64 * i + 32),
            );
        }
    }
}

/// Those of the `i`-th pair of parts.
#[inline(always)]
fn q4_k_codes(block: &[u8; 144], i: usize) -> [[u8; 32]; 2] {
    halves(part(block, 16 + 32 * i))
}

pub struct Q5K;

impl Block<176, 256> for Q5K {
    #[inline(always)]
    fn decode(block: &[u8; 176], values: &mut [f32; 256]) {
        let scaled = scaled(block);
        for (i, values) in values.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            put_parts(values, black_box(&q5_k_codes(block, i)), i, &scaled);
        }
    }

    #[inline(always)]
    fn multiply<L: Lanes, const ROWS: usize>(
        block: &[u8; 176],
        x: [&[f32; 256]; ROWS],
        x_parts: [&[f32; LANES]; ROWS],
        to: &mut Sums<L, ROWS>,
    ) {
        let scaled = scaled_in_lanes(to.lanes, block);
        to.take_off(scaled, &x_parts);
        let scales = to.lanes.array(scaled);
        let scales = black_box(&scales);
        for i in 0..4 {
            let [a, b] = q5_k_codes(block, i);
            to.add(
                0,
                to.lanes.splat(scales[2 * i]),
                to.signed(black_box(&a)),
                (&x, 64 * i),
            );
            to.add(
                1,
                to.lanes.splat(scales[2 * i + 1]),
                to.signed(black_box(&b)),
                (&x, 64 * i + 32),
            );
        }
    }
}

/// Those of the `i`-th pair of parts.
#[inline(always)]
fn q5_k_codes(block: &[u8; 176], i: usize) -> [[u8; 32]; 2] {
    let (codes, fifths) = (part::<_, 32>(block, 48 + 32 * i), part::<_, 32>(block, 16));
    [
        joined(
            &codes,
            &fifths,
            #[inline(always)]
            |code, fifths| code & 15 | (fifths >> (2 * i) & 1) << 4,
        ),
        joined(
            &codes,
            &fifths,
            #[inline(always)]
            |code, fifths| code >> 4 | (fifths >> (2 * i + 1) & 1) << 4,
        ),
    ]
}

pub struct Q6K;

impl Block<210, 256> for Q6K {
    #[inline(always)]
    fn decode(block: &[u8; 210], values: &mut [f32; 256]) {
        let scales = q6_k_scales(block);
        let halves = values.as_chunks_mut::<128>().0.iter_mut();
        for (n, (values, scales)) in halves.zip(scales.as_chunks::<8>().0).enumerate() {
            let codes = q6_k_codes(block, n);
            let codes = black_box(&codes).as_flattened().as_chunks::<16>().0;
            let values = values.as_chunks_mut::<16>().0.iter_mut();
            for ((values, codes), scale) in values.zip(codes).zip(scales) {
                put(
                    values,
                    *codes,
                    #[inline(always)]
                    |code| scale * f32::from(code as i8),
                );
            }
        }
    }

    #[inline(always)]
    fn multiply<L: Lanes, const ROWS: usize>(
        block: &[u8; 210],
        x: [&[f32; 256]; ROWS],
        _: [&[f32; LANES]; ROWS],
        to: &mut Sums<L, ROWS>,
    ) {
        let factor = scale_in_lanes(to.lanes, block, 208);
        let scales = to.lanes.signed(&part(block, 192));
        let scales = to.lanes.array(to.lanes.mul(factor, scales));
        let scales = black_box(&scales);
        for n in 0..2 {
            let codes = q6_k_codes(block, n);
            let codes = black_box(&codes).as_flattened().as_chunks::<16>().0;
            for (i, codes) in codes.iter().enumerate() {
                let part = 8 * n + i;
                to.add_half(i % 2, scales[part], to.lanes.signed(codes), (&x, 16 * part));
            }
        }
    }
}

#[inline(always)]
fn q6_k_scales(block: &[u8; 210]) -> [f32; 16] {
    let d = scale(block, 208);
    let mut scales = [0.0; 16];
    for (scale, code) in scales.iter_mut().zip(part::<_, 16>(block, 192)) {
        *scale = d * f32::from(code as i8);
    }
    scales
}

/// The codes of half a block: two times the lower halves of 32 bytes, then the upper ones, each with two bits of 32 others.
#[inline(always)]
fn q6_k_codes(block: &[u8; 210], n: usize) -> [[u8; 32]; 4] {
    let (a, c) = (part(block, 64 * n), part(block, 64 * n + 32));
    let high = part(block, 128 + 32 * n);
    [
        joined(
            &a,
            &high,
            #[inline(always)]
            |a, high| (a & 15 | (high & 3) << 4).wrapping_sub(32),
        ),
        joined(
            &c,
            &high,
            #[inline(always)]
            |c, high| (c & 15 | (high >> 2 & 3) << 4).wrapping_sub(32),
        ),
        joined(
            &a,
            &high,
            #[inline(always)]
            |a, high| (a >> 4 | (high >> 4 & 3) << 4).wrapping_sub(32),
        ),
        joined(
            &c,
            &high,
            #[inline(always)]
            |c, high| (c >> 4 | high >> 6 << 4).wrapping_sub(32),
        ),
    ]
}

#[inline(always)]
pub fn encode_q8_0(values: &[f32; 32], block: &mut [u8; 34]) {
    let most = values.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let scale = most / 127.0;
    let inverse = match scale > 0.0 {
        true => 1.0 / scale,
        false => 0.0,
    };
    let (d, codes) = block.split_at_mut(2);
    d.copy_from_slice(&to_f16(scale).to_le_bytes());
    for (code, value) in codes.iter_mut().zip(values) {
        *code = ((value * inverse).round() as i8) as u8;
    }
}
