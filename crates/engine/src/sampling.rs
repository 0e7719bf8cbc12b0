//! The next token of a text, drawn from a model's logits.
//!
//! Filters apply in the order of Hugging Face transformers (`generation/utils.py`, `_get_logits_processor`): repetition
//! penalty, temperature, top-k, top-p, min-p. Each sees what the ones before it left, so that top-p is a share of the
//! tokens that top-k kept.

use aios_base::error::{Error, Result};
use aios_nn::uniform;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::BTreeSet;

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the likeliest token, without a draw.
    pub temperature: f64,
    /// Draw from this many of the likeliest, and from those as likely as the last of them; 0 for all.
    pub top_k: usize,
    /// Draw from the likeliest that together have this probability; 1 for all.
    pub top_p: f64,
    /// Draw from those that have this share of the likeliest one's probability; 0 for all.
    pub min_p: f64,
    /// By which a logit above 0 of a token that is in the text so far, prompt included, is divided, and one below
    /// multiplied, once however often it is there; 1 changes nothing.
    pub repetition_penalty: f64,
    pub seed: u64,
    /// Tokens that end the text and are no part of it.
    pub stop: Vec<u32>,
}

impl Sampling {
    /// The likeliest token each time.
    pub fn likeliest() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            stop: Vec::new(),
        }
    }

    /// Whether the numbers are such as tokens can be drawn by, since they may come from a model's files.
    ///
    /// # Errors
    /// Names the number and what it has to be.
    pub fn check(&self) -> Result<()> {
        let above_0 = |number: f64| number.is_finite() && number > 0.0;
        for (name, number, fine, wanted) in [
            (
                "temperature",
                self.temperature,
                above_0(self.temperature) || self.temperature == 0.0,
                "a number of at least 0, such as 0.8",
            ),
            (
                "top-p",
                self.top_p,
                above_0(self.top_p) && self.top_p <= 1.0,
                "a number above 0 and at most 1, such as 0.9",
            ),
            (
                "min-p",
                self.min_p,
                (0.0..=1.0).contains(&self.min_p),
                "a number from 0 to 1, such as 0.05",
            ),
            (
                "repetition penalty",
                self.repetition_penalty,
                above_0(self.repetition_penalty),
                "a number above 0, such as 1.1",
            ),
        ] {
            if !fine {
                return Err(Error::invalid(format!(
                    "the {name} is {number}: it must be {wanted}"
                )));
            }
        }
        Ok(())
    }
}

/// Draws the tokens of one text.
pub struct Sampler<'a> {
    sampling: &'a Sampling,
    random: ChaCha8Rng,
    /// Tokens of the text so far.
    seen: BTreeSet<u32>,
}

impl<'a> Sampler<'a> {
    /// For what follows a prompt.
    pub fn new(sampling: &'a Sampling, prompt: &[u32]) -> Self {
        Self {
            sampling,
            random: ChaCha8Rng::seed_from_u64(sampling.seed),
            seen: prompt.iter().copied().collect(),
        }
    }

    /// The next token by its logits, one for each token that there is; from then on it is in the text. It takes one
    /// random number, or none at a temperature of 0.
    ///
    /// # Errors
    /// A logit that is no number, or none that is finite.
    pub fn draw(&mut self, logits: &[f32]) -> Result<u32> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(not_a_number());
        }
        let mut logits = logits.to_vec();
        self.penalize(&mut logits);
        let id = match self.sampling.temperature == 0.0 {
            true => likeliest(&logits)?,
            false => {
                let candidates = candidates(&logits, self.sampling)?;
                pick(&candidates, uniform(&mut self.random))
            }
        };
        self.seen.insert(id);
        Ok(id)
    }

    fn penalize(&self, logits: &mut [f32]) {
        let penalty = self.sampling.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for &id in &self.seen {
            if let Some(logit) = logits.get_mut(id as usize) {
                let before = f64::from(*logit);
                *logit = match before < 0.0 {
                    true => (before * penalty) as f32,
                    false => (before / penalty) as f32,
                };
            }
        }
    }
}

fn not_a_number() -> Error {
    Error::failed(
        "the model's output is not a number, so that no token can be drawn: its weights are damaged, or its training \
         went astray; use an earlier checkpoint",
    )
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    id: u32,
    /// Its probability as a share of the likeliest one's.
    weight: f64,
}

/// The likelier first; ties go to the lower id, so that the result does not depend on the sort.
fn likelier(logits: &[f32]) -> impl Fn(&u32, &u32) -> std::cmp::Ordering {
    let logit = |id: &u32| logits[*id as usize];
    move |a, b| logit(b).total_cmp(&logit(a)).then(a.cmp(b))
}

fn likeliest(logits: &[f32]) -> Result<u32> {
    let best = (0..logits.len() as u32).min_by(likelier(logits));
    let finite = best.filter(|&id| logits[id as usize].is_finite());
    finite.ok_or_else(not_a_number)
}

/// Those that temperature, top-k, top-p and min-p leave, the likeliest first; it is always among them.
fn candidates(logits: &[f32], sampling: &Sampling) -> Result<Vec<Candidate>> {
    let top = logits[likeliest(logits)? as usize];
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    keep_top_k(&mut order, logits, sampling.top_k);
    order.sort_unstable_by(likelier(logits));
    let weight = |id: u32| {
        let below = f64::from(logits[id as usize] - top);
        (below / sampling.temperature).exp()
    };
    let all = order.into_iter().map(|id| Candidate {
        id,
        weight: weight(id),
    });
    let mut candidates: Vec<_> = all.take_while(|candidate| candidate.weight > 0.0).collect();
    keep_top_p(&mut candidates, sampling.top_p);
    candidates.retain(|candidate| candidate.weight >= sampling.min_p);
    Ok(candidates)
}

fn keep_top_k(order: &mut Vec<u32>, logits: &[f32], k: usize) {
    if k == 0 || k >= order.len() {
        return;
    }
    let (_, &mut last, _) = order.select_nth_unstable_by(k - 1, likelier(logits));
    let least = logits[last as usize];
    order.retain(|&id| logits[id as usize] >= least);
}

/// Keep the first ones that together have the share `top_p`.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f64) {
    let enough = candidates.iter().map(|c| c.weight).sum::<f64>() * top_p;
    let mut sum = 0.0;
    let reached = candidates.iter().position(|candidate| {
        sum += candidate.weight;
        sum >= enough
    });
    candidates.truncate(reached.map_or(candidates.len(), |at| at + 1));
}

/// The candidate at a place of `[0, 1)`, which they share by their weights.
fn pick(candidates: &[Candidate], place: f64) -> u32 {
    let mut at = place * candidates.iter().map(|c| c.weight).sum::<f64>();
    let found = candidates.iter().find(|candidate| {
        at -= candidate.weight;
        at < 0.0
    });
    // By rounding the place may lie behind the last one.
    let found = found.or(candidates.last());
    found.map_or(0, |candidate| candidate.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of these probabilities, whatever they are multiplied by.
    fn of(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    fn all() -> Sampling {
        Sampling {
            temperature: 1.0,
            ..Sampling::likeliest()
        }
    }

    /// Ids that may be drawn, the likeliest first.
    fn left(logits: &[f32], sampling: Sampling) -> Vec<u32> {
        let candidates = candidates(logits, &sampling).unwrap();
        candidates.iter().map(|candidate| candidate.id).collect()
    }

    fn draws(logits: &[f32], sampling: &Sampling, prompt: &[u32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, prompt);
        (0..count).map(|_| sampler.draw(logits).unwrap()).collect()
    }

    #[test]
    fn without_filters_all_are_left_in_falling_order() {
        assert_eq!(left(&of(&[0.2, 0.5, 0.3]), all()), [1, 2, 0]);
    }

    #[test]
    fn top_k_keeps_as_many_of_the_likeliest() {
        let top_k = |top_k| Sampling { top_k, ..all() };
        let logits = of(&[0.1, 0.4, 0.3, 0.2]);
        assert_eq!(left(&logits, top_k(1)), [1]);
        assert_eq!(left(&logits, top_k(3)), [1, 2, 3]);
        assert_eq!(left(&logits, top_k(9)), [1, 2, 3, 0]);
    }

    #[test]
    fn top_k_keeps_all_that_are_as_likely_as_the_last() {
        let top_k = Sampling { top_k: 2, ..all() };
        assert_eq!(left(&[1.0, 3.0, 1.0, 1.0, 0.0], top_k), [1, 0, 2, 3]);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it() {
        let top_p = |top_p| Sampling { top_p, ..all() };
        let logits = of(&[0.1, 0.4, 0.3, 0.2]);
        assert_eq!(left(&logits, top_p(0.39)), [1]);
        assert_eq!(left(&logits, top_p(0.41)), [1, 2]);
        assert_eq!(left(&logits, top_p(0.69)), [1, 2]);
        assert_eq!(left(&logits, top_p(0.71)), [1, 2, 3]);
        assert_eq!(left(&logits, top_p(1.0)), [1, 2, 3, 0]);
        assert_eq!(left(&logits, top_p(1e-9)), [1]);
    }

    #[test]
    fn top_p_is_a_share_of_what_top_k_left() {
        let both = |top_p| Sampling {
            top_k: 2,
            top_p,
            ..all()
        };
        // 0.4 and 0.3 are 57 and 43 in a hundred of the two.
        let logits = of(&[0.1, 0.4, 0.3, 0.2]);
        assert_eq!(left(&logits, both(0.55)), [1]);
        assert_eq!(left(&logits, both(0.59)), [1, 2]);
    }

    #[test]
    fn min_p_is_a_share_of_the_likeliest() {
        let min_p = |min_p| Sampling { min_p, ..all() };
        let logits = of(&[0.1, 0.4, 0.3, 0.2]);
        assert_eq!(left(&logits, min_p(0.0)), [1, 2, 3, 0]);
        assert_eq!(left(&logits, min_p(0.24)), [1, 2, 3, 0]);
        assert_eq!(left(&logits, min_p(0.26)), [1, 2, 3]);
        assert_eq!(left(&logits, min_p(0.51)), [1, 2]);
        assert_eq!(left(&logits, min_p(1.0)), [1]);
    }

    #[test]
    fn temperature_comes_before_top_p_and_min_p() {
        // At 0.5 probabilities are squared: 16, 9, 4 and 1 of 30.
        let logits = of(&[0.1, 0.4, 0.3, 0.2]);
        let cold = Sampling {
            temperature: 0.5,
            ..all()
        };
        let top_p = Sampling {
            top_p: 0.8,
            ..cold.clone()
        };
        assert_eq!(left(&logits, top_p), [1, 2]);
        let min_p = Sampling {
            min_p: 0.26,
            ..cold
        };
        assert_eq!(left(&logits, min_p), [1, 2]);
    }

    #[test]
    fn draws_have_the_probabilities() {
        let drawn = draws(&of(&[0.2, 0.5, 0.3]), &all(), &[], 20_000);
        for (id, share) in [(0, 0.2), (1, 0.5), (2, 0.3)] {
            let count = drawn.iter().filter(|&&drawn| drawn == id).count();
            let found = count as f64 / drawn.len() as f64;
            assert!((found - share).abs() < 0.015, "{id}: {found}");
        }
    }

    #[test]
    fn the_seed_decides_the_draws() {
        let drawn = |seed| {
            let sampling = Sampling { seed, ..all() };
            draws(&of(&[0.3, 0.3, 0.4]), &sampling, &[], 30)
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }

    #[test]
    fn at_temperature_zero_the_likeliest_is_taken_and_the_lower_id_of_two() {
        let drawn = draws(&[0.0, 2.0, 2.0], &Sampling::likeliest(), &[], 5);
        assert_eq!(drawn, [1; 5]);
    }

    #[test]
    fn repetition_divides_above_zero_and_multiplies_below() {
        let sampling = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::likeliest()
        };
        let mut logits = [3.0, 2.0, -1.0, -1.5, 0.0];
        // Twice in the prompt counts once; an id that there is not changes nothing.
        let sampler = Sampler::new(&sampling, &[0, 0, 2, 4, 99]);
        sampler.penalize(&mut logits);
        assert_eq!(logits, [1.5, 2.0, -2.0, -1.5, 0.0]);
    }

    #[test]
    fn repetition_counts_what_was_drawn() {
        let sampling = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::likeliest()
        };
        // 3, then 1.5 against 2, then 1.5 against 1 and 1.2.
        assert_eq!(draws(&[3.0, 2.0, 1.2], &sampling, &[], 3), [0, 1, 0]);
        assert_eq!(draws(&[3.0, 2.0, 1.2], &sampling, &[0], 1), [1]);
    }

    #[test]
    fn output_that_is_no_number_is_an_error() {
        for logits in [
            &[1.0, f32::NAN, 0.0][..],
            &[f32::NAN; 3],
            &[f32::INFINITY, 0.0],
            &[f32::NEG_INFINITY; 2],
            &[],
        ] {
            for sampling in [all(), Sampling::likeliest()] {
                let error = Sampler::new(&sampling, &[]).draw(logits).unwrap_err();
                let error = error.to_string();
                assert!(error.contains("output is not a number"), "{error}");
            }
        }
    }

    #[test]
    fn what_cannot_be_is_never_drawn() {
        let hot = Sampling {
            temperature: 1e9,
            top_k: 3,
            ..all()
        };
        let drawn = draws(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY], &hot, &[], 200);
        assert_eq!(drawn, [1; 200]);
    }

    #[test]
    fn the_ends_of_the_range_are_drawn() {
        let candidates = candidates(&of(&[0.2, 0.5, 0.3]), &all()).unwrap();
        assert_eq!(pick(&candidates, 0.0), 1);
        assert_eq!(pick(&candidates, 1.0), 0);
    }

    #[test]
    fn numbers_are_checked() {
        assert!(all().check().is_ok());
        type Change = fn(&mut Sampling);
        let changes: [(Change, &str); 7] = [
            (|s| s.temperature = -1.0, "temperature is -1"),
            (|s| s.temperature = f64::INFINITY, "temperature is inf"),
            (|s| s.top_p = 0.0, "top-p is 0"),
            (|s| s.top_p = f64::NAN, "top-p is NaN"),
            (|s| s.min_p = 1.5, "min-p is 1.5"),
            (|s| s.repetition_penalty = 0.0, "repetition penalty is 0"),
            (
                |s| s.repetition_penalty = f64::INFINITY,
                "repetition penalty is inf",
            ),
        ];
        for (change, words) in changes {
            let mut sampling = all();
            change(&mut sampling);
            let error = sampling.check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
