//! `burn-ndarray`: every operation as its reference in tensor operations says.

use crate::{NdarrayBackend, Ops};

impl Ops for NdarrayBackend {}
