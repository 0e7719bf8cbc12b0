//! Sixteen registers of sixteen numbers of 32 bits, on processors with AVX-512.

use std::arch::x86_64::*;

/// Rows and columns of a square.
pub const SIDE: usize = 16;

/// A row in each register.
pub type Square = [__m512i; SIDE];

/// The first `n` of 16.
pub fn first(n: usize) -> __mmask16 {
    ((1_u32 << n.min(SIDE)) - 1) as __mmask16
}

/// Rows for columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn turned(rows: Square) -> Square {
    let mut pairs = rows;
    for i in (0..SIDE).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // Of four rows, column c of each quarter.
    let mut fours = pairs;
    for i in (0..SIDE).step_by(4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut out = fours;
    for c in 0..4 {
        let [a, b, c_, d] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        let low = [
            _mm512_shuffle_i32x4::<0x88>(a, b),
            _mm512_shuffle_i32x4::<0x88>(c_, d),
        ];
        let high = [
            _mm512_shuffle_i32x4::<0xdd>(a, b),
            _mm512_shuffle_i32x4::<0xdd>(c_, d),
        ];
        out[c] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
        out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(low[0], low[1]);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high[0], high[1]);
    }
    out
}
