//! A GGUF file opened for reading.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use aios_base::error::{Error, Result, shortened, shown};
use aios_base::files::open_file;
use aios_base::mapped::Mapped;

use crate::header::Header;
use crate::kind::Kind;
use crate::metadata::Metadata;
use crate::split::Parts;

const SPLIT_COUNT: &str = "split.count";
const SPLIT_NUMBER: &str = "split.no";
const SPLIT_TENSORS: &str = "split.tensors.count";

/// The tensors of a model, in one file or in several, which stay on the disk until they are asked for.
///
/// [`GgufFile::bytes`] maps a file into memory and looks at its length before its bytes are given: if it shrinks after that,
/// the system ends the process (SIGBUS) when they are looked at.
#[derive(Debug)]
pub struct GgufFile {
    parts: Vec<Part>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    places: HashMap<String, usize>,
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    /// In PyTorch's order: a matrix is `[rows, columns]`, and a row lies in one piece.
    pub shape: Vec<usize>,
    pub kind: Kind,
    part: usize,
    /// From the beginning of its file.
    start: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
    map: Mapped,
}

impl TensorInfo {
    /// Length of its numbers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl GgufFile {
    /// Reads the header of a file, and of all other parts of the same model if it is a part of one: any of them can be given.
    ///
    /// # Errors
    /// No GGUF file, or one that is not whole or makes no sense, or a part that is missing.
    pub fn open(path: &Path) -> Result<Self> {
        let (part, header) = Part::open(path)?;
        let count = header.metadata.number(SPLIT_COUNT)?.unwrap_or(1);
        if count <= 1 {
            return Self::of(vec![(part, header)]);
        }
        let wrong = |what: &str| part.wrong(what);
        let parts = Parts::of(path).filter(|(parts, _)| parts.count == count);
        let (parts, _) = parts.ok_or_else(|| {
            wrong(&format!(
                "it is one of {count} parts of a model, and its name does not say which: name it as in \
                 model-00001-of-{count:05}.gguf, and the others so beside it"
            ))
        })?;
        let missing = (1..=count).find(|&other| !parts.path(other).exists());
        if let Some(missing) = missing {
            return Err(wrong(&format!(
                "{}, another of the model's {count} parts, is missing: download it into the same folder",
                parts.name(missing)
            )));
        }
        let mut opened = Vec::new();
        for other in 1..=count {
            opened.push(Part::open(&parts.path(other))?);
        }
        let first = opened.first().map(|(_, header)| &header.metadata);
        let tensors = first.map_or(Ok(None), |metadata| metadata.number(SPLIT_TENSORS))?;
        for (number, (part, header)) in (0..count).zip(&opened) {
            require_part(part, header, number, count)?;
        }
        let there: usize = opened.iter().map(|(_, header)| header.entries.len()).sum();
        match tensors {
            Some(tensors) if tensors != there as u64 => Err(wrong(&format!(
                "{SPLIT_TENSORS} is {tensors}, and all parts have {there} tensors: they are not of one model"
            ))),
            _ => Self::of(opened),
        }
    }

    fn of(opened: Vec<(Part, Header)>) -> Result<Self> {
        let mut file = Self {
            parts: Vec::new(),
            metadata: Metadata::default(),
            tensors: Vec::new(),
            places: HashMap::new(),
        };
        for (number, (part, header)) in opened.into_iter().enumerate() {
            for entry in header.entries {
                if file
                    .places
                    .insert(entry.name.clone(), file.tensors.len())
                    .is_some()
                {
                    return Err(part.wrong(&format!(
                        "tensor {} is in another part of the model too",
                        entry.name
                    )));
                }
                file.tensors.push(TensorInfo {
                    name: entry.name,
                    shape: entry.shape,
                    kind: entry.kind,
                    part: number,
                    start: entry.start,
                    bytes: entry.bytes,
                });
            }
            if number == 0 {
                file.metadata = header.metadata;
            }
            file.parts.push(part);
        }
        Ok(file)
    }

    /// Key-values; of a split model those of its first part, which has all.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor, if there is one of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.places.get(name).map(|&at| &self.tensors[at])
    }

    /// Length of all tensors together.
    pub fn data_bytes(&self) -> u64 {
        let lengths = self.tensors.iter().map(|tensor| tensor.bytes as u64);
        lengths.fold(0, u64::saturating_add)
    }

    /// Where its files are.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// The file, or the part that has a tensor, for errors.
    ///
    /// # Errors
    /// No tensor of that name.
    pub fn path(&self, name: &str) -> Result<&Path> {
        Ok(&self.parts[self.needed(name)?.part].path)
    }

    /// A tensor's bytes, little-endian and row by row, as they lie in the file. [`GgufFile::release`] gives their memory back.
    ///
    /// # Errors
    /// No tensor of that name, or a file that cannot be mapped or was cut off.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let tensor = self.needed(name)?;
        let part = &self.parts[tensor.part];
        let bytes = part.map.bytes(&part.file, tensor.start, tensor.bytes);
        bytes.map_err(|cause| part.unreadable(name, cause))
    }

    /// Lets the system have back the memory of a tensor whose [`GgufFile::bytes`] were looked at: so that a model is not in
    /// memory twice when the last of its tensors has been read. They can be looked at again. Does nothing where the system
    /// has no such call, or the tensor was not looked at.
    pub fn release(&self, name: &str) {
        if let Some(tensor) = self.tensor(name)
            && let Err(cause) = (self.parts[tensor.part].map).release(tensor.start, tensor.bytes)
        {
            tracing::debug!("memory of {name} is not given back: {cause}");
        }
    }

    /// What is wrong with the file as a whole.
    pub(crate) fn wrong(&self, what: &str) -> Error {
        match self.parts.first() {
            Some(part) => part.wrong(what),
            None => Error::failed(shortened(what)),
        }
    }

    fn needed(&self, name: &str) -> Result<&TensorInfo> {
        self.tensor(name)
            .ok_or_else(|| self.wrong(&format!("it has no tensor {name}")))
    }
}

/// Sees that a part is the one that its name says, of the same model as far as it tells.
fn require_part(part: &Part, header: &Header, number: u64, count: u64) -> Result<()> {
    let own_count = header.metadata.number(SPLIT_COUNT)?.unwrap_or(1);
    let own_number = header.metadata.number(SPLIT_NUMBER)?.unwrap_or(0);
    match (own_number, own_count) == (number, count) {
        true => Ok(()),
        false => Err(part.wrong(&format!(
            "by its name it is part {} of {count}, and by {SPLIT_NUMBER} and {SPLIT_COUNT} part {} of {own_count}: give it \
             its name back",
            number + 1,
            own_number.saturating_add(1)
        ))),
    }
}

impl Part {
    fn open(path: &Path) -> Result<(Self, Header)> {
        let read = |cause| Error::io(path, "read", cause);
        let file = open_file(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let part = Self {
            path: path.to_path_buf(),
            file,
            map: Mapped::new(length),
        };
        let header = Header::parse(BufReader::new(&part.file), length).map_err(|cause| {
            let place = shown(path);
            Error::failed(shortened(&format!(
                "{place} is no GGUF file that can be read: {cause}"
            )))
        })?;
        let metadata = header.metadata.said_of(shown(path));
        let header = Header {
            metadata,
            entries: header.entries,
        };
        Ok((part, header))
    }

    fn wrong(&self, what: &str) -> Error {
        Error::failed(shortened(&format!("{}: {what}", shown(&self.path))))
    }

    fn unreadable(&self, name: &str, cause: io::Error) -> Error {
        match cause.kind() {
            io::ErrorKind::UnexpectedEof => self.wrong(&format!(
                "tensor {name} is not all there any more: the file was cut off since it was opened"
            )),
            _ => self.wrong(&format!("tensor {name} cannot be read: {cause}")),
        }
    }
}

#[cfg(test)]
mod tests;
