//! An adapter added to the weights of its model.

use crate::whole::Whole;
use aios_base::error::Result;
use aios_hf::{Folder, TensorSource, write_folder};
use aios_process::stop::StopSignal;
use std::path::Path;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Modules whose weights were changed.
    pub modules: usize,
    /// Weights that the adapter holds as a whole.
    pub whole: usize,
}

/// Writes the model in a folder with an adapter added as a new folder, which `from_pretrained` loads. Sums are in f32, and
/// rounded once to the format that the model's file has.
///
/// # Errors
/// An adapter that is not of this model, a number beyond the range of the model's format, or a place that is taken.
pub fn write(folder: &Folder, adapter_dir: &Path, output: &Path) -> Result<Merged> {
    let whole = Whole::open(folder.clone(), Some(adapter_dir))?;
    let whole = whole.until(StopSignal::install(None)?);
    let parts = whole.parts()?;
    let sources = parts.iter().map(|part| TensorSource {
        name: part.name.clone(),
        dtype: part.dtype,
        shape: part.shape.clone(),
        fetch: Box::new(|| part.bytes(part.dtype)),
    });
    write_folder(output, &whole.config(), sources, &whole.passengers()?)?;
    Ok(Merged {
        modules: whole.changed(),
        whole: whole.replaced(),
    })
}
