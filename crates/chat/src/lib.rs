//! From conversations to text, by a model's own template, and which of that text is learnt.
//!
//! [`recognise`] tells the form of a record from its fields, [`Template`] is a chat template in Jinja, and [`Chat`] makes of
//! a record in JSON the text that a model reads, with the places of what it is to say.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod between;
mod chat;
mod form;
mod generation;
#[cfg(test)]
mod golden;
mod json;
mod masks;
mod message;
mod python;
mod record;
mod template;

pub use chat::{Chat, Rendered};
pub use form::{Columns, recognise};
pub use message::{Message, Role};
pub use template::Template;
