//! A model that answers in conversations: by its chat template, remembering what it has read.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::args::BundleArgs;
use crate::cli::brain::Brain;
use crate::cli::sampling::SamplingFlags;
use aios_base::error::{Error, Result};
use aios_base::execution::Execution;
use aios_chat::{Message, Template};
use aios_data::Tokenizer;
use aios_engine::{Ended, Engine, GenerateOptions, Reading, Sampling, Session};
use aios_train::idle;

/// Longest text where no flag says otherwise, in tokens: its keys and values are in memory.
const LONGEST: usize = 8192;

/// A model for texts of up to so many tokens, or as many as suit it, and how these are drawn.
///
/// # Errors
/// As [`Brain::of_args`], or settings of its files that nothing can be drawn by.
pub fn prepared(
    bundle: &BundleArgs,
    longest: Option<u32>,
    flags: &SamplingFlags,
) -> Result<(Brain, Sampling)> {
    let mut brain = Brain::of_args(bundle)?;
    match longest {
        Some(length) => brain.set_length(Some(length as usize))?,
        None => brain.lengthen(LONGEST)?,
    }
    let defaults = brain.sampling()?;
    idle::warn(&flags.idle(&defaults));
    let sampling = flags.resolve(&defaults)?;
    Ok((brain, sampling))
}

/// How a conversation becomes the tokens that a model reads.
pub struct Speech {
    template: Template,
    tokenizer: Tokenizer,
    /// What the template ends an answer with, if that is a token.
    pub end: Option<u32>,
}

impl Speech {
    /// By the template in a file, or the model's own.
    ///
    /// # Errors
    /// None, or one that cannot be read.
    pub fn of(brain: &Brain, file: Option<&Path>) -> Result<Self> {
        let template = match file {
            Some(path) => Template::new(&Template::read(path)?, &brain.control_tokens()?)?,
            None => brain.template()?,
        };
        let tokenizer = brain.tokenizer.with_control_tokens()?;
        let behind = template.behind_an_answer().unwrap_or_default();
        let mut end = tokenizer.encode(&behind)?.into_iter();
        Ok(Self {
            end: end.find(|&id| tokenizer.is_named(id)),
            template,
            tokenizer,
        })
    }

    /// What the model reads before it answers.
    ///
    /// # Errors
    /// What the template has against the conversation.
    pub fn ids(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let text = self.template.conversation(messages)?;
        match self.tokenizer.encode(&text)? {
            ids if ids.is_empty() => Err(Error::invalid(
                "the chat template makes no text of the conversation: give another one by --chat-template",
            )),
            ids => Ok(ids),
        }
    }
}

/// A model on its device, with the text that it is in the middle of.
pub struct Speaker<'a> {
    tokenizer: &'a Tokenizer,
    session: Box<dyn Session + 'a>,
    reading: Reading,
    chunk: usize,
    /// Longest text, in tokens.
    pub longest: usize,
}

/// What was said, and what it took.
#[derive(Clone, Debug)]
pub struct Answer {
    pub text: String,
    /// Tokens that were read, and those of the answer.
    pub read: usize,
    pub tokens: usize,
    pub ended: Ended,
    /// Until the first token, and from there to the end.
    pub reading: Duration,
    pub speaking: Duration,
}

impl Answer {
    /// Of the answer, after its first one; `None` if there are too few to tell.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.speaking.as_secs_f64();
        (self.tokens > 1 && seconds > 0.0).then(|| (self.tokens - 1) as f64 / seconds)
    }
}

impl<'a> Speaker<'a> {
    pub fn new(brain: &'a Brain, engine: &'a dyn Engine, execution: Execution) -> Self {
        let reading = Reading {
            segments: brain.config.halt_max_steps,
            execution,
        };
        Self {
            tokenizer: &brain.tokenizer,
            session: engine.session(&reading),
            reading,
            chunk: brain.config.chunk_size,
            longest: brain.config.max_seq_len,
        }
    }

    /// Goes on after these tokens, handing the text on as far as it is certain; `piece` says whether to go on, and is asked so
    /// with no text between the parts of what is read.
    ///
    /// # Errors
    /// A text that is too long, what `piece` gives, or a model that fails.
    pub fn go_on(
        &mut self,
        ids: &[u32],
        sampling: &Sampling,
        most: usize,
        piece: &mut dyn FnMut(&str) -> Result<bool>,
    ) -> Result<Answer> {
        let room = self.longest.saturating_sub(ids.len());
        if room == 0 {
            return Err(too_long(ids.len(), self.longest));
        }
        let options = GenerateOptions {
            reading: self.reading,
            chunk: self.chunk,
            most: most.min(room),
            sampling: sampling.clone(),
        };
        let mut decoder = self.tokenizer.stream_decoder();
        let (mut text, mut tokens, mut outcome) = (String::new(), 0, Ok(true));
        let (start, mut first) = (Instant::now(), None);
        let mut hand_on = |part: Option<String>| {
            let part = part.unwrap_or_default();
            text.push_str(&part);
            piece(&part)
        };
        let mut token = |id: Option<u32>| {
            let Some(id) = id else {
                outcome = hand_on(None);
                return matches!(outcome, Ok(true));
            };
            first.get_or_insert_with(Instant::now);
            tokens += 1;
            outcome = decoder.push(id).and_then(&mut hand_on);
            matches!(outcome, Ok(true))
        };
        let ended = self.session.go_on(ids, &options, &mut token)?;
        outcome?;
        hand_on(decoder.finish()?)?;
        let end = Instant::now();
        let first = first.unwrap_or(end);
        Ok(Answer {
            text,
            read: ids.len(),
            tokens,
            ended,
            reading: first - start,
            speaking: end - first,
        })
    }
}

/// The error of a text that leaves no room for an answer.
fn too_long(tokens: usize, longest: usize) -> Error {
    Error::invalid(format!(
        "the text is {tokens} tokens long, and with {longest} at most (--max-seq-len) there is no room for an answer"
    ))
}
