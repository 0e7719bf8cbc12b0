//! Several ranks that train one model, started by a real launcher.

mod agreement;
mod failures;
mod jobs;
mod local_steps;
mod promises;
mod sums;
