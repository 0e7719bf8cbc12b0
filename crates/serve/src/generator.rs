//! What a model has to do to be served.

use aios_base::error::Error;
pub use aios_chat::{Message, Role};

/// A model that makes one text at a time. It is built and used on one thread, so that it need not be `Send`.
pub trait Generator {
    /// Answer a conversation, in pieces that together are the answer. Once `piece` returns false, nothing more is wanted: the
    /// generation ends, with [`Reason::Cancelled`] and the tokens so far. An empty piece asks whether to go on, as is good
    /// between the parts of a long prompt: nothing else ends a computation before its time.
    ///
    /// # Errors
    /// [`Fault::Request`] for a conversation that the model cannot take, such as one too long or refused by its template.
    fn chat(
        &mut self,
        messages: &[Message],
        sampling: &Sampling,
        piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Finish, Fault>;

    /// Continue a text, in pieces as with [`Generator::chat`].
    ///
    /// # Errors
    /// [`Fault::Request`] for a text that the model cannot take, such as one too long.
    fn complete(
        &mut self,
        prompt: &str,
        sampling: &Sampling,
        piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Finish, Fault>;
}

/// How tokens are to be drawn; `None` is the model's own choice. All numbers are within the ranges given here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// 0 to 2; 0 takes the likeliest token.
    pub temperature: Option<f64>,
    /// Above 0 and at most 1; 1 for all.
    pub top_p: Option<f64>,
    /// 0 for all.
    pub top_k: Option<usize>,
    /// 0 to 1; 0 for all.
    pub min_p: Option<f64>,
    /// Above 0; 1 changes nothing.
    pub repetition_penalty: Option<f64>,
    /// Requests with the same seed have the same text.
    pub seed: Option<u64>,
    /// Most tokens of the answer, at least 1; `None` for as many as there is room for.
    pub max_tokens: Option<usize>,
}

/// How a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finish {
    pub reason: Reason,
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The model was done.
    Stop,
    /// There was no room for more, or no more was asked for.
    Length,
    /// A piece was not wanted.
    Cancelled,
}

/// Why there is no text.
#[derive(Debug)]
pub enum Fault {
    /// The request asks for what cannot be: its client reads why (400).
    Request(String),
    /// Anything else (500). [`Error::Device`] ends the server, since nothing on the device can be trusted after it.
    Server(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}
