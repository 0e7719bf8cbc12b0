//! One AdamW step on one tensor (Loshchilov and Hutter, "Decoupled Weight Decay Regularization").

use crate::simd::dispatch;
use crate::team::Each;
use rayon::prelude::*;

/// What a step needs besides the tensors.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Decoupled: the parameter shrinks by `learning_rate * weight_decay`.
    pub weight_decay: f32,
    /// Steps taken, this one included; corrects the moments' bias towards zero.
    pub step: u64,
    /// The gradient is multiplied by this first (clipping).
    pub gradient_scale: f32,
}

impl Step {
    /// Factors of the first moment (the learning rate over its bias correction) and of the square
    /// root of the second.
    pub fn corrections(&self) -> (f32, f32) {
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        let first = 1.0 - f64::from(self.beta1).powi(power);
        let second = 1.0 - f64::from(self.beta2).powi(power);
        let rate = f64::from(self.learning_rate) / first;
        (rate as f32, (1.0 / second.sqrt()) as f32)
    }
}

/// Update `parameter` and both moments in place from `gradient`.
pub fn adamw(parameter: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], step: Step) {
    let n = parameter.len();
    assert!(gradient.len() == n && m.len() == n && v.len() == n);
    let (rate, root) = step.corrections();
    let keep = 1.0 - step.learning_rate * step.weight_decay;
    parameter
        .par_chunks_mut(crate::GRAIN)
        .zip(gradient.par_chunks(crate::GRAIN))
        .zip(
            m.par_chunks_mut(crate::GRAIN)
                .zip(v.par_chunks_mut(crate::GRAIN)),
        )
        .each(|((p, g), (m, v))| {
            dispatch(
                #[inline(always)]
                || {
                    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut())
                    {
                        let g = g * step.gradient_scale;
                        *m = *m * step.beta1 + g * (1.0 - step.beta1);
                        *v = *v * step.beta2 + g * g * (1.0 - step.beta2);
                        *p = *p * keep - rate * *m / (v.sqrt() * root + step.eps);
                    }
                },
            );
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_moves_by_the_learning_rate() {
        let (mut p, mut m, mut v) = (vec![1.0_f32; 3], vec![0.0; 3], vec![0.0; 3]);
        let step = Step {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.5,
            step: 1,
            gradient_scale: 2.0,
        };
        adamw(&mut p, &[1e-3, -4.0, 0.0], &mut m, &mut v, step);
        let want = [0.95 - 0.1, 0.95 + 0.1, 0.95];
        for (p, w) in p.iter().zip(want) {
            assert!((p - w).abs() < 1e-4, "{p} {w}");
        }
    }
}
