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
        for (cell, &code) in map.cells()[..map::CELLS].iter().enumerate() {
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
