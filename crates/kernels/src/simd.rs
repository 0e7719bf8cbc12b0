//! Run a loop with the widest vector instructions the processor has, and a vectorisable `exp`.

/// Run `f` compiled for the processor found at run time (AVX-512, AVX2 and FMA, NEON, ...).
///
/// Everything that `f` calls has to be `#[inline(always)]`, or it is compiled for the baseline.
#[inline(always)]
pub fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Have a line of memory brought near, where there is a way to say so. It may be anywhere: a place that is not there is ignored.
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing; every x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The same of a line that is wanted after so much else that the nearest cache would not hold it until then.
#[inline(always)]
pub fn prefetch_far<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// `e^x` to 2 units in the last place, in operations that vectorise (Cephes' `expf`).
///
/// Below -87.3 the result is about 1e-38 rather than a subnormal; NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Written as comparisons so that NaN passes through: f32::max and min would swallow it.
    let x = if x < -87.336_54 { -87.336_54 } else { x };
    let x = if x > 88.376_26 { 88.376_26 } else { x };
    // Adding 1.5 * 2^23 rounds to an integer that is then in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127);
    y * f32::from_bits(exponent << 23)
}

/// Lanes of the partial accumulators below: two AVX-512 registers.
pub const LANES: usize = 32;

/// Sum of `f(i)` over `0..n`, in `LANES` fixed partial sums so that the order never changes.
#[inline(always)]
pub fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut parts = [0.0_f32; LANES];
    let whole = n - n % LANES;
    let mut i = 0;
    while i < whole {
        for (lane, part) in parts.iter_mut().enumerate() {
            *part += f(i + lane);
        }
        i += LANES;
    }
    let mut total = parts.iter().sum::<f32>();
    for i in whole..n {
        total += f(i);
    }
    total
}

/// Largest value of a slice; NaN if there is one, -inf if it is empty.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut parts = [f32::NEG_INFINITY; LANES];
    let groups = x.chunks_exact(LANES);
    let rest = groups.remainder();
    let pick = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
    for group in groups {
        for (part, &v) in parts.iter_mut().zip(group) {
            *part = pick(*part, v);
        }
    }
    let top = parts.iter().fold(f32::NEG_INFINITY, |a, &b| pick(a, b));
    rest.iter().fold(top, |a, &b| pick(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_and_keeps_nan() {
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let want = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - want).abs() / want;
            assert!(relative < 3e-7, "exp({x}) is off by {relative:e}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e9) < 2e-38);
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
    }

    #[test]
    fn max_finds_the_largest_at_any_length_and_reports_nan() {
        for n in [1, 31, 32, 33, 70] {
            let mut x: Vec<f32> = (0..n).map(|i| -(i as f32)).collect();
            x[n - 1] = 5.0;
            assert_eq!(max(&x), 5.0);
            x[n / 2] = f32::NAN;
            assert!(max(&x).is_nan());
        }
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
