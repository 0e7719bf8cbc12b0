//! Sixteen numbers at a time in the processor's own registers, for loops that the compiler finds no vectors for.

use crate::half::{from_bf16, from_f16};
use crate::simd::dispatch;
#[cfg(target_arch = "x86_64")]
use pulp::{cast, x86::V4};

#[cfg(target_arch = "x86_64")]
pulp::simd_type!({
    /// AVX2 with what came with it or before, and is not in pulp's own: every processor that has it reads f16.
    struct V3 {
        avx: feature!("avx"),
        avx2: feature!("avx2"),
        fma: feature!("fma"),
        f16c: feature!("f16c"),
        bmi1: feature!("bmi1"),
        bmi2: feature!("bmi2"),
        lzcnt: feature!("lzcnt"),
        popcnt: feature!("popcnt"),
    }
});

/// Numbers of a vector, whatever the registers' width.
pub const LANES: usize = 16;

/// A processor's instructions. All arithmetic is the same to the bit: a product that is added is rounded once.
pub trait Lanes: Copy {
    type Vector: Copy;

    fn load(self, values: &[f32; LANES]) -> Self::Vector;
    fn splat(self, value: f32) -> Self::Vector;
    fn bf16(self, bits: &[u16; LANES]) -> Self::Vector;
    fn f16(self, bits: &[u16; LANES]) -> Self::Vector;
    /// An f16 in all places.
    fn splat_f16(self, bits: u16) -> Self::Vector;
    /// Bytes as signed numbers.
    fn signed(self, codes: &[u8; LANES]) -> Self::Vector;
    /// The lower halves of bytes, and the upper ones, less something.
    fn halves(self, bytes: &[u8; LANES], less: i32) -> [Self::Vector; 2];
    /// Entries of a table by the lower halves of bytes, and by the upper ones.
    fn entries(self, table: &[f32; 16], bytes: &[u8; LANES]) -> [Self::Vector; 2];
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a b + c`.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    fn array(self, vector: Self::Vector) -> [f32; LANES];
}

/// What is done with vectors; all of it is `#[inline(always)]`, as in [`dispatch`].
pub trait Work {
    type Output;
    fn with<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Do something with the widest vectors that the processor has.
#[inline(always)]
pub fn work<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(v4) = V4::try_new() {
            return v4.vectorize(
                #[inline(always)]
                || work.with(Avx512(v4)),
            );
        }
        if let Some(v3) = V3::try_new() {
            return v3.vectorize(
                #[inline(always)]
                || work.with(Avx2(v3)),
            );
        }
    }
    dispatch(
        #[inline(always)]
        || work.with(Plain),
    )
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx512(V4);

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    type Vector = std::arch::x86_64::__m512;

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::Vector {
        cast(*values)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        self.0.avx512f._mm512_set1_ps(value)
    }

    #[inline(always)]
    fn bf16(self, bits: &[u16; LANES]) -> Self::Vector {
        let bits = self.0.avx512f._mm512_cvtepu16_epi32(cast(*bits));
        cast(self.0.avx512f._mm512_slli_epi32::<16>(bits))
    }

    #[inline(always)]
    fn f16(self, bits: &[u16; LANES]) -> Self::Vector {
        self.0.avx512f._mm512_cvtph_ps(cast(*bits))
    }

    #[inline(always)]
    fn splat_f16(self, bits: u16) -> Self::Vector {
        self.f16(&[bits; LANES])
    }

    #[inline(always)]
    fn signed(self, codes: &[u8; LANES]) -> Self::Vector {
        let codes = self.0.avx512f._mm512_cvtepi8_epi32(cast(*codes));
        self.0.avx512f._mm512_cvtepi32_ps(codes)
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; LANES], less: i32) -> [Self::Vector; 2] {
        let avx = self.0.avx512f;
        let bytes = avx._mm512_cvtepu8_epi32(cast(*bytes));
        let low = avx._mm512_and_si512(bytes, avx._mm512_set1_epi32(15));
        let less = avx._mm512_set1_epi32(less);
        let high = avx._mm512_srli_epi32::<4>(bytes);
        [
            avx._mm512_cvtepi32_ps(avx._mm512_sub_epi32(low, less)),
            avx._mm512_cvtepi32_ps(avx._mm512_sub_epi32(high, less)),
        ]
    }

    #[inline(always)]
    fn entries(self, table: &[f32; 16], bytes: &[u8; LANES]) -> [Self::Vector; 2] {
        let (avx, table) = (self.0.avx512f, cast(*table));
        let bytes = avx._mm512_cvtepu8_epi32(cast(*bytes));
        // Permutations look at the lowest four bits.
        let high = avx._mm512_srli_epi32::<4>(bytes);
        [
            avx._mm512_permutexvar_ps(bytes, table),
            avx._mm512_permutexvar_ps(high, table),
        ]
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        self.0.avx512f._mm512_mul_ps(a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        self.0.avx512f._mm512_fmadd_ps(a, b, c)
    }

    #[inline(always)]
    fn array(self, vector: Self::Vector) -> [f32; LANES] {
        cast(vector)
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2(V3);

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// Eight of the codes.
    #[inline(always)]
    fn eight(codes: &[u8; LANES], half: usize) -> std::arch::x86_64::__m128i {
        let mut eight = [0; LANES];
        eight[..8].copy_from_slice(&codes[8 * half..][..8]);
        cast(eight)
    }

    #[inline(always)]
    fn eight_f16(self, bits: std::arch::x86_64::__m128i) -> std::arch::x86_64::__m256 {
        // SAFETY: that there is a `V3` says that the processor has F16C.
        unsafe { std::arch::x86_64::_mm256_cvtph_ps(bits) }
    }

    #[inline(always)]
    fn signed_half(self, codes: &[u8; LANES], half: usize) -> std::arch::x86_64::__m256 {
        let codes = self.0.avx2._mm256_cvtepi8_epi32(Self::eight(codes, half));
        self.0.avx._mm256_cvtepi32_ps(codes)
    }

    #[inline(always)]
    fn halves_half(
        self,
        bytes: &[u8; LANES],
        half: usize,
        less: i32,
    ) -> [std::arch::x86_64::__m256; 2] {
        let (avx, avx2) = (self.0.avx, self.0.avx2);
        let bytes = avx2._mm256_cvtepu8_epi32(Self::eight(bytes, half));
        let low = avx2._mm256_and_si256(bytes, avx._mm256_set1_epi32(15));
        let less = avx._mm256_set1_epi32(less);
        let high = avx2._mm256_srli_epi32::<4>(bytes);
        [
            avx._mm256_cvtepi32_ps(avx2._mm256_sub_epi32(low, less)),
            avx._mm256_cvtepi32_ps(avx2._mm256_sub_epi32(high, less)),
        ]
    }

    #[inline(always)]
    fn entries_half(
        self,
        table: &[f32; 16],
        codes: std::arch::x86_64::__m256i,
    ) -> std::arch::x86_64::__m256 {
        let [low, high]: [std::arch::x86_64::__m256; 2] = cast(*table);
        // Permutations look at the lowest three bits; the fourth, as the sign, chooses between two of them.
        let low = self.0.avx2._mm256_permutevar8x32_ps(low, codes);
        let high = self.0.avx2._mm256_permutevar8x32_ps(high, codes);
        let upper = self.0.avx2._mm256_slli_epi32::<28>(codes);
        self.0.avx._mm256_blendv_ps(low, high, cast(upper))
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    type Vector = [std::arch::x86_64::__m256; 2];

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::Vector {
        cast(*values)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        [self.0.avx._mm256_set1_ps(value); 2]
    }

    #[inline(always)]
    fn bf16(self, bits: &[u16; LANES]) -> Self::Vector {
        let (avx2, [a, b]): (_, [std::arch::x86_64::__m128i; 2]) = (self.0.avx2, cast(*bits));
        let (a, b) = (avx2._mm256_cvtepu16_epi32(a), avx2._mm256_cvtepu16_epi32(b));
        [
            cast(avx2._mm256_slli_epi32::<16>(a)),
            cast(avx2._mm256_slli_epi32::<16>(b)),
        ]
    }

    #[inline(always)]
    fn f16(self, bits: &[u16; LANES]) -> Self::Vector {
        let [a, b]: [std::arch::x86_64::__m128i; 2] = cast(*bits);
        [self.eight_f16(a), self.eight_f16(b)]
    }

    #[inline(always)]
    fn splat_f16(self, bits: u16) -> Self::Vector {
        [self.eight_f16(cast([bits; 8])); 2]
    }

    #[inline(always)]
    fn signed(self, codes: &[u8; LANES]) -> Self::Vector {
        [self.signed_half(codes, 0), self.signed_half(codes, 1)]
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; LANES], less: i32) -> [Self::Vector; 2] {
        let [a, b] = self.halves_half(bytes, 0, less);
        let [c, d] = self.halves_half(bytes, 1, less);
        [[a, c], [b, d]]
    }

    #[inline(always)]
    fn entries(self, table: &[f32; 16], bytes: &[u8; LANES]) -> [Self::Vector; 2] {
        let avx2 = self.0.avx2;
        let a = avx2._mm256_cvtepu8_epi32(Self::eight(bytes, 0));
        let b = avx2._mm256_cvtepu8_epi32(Self::eight(bytes, 1));
        let (c, d) = (
            avx2._mm256_srli_epi32::<4>(a),
            avx2._mm256_srli_epi32::<4>(b),
        );
        [
            [self.entries_half(table, a), self.entries_half(table, b)],
            [self.entries_half(table, c), self.entries_half(table, d)],
        ]
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        let avx = self.0.avx;
        [avx._mm256_mul_ps(a[0], b[0]), avx._mm256_mul_ps(a[1], b[1])]
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        let fma = self.0.fma;
        [
            fma._mm256_fmadd_ps(a[0], b[0], c[0]),
            fma._mm256_fmadd_ps(a[1], b[1], c[1]),
        ]
    }

    #[inline(always)]
    fn array(self, vector: Self::Vector) -> [f32; LANES] {
        cast(vector)
    }
}

/// Loops of sixteen, of which the compiler makes what it can.
#[derive(Clone, Copy)]
struct Plain;

#[allow(clippy::needless_range_loop)]
impl Lanes for Plain {
    type Vector = [f32; LANES];

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::Vector {
        *values
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        [value; LANES]
    }

    #[inline(always)]
    fn bf16(self, bits: &[u16; LANES]) -> Self::Vector {
        let mut values = [0.0; LANES];
        for l in 0..LANES {
            values[l] = from_bf16(bits[l]);
        }
        values
    }

    #[inline(always)]
    fn f16(self, bits: &[u16; LANES]) -> Self::Vector {
        let mut values = [0.0; LANES];
        for l in 0..LANES {
            values[l] = from_f16(bits[l]);
        }
        values
    }

    #[inline(always)]
    fn splat_f16(self, bits: u16) -> Self::Vector {
        self.splat(from_f16(bits))
    }

    #[inline(always)]
    fn signed(self, codes: &[u8; LANES]) -> Self::Vector {
        let mut values = [0.0; LANES];
        for l in 0..LANES {
            values[l] = f32::from(codes[l] as i8);
        }
        values
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; LANES], less: i32) -> [Self::Vector; 2] {
        let mut halves = [[0.0; LANES]; 2];
        for l in 0..LANES {
            halves[0][l] = (i32::from(bytes[l] & 15) - less) as f32;
        }
        for l in 0..LANES {
            halves[1][l] = (i32::from(bytes[l] >> 4) - less) as f32;
        }
        halves
    }

    #[inline(always)]
    fn entries(self, table: &[f32; 16], bytes: &[u8; LANES]) -> [Self::Vector; 2] {
        let mut entries = [[0.0; LANES]; 2];
        for l in 0..LANES {
            entries[0][l] = table[usize::from(bytes[l] & 15)];
            entries[1][l] = table[usize::from(bytes[l] >> 4)];
        }
        entries
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        let mut values = a;
        for l in 0..LANES {
            values[l] *= b[l];
        }
        values
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        let mut values = c;
        for l in 0..LANES {
            values[l] = a[l].mul_add(b[l], values[l]);
        }
        values
    }

    #[inline(always)]
    fn array(self, vector: Self::Vector) -> [f32; LANES] {
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    fn all<L: Lanes>(lanes: L) -> Vec<[f32; LANES]> {
        let [a, b, c]: [[f32; LANES]; 3] =
            [1, 2, 3].map(|seed| std::array::from_fn(|l| values(LANES, seed)[l]));
        let bytes = std::array::from_fn(|l| (l * 37 + 120) as u8);
        let halves = std::array::from_fn(|l| (l * 3943 + 7) as u16);
        let [x, y, z] = [&a, &b, &c].map(|v| lanes.load(v));
        let vectors = [
            lanes.bf16(&halves),
            lanes.f16(&halves),
            lanes.splat_f16(halves[3]),
            lanes.signed(&bytes),
            lanes.halves(&bytes, 8)[0],
            lanes.halves(&bytes, 3)[1],
            lanes.entries(&a, &bytes)[0],
            lanes.entries(&a, &bytes)[1],
            lanes.mul(x, y),
            lanes.mul_add(x, y, z),
            lanes.splat(0.37),
        ];
        vectors.map(|v| lanes.array(v)).to_vec()
    }

    #[test]
    fn every_processor_computes_the_same_to_the_bit() {
        let want = all(Plain);
        assert_eq!(want[3][..2], [120.0, -99.0]);
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(v3) = V3::try_new() {
                assert_eq!(all(Avx2(v3)), want);
            }
            if let Some(v4) = V4::try_new() {
                assert_eq!(all(Avx512(v4)), want);
            }
        }
    }
}
