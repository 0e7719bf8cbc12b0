//! Training as a user runs it: what it learns, writes, saves and goes on from.

mod accumulation;
mod brain;
#[path = "../common/mod.rs"]
mod common;
mod determinism;
mod metrics;
mod optimizer_state;
mod options;
mod resume;
mod stopping;
mod wgpu;
