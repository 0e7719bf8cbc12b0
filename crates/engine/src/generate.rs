//! Text from a model, token by token.

use aios_models::{Objective, Read, Reading};
use aios_nn::uniform;
use aios_tensor::{Ops, floats};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    pub reading: Reading,
    /// Tokens of the prompt computed at once; changes nothing but memory and rounding.
    pub chunk: usize,
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// Draw from this many of the likeliest; 0 for all.
    pub top_k: usize,
    /// Draw from the likeliest that together have this probability; 1 for all.
    pub top_p: f64,
    pub seed: u64,
}

/// Continue `prompt` (not empty) by up to `most` tokens, handing each to `token` as it is drawn;
/// stops early when that returns false.
///
/// The model sees the last `max_seq_len` tokens. Up to that many, it remembers what it has read, and
/// computes each new token alone; beyond, every position changes with each token, and it reads all of
/// them again.
pub fn generate<B: Ops>(
    model: &dyn Objective<B>,
    prompt: &[u32],
    most: usize,
    sampling: &Sampling,
    mut token: impl FnMut(u32) -> bool,
) {
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    let mut ids: Vec<i32> = prompt.iter().map(|&id| id as i32).collect();
    let mut reader = model.reader(&sampling.reading);
    for _ in 0..most {
        let start = ids.len().saturating_sub(model.max_seq_len());
        if start > 0 {
            reader = model.reader(&sampling.reading);
        }
        let logits = next_logits(
            model,
            &mut *reader,
            &ids[start..],
            sampling.chunk,
            start > 0,
        );
        let id = draw(&logits, sampling, &mut rng);
        ids.push(id as i32);
        if !token(id) {
            break;
        }
    }
}

/// Logits of the token that follows `ids`, of which the reader may have read some; or all of them
/// `again`, remembering nothing.
fn next_logits<B: Ops>(
    model: &dyn Objective<B>,
    reader: &mut dyn Read<B>,
    ids: &[i32],
    chunk: usize,
    again: bool,
) -> Vec<f32> {
    let unread = &ids[reader.position()..];
    let mut read = |ids: &[i32], last| {
        let z_h = reader.read(ids, last);
        z_h.narrow(0, ids.len() - 1, 1)
    };
    let last = match again {
        true => read(unread, true),
        false => {
            let each = unread.chunks(chunk).map(|ids| read(ids, false));
            each.last().expect("at least one token is new")
        }
    };
    floats(B::linear_forward(&last, &model.head().value()))
}

fn draw(logits: &[f32], sampling: &Sampling, rng: &mut ChaCha8Rng) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |&i: &u32| logits[i as usize];
    // Ties go to the lower id, so that the result does not depend on the sort.
    let likelier = |a: &u32, b: &u32| logit(b).total_cmp(&logit(a)).then(a.cmp(b));
    let keep = match sampling.top_k {
        0 => logits.len(),
        k => k.min(logits.len()),
    };
    if sampling.temperature == 0.0 {
        return order.into_iter().min_by(likelier).unwrap_or(0);
    }
    if keep < order.len() {
        order.select_nth_unstable_by(keep - 1, likelier);
        order.truncate(keep);
    }
    order.sort_unstable_by(likelier);
    let top = order.first().map_or(0.0, logit);
    let weight = |i: &u32| (f64::from(logit(i) - top) / sampling.temperature).exp();
    let mut weights: Vec<f64> = order.iter().map(weight).collect();
    cut(&mut weights, sampling.top_p);
    let mut at = uniform(rng) * weights.iter().sum::<f64>();
    for (&id, weight) in order.iter().zip(&weights) {
        at -= weight;
        if at < 0.0 {
            return id;
        }
    }
    order[weights.len().min(order.len()) - 1]
}

/// Keep the first weights (in falling order) that together have the share `top_p`.
fn cut(weights: &mut Vec<f64>, top_p: f64) {
    let enough = weights.iter().sum::<f64>() * top_p;
    let mut sum = 0.0;
    let reached = weights.iter().position(|w| {
        sum += w;
        sum >= enough
    });
    weights.truncate(reached.map_or(weights.len(), |i| i + 1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::execution::{Chunking, Execution, Place};
    use aios_tensor::{AttentionPath, Precision};

    fn sampling(temperature: f64, top_k: usize, top_p: f64) -> Sampling {
        Sampling {
            reading: Reading {
                segments: 1,
                execution: Execution {
                    chunking: Chunking::Off,
                    place: Place::Device,
                    path: AttentionPath::Sdpa,
                    precision: Precision::F32,
                },
            },
            chunk: 1,
            temperature,
            top_k,
            top_p,
            seed: 1,
        }
    }

    fn drawn(sampling: Sampling) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let logits = [0.0, 2.0, 1.9, -1.0];
        let mut ids: Vec<u32> = (0..300)
            .map(|_| draw(&logits, &sampling, &mut rng))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    #[test]
    fn limits_leave_only_the_likeliest() {
        assert_eq!(drawn(sampling(0.0, 0, 1.0)), [1]);
        assert_eq!(drawn(sampling(1.0, 1, 1.0)), [1]);
        assert_eq!(drawn(sampling(1.0, 2, 1.0)), [1, 2]);
        assert_eq!(drawn(sampling(1.0, 0, 0.5)), [1, 2]);
        assert_eq!(drawn(sampling(1.0, 0, 1.0)), [0, 1, 2, 3]);
    }
}
