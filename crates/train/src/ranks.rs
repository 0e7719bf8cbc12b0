//! Several ranks that train one model.

mod job;
mod place;
mod said;
mod settings;
mod told;

pub use job::{alone, launched, together};
pub use place::{device, goes_first, share_cores};
pub(crate) use said::{About, Evaluated, Outcome, Said, agreed, sums, tallies};
pub use settings::sharing;
pub(crate) use settings::{
    Common, as_one_of, check_common, divide_again, forget_what_may_differ, of_others,
    part_if_mixed, smallest_batch,
};
pub(crate) use told::{device as device_in_words, in_words, started};
