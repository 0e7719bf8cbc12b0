//! A device of one Burn backend.

use crate::attention_run::Attention;
use crate::training::Training;
use crate::{AttentionRun, Engine, OpenDevice, Settings, Weights};
use aios_base::error::{Error, Result};
use aios_tensor::{AttentionShape, Check, Ops, Precision, confirmed};

/// [`OpenDevice`] on a Burn backend.
#[derive(Clone, Debug)]
pub struct On<B: Ops>(pub B::Device);

impl<B: Ops> OpenDevice for On<B> {
    fn confirm(&self) -> Result<()> {
        confirmed::<B, _>(&self.0, || ())
    }

    fn release_memory(&self) {
        B::memory_cleanup(&self.0);
    }

    fn check(&self, check: Check) -> Result<()> {
        let work = || {
            confirmed::<B, _>(&self.0, || check.run::<B>(&self.0))??;
            // Memory pools belong to threads too: nobody else could use this one's.
            B::memory_cleanup(&self.0);
            Ok(())
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, work);
            let thread =
                thread.map_err(|cause| Error::failed(format!("cannot start a thread: {cause}")))?;
            let outcome = thread.join();
            outcome.unwrap_or_else(|_| Err(Error::failed("its trial panicked")))
        })
    }

    fn model(&self, settings: &Settings, weights: Weights) -> Result<Box<dyn Engine>> {
        Ok(Box::new(Training::<B>::new(&self.0, settings, weights)?))
    }

    fn attention(&self, shape: AttentionShape, precision: Precision) -> Box<dyn AttentionRun> {
        Box::new(Attention::<B>::new(&self.0, shape, precision))
    }
}
