use super::*;
use crate::half::{Half, from_bf16, narrow, widen};
use crate::testing::{assert_close, values};

/// Those of this processor, each with the plain loops that it equals, and the plain loops.
fn units() -> Vec<Unit> {
    let mut all = Unit::all();
    all.extend([Unit::LikeAmx, Unit::LikeAvx512]);
    all
}

fn like(unit: Unit) -> Unit {
    match unit {
        Unit::Amx | Unit::LikeAmx => Unit::LikeAmx,
        Unit::Avx512 | Unit::LikeAvx512 => Unit::LikeAvx512,
    }
}

/// Numbers in a format, and what they are in bf16.
struct Kept {
    floats: Vec<f32>,
    bits: Option<(Vec<u16>, Half)>,
    rounded: Vec<f32>,
}

impl Kept {
    fn new(floats: Vec<f32>, format: Option<Half>) -> Self {
        let bits = format.map(|format| (narrow(&floats, format), format));
        let floats = match &bits {
            Some((bits, format)) => widen(bits, *format),
            None => floats,
        };
        let rounded = widen(&narrow(&floats, Half::Bf16), Half::Bf16);
        Self {
            floats,
            bits,
            rounded,
        }
    }

    fn numbers(&self) -> Numbers<'_> {
        match &self.bits {
            Some((bits, format)) => Numbers::Half(bits, *format),
            None => Numbers::F32(&self.floats),
        }
    }
}

/// A matrix and how its element (i, j) is found, with rows or columns one apart from another.
fn view(numbers: Numbers<'_>, rows: usize, cols: usize, turned: bool) -> View<'_> {
    match turned {
        false => View::of(numbers, rows, cols, cols + 1),
        true => View::of(numbers, cols, rows, rows + 1).t(),
    }
}

fn at(all: &[f32], view: &View, i: usize, j: usize) -> f64 {
    f64::from(all[i * view.row_stride + j * view.col_stride])
}

const FORMATS: [Option<Half>; 3] = [None, Some(Half::Bf16), Some(Half::F16)];
/// Less and more than a tile, a block, what is added at once and what is copied at once.
const SIZES: [[usize; 3]; 10] = [
    [1, 1, 1],
    [1, 5, 0],
    [3, 33, 40],
    [16, 16, 32],
    [17, 65, 31],
    [31, 15, 70],
    [33, 40, 513],
    [61, 130, 33],
    [530, 3, 5],
    [500, 40, 600],
];

#[test]
fn every_layout_size_and_format_gives_the_sums() {
    for [m, n, k] in SIZES {
        for (a_t, b_t) in [(false, false), (false, true), (true, false), (true, true)] {
            for (i, format) in FORMATS.into_iter().enumerate() {
                let a = Kept::new(values((m + 1) * (k + 1), 1), FORMATS[(i + 1) % 3]);
                let b = Kept::new(values((n + 1) * (k + 1), 2), format);
                let (a_view, b_view) = (view(a.numbers(), m, k, a_t), view(b.numbers(), k, n, b_t));
                let before = values(m * (n + 2), 3);
                let want: Vec<f32> = (0..m * n)
                    .map(|e| {
                        let (i, j) = (e / n, e % n);
                        let term =
                            |l| at(&a.rounded, &a_view, i, l) * at(&b.rounded, &b_view, l, j);
                        (0.5 * (0..k).map(term).sum::<f64>()) as f32
                    })
                    .collect();
                for unit in units() {
                    for add in [false, true] {
                        let mut out = match add {
                            true => before.clone(),
                            false => vec![f32::NAN; m * (n + 2)],
                        };
                        by(unit, Out::F32(&mut out), n + 2, a_view, b_view, (0.5, add));
                        for i in 0..m {
                            let (row, own) = (&out[i * (n + 2)..], &before[i * (n + 2)..]);
                            let want: Vec<f32> = (0..n)
                                .map(|j| want[i * n + j] + if add { own[j] } else { 0.0 })
                                .collect();
                            assert_close(&row[..n], &want, 2e-5);
                            // What is between the rows stays as it is.
                            let kept = if add { own[n] } else { f32::NAN };
                            assert!(row[n] == kept || row[n].is_nan() && kept.is_nan());
                        }
                    }
                }
            }
        }
    }
}

/// Numbers of all sizes, zeros of both signs, subnormal ones and what is not finite.
fn wild(n: usize, seed: u32) -> Vec<f32> {
    let scales = values(n, seed + 100);
    let special = [0.0, -0.0, 1e-40, -3e-39, f32::MIN_POSITIVE, 3e38, 1.0, -1.0];
    values(n, seed)
        .into_iter()
        .zip(scales)
        .enumerate()
        .map(|(i, (x, scale))| match i % 7 {
            0 => special[i / 7 % special.len()],
            _ => x * (30.0 * scale).exp2(),
        })
        .collect()
}

#[test]
fn plain_loops_equal_the_instructions_to_the_bit() {
    for unit in Unit::all() {
        for [m, n, k] in [[40, 50, 33], [16, 16, 512], [70, 33, 1100]] {
            for format in FORMATS {
                let (a, b) = (wild(m * k, 1), Kept::new(wild(n * k, 2), format));
                for (a, b) in [
                    (View::whole(&a, m, k), View::of(b.numbers(), n, k, k).t()),
                    (View::whole(&a, k, m).t(), View::of(b.numbers(), k, n, n)),
                ] {
                    let run = |unit| {
                        let mut out = wild(m * n, 3);
                        by(unit, Out::F32(&mut out), n, a, b, (0.75, true));
                        let bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
                        let mut halves = narrow(&wild(m * n, 4), Half::Bf16);
                        if k <= DEPTH {
                            by(unit, Out::Bf16(&mut halves), n, a, b, (1.0, true));
                        }
                        (bits, halves)
                    };
                    let (own, want) = (run(unit), run(like(unit)));
                    assert!(own == want, "{unit:?}, {m} x {n} x {k}, {format:?}");
                }
            }
        }
    }
}

#[test]
fn a_result_in_bf16_is_the_rounded_one() {
    let (m, n, k) = (45, 70, 900);
    let (a, b) = (values(m * k, 1), values(n * k, 2));
    for unit in units() {
        let mut bits = vec![0; m * n];
        let (a, b) = (View::whole(&a, m, k), View::whole(&b, n, k).t());
        by(unit, Out::Bf16(&mut bits), n, a, b, (1.0, false));
        let mut whole = vec![0.0; m * n];
        by(unit, Out::F32(&mut whole), n, a, b, (1.0, false));
        for (&bits, want) in bits.iter().zip(whole) {
            // The sums' parts are other ones.
            assert!((from_bf16(bits) - want).abs() <= want.abs() / 250.0 + 1e-5);
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for [m, n, k] in [[300, 700, 100], [33, 4000, 100], [1000, 64, 200]] {
        let (a, b) = (values(m * k, 1), values(n * k, 2));
        for unit in units() {
            let run = |threads| {
                crate::team::tests::with_threads(threads, || {
                    let mut out = vec![0.0; m * n];
                    let (a, b) = (View::whole(&a, m, k), View::whole(&b, n, k).t());
                    by(unit, Out::F32(&mut out), n, a, b, (1.0, false));
                    out
                })
            };
            let one = run(1);
            assert!([2, 5].into_iter().all(|threads| run(threads) == one));
        }
    }
}

#[test]
fn nan_and_infinity_reach_the_elements_that_they_belong_to_and_no_other() {
    let (m, n, k) = (20, 40, 30);
    for unit in units() {
        let (mut a, b) = (vec![1.0; m * k], vec![0.0; n * k]);
        a[7 * k + 3] = f32::NAN;
        a[8 * k + 3] = f32::INFINITY;
        let mut out = vec![1.0; m * n];
        let (a, b) = (View::whole(&a, m, k), View::whole(&b, n, k).t());
        by(unit, Out::F32(&mut out), n, a, b, (1.0, false));
        for (i, row) in out.chunks(n).enumerate() {
            let nan = i == 7 || i == 8;
            assert!(row.iter().all(|y| y.is_nan() == nan && (nan || *y == 0.0)));
        }
    }
}

#[test]
fn small_products_of_deep_sums_are_summed_in_parts() {
    let (m, n, k) = (5, 20, 1100);
    let (a, b) = (values(m * k, 1), values(n * k, 2));
    for unit in units() {
        let mut out = vec![0.0; m * n];
        let lines = [Lines::new(&a, k, 1), Lines::new(&b, k, 1)];
        small(
            unit,
            &mut out,
            n,
            lines[0],
            lines[1],
            [m, n, k],
            (1.0, false),
        );
        let mut want = vec![0.0; m * n];
        let views = (View::whole(&a, m, k), View::whole(&b, n, k).t());
        by(unit, Out::F32(&mut want), n, views.0, views.1, (1.0, false));
        assert!(out == want);
    }
}

#[test]
#[should_panic(expected = "distances 7 and 2")]
fn lines_that_lie_neither_way_are_refused() {
    Lines::new(&[0.0; 100], 7, 2);
}
