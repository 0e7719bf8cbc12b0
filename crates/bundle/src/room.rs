//! Whether a disk holds the checkpoints that a run is going to keep.

use aios_base::error::{Error, Result};
use aios_base::meter::format_bytes;

use crate::open::{checkpoints, is_best};
use crate::save::{ALWAYS_KEPT, BundleWriter};

impl BundleWriter {
    /// Asks the disk before the first step whether it has room for checkpoints of about `each` bytes: one that is being
    /// written, and those to be kept, among them the best one if `best`.
    ///
    /// # Errors
    /// Not even one fits. That they do not all fit is a warning: those there are stay, and the run goes on.
    pub fn require_room(&self, each: u64, best: bool) -> Result<()> {
        // A file system that does not say how much it has is taken at its word when it is full.
        let Ok(free) = fs4::available_space(&self.dir) else {
            return Ok(());
        };
        let (dir, shown) = (self.dir.display(), format_bytes(free));
        if free < each {
            return Err(Error::failed(format!(
                "a checkpoint takes about {}, and the disk of {dir} has {shown} free: free some disk space or choose another \
                 --bundle-dir",
                format_bytes(each)
            )));
        }
        let kept = (ALWAYS_KEPT + usize::from(best)).saturating_add(self.older);
        let wanted = each.saturating_mul(kept as u64 + 1);
        // What this run replaces makes room.
        let missing = wanted.saturating_sub(self.replaceable_bytes());
        if free < missing {
            tracing::warn!(
                "the {kept} checkpoints to be kept and one being written take about {}, and the disk of {dir} has {shown} \
                 free: saves will fail when it is full; lower --keep-checkpoints, use --use-8bit-optimizer, or choose another \
                 --bundle-dir",
                format_bytes(wanted)
            );
        }
        Ok(())
    }

    pub(super) fn replaceable_bytes(&self) -> u64 {
        let found = checkpoints(&self.dir).into_iter();
        let replaced =
            found.filter(|found| is_best(&found.path) || !super::keep::is_earlier_run(&found.path));
        let manifests = replaced.filter_map(|found| found.manifest.ok());
        let lengths = manifests.map(|manifest| manifest.total_bytes());
        lengths.fold(0, u64::saturating_add)
    }
}
