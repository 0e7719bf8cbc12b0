//! AdamW with both moments in 8 bits: Dettmers et al., "8-bit Optimizers via Block-wise
//! Quantization" (2022), in the format and with the arithmetic of bitsandbytes 0.50's CPU path.
//!
//! A moment is cut into blocks of [`BLOCK`] values. A block keeps its largest magnitude ("absmax")
//! and, for each value divided by it, the code of a nearby entry of a fixed table, the dynamic map:
//! 255 steps whose relative spacing is about the same over seven decades. The mean gradient uses
//! the signed map, the mean squared gradient the unsigned one.
//!
//! Codes are stored four to an `i32`, the first in the lowest byte, padded to whole blocks.

use crate::adamw::Step;
use crate::simd::dispatch;
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
        Self { values, nearest }
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
        .for_each(|((p, g), ((m_codes, m_absmax), (v_codes, v_absmax)))| {
            dispatch(
                #[inline(always)]
                || {
                    let p = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
                    let m = m_codes.as_chunks_mut().0.iter_mut().zip(m_absmax);
                    let v = v_codes.as_chunks_mut().0.iter_mut().zip(v_absmax);
                    for (((p, g), (m, m_absmax)), (v, v_absmax)) in p.zip(m).zip(v) {
                        let mut m_values = decode(m, *m_absmax, signed);
                        let mut v_values = decode(v, *v_absmax, unsigned);
                        update.block(p, g, &mut m_values, &mut v_values);
                        *m_absmax = encode(&m_values, m, signed);
                        *v_absmax = encode(&v_values, v, unsigned);
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
    /// Update at most a block; what lies beyond `p` becomes 0, so that it counts for no absmax.
    #[inline(always)]
    fn block(&self, p: &mut [f32], g: &[f32], m: &mut [f32; BLOCK], v: &mut [f32; BLOCK]) {
        let n = p.len();
        match (p.first_chunk_mut(), g.first_chunk()) {
            (Some(p), Some(g)) => self.whole_block(p, g, m, v),
            _ => {
                let (mut p_padded, mut g_padded) = ([0.0; BLOCK], [0.0; BLOCK]);
                p_padded[..n].copy_from_slice(p);
                g_padded[..n].copy_from_slice(g);
                self.whole_block(&mut p_padded, &g_padded, m, v);
                p.copy_from_slice(&p_padded[..n]);
                m[n..].fill(0.0);
                v[n..].fill(0.0);
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
    ) {
        let Step {
            beta1, beta2, eps, ..
        } = self.step;
        let (rate, root) = self.corrections;
        for i in 0..BLOCK {
            let g = g[i] * self.step.gradient_scale;
            m[i] = m[i] * beta1 + g * (1.0 - beta1);
            v[i] = v[i] * beta2 + g * (1.0 - beta2) * g;
            p[i] = p[i] * self.keep - rate * m[i] / (v[i].sqrt() * root + eps);
        }
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

/// Write the codes of a block and give its absmax.
#[inline(always)]
fn encode(values: &[f32; BLOCK], codes: &mut [i32; WORDS], map: &Map) -> f32 {
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
    for (word, cells) in codes.iter_mut().zip(cells.as_chunks::<4>().0) {
        *word = i32::from_le_bytes(cells.map(|cell| map.nearest[usize::from(cell)]));
    }
    absmax
}

/// Largest magnitude, in as many lanes as two AVX-512 registers have.
#[inline(always)]
fn absmax(values: &[f32; BLOCK]) -> f32 {
    let mut lanes = [0.0_f32; 32];
    for chunk in values.as_chunks::<32>().0 {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
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
        .for_each(|((codes, absmax), values)| {
            let mut padded = [0.0; BLOCK];
            padded[..values.len()].copy_from_slice(values);
            *absmax = encode(&padded, codes, map);
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
        .for_each(|((values, codes), &absmax)| {
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
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let n = 50_001;
                let (mut p, mut state) = (values(n, 1), State::new(n));
                state.step(&mut p, &values(n, 2), STEP);
                (p, state.m, state.v)
            })
        };
        assert_eq!(run(1), run(4));
    }
}
