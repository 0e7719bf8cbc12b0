//! Tensors of a checkpoint, written with their hash.

use std::path::Path;

use aios_base::error::{Error, Result};
use aios_hf::{TensorSource, write_tensors};

use crate::disk::HashedFile;
use crate::manifest::FileEntry;

/// Writes a new safetensors file that Python reads as one of PyTorch's.
pub(super) fn write(path: &Path, sources: &[TensorSource]) -> Result<FileEntry> {
    let mut file = HashedFile::create(path)?;
    write_tensors(sources, |bytes| file.write(bytes)).map_err(|cause| match cause {
        Error::Failed(_) => cause.of_file(path.display()),
        other => other,
    })?;
    file.finish()
}
