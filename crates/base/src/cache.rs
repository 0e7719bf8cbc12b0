//! The folder of caches.

use std::path::PathBuf;

/// Names it.
pub const VARIABLE: &str = "AIOS_CACHE_DIR";

/// The one that the variable names, if it does.
pub fn named() -> Option<PathBuf> {
    let folder = std::env::var_os(VARIABLE)?;
    (!folder.is_empty()).then(|| folder.into())
}
