//! The engine on `burn-ndarray`: every operation by its reference, in f32.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use aios_engine::{On, OpenDevice};
use aios_tensor::NdarrayBackend;

/// The device, whose runtime has been started.
pub fn open() -> Box<dyn OpenDevice> {
    Box::new(On::<NdarrayBackend>(Default::default()))
}
