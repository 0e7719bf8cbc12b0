//! AdamW with both moments in 8 bits: Dettmers et al., "8-bit Optimizers via Block-wise
//! Quantization" (2022), in the format and with the arithmetic of bitsandbytes 0.50's CPU path.
//!
//! A moment is cut into blocks of [`BLOCK`] values. A block keeps its largest magnitude ("absmax")
//! and, for each value divided by it, the code of a nearby entry of a fixed table, the dynamic map:
//! 255 steps whose relative spacing is about the same over seven decades. The mean gradient uses
//! the signed map, the mean squared gradient the unsigned one.
//!
//! Codes are stored four to an `i32`, the first in the lowest byte, padded to whole blocks.
//!
//! # Where this departs from bitsandbytes
//!
//! In one place: a mean gradient that is zero or that decays without a gradient. There bitsandbytes
//! rounds away from zero. Zero itself becomes +2.1e-5 of the block's largest, and up to 2.4e-3 of it
//! there are codes that the tenth by which a mean decays does not lead away from. With such a mean a
//! parameter without gradient creeps on for ever, by 0.25 % of the learning rate a step and more. Here
//! zero stays zero, and of the decay in a step without gradient rounding takes back half at the most, so
//! that any mean is gone after 71 such steps of its block. Codes are read as bitsandbytes means them, and
//! those written for a gradient that leaves a trace are its own to the bit.
//!
//! Mean squares are rounded upwards likewise: zero becomes 1.6e-5 of the block's largest, and what
//! decays without a gradient stays at up to 1.4 % of it. That moves no parameter by itself, since the
//! mean gradient above it is zero; it only makes the next steps of a parameter smaller, and is what
//! keeps a division by next to nothing from throwing it away (see [`Map`]). So it stays.

use crate::adamw::Step;
use crate::simd::dispatch;
use crate::team::Each;
use rayon::prelude::*;
use std::sync::LazyLock;

/// Values that share one absmax.
pub const BLOCK: usize = 256;
/// `i32`s that hold the codes of a block.
pub const WORDS: usize = BLOCK / 4;
/// Blocks of one task, by the measure of the other kernels.
const TASK: usize = crate::GRAIN / BLOCK;
/// Equal cells into which [-1, 1] is cut for the way from a value to its code.
const CELLS: usize = 65_536;
/// Code of 0 in the signed map.
const ZERO: u8 = 127;
/// No bound on what a code may stand for.
const ANY: f32 = f32::MAX;

/// A dynamic map.
pub struct Map {
    /// Value of each code, ascending.
    pub values: [f32; 256],
    /// Code of each cell: the one nearest to the cell's centre.
    ///
    /// Going through cells is what bitsandbytes does, and has an effect worth keeping: 0 lies in
    /// the cell above it, so that the smallest second moment of a block becomes 1.6e-5 of the
    /// largest instead of 0. Exact nearest codes let it vanish while the first moment does not,
    /// and the quotient throws the parameter away.
    nearest: Box<[u8; CELLS]>,
    /// Code of zero itself, whatever its cell says; `None` for what is to stay off zero.
    zero: Option<u8>,
}

/// The map of the mean gradient.
pub static SIGNED: LazyLock<Map> = LazyLock::new(|| Map::new(true));
/// The map of the mean squared gradient.
pub static UNSIGNED: LazyLock<Map> = LazyLock::new(|| Map::new(false));

impl Map {
    fn new(signed: bool) -> Self {
        let values = dynamic_map(signed);
        let mut nearest = Box::new([0; CELLS]);
        let mut code = 0;
        for (cell, nearest) in nearest.iter_mut().enumerate() {
            let centre = cell as f32 * (2.0 / 65_535.0) - 1.0;
            let distance = |code: usize| (centre - values[code]).abs();
            while code < 255 && distance(code + 1) < distance(code) {
                code += 1;
            }
            *nearest = code as u8;
        }
        Self {
            values,
            nearest,
            zero: signed.then_some(ZERO),
        }
    }

    /// This code, or the next one towards zero whose value times `absmax` is no further from it than
    /// `most`.
    #[inline(always)]
    fn at_most(&self, most: f32, mut code: u8, absmax: f32, zero: u8) -> u8 {
        while code != zero && self.values[usize::from(code)].abs() * absmax > most {
            code = if code > zero { code - 1 } else { code + 1 };
        }
        code
    }

    /// Code of the cell that a value in [-1, 1] lies in; of NaN that of the first cell.
    pub fn code_of_cell(&self, value: f32) -> u8 {
        let cell = ((value + 1.0) * 32_767.5 + 0.5) as usize;
        self.nearest[cell.min(CELLS - 1)]
    }

    /// First cell of each code, ascending: a value's code is the last one whose first cell is not
    /// above the value's. For devices that rather search 256 entries than hold a table of all cells.
    pub fn first_cells(&self) -> [u32; 256] {
        let mut first = [0; 256];
        for (code, first) in first.iter_mut().enumerate() {
            *first = self.nearest.partition_point(|&c| usize::from(c) < code) as u32;
        }
        first
    }
}

/// `create_dynamic_map` of bitsandbytes, to the last bit.
///
/// Decade by decade, 10^-6 to 10^0, the middles of equal parts of [0.1, 1]: 1, 2, 4 ... 64 parts if
/// signed (and the same below zero), else twice as many; then 0 and 1.
fn dynamic_map(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for decade in 0..7 {
        let parts = 1_usize << if signed { decade } else { decade + 1 };
        let scale = 10_f64.powi(decade - 6) as f32;
        for part in 0..parts {
            let middle = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0;
            values.push(scale * middle);
            if signed {
                values.push(-scale * middle);
            }
        }
    }
    values.resize(256, 0.0);
    values.sort_by(f32::total_cmp);
    std::array::from_fn(|i| values[i])
}

/// Point `i` of `parts + 1` from 0.1 to 1, as `torch.linspace` has it: counted from the nearer end.
fn boundary(i: usize, parts: usize) -> f32 {
    let step = (1.0 - 0.1_f32) / parts as f32;
    match i < parts.div_ceil(2) {
        true => step.mul_add(i as f32, 0.1),
        false => (-step).mul_add((parts - i) as f32, 1.0),
    }
}

/// A moment in 8 bits, for reading and writing.
pub struct Moment<'a> {
    /// Four codes each; [`WORDS`] a block.
    pub codes: &'a mut [i32],
    /// One value a block.
    pub absmax: &'a mut [f32],
}

impl<'a> Moment<'a> {
    fn tasks(self) -> impl IndexedParallelIterator<Item = (&'a mut [i32], &'a mut [f32])> {
        let codes = self.codes.par_chunks_mut(TASK * WORDS);
        codes.zip(self.absmax.par_chunks_mut(TASK))
    }
}

/// Update `parameter` (`n` values) and both moments (`n` rounded up to whole blocks) in place from
/// `gradient` (`n` values).
///
/// # Panics
/// If the lengths do not fit each other.
pub fn adamw_8bit(parameter: &mut [f32], gradient: &[f32], m: Moment, v: Moment, step: Step) {
    let blocks = parameter.len().div_ceil(BLOCK);
    assert_eq!(gradient.len(), parameter.len());
    for moment in [&m, &v] {
        assert_eq!(moment.codes.len(), blocks * WORDS);
        assert_eq!(moment.absmax.len(), blocks);
    }
    let (signed, unsigned) = (&*SIGNED, &*UNSIGNED);
    let update = Update {
        step,
        keep: 1.0 - step.learning_rate * step.weight_decay,
        corrections: step.corrections(),
    };
    parameter
        .par_chunks_mut(TASK * BLOCK)
        .zip(gradient.par_chunks(TASK * BLOCK))
        .zip(m.tasks().zip(v.tasks()))
        .each(|((p, g), ((m_codes, m_absmax), (v_codes, v_absmax)))| {
            dispatch(
                #[inline(always)]
                || {
                    let p = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
                    let m = m_codes.as_chunks_mut().0.iter_mut().zip(m_absmax);
                    let v = v_codes.as_chunks_mut().0.iter_mut().zip(v_absmax);
                    for (((p, g), (m, m_absmax)), (v, v_absmax)) in p.zip(m).zip(v) {
                        let mut m_values = decode(m, *m_absmax, signed);
                        let mut v_values = decode(v, *v_absmax, unsigned);
                        let most = update.block(p, g, &mut m_values, &mut v_values);
                        *m_absmax = encode(&m_values, &most, m, signed);
                        *v_absmax = encode(&v_values, &[ANY; BLOCK], v, unsigned);
                    }
                },
            );
        });
}

/// One step's factors.
struct Update {
    step: Step,
    /// What weight decay leaves.
    keep: f32,
    corrections: (f32, f32),
}

impl Update {
    /// Update at most a block; what lies beyond `p` becomes 0, so that it counts for no absmax. Gives
    /// the largest magnitude that each mean may be rounded to.
    #[inline(always)]
    fn block(
        &self,
        p: &mut [f32],
        g: &[f32],
        m: &mut [f32; BLOCK],
        v: &mut [f32; BLOCK],
    ) -> [f32; BLOCK] {
        let n = p.len();
        match (p.first_chunk_mut(), g.first_chunk()) {
            (Some(p), Some(g)) => self.whole_block(p, g, m, v),
            _ => {
                let (mut p_padded, mut g_padded) = ([0.0; BLOCK], [0.0; BLOCK]);
                p_padded[..n].copy_from_slice(p);
                g_padded[..n].copy_from_slice(g);
                let most = self.whole_block(&mut p_padded, &g_padded, m, v);
                p.copy_from_slice(&p_padded[..n]);
                m[n..].fill(0.0);
                v[n..].fill(0.0);
                most
            }
        }
    }

    #[inline(always)]
    fn whole_block(
        &self,
        p: &mut [f32; BLOCK],
        g: &[f32; BLOCK],
        m: &mut [f32; BLOCK],
        v: &mut [f32; BLOCK],
    ) -> [f32; BLOCK] {
        let Step {
            beta1, beta2, eps, ..
        } = self.step;
        let (rate, root) = self.corrections;
        let mut most = [ANY; BLOCK];
        for i in 0..BLOCK {
            let g = g[i] * self.step.gradient_scale;
            let (before, decayed) = (m[i], m[i] * beta1);
            m[i] = decayed + g * (1.0 - beta1);
            v[i] = v[i] * beta2 + g * (1.0 - beta2) * g;
            p[i] = p[i] * self.keep - rate * m[i] / (v[i].sqrt() * root + eps);
            let half_way = 0.5 * (before.abs() + decayed.abs());
            most[i] = if m[i] == decayed { half_way } else { ANY };
        }
        most
    }
}

#[inline(always)]
fn decode(codes: &[i32; WORDS], absmax: f32, map: &Map) -> [f32; BLOCK] {
    let mut values = [0.0; BLOCK];
    for (values, word) in values.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
        for (value, code) in values.iter_mut().zip(word.to_le_bytes()) {
            *value = map.values[usize::from(code)] * absmax;
        }
    }
    values
}

/// Write the codes of a block and give its absmax. The magnitude that a code stands for is nowhere
/// above `most`.
#[inline(always)]
fn encode(values: &[f32; BLOCK], most: &[f32; BLOCK], codes: &mut [i32; WORDS], map: &Map) -> f32 {
    let absmax = absmax(values);
    // Below the smallest normal number the reciprocal may be infinite: such a block is zero.
    let (absmax, inverse) = match absmax >= f32::MIN_POSITIVE {
        true => (absmax, 1.0 / absmax),
        false => (0.0, 0.0),
    };
    let mut cells = [0_u16; BLOCK];
    for (cell, value) in cells.iter_mut().zip(values) {
        // In two conversions, because the first one vectorises; NaN becomes 0.
        *cell = ((value * inverse + 1.0) * 32_767.5 + 0.5) as i32 as u16;
    }
    let mut bytes = cells.map(|cell| map.nearest[usize::from(cell)]);
    // As a rule every value has had a gradient, which is faster to see than to say of each.
    let special = |(value, &most): (&f32, &f32)| (value * inverse == 0.0) | (most < ANY);
    let any = || {
        values
            .iter()
            .zip(most)
            .fold(false, |any, v| any | special(v))
    };
    if let Some(zero) = map.zero
        && any()
    {
        for ((byte, value), &most) in bytes.iter_mut().zip(values).zip(most) {
            *byte = match value * inverse == 0.0 {
                true => zero,
                false => map.at_most(most, *byte, absmax, zero),
            };
        }
    }
    for (word, bytes) in codes.iter_mut().zip(bytes.as_chunks().0) {
        *word = i32::from_le_bytes(*bytes);
    }
    absmax
}

/// Largest magnitude, in as many lanes as two AVX-512 registers have.
#[inline(always)]
fn absmax(values: &[f32; BLOCK]) -> f32 {
    let mut lanes = [0.0_f32; 32];
    for group in values.as_chunks::<32>().0 {
        for (lane, value) in lanes.iter_mut().zip(group) {
            let value = value.abs();
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().fold(0.0, |a, &b| if b > a { b } else { a })
}

/// Codes and absmax of a whole tensor.
pub fn quantize(values: &[f32], map: &Map) -> (Vec<i32>, Vec<f32>) {
    let blocks = values.len().div_ceil(BLOCK);
    let (mut codes, mut absmax) = (vec![0; blocks * WORDS], vec![0.0; blocks]);
    codes
        .as_chunks_mut()
        .0
        .par_iter_mut()
        .zip(&mut absmax)
        .zip(values.par_chunks(BLOCK))
        .each(|((codes, absmax), values)| {
            let mut padded = [0.0; BLOCK];
            padded[..values.len()].copy_from_slice(values);
            *absmax = encode(&padded, &[ANY; BLOCK], codes, map);
        });
    (codes, absmax)
}

/// The first `n` values of a whole tensor.
///
/// # Panics
/// If there are fewer blocks than `n` values need.
pub fn dequantize(codes: &[i32], absmax: &[f32], n: usize, map: &Map) -> Vec<f32> {
    assert_eq!(codes.len(), n.div_ceil(BLOCK) * WORDS);
    assert_eq!(absmax.len(), n.div_ceil(BLOCK));
    let mut values = vec![0.0; n];
    values
        .par_chunks_mut(BLOCK)
        .zip(codes.as_chunks().0)
        .zip(absmax)
        .each(|((values, codes), &absmax)| {
            values.copy_from_slice(&decode(codes, absmax, map)[..values.len()]);
        });
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    const STEP: Step = Step {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
        gradient_scale: 0.5,
    };

    struct State {
        m: (Vec<i32>, Vec<f32>),
        v: (Vec<i32>, Vec<f32>),
    }

    impl State {
        fn new(n: usize) -> Self {
            let blocks = n.div_ceil(BLOCK);
            let zeros = || (vec![0; blocks * WORDS], vec![0.0; blocks]);
            Self {
                m: zeros(),
                v: zeros(),
            }
        }

        fn step(&mut self, p: &mut [f32], g: &[f32], step: Step) {
            fn moment((codes, absmax): &mut (Vec<i32>, Vec<f32>)) -> Moment<'_> {
                Moment { codes, absmax }
            }
            adamw_8bit(p, g, moment(&mut self.m), moment(&mut self.v), step);
        }
    }

    #[test]
    fn maps_ascend_and_reach_the_ends() {
        for (map, lowest) in [(&*SIGNED, -0.992_968_74), (&*UNSIGNED, 0.0)] {
            assert!(map.values.is_sorted_by(|a, b| a < b));
            assert_eq!((map.values[0], map.values[255]), (lowest, 1.0));
            assert!(map.values.contains(&0.0));
        }
    }

    #[test]
    fn first_cells_find_the_same_codes() {
        for map in [&*SIGNED, &*UNSIGNED] {
            let first = map.first_cells();
            for (cell, &code) in map.nearest.iter().enumerate() {
                let found = first.partition_point(|&f| f as usize <= cell) - 1;
                assert_eq!(found, usize::from(code), "cell {cell}");
            }
        }
    }

    #[test]
    fn what_is_quantized_comes_back_within_the_maps_steps() {
        for n in [1, 255, 256, 257, 10_001] {
            let x = values(n, 3);
            let (codes, absmax) = quantize(&x, &SIGNED);
            let back = dequantize(&codes, &absmax, n, &SIGNED);
            // Between 0.1 and 1 the signed map has 64 steps.
            for (a, b) in x.iter().zip(&back) {
                assert!((a - b).abs() <= 0.0072, "{a} became {b}");
            }
        }
    }

    #[test]
    fn zeros_stay_zero_and_change_nothing() {
        let n = 300;
        let (mut p, mut state) = (values(n, 1), State::new(n));
        let before = p.clone();
        let step = Step {
            weight_decay: 0.0,
            ..STEP
        };
        state.step(&mut p, &vec![0.0; n], step);
        assert_eq!(p, before);
        assert_eq!(state.m.1, [0.0, 0.0]);
        assert_eq!(state.v.1, [0.0, 0.0]);
    }

    #[test]
    fn numbers_too_small_for_a_reciprocal_are_zero() {
        let (_, absmax) = quantize(&[1e-40; 10], &SIGNED);
        assert_eq!(absmax, [0.0]);
    }

    #[test]
    fn bad_numbers_stay_in_their_block() {
        for bad in [f32::NAN, f32::INFINITY] {
            let n = 2 * BLOCK;
            let (mut p, mut state) = (values(n, 1), State::new(n));
            let mut g = values(n, 2);
            g[5] = bad;
            state.step(&mut p, &g, STEP);
            state.step(&mut p, &values(n, 3), STEP);
            assert!(p[BLOCK..].iter().all(|v| v.is_finite()));
        }
    }

    #[test]
    fn padding_has_no_say() {
        let n = 1;
        let mut p = [1.0];
        let mut state = State::new(n);
        // Code 0 of the signed map is the most negative one.
        (state.m.1[0], state.v.1[0]) = (100.0, 100.0);
        (state.m.0[0], state.v.0[0]) = (127, 0);
        state.step(&mut p, &[1.0], STEP);
        assert!(state.m.1[0] < 1.0, "{}", state.m.1[0]);
    }

    #[test]
    fn ragged_tensors_follow_f32_adamw() {
        for n in [1, 257, 4096, 20_001] {
            let (mut p, mut state) = (values(n, 1), State::new(n));
            let mut q = p.clone();
            let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
            for step in 1..=5 {
                let step = Step { step, ..STEP };
                // No gradient near zero: there 8 bits are coarse by design.
                let g: Vec<f32> = values(n, step.step as u32 + 7)
                    .iter()
                    .map(|g| g + g.signum())
                    .collect();
                state.step(&mut p, &g, step);
                crate::adamw::adamw(&mut q, &g, &mut m, &mut v, step);
            }
            assert_close(&p, &q, 2e-3);
        }
    }

    #[test]
    fn threads_do_not_matter() {
        let run = |threads: usize| {
            crate::team::tests::with_threads(threads, || {
                let n = 50_001;
                let (mut p, mut state) = (values(n, 1), State::new(n));
                state.step(&mut p, &values(n, 2), STEP);
                (p, state.m, state.v)
            })
        };
        assert_eq!(run(1), run(4));
    }

    /// Which parameters get gradients: the rows of a table that are looked up, say, which are 100 long.
    fn looked_up(i: usize) -> bool {
        !(i / 100).is_multiple_of(3)
    }

    /// Random gradients for those of whom `has` is true.
    fn gradients(n: usize, seed: u32, has: impl Fn(usize) -> bool) -> Vec<f32> {
        let masked = |(i, g)| if has(i) { g } else { 0.0 };
        values(n, seed)
            .into_iter()
            .enumerate()
            .map(masked)
            .collect()
    }

    #[test]
    fn what_never_has_a_gradient_only_decays() {
        for n in [1, 300, 5 * 384, 4096, 20_001] {
            let (mut p, mut state) = (values(n, 1), State::new(n));
            let mut want = p.clone();
            for step in 1..=50 {
                let step = Step { step, ..STEP };
                let g = gradients(n, step.step as u32, looked_up);
                state.step(&mut p, &g, step);
                want.iter_mut()
                    .for_each(|w| *w *= 1.0 - STEP.learning_rate * STEP.weight_decay);
            }
            for i in (0..n).filter(|&i| !looked_up(i)) {
                assert_eq!(p[i], want[i], "parameter {i} of {n}");
            }
        }
    }

    #[test]
    fn means_without_gradient_settle_and_keep_their_sign() {
        let n = 1000;
        let (mut p, mut state) = (values(n, 1), State::new(n));
        for step in 1..=10 {
            let g = gradients(n, step as u32, |_| true);
            state.step(&mut p, &g, Step { step, ..STEP });
        }
        let mut settled = Vec::new();
        let mut before = dequantize(&state.m.0, &state.m.1, n, &SIGNED);
        for step in 11..=120 {
            let step = Step {
                step,
                weight_decay: 0.0,
                ..STEP
            };
            state.step(&mut p, &gradients(n, step.step as u32, looked_up), step);
            let m = dequantize(&state.m.0, &state.m.1, n, &SIGNED);
            for i in (0..n).filter(|&i| !looked_up(i)) {
                let most = 0.951 * before[i].abs();
                assert!(
                    m[i] * before[i] >= 0.0 && m[i].abs() <= most,
                    "{} became {}",
                    before[i],
                    m[i]
                );
            }
            before = m;
            if step.step == 100 {
                settled = p.clone();
            }
        }
        for i in (0..n).filter(|&i| !looked_up(i)) {
            assert_eq!((before[i], p[i]), (0.0, settled[i]), "parameter {i}");
        }
    }

    #[test]
    fn every_mean_is_gone_after_71_steps_without_gradient() {
        for code in 0..=255 {
            let (mut p, mut state) = ([0.0; BLOCK], State::new(BLOCK));
            (state.m.1[0], state.v.1[0]) = (1.0, 1.0);
            let codes = [i32::from_le_bytes([code; 4]); WORDS];
            (state.m.0, state.v.0) = (codes.to_vec(), vec![-1; WORDS]);
            // The last one sees to it that the largest of the block stays.
            let mut g = [0.0; BLOCK];
            g[BLOCK - 1] = 2.0;
            for _ in 0..71 {
                state.step(&mut p, &g, STEP);
            }
            let m = dequantize(&state.m.0, &state.m.1, BLOCK, &SIGNED);
            assert_eq!(m[..BLOCK - 1], [0.0; BLOCK - 1], "code {code}");
            assert!((m[BLOCK - 1] - 1.0).abs() < 2e-3);
        }
    }

    /// As means do not, for they are divided by the square's root.
    #[test]
    fn squares_stay_off_zero() {
        let n = 300;
        let (mut p, mut state) = (values(n, 1), State::new(n));
        for step in 1..=200 {
            let g = gradients(n, 7, |i| i.is_multiple_of(7));
            state.step(&mut p, &g, Step { step, ..STEP });
        }
        let v = dequantize(&state.v.0, &state.v.1, n, &UNSIGNED);
        for (i, v) in v.iter().enumerate() {
            assert!(*v >= 1.5e-5 * state.v.1[i / BLOCK], "{v} at {i}");
        }
    }

    #[test]
    fn zero_is_quantized_as_zero_where_it_may_be() {
        let mut x = values(300, 1);
        x[7] = 0.0;
        x[290] = -0.0;
        let (codes, absmax) = quantize(&x, &SIGNED);
        let back = dequantize(&codes, &absmax, 300, &SIGNED);
        assert_eq!((back[7], back[290]), (0.0, 0.0));
    }

    /// What bitsandbytes wrote for zeros is what it stood for there, and fades.
    #[test]
    fn codes_of_bitsandbytes_are_read_as_it_means_them() {
        let code = i32::from_le_bytes([131; 4]);
        let back = dequantize(&[code; WORDS], &[2.0], BLOCK, &SIGNED);
        assert_eq!(back, [2.0 * SIGNED.values[131]; BLOCK]);
        assert!((SIGNED.values[131] - 2.125e-5).abs() < 1e-11);
    }
}
