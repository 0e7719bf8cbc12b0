//! Training: from flags to a saved bundle.

pub mod appended;
pub mod backoff;
mod banner;
pub mod bundle;
pub mod chunked;
pub mod eval;
pub mod fit;
pub mod gauge;
pub mod generate;
pub mod metrics;
pub mod micro_batch;
pub mod optimize;
pub mod optimizer;
pub mod places;
pub mod plan;
pub mod process;
pub mod progress;
pub mod resume;
pub mod saved;
pub mod schedule;
pub mod setup;
pub mod state;
pub mod stop;
pub mod supervision;
pub mod tensorboard;
pub mod trainer;
pub mod weights;

pub use process::run;
