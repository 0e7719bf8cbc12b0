//! The GPU backends run the reference operations; Burn fuses and tunes them.

use super::Ops;
use crate::backend::{CudaBackend, WgpuBackend};

impl Ops for WgpuBackend {}
impl Ops for CudaBackend {}
