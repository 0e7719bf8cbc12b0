//! Text from a model, token by token.

use crate::Session;
use crate::sampling::{Sampler, Sampling};
use crate::training::check_ids;
use aios_base::error::Result;
use aios_models::{Objective, Read, Reading};
use aios_tensor::{Ops, confirmed, floats};
use burn::tensor::Tensor;

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

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// At a token to stop at.
    Stop,
    /// It is as long as it may be.
    Length,
    /// Whoever it was for wanted no more.
    Asked,
}

/// A text that goes on, perhaps after changes at its end: what was read of it is remembered.
///
/// The model sees the last `max_seq_len` tokens. Up to that many, it remembers what it has read, and computes each new token
/// alone (unless its positions change at some length: there it reads all of them again, once); beyond, every position changes
/// with each token, and it reads all of them again.
pub struct Text<'a, B: Ops> {
    model: &'a dyn Objective<B>,
    reading: Reading,
    reader: Box<dyn Read<B> + 'a>,
    /// Begins with what the reader has read.
    ids: Vec<i32>,
}

impl<'a, B: Ops> Text<'a, B> {
    /// Nothing yet.
    pub fn new(model: &'a dyn Objective<B>, reading: Reading) -> Self {
        Self {
            model,
            reading,
            reader: model.reader(&reading),
            ids: Vec::new(),
        }
    }

    /// See [`Session::go_on`].
    ///
    /// # Errors
    /// The model's output is not a number.
    pub fn go_on(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        token: &mut dyn FnMut(Option<u32>) -> bool,
    ) -> Result<Ended> {
        let mut sampler = Sampler::new(&options.sampling, prompt);
        self.take(prompt);
        for _ in 0..options.most {
            let Some(logits) = self.next_logits(options.chunk, &mut || token(None)) else {
                return Ok(Ended::Asked);
            };
            let id = sampler.draw(&logits)?;
            if options.sampling.stop.contains(&id) {
                return Ok(Ended::Stop);
            }
            if !token(Some(id)) {
                return Ok(Ended::Asked);
            }
            self.ids.push(id as i32);
        }
        Ok(Ended::Length)
    }

    /// From now on it is this text. Of what was read before, what both begin with is not read again.
    fn take(&mut self, text: &[u32]) {
        let both = self.ids.iter().zip(text);
        let same = both.take_while(|(own, new)| **own == **new as i32).count();
        // Of the last one the logits are wanted.
        self.reader.keep(same.min(text.len() - 1));
        self.ids = text.iter().map(|&id| id as i32).collect();
    }

    /// Logits of the token that follows; `None` if `wanted`, which is asked between the parts of what is to be read, said no.
    fn next_logits(&mut self, chunk: usize, wanted: &mut dyn FnMut() -> bool) -> Option<Vec<f32>> {
        let start = self.ids.len().saturating_sub(self.model.max_seq_len());
        let seen = &self.ids[start..];
        if start > 0 {
            // What it remembers does not hold any more.
            self.reader = self.model.reader(&self.reading);
            self.reader.expect(seen.len());
            let z = self.reader.read(seen, true);
            self.reader = self.model.reader(&self.reading);
            return Some(logits(self.model, z));
        }
        self.reader.expect(seen.len());
        let parts = seen[self.reader.position()..].chunks(chunk);
        let mut last = None;
        for part in parts {
            if last.is_some() && !wanted() {
                return None;
            }
            last = Some(self.reader.read(part, false));
        }
        Some(logits(self.model, last.expect("at least one token is new")))
    }
}

/// Those of the last of these states.
fn logits<B: Ops>(model: &dyn Objective<B>, z: Tensor<B, 2>) -> Vec<f32> {
    let last = z.dims()[0] - 1;
    floats(model.head().product(&z.narrow(0, last, 1)))
}

/// [`Text`] on its device.
pub(crate) struct OnDevice<'a, B: Ops> {
    text: Text<'a, B>,
    device: &'a B::Device,
}

impl<'a, B: Ops> OnDevice<'a, B> {
    pub fn new(model: &'a dyn Objective<B>, reading: &Reading, device: &'a B::Device) -> Self {
        let text = Text::new(model, *reading);
        Self { text, device }
    }
}

impl<B: Ops> Session for OnDevice<'_, B> {
    fn go_on(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        token: &mut dyn FnMut(Option<u32>) -> bool,
    ) -> Result<Ended> {
        let model = self.text.model;
        check_ids(model, prompt.iter().map(|&id| id as i32))?;
        let ended = confirmed::<B, _>(self.device, || self.text.go_on(prompt, options, token));
        let ended = ended.and_then(|ended| ended);
        if ended.is_err() {
            // It may be in the middle of something.
            self.text = Text::new(model, self.text.reading);
        }
        ended
    }
}
