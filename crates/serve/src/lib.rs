//! An HTTP server with OpenAI's interface over one model, for trying it.
//!
//! [`serve`] needs a [`Generator`], built on the thread that it will compute on, and knows no tensor, tokenizer or template.
//! Requests that came while one is computed wait in a queue; all that a client can get wrong is answered as OpenAI's servers
//! would, in the field's name, and what is not done here is refused rather than ignored.
//!
//! A request that names another model than the one served is answered with 404, as vLLM does, rather than by whatever there is;
//! one that names none is answered. Only `/health` needs no key.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod answer;
mod failure;
mod generator;
mod guard;
mod line;
mod queue;
mod request;
mod routes;
mod server;
mod settings;
mod stops;
#[cfg(test)]
mod tests;
mod worker;

pub use generator::{Fault, Finish, Generator, Message, Reason, Role, Sampling};
pub use server::{Build, serve};
pub use settings::{Limits, Settings};
