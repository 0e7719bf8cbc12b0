//! Deterministic data for the tests.

/// `n` values in [-1, 1) from a linear congruential generator.
pub fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// Panics unless both are equal to `tolerance`, relative to the largest value of `want`.
pub fn assert_close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-6_f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * scale,
            "element {i}: got {g}, want {w}"
        );
    }
}

/// Panics unless `got` is `x wᵀ` but for rounding, which is a share of the sum of the products' sizes.
pub fn assert_products(got: &[f32], w: &[f32], x: &[f32], inputs: usize) {
    let rows = x
        .chunks(inputs)
        .flat_map(|x| w.chunks(inputs).map(move |w| (x, w)));
    assert_eq!(got.len() * inputs * inputs, x.len() * w.len());
    for (got, (x, w)) in got.iter().zip(rows) {
        let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
        let (want, size) = (
            products.clone().sum::<f64>(),
            products.map(f64::abs).sum::<f64>(),
        );
        assert!(
            (f64::from(*got) - want).abs() <= 2e-6 * size,
            "{got} {want}"
        );
    }
}
