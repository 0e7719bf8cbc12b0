//! A block's step in plain Rust: what the others have to equal to the bit.

use super::{ANY, BLOCK, Block, Map, SIGNED, UNSIGNED, Update, WORDS};
use crate::adamw::Step;
use crate::simd::dispatch;

/// An [`super::UpdateBlock`].
pub(super) fn update(update: &Update, p: &mut [f32], g: &[f32], m: Block, v: Block) {
    let (signed, unsigned) = (&*SIGNED, &*UNSIGNED);
    dispatch(
        #[inline(always)]
        || {
            let mut m_values = decode(m.codes, *m.absmax, signed);
            let mut v_values = decode(v.codes, *v.absmax, unsigned);
            let most = update.block(p, g, &mut m_values, &mut v_values);
            *m.absmax = encode(&m_values, &most, m.codes, signed);
            *v.absmax = encode(&v_values, &[ANY; BLOCK], v.codes, unsigned);
        },
    );
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
pub(super) fn decode(codes: &[i32; WORDS], absmax: f32, map: &Map) -> [f32; BLOCK] {
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
pub(super) fn encode(
    values: &[f32; BLOCK],
    most: &[f32; BLOCK],
    codes: &mut [i32; WORDS],
    map: &Map,
) -> f32 {
    let (absmax, inverse) = reciprocal(absmax(values));
    let mut cells = [0_u16; BLOCK];
    for (cell, value) in cells.iter_mut().zip(values) {
        // In two conversions, because the first one vectorises; NaN becomes 0.
        *cell = ((value * inverse + 1.0) * 32_767.5 + 0.5) as i32 as u16;
    }
    let mut bytes = cells.map(|cell| map.cells()[usize::from(cell)]);
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

/// An absmax as it is kept, and one over it.
#[inline(always)]
pub(super) fn reciprocal(absmax: f32) -> (f32, f32) {
    // Below the smallest normal number the reciprocal may be infinite: such a block is zero.
    match absmax >= f32::MIN_POSITIVE {
        true => (absmax, 1.0 / absmax),
        false => (0.0, 0.0),
    }
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
