//! Libraries that are loaded at run time.

use aios_base::error::{Error, Result};
use libloading::Library;
use std::ffi::CStr;

/// The function `name` of a library; `needed` says of one that lacks it what would do.
///
/// # Errors
/// There is none.
///
/// # Safety
/// `F` has to be the type of a pointer to it, and the library must never be unloaded.
pub(crate) unsafe fn function<F: Copy>(library: &Library, name: &CStr, needed: &str) -> Result<F> {
    // SAFETY: as the caller promises.
    match unsafe { library.get::<F>(name) } {
        Ok(function) => Ok(*function),
        Err(_) => {
            let name = name.to_string_lossy();
            Err(Error::failed(format!("it lacks {name}: {needed}")))
        }
    }
}

/// Why a library cannot be loaded, in the system's own words.
pub(crate) fn because(error: &libloading::Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    cause.unwrap_or_else(|| error.to_string())
}
