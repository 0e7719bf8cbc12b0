//! A model's tensors in safetensors files, one or several.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aios_base::error::{Error, Result, shortened, shown};
use aios_base::mapped::Mapped;

use crate::dtype::Dtype;
use crate::folder::Folder;
use crate::index::{self, LONGEST_INDEX, Shards};
use crate::names::{INDEX_FILE, MODEL_FILE, no_weights};
use crate::tensors::TensorFile;

mod nf4;

pub use nf4::InNf4;

/// The tensors of a model's folder, which stay on the disk until they are asked for.
///
/// Numbers are read; only [`Safetensors::bytes`] maps a file into memory. A file that somebody cuts off while it is read is an
/// error wherever it is read. Where it is mapped, its length is looked at before its bytes are given: if it shrinks after
/// that, the system ends the process (SIGBUS) when they are looked at.
#[derive(Debug)]
pub struct Safetensors {
    files: Vec<Shard>,
    /// Which file has a tensor.
    places: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Shard {
    tensors: TensorFile,
    map: Mapped,
}

impl Safetensors {
    /// Opens the folder's `model.safetensors`, or else all files that its index names, and reads their headers.
    ///
    /// # Errors
    /// No such files, with what there is instead and what to do; or files that are not whole, or not those of the index:
    /// names the file and the tensor.
    pub fn open(folder: &Folder) -> Result<Self> {
        if let Some(path) = folder.find(MODEL_FILE)? {
            return Self::of_file(&path);
        }
        match folder.read(INDEX_FILE, LONGEST_INDEX)? {
            Some(json) => Self::of_index(folder, &json),
            None => Err(Error::failed(format!(
                "model {}: {}",
                folder.name(),
                no_weights(file_names(folder.path()).iter().map(String::as_str))
            ))),
        }
    }

    /// All tensors of one file.
    ///
    /// # Errors
    /// A file that is no whole safetensors file.
    pub fn of_file(path: &Path) -> Result<Self> {
        let tensors = TensorFile::open(path)?;
        let names = tensors.names().into_iter();
        let places = names.map(|name| (name, 0)).collect();
        let files = vec![Shard::of(tensors)];
        Ok(Self { files, places })
    }

    fn of_index(folder: &Folder, json: &[u8]) -> Result<Self> {
        let index = shown(&folder.path().join(INDEX_FILE));
        let wrong = |cause: &str| Error::failed(shortened(&format!("{index}: {cause}")));
        let shards = index::parse(json).map_err(|cause| wrong(&cause))?;
        require_all(folder, &shards).map_err(|cause| wrong(&cause))?;
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        for (file, names) in shards {
            let path = folder.find(&file)?;
            let path = path.ok_or_else(|| wrong(&format!("{file} has gone")))?;
            let tensors = TensorFile::open(&path)?;
            for name in names {
                if tensors.dtype(&name).is_none() {
                    return Err(wrong(&format!(
                        "it says that tensor {name} is in {file}, which has no such tensor"
                    )));
                }
                places.insert(name, files.len());
            }
            files.push(Shard::of(tensors));
        }
        Ok(Self { files, places })
    }

    /// The tensors' names, in alphabetical order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// A tensor's type and shape, if there is such a tensor.
    pub fn info(&self, name: &str) -> Option<(Dtype, Vec<usize>)> {
        let tensors = &self.files[*self.places.get(name)?].tensors;
        Some((tensors.dtype(name)?, tensors.shape(name)?.to_vec()))
    }

    /// Length of all files' tensors together.
    pub fn data_bytes(&self) -> u64 {
        let lengths = self.files.iter().map(|file| file.tensors.data_bytes());
        lengths.fold(0, u64::saturating_add)
    }

    /// Where its files are.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.tensors.path())
    }

    /// Where a tensor is, for errors.
    ///
    /// # Errors
    /// No tensor of that name.
    pub fn path(&self, name: &str) -> Result<&Path> {
        Ok(self.shard(name)?.tensors.path())
    }

    /// A tensor of floating-point numbers in row-major order, read on all threads.
    ///
    /// # Errors
    /// No tensor of that name, one of other elements, one that takes more memory than this machine has, or a file that
    /// cannot be read.
    ///
    /// # Panics
    /// With [`aios_kernels::buffer::OutOfMemory`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.shard(name)?.tensors.read_f32(name)
    }

    /// Sees that each number of a tensor is one; of what are no floats nothing is asked.
    ///
    /// # Errors
    /// NaN or an infinite number, with the index of the first and the tensor's name; or a file that cannot be read.
    pub fn finite(&self, name: &str) -> Result<()> {
        self.shard(name)?.tensors.require_of(name, f32::is_finite)
    }

    /// A tensor's bytes, little-endian and in row-major order, as they lie in the file. [`Safetensors::release`] gives their
    /// memory back.
    ///
    /// # Errors
    /// No tensor of that name, or a file that cannot be mapped or was cut off.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let shard = self.shard(name)?;
        let (start, length) = shard.tensors.place(name)?;
        let bytes = shard.map.bytes(shard.tensors.file(), start, length);
        bytes.map_err(|cause| shard.tensors.unreadable(name, cause))
    }

    /// Lets the system have back the memory of a tensor whose [`Safetensors::bytes`] were looked at: so that a model is not in
    /// memory twice when the last of its tensors has been read. They can be looked at again. Does nothing where the system
    /// has no such call, or the tensor was not looked at.
    pub fn release(&self, name: &str) {
        if let Ok(shard) = self.shard(name)
            && let Ok((start, length)) = shard.tensors.place(name)
            && let Err(cause) = shard.map.release(start, length)
        {
            tracing::debug!("memory of {name} is not given back: {cause}");
        }
    }

    fn shard(&self, name: &str) -> Result<&Shard> {
        let place = self.places.get(name).map(|place| &self.files[*place]);
        place.ok_or_else(|| {
            let path = self.files.first().map(|file| file.tensors.path());
            let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
            Error::failed(format!(
                "the model in {} has no tensor {name}",
                shown(folder)
            ))
        })
    }
}

impl Shard {
    fn of(tensors: TensorFile) -> Self {
        Self {
            map: Mapped::new(tensors.length()),
            tensors,
        }
    }
}

/// Sees that every file of the index is there before any is opened.
fn require_all(folder: &Folder, shards: &Shards) -> Result<(), String> {
    if shards.is_empty() {
        return Err("it names no tensor".to_string());
    }
    let is_missing = |file: &str| !folder.path().join(file).exists();
    let missing = shards.iter().filter(|(file, _)| is_missing(file));
    let mut missing = missing.map(|(file, names)| (file, names.len()));
    match missing.next() {
        None => Ok(()),
        Some((file, tensors)) => Err(format!(
            "{file} is missing, which has {tensors} of its tensors ({} of {} files are missing): download the model anew",
            1 + missing.count(),
            shards.len()
        )),
    }
}

/// Names of what lies in a folder.
fn file_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests;
