//! A block's step with AVX-512, sixteen values at a time.
//!
//! Every operation is the one that [`plain`] has, and rounds as it does. What takes long there is looking up the maps'
//! tables value by value, from code to value and from cell to code: a gather does it for sixteen at once. Permutations of
//! a table in registers are slower, for 256 values fill sixteen of them.

use super::map::ZERO;
use super::{BLOCK, Block, Map, SIGNED, UNSIGNED, Update, WORDS, plain};
use crate::simd::prefetch;
use std::arch::x86_64::*;

/// Values of a register.
const LANES: usize = 16;
/// Groups of a block.
const GROUPS: usize = BLOCK / LANES;

/// Values that are worked on at once.
type Group = [f32; LANES];

/// A block's moments after a step, before they are rounded. Aligned, so that no register is written across two lines.
#[repr(align(64))]
struct Moments {
    m: [Group; GROUPS],
    v: [Group; GROUPS],
    /// Means that had no gradient, or none that left a trace.
    decayed: [__mmask16; GROUPS],
    m_absmax: f32,
    v_absmax: f32,
}

/// An [`super::UpdateBlock`].
#[target_feature(enable = "avx512f")]
pub(super) fn update(update: &Update, p: &mut [f32], g: &[f32], m: Block, v: Block) {
    let (Some(whole_p), Some(whole_g)) = (p.first_chunk_mut(), g.first_chunk()) else {
        return plain::update(update, p, g, m, v);
    };
    let moments = next_moments(update, whole_g, &m, &v);
    // What becomes of the NaN in such a block depends on all of its values.
    if moments.m_absmax.is_infinite() {
        return plain::update(update, p, g, m, v);
    }
    finish(update, whole_p, &moments, m, v);
}

#[inline]
#[target_feature(enable = "avx512f")]
fn next_moments(update: &Update, g: &[f32; BLOCK], m: &Block, v: &Block) -> Moments {
    let (beta1, beta2) = (update.step.beta1, update.step.beta2);
    let (m_part, v_part) = (_mm512_set1_ps(1.0 - beta1), _mm512_set1_ps(1.0 - beta2));
    let (beta1, beta2) = (_mm512_set1_ps(beta1), _mm512_set1_ps(beta2));
    let scale = _mm512_set1_ps(update.step.gradient_scale);
    let (m_stored, v_stored) = (Stored::new(&SIGNED, m), Stored::new(&UNSIGNED, v));
    let (mut m_absmax, mut v_absmax) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    let mut next = Moments {
        m: [[0.0; LANES]; GROUPS],
        v: [[0.0; LANES]; GROUPS],
        decayed: [0; GROUPS],
        m_absmax: 0.0,
        v_absmax: 0.0,
    };
    for (i, g) in g.as_chunks().0.iter().enumerate() {
        prefetch_next_block(g);
        let g = _mm512_mul_ps(load(g), scale);
        let decayed = _mm512_mul_ps(m_stored.values(i), beta1);
        let m = _mm512_add_ps(decayed, _mm512_mul_ps(g, m_part));
        let v = _mm512_mul_ps(v_stored.values(i), beta2);
        let v = _mm512_add_ps(v, _mm512_mul_ps(_mm512_mul_ps(g, v_part), g));
        next.decayed[i] = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(m, decayed);
        // In this order, because of two of which one is NaN the second is taken.
        m_absmax = _mm512_max_ps(_mm512_abs_ps(m), m_absmax);
        v_absmax = _mm512_max_ps(_mm512_abs_ps(v), v_absmax);
        store(&mut next.m[i], m);
        store(&mut next.v[i], v);
    }
    next.m_absmax = _mm512_reduce_max_ps(m_absmax);
    next.v_absmax = _mm512_reduce_max_ps(v_absmax);
    next
}

/// Step the parameters and round the moments: in one loop, because the gathers of the one run beside the division and the
/// square root of the other. In two, the whole step takes a quarter longer.
#[inline]
#[target_feature(enable = "avx512f")]
fn finish(update: &Update, p: &mut [f32; BLOCK], moments: &Moments, m: Block, v: Block) {
    let descent = Descent::new(update);
    let means = Rounding::new(&SIGNED, moments.m_absmax);
    let squares = Rounding::new(&UNSIGNED, moments.v_absmax);
    let beta1 = update.step.beta1;
    for (i, p) in p.as_chunks_mut().0.iter_mut().enumerate() {
        prefetch_next_block(p);
        descent.step(p, load(&moments.m[i]), load(&moments.v[i]));
        let codes = means.codes_of_means(moments, &m, i, beta1);
        write_codes(m.codes, i, codes);
        let shares = squares.shares(&moments.v[i]);
        write_codes(v.codes, i, squares.nearest(shares));
    }
    *m.absmax = means.absmax;
    *v.absmax = squares.absmax;
}

/// How parameters are stepped.
struct Descent {
    rate: __m512,
    root: __m512,
    keep: __m512,
    eps: __m512,
}

impl Descent {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(update: &Update) -> Self {
        let (rate, root) = update.corrections;
        Self {
            rate: _mm512_set1_ps(rate),
            root: _mm512_set1_ps(root),
            keep: _mm512_set1_ps(update.keep),
            eps: _mm512_set1_ps(update.step.eps),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn step(&self, p: &mut Group, m: __m512, v: __m512) {
        let below = _mm512_mul_ps(_mm512_sqrt_ps(v), self.root);
        let below = _mm512_add_ps(below, self.eps);
        let change = _mm512_div_ps(_mm512_mul_ps(self.rate, m), below);
        let kept = _mm512_mul_ps(load(p), self.keep);
        store(p, _mm512_sub_ps(kept, change));
    }
}

/// A moment as it was before the step.
struct Stored<'a> {
    map: &'a Map,
    codes: &'a [i32; WORDS],
    absmax: __m512,
}

impl<'a> Stored<'a> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(map: &'a Map, block: &'a Block) -> Self {
        Self {
            map,
            codes: block.codes,
            absmax: _mm512_set1_ps(*block.absmax),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn values(&self, group: usize) -> __m512 {
        let words: &[i32; 4] = &self.codes.as_chunks().0[group];
        // SAFETY: four words are as long as the register.
        let bytes = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
        let values = values_of(self.map, _mm512_cvtepu8_epi32(bytes));
        _mm512_mul_ps(values, self.absmax)
    }
}

/// How a moment is rounded. Codes are in the lowest byte of each lane.
struct Rounding<'a> {
    map: &'a Map,
    absmax: f32,
    /// One over it.
    inverse: __m512,
}

impl<'a> Rounding<'a> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(map: &'a Map, absmax: f32) -> Self {
        let (absmax, inverse) = plain::reciprocal(absmax);
        Self {
            map,
            absmax,
            inverse: _mm512_set1_ps(inverse),
        }
    }

    /// Values divided by absmax.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn shares(&self, values: &Group) -> __m512 {
        _mm512_mul_ps(load(values), self.inverse)
    }

    /// Codes of the cells that shares lie in.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn nearest(&self, shares: __m512) -> __m512i {
        let cells = _mm512_add_ps(shares, _mm512_set1_ps(1.0));
        let cells = _mm512_mul_ps(cells, _mm512_set1_ps(32_767.5));
        let cells = _mm512_cvttps_epi32(_mm512_add_ps(cells, _mm512_set1_ps(0.5)));
        // As in plain Rust the lower half, which of NaN is 0.
        let cells = _mm512_and_si512(cells, _mm512_set1_epi32(0xffff));
        let table = self.map.cells();
        // SAFETY: four bytes are read from each cell on. None is above 65,535, the last, and the table has three bytes more.
        unsafe { _mm512_i32gather_epi32::<1>(cells, table.as_ptr().cast()) }
    }

    /// Codes of a group of means: that of zero for zeros, and [`Map::at_most`] half-way back for what only decayed.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn codes_of_means(&self, moments: &Moments, old: &Block, group: usize, beta1: f32) -> __m512i {
        let shares = self.shares(&moments.m[group]);
        let codes = self.nearest(shares);
        let zeros = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(shares, _mm512_setzero_ps());
        let decayed = moments.decayed[group];
        // As a rule every value has had a gradient.
        if zeros | decayed == 0 {
            return codes;
        }
        let codes = _mm512_mask_mov_epi32(codes, zeros, _mm512_set1_epi32(ZERO.into()));
        if decayed & !zeros == 0 {
            return codes;
        }
        let before = Stored::new(&SIGNED, old).values(group);
        let after = _mm512_mul_ps(before, _mm512_set1_ps(beta1));
        let sum = _mm512_add_ps(_mm512_abs_ps(before), _mm512_abs_ps(after));
        let half_way = _mm512_mul_ps(_mm512_set1_ps(0.5), sum);
        self.at_most(half_way, codes, decayed)
    }

    /// [`Map::at_most`] of some lanes. Zero itself ends it, which is above no bound.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn at_most(&self, most: __m512, codes: __m512i, lanes: __mmask16) -> __m512i {
        let (zero, one) = (_mm512_set1_epi32(ZERO.into()), _mm512_set1_epi32(1));
        let absmax = _mm512_set1_ps(self.absmax);
        let mut codes = _mm512_and_si512(codes, _mm512_set1_epi32(0xff));
        let mut lanes = lanes;
        loop {
            let magnitudes = _mm512_mul_ps(_mm512_abs_ps(values_of(self.map, codes)), absmax);
            lanes = _mm512_mask_cmp_ps_mask::<_CMP_GT_OQ>(lanes, magnitudes, most);
            if lanes == 0 {
                return codes;
            }
            let above = _mm512_mask_cmpgt_epi32_mask(lanes, codes, zero);
            codes = _mm512_mask_sub_epi32(codes, above, codes, one);
            codes = _mm512_mask_add_epi32(codes, lanes & !above, codes, one);
        }
    }
}

/// Values of codes, which are the lowest byte of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn values_of(map: &Map, codes: __m512i) -> __m512 {
    let codes = _mm512_and_si512(codes, _mm512_set1_epi32(0xff));
    // SAFETY: the table has an entry for each byte.
    unsafe { _mm512_i32gather_ps::<4>(codes, map.values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn write_codes(words: &mut [i32; WORDS], group: usize, codes: __m512i) {
    let words: &mut [i32; 4] = &mut words.as_chunks_mut().0[group];
    // SAFETY: four words are as long as the register.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(codes)) }
}

/// Bring the same group of the next block near. The processor does not see it coming, as a block's gradients are read at
/// one go and its parameters at the next: a step from memory takes a third longer without.
#[inline]
fn prefetch_next_block(group: &Group) {
    prefetch(group.as_ptr().wrapping_add(BLOCK));
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &Group) -> __m512 {
    // SAFETY: as long as the register.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(values: &mut Group, register: __m512) {
    // SAFETY: as long as the register.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), register) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::Step;
    use crate::testing::values;

    /// Largest magnitudes that a stored block may come with, or gradients have.
    const SIZES: [f32; 12] = [
        0.0,
        1e-45,
        3e-39,
        f32::MIN_POSITIVE,
        1e-30,
        1e-12,
        1e-3,
        1.0,
        1e4,
        1e18,
        f32::MAX,
        f32::INFINITY,
    ];

    /// Parameters, codes and absmax of a block's moments.
    #[derive(Clone, PartialEq, Debug)]
    struct State {
        p: Vec<u32>,
        codes: [[i32; WORDS]; 2],
        absmax: [u32; 2],
    }

    impl State {
        fn random(n: usize, seed: u32) -> Self {
            let [m, v] = [0, 1].map(|i| random_codes(seed + i));
            let size = |i: u32| SIZES[((seed >> (4 * i)) % 12) as usize].to_bits();
            Self {
                p: values(n, seed).into_iter().map(f32::to_bits).collect(),
                codes: [m, v],
                absmax: [size(0), size(1)],
            }
        }

        fn after(&self, step: impl Fn(&mut [f32], Block, Block)) -> Self {
            let mut p: Vec<f32> = self.p.iter().copied().map(f32::from_bits).collect();
            let mut codes = self.codes;
            let mut absmax = self.absmax.map(f32::from_bits);
            let ([m, v], [m_absmax, v_absmax]) = (&mut codes, &mut absmax);
            let block = |codes, absmax| Block { codes, absmax };
            step(&mut p, block(m, m_absmax), block(v, v_absmax));
            // Which NaN comes of two is nowhere laid down.
            let bits = |v: f32| if v.is_nan() { f32::NAN } else { v }.to_bits();
            Self {
                p: p.into_iter().map(bits).collect(),
                codes,
                absmax: absmax.map(bits),
            }
        }
    }

    fn random_codes(seed: u32) -> [i32; WORDS] {
        let words = values(WORDS, seed);
        std::array::from_fn(|i| words[i].to_bits().wrapping_mul(0x9e37_79b1) as i32)
    }

    /// From seed to seed: all of them, few, none, and with numbers among them that are none.
    fn gradients(n: usize, seed: u32) -> Vec<f32> {
        let size = SIZES[(seed / 5 % 12) as usize].min(1e38);
        let mut g = values(n, seed + 2);
        for (i, g) in g.iter_mut().enumerate() {
            let has = [true, i.is_multiple_of(3), i < 20, i % 90 == 7, false];
            *g = if has[(seed % 5) as usize] {
                *g * size
            } else {
                0.0
            };
        }
        match seed % 11 {
            1 => g[n / 2] = f32::NAN,
            2 => g[n / 3] = f32::INFINITY,
            3 => g[n - 1] = f32::NEG_INFINITY,
            4 => g.fill(f32::NAN),
            5 => g[n / 2] = 1e-44,
            _ => {}
        }
        g
    }

    fn step(seed: u32) -> Step {
        let choose = |of: [f32; 3], i: u32| of[((seed / i) % 3) as usize];
        Step {
            learning_rate: choose([1e-3, 1.0, 0.0], 1),
            beta1: choose([0.9, 0.0, 0.99], 3),
            beta2: choose([0.95, 0.999, 0.5], 9),
            eps: choose([1e-8, 0.0, 1e-3], 27),
            weight_decay: choose([0.1, 0.0, 10.0], 81),
            step: u64::from(seed % 1000) + 1,
            gradient_scale: choose([1.0, 0.37, 1e-6], 7),
        }
    }

    #[test]
    fn blocks_become_what_they_do_in_plain_rust() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        for seed in 0..20_000_u32 {
            let n = [BLOCK, BLOCK, BLOCK, 1, 255, 16, 77][(seed % 7) as usize];
            let mut state = State::random(n, seed.wrapping_mul(2_654_435_761) >> 1);
            for round in 0..3 {
                let update = &Update::new(step(seed + round));
                let g = gradients(n, seed + round);
                let want = state.after(|p, m, v| plain::update(update, p, &g, m, v));
                // SAFETY: asked for above.
                state = state.after(|p, m, v| unsafe { super::update(update, p, &g, m, v) });
                assert!(state == want, "seed {seed}, round {round}");
            }
        }
    }

    #[test]
    fn means_decay_as_they_do_in_plain_rust() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        let zeros = [0.0; BLOCK];
        for seed in 0..100 {
            let mut state = State::random(BLOCK, seed);
            state.absmax = [1.0_f32.to_bits(); 2];
            for round in 0..80 {
                let update = &Update::new(step(round % 3 * 3));
                let want = state.after(|p, m, v| plain::update(update, p, &zeros, m, v));
                // SAFETY: asked for above.
                state = state.after(|p, m, v| unsafe { super::update(update, p, &zeros, m, v) });
                assert!(state == want, "seed {seed}, round {round}");
            }
        }
    }

    #[test]
    fn cells_have_the_codes_of_the_table() {
        #[target_feature(enable = "avx512f")]
        fn codes(map: &Map, shares: &Group) -> [i32; 4] {
            let mut words = [0; WORDS];
            write_codes(&mut words, 0, Rounding::new(map, 1.0).nearest(load(shares)));
            *words.first_chunk().unwrap()
        }
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        for map in [&*SIGNED, &*UNSIGNED] {
            for cell in (0..65_536).step_by(4) {
                // The middle of each cell, and what lies next to its ends; NaN.
                let shares: Group = std::array::from_fn(|i| {
                    let off = [-0.499, 0.0, 0.499, f32::NAN][i % 4];
                    let share = ((cell + i / 4) as f32 + off) / 32_767.5 - 1.0;
                    if share > 1.0 { 1.0 } else { share }
                });
                // SAFETY: asked for above.
                let got = unsafe { codes(map, &shares) };
                let want = shares.map(|share| map.code_of_cell(share));
                let want: [i32; 4] = std::array::from_fn(|i| {
                    i32::from_le_bytes(std::array::from_fn(|j| want[4 * i + j]))
                });
                assert_eq!(got, want, "from cell {cell}");
            }
        }
    }
}
