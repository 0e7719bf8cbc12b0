//! A model's tensors, in safetensors files or in a GGUF file.

use std::borrow::Cow;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use aios_base::error::{Error, Result};
use aios_kernels::ggml::Format;

use crate::dtype::Dtype;
use crate::folder::Folder;
use gguf::Gguf;
use shards::Safetensors;

mod gguf;
mod shards;

pub use shards::InNf4;

/// The tensors of a model, which stay on the disk until they are asked for. Names and shapes are those of the Hugging Face
/// folder, also where a GGUF file has others.
///
/// Numbers are read; only [`Weights::bytes`], [`Weights::blocks`] and all of GGUF map a file into memory. A file that somebody
/// cuts off while it is read is an error wherever it is read. Where it is mapped, its length is looked at before its bytes are
/// given: if it shrinks after that, the system ends the process (SIGBUS) when they are looked at.
#[derive(Debug)]
pub struct Weights(Source);

#[derive(Debug)]
enum Source {
    Safetensors(Safetensors),
    Gguf(Gguf),
}

/// A matrix in blocks of ggml's, as they lie.
#[derive(Debug, PartialEq)]
pub struct InBlocks {
    pub format: Format,
    /// Row after row, each of whole blocks.
    pub bytes: Vec<u8>,
}

impl Weights {
    /// Opens the folder's `model.safetensors`, or else all files that its index names, and reads their headers; or what it has
    /// in GGUF.
    ///
    /// # Errors
    /// No such files, with what there is instead and what to do; or files that are not whole, or not those of the index:
    /// names the file and the tensor.
    pub fn open(folder: &Folder) -> Result<Self> {
        match folder.gguf() {
            Some(file) => Gguf::of(file, folder.config()).map(|gguf| Self(Source::Gguf(gguf))),
            None => Safetensors::open(folder).map(|files| Self(Source::Safetensors(files))),
        }
    }

    /// All tensors of one safetensors file.
    ///
    /// # Errors
    /// A file that is no whole safetensors file.
    pub fn of_file(path: &Path) -> Result<Self> {
        Safetensors::of_file(path).map(|files| Self(Source::Safetensors(files)))
    }

    /// The tensors' names, in alphabetical order.
    pub fn names(&self) -> std::vec::IntoIter<&str> {
        let names: Vec<&str> = match &self.0 {
            Source::Safetensors(files) => files.names().collect(),
            Source::Gguf(gguf) => gguf.names().collect(),
        };
        names.into_iter()
    }

    /// A tensor's type and shape, if there is such a tensor.
    pub fn info(&self, name: &str) -> Option<(Dtype, Vec<usize>)> {
        match &self.0 {
            Source::Safetensors(files) => files.info(name),
            Source::Gguf(gguf) => gguf.info(name),
        }
    }

    /// Length of all files' tensors together.
    pub fn data_bytes(&self) -> u64 {
        match &self.0 {
            Source::Safetensors(files) => files.data_bytes(),
            Source::Gguf(gguf) => gguf.data_bytes(),
        }
    }

    /// A number that differs for files that differ in their lengths, or in one of a few hundred places each: to compare
    /// those of several machines without reading them.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn sample(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        match &self.0 {
            Source::Safetensors(files) => {
                files
                    .paths()
                    .try_for_each(|path| sample(path, &mut hasher))?;
            }
            Source::Gguf(gguf) => gguf
                .paths()
                .try_for_each(|path| sample(path, &mut hasher))?,
        }
        Ok(hasher.finish())
    }

    /// Where a tensor is, for errors.
    ///
    /// # Errors
    /// No tensor of that name.
    pub fn path(&self, name: &str) -> Result<&Path> {
        match &self.0 {
            Source::Safetensors(files) => files.path(name),
            Source::Gguf(gguf) => gguf.path(name),
        }
    }

    /// A tensor of floating-point numbers in row-major order, read on all threads; one in blocks of ggml's is decoded.
    ///
    /// # Errors
    /// No tensor of that name, one of other elements, one that takes more memory than this machine has, or a file that
    /// cannot be read.
    ///
    /// # Panics
    /// With [`aios_kernels::buffer::OutOfMemory`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match &self.0 {
            Source::Safetensors(files) => files.read_f32(name),
            Source::Gguf(gguf) => gguf.read_f32(name),
        }
    }

    /// Sees that each number of a tensor is one; of what are no floats nothing is asked.
    ///
    /// # Errors
    /// NaN or an infinite number, with the index of the first and the tensor's name; or a file that cannot be read.
    pub fn finite(&self, name: &str) -> Result<()> {
        match &self.0 {
            Source::Safetensors(files) => files.finite(name),
            Source::Gguf(gguf) => gguf.finite(name),
        }
    }

    /// A tensor's bytes, little-endian and in row-major order, in the type that [`Weights::info`] gives. [`Weights::release`]
    /// gives their memory back.
    ///
    /// # Errors
    /// No tensor of that name, one in blocks of ggml's, or a file that cannot be mapped or was cut off.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match &self.0 {
            Source::Safetensors(files) => files.bytes(name).map(Cow::Borrowed),
            Source::Gguf(gguf) => gguf.bytes(name),
        }
    }

    /// Lets the system have back the memory of a tensor that was looked at where it is mapped: so that a model is not in memory
    /// twice when the last of its tensors has been read. It can be looked at again. Does nothing where the system has no such
    /// call.
    pub fn release(&self, name: &str) {
        match &self.0 {
            Source::Safetensors(files) => files.release(name),
            Source::Gguf(gguf) => gguf.release(name),
        }
    }

    /// A matrix in blocks of ggml's that can stay as it is; `None` of any other tensor.
    ///
    /// # Errors
    /// A format that is not read, or a file that cannot be mapped or was cut off.
    pub fn blocks(&self, name: &str) -> Result<Option<InBlocks>> {
        match &self.0 {
            Source::Safetensors(_) => Ok(None),
            Source::Gguf(gguf) => gguf.blocks(name),
        }
    }

    /// The format of the blocks that [`Weights::blocks`] would give.
    pub fn block_format(&self, name: &str) -> Option<Format> {
        match &self.0 {
            Source::Safetensors(_) => None,
            Source::Gguf(gguf) => gguf.block_format(name),
        }
    }

    /// A weight in NF4, as bitsandbytes has it; `None` if it is in another format.
    ///
    /// # Errors
    /// Another format of few bits, or tensors that are not of one weight: names the file and the tensor.
    pub fn nf4(&self, name: &str) -> Result<Option<InNf4>> {
        match &self.0 {
            Source::Safetensors(files) => files.nf4(name),
            Source::Gguf(_) => Ok(None),
        }
    }

    /// Type and shape of what a weight in few bits is written as where it may not stay so; `None` if it is not in few bits.
    /// Reads no codes.
    ///
    /// # Errors
    /// As [`Weights::nf4`].
    pub fn in_more_bits(&self, name: &str) -> Result<Option<(Dtype, Vec<usize>)>> {
        match &self.0 {
            Source::Safetensors(files) => files.before_nf4(name),
            Source::Gguf(gguf) => Ok(gguf.in_more_bits(name)),
        }
    }

    /// Whether a tensor only says what the codes of another one stand for.
    pub fn is_beside_codes(&self, name: &str) -> bool {
        match &self.0 {
            Source::Safetensors(files) => files.is_beside_codes(name),
            Source::Gguf(_) => false,
        }
    }
}

/// Places of a file that are looked at, and bytes of each.
const PLACES: u64 = 256;
const PLACE: u64 = 4096;

fn sample(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let read = |cause| Error::io(path, "read", cause);
    let mut file = File::open(path).map_err(read)?;
    let length = file.metadata().map_err(read)?.len();
    length.hash(hasher);
    let mut bytes = [0; PLACE as usize];
    for place in 0..PLACES {
        let start = length.saturating_sub(PLACE).saturating_mul(place) / (PLACES - 1);
        file.seek(SeekFrom::Start(start)).map_err(read)?;
        let here = PLACE.min(length - start) as usize;
        file.read_exact(&mut bytes[..here]).map_err(read)?;
        bytes[..here].hash(hasher);
    }
    Ok(())
}
