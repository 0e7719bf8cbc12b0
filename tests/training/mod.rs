//! Training as a user runs it: what it learns, writes, saves and goes on from.

mod accumulation;
mod brain;
mod chats;
mod chunks;
mod decoders;
mod determinism;
mod epochs;
mod features;
mod gpu;
mod launches;
mod memory;
mod metrics;
mod optimizer_state;
mod options;
mod precision;
mod resume;
mod stopping;
#[cfg(unix)]
mod supervised;
mod texts;
mod tokens;
mod told_later;
mod walk_through;
