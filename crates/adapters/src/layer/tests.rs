//! Dropout against the formula of PEFT, in f64.

use super::*;
use aios_base::storage::Storage;
use aios_nn::ParamInfo;
use aios_tensor::CpuBackend;
use burn::tensor::TensorData;

type Matrix = Tensor<CpuBackend, 2>;

const TOKENS: usize = 5;
const INPUTS: usize = 7;
const OUTPUTS: usize = 6;
const RANK: usize = 3;
const SCALE: f64 = 0.7;
const SHARE: f64 = 0.4;

fn numbers(n: usize, seed: usize) -> Vec<f64> {
    let at = |i: usize| ((i + 1) as f64 * (0.37 + seed as f64)).sin();
    (0..n).map(at).collect()
}

fn tensor(values: &[f64], dims: [usize; 2]) -> Matrix {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    Tensor::from_data(TensorData::new(values, dims), &Default::default())
}

fn param(index: usize, values: &[f64], dims: [usize; 2]) -> Param<CpuBackend> {
    let info = ParamInfo {
        name: index.to_string(),
        shape: dims.to_vec(),
        decay: false,
        trained: index > 0,
        storage: Storage::F32,
    };
    Param::new(info, index, tensor(values, dims))
}

/// `x wᵀ`
fn product(x: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    let rows = x.chunks(inputs);
    rows.flat_map(|x| w.chunks(inputs).map(move |w| dot(x, w)))
        .collect()
}

/// What a layer is made of, and what it reads.
#[derive(Clone)]
struct Plain {
    w: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
    magnitude: Option<Vec<f64>>,
    x: Vec<f64>,
    /// Factors of what the adapter reads.
    mask: Vec<f64>,
    /// Norms of the rows, which are constants.
    norms: Vec<f64>,
}

impl Plain {
    fn new(dora: bool, mask: Vec<f64>) -> Self {
        let (w, a, b) = (
            numbers(OUTPUTS * INPUTS, 1),
            numbers(RANK * INPUTS, 2),
            numbers(OUTPUTS * RANK, 3),
        );
        let row = |o: usize| {
            let sum = (0..INPUTS).map(|i| {
                let change: f64 = (0..RANK).map(|r| b[o * RANK + r] * a[r * INPUTS + i]).sum();
                (w[o * INPUTS + i] + SCALE * change).powi(2)
            });
            sum.sum::<f64>().sqrt()
        };
        Self {
            norms: (0..OUTPUTS).map(row).collect(),
            magnitude: dora.then(|| numbers(OUTPUTS, 4)),
            x: numbers(TOKENS * INPUTS, 5),
            mask,
            w,
            a,
            b,
        }
    }

    /// As `peft.tuners.lora` computes it: `W x + scale B A d`, or with magnitudes
    /// `W x + (m / n - 1) W d + m / n scale B A d`, where d is what dropout leaves of x.
    fn result(&self) -> Vec<f64> {
        let d: Vec<f64> = self.x.iter().zip(&self.mask).map(|(x, m)| x * m).collect();
        let base = product(&self.x, &self.w, INPUTS);
        let of_dropped = product(&d, &self.w, INPUTS);
        let own = product(&product(&d, &self.a, INPUTS), &self.b, RANK);
        let each = base.iter().zip(of_dropped).zip(own).enumerate();
        each.map(|(i, ((base, of_dropped), own))| match &self.magnitude {
            None => base + SCALE * own,
            Some(m) => {
                let factor = m[i % OUTPUTS] / self.norms[i % OUTPUTS];
                base + (factor - 1.0) * of_dropped + factor * SCALE * own
            }
        })
        .collect()
    }

    fn layer(&self) -> (Linear<CpuBackend>, LoraLayer<CpuBackend>) {
        let magnitude = self.magnitude.as_ref();
        let layer = LoraLayer {
            a: param(1, &self.a, [RANK, INPUTS]),
            b: param(2, &self.b, [OUTPUTS, RANK]),
            magnitude: magnitude.map(|m| param(3, m, [1, OUTPUTS])),
            scale: SCALE as f32,
            dropout: Share::of(SHARE),
        };
        (Linear::new(param(0, &self.w, [OUTPUTS, INPUTS])), layer)
    }
}

fn draws(step: u64) -> Draws {
    Draws::new(11, step, 3..4, 0..TOKENS)
}

fn mask(draws: &Draws) -> Vec<f64> {
    let ones = Matrix::ones([TOKENS, INPUTS], &Default::default());
    let mask = draws.dropped(ones, 1, Share::of(SHARE).unwrap());
    floats(mask).into_iter().map(f64::from).collect()
}

#[track_caller]
fn assert_close(what: &str, got: Matrix, want: &[f64]) {
    for (got, want) in floats(got).into_iter().zip(want) {
        assert!((f64::from(got) - want).abs() < 2e-5, "{what}: {got} {want}");
    }
}

/// Derivatives of the sum of results times `dy` by each of some numbers.
fn slopes(plain: &Plain, dy: &[f64], of: fn(&mut Plain) -> &mut Vec<f64>) -> Vec<f64> {
    let count = of(&mut plain.clone()).len();
    let value = |at: usize, step: f64| {
        let mut moved = plain.clone();
        of(&mut moved)[at] += step;
        moved
            .result()
            .iter()
            .zip(dy)
            .map(|(y, dy)| y * dy)
            .sum::<f64>()
    };
    let slope = |at| (value(at, 1e-4) - value(at, -1e-4)) / 2e-4;
    (0..count).map(slope).collect()
}

#[test]
fn dropout_is_that_of_peft_with_the_same_mask() {
    let draws = draws(1);
    let mask = mask(&draws);
    assert!(mask.contains(&0.0) && mask.iter().any(|m| *m > 1.0));
    for dora in [false, true] {
        let plain = Plain::new(dora, mask.clone());
        let (base, layer) = plain.layer();
        let x = tensor(&plain.x, [TOKENS, INPUTS]);
        let y = layer.forward(&base, &x, Some(&draws));
        assert_close("result", y, &plain.result());

        let dy = numbers(TOKENS * OUTPUTS, 6);
        let gradient = tensor(&dy, [TOKENS, OUTPUTS]);
        let mut grads = Gradients::new(4);
        layer.backward_weight(&base, &gradient, &x, Some(&draws), &mut grads);
        let sum = |param| grads.get(param).unwrap().clone();
        assert_close("A", sum(&layer.a), &slopes(&plain, &dy, |p| &mut p.a));
        assert_close("B", sum(&layer.b), &slopes(&plain, &dy, |p| &mut p.b));
        if let Some(magnitude) = &layer.magnitude {
            let want = slopes(&plain, &dy, |p| p.magnitude.as_mut().unwrap());
            assert_close("magnitude", sum(magnitude), &want);
        }
        let dx = layer.backward_input(&base, &gradient, Some(&draws));
        assert_close("x", dx, &slopes(&plain, &dy, |p| &mut p.x));
    }
}

#[test]
fn without_draws_and_in_the_mean_nothing_is_dropped() {
    for dora in [false, true] {
        let plain = Plain::new(dora, vec![1.0; TOKENS * INPUTS]);
        let (base, layer) = plain.layer();
        let x = tensor(&plain.x, [TOKENS, INPUTS]);
        let want = plain.result();
        assert_close("none", layer.forward(&base, &x, None), &want);
        let steps = 4000;
        let of = |step| layer.forward(&base, &x, Some(&draws(step)));
        let sum = (1..steps).fold(of(0), |sum, step| sum + of(step));
        for (mean, want) in floats(sum / steps as f32).into_iter().zip(want) {
            // Some five standard deviations.
            assert!((f64::from(mean) - want).abs() < 0.2, "{mean} {want}");
        }
    }
}
