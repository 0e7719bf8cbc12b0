//! Text from a model, token by token.

use crate::sampling::{Sampler, Sampling};
use aios_base::error::Result;
use aios_models::{Objective, Read, Reading};
use aios_tensor::{Ops, floats};

/// How a text is made.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    pub reading: Reading,
    /// Tokens of the prompt computed at once; changes nothing but memory and rounding.
    pub chunk: usize,
    /// Most tokens of the text.
    pub most: usize,
    pub sampling: Sampling,
}

/// Continue `prompt` (not empty), handing each token to `token` as it is drawn; ends early when that returns false, and
/// at one of the tokens to stop at, which is not handed on.
///
/// The model sees the last `max_seq_len` tokens. Up to that many, it remembers what it has read, and
/// computes each new token alone (unless its positions change at some length: there it reads all of
/// them again, once); beyond, every position changes with each token, and it reads all of
/// them again.
///
/// # Errors
/// The model's output is not a number.
pub fn generate<B: Ops>(
    model: &dyn Objective<B>,
    prompt: &[u32],
    options: &GenerateOptions,
    mut token: impl FnMut(u32) -> bool,
) -> Result<()> {
    let mut sampler = Sampler::new(&options.sampling, prompt);
    let mut ids: Vec<i32> = prompt.iter().map(|&id| id as i32).collect();
    let mut reader = model.reader(&options.reading);
    for _ in 0..options.most {
        let start = ids.len().saturating_sub(model.max_seq_len());
        if start > 0 {
            reader = model.reader(&options.reading);
        }
        reader.expect(ids.len() - start);
        let logits = next_logits(model, &mut *reader, &ids[start..], options.chunk, start > 0);
        let id = sampler.draw(&logits)?;
        if options.sampling.stop.contains(&id) || !token(id) {
            break;
        }
        ids.push(id as i32);
    }
    Ok(())
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
