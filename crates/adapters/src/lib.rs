//! LoRA: what is trained beside a frozen model, as PEFT describes and names it.
//!
//! [`Lora`] says what is adapted and how; [`Frozen`] freezes a model's parameters, and a [`Module`] has those of the adapter;
//! [`LoraLayer`] is put around a linear layer. [`peft`] reads and writes `adapter_config.json`, and [`merge`] adds
//! an adapter to the weights that it is for.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod layer;
mod layout;
mod lora;
pub mod merge;
pub mod names;
pub mod peft;
mod targets;

pub use layer::LoraLayer;
pub use layout::{Frozen, Module, is_linear, linear_modules};
pub use lora::Lora;
pub use targets::{ALL_LINEAR, Targets};
