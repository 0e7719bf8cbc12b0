//! The header of a GGUF file: what it says of each tensor, held against the file.

use std::collections::HashSet;
use std::io::Read;

use crate::kind::Kind;
use crate::metadata::Metadata;
use crate::source::Source;

/// Of the data and of each tensor in it, unless the file says otherwise.
pub(crate) const ALIGNMENT: u64 = 32;
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// The one that is written; 2 has the same layout.
pub(crate) const VERSION: u32 = 3;
/// ggml's `GGML_MAX_DIMS`.
pub(crate) const MOST_DIMENSIONS: usize = 4;

/// A tensor of a header.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// As PyTorch has them: the last one is that of a row.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: Kind,
    /// From the file's beginning.
    pub(crate) start: u64,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    /// In the order of the file.
    pub(crate) entries: Vec<Entry>,
}

/// What is wrong, in words.
type Result<T> = std::result::Result<T, String>;

impl Header {
    /// Reads it from the beginning of a file of so many bytes.
    pub(crate) fn parse(reader: impl Read, length: u64) -> Result<Self> {
        let mut source = Source::new(reader, length);
        version(&mut source)?;
        let (tensors, pairs) = (source.u64()?, source.u64()?);
        // A key of no letters and one byte; a name of no letters and one dimension.
        source.require(pairs, 8 + 4 + 1, "key-values")?;
        source.require(tensors, 8 + 4 + 8 + 4 + 8, "tensors")?;
        let metadata = metadata(&mut source, pairs)?;
        let mut entries = Vec::new();
        for _ in 0..tensors {
            entries.push(entry(&mut source)?);
        }
        let alignment = alignment(&metadata)?;
        let data = source.at.checked_next_multiple_of(alignment);
        let data =
            data.ok_or_else(|| format!("its alignment of {alignment} leads beyond its end"))?;
        let mut header = Self { metadata, entries };
        header.place(data, alignment, length)?;
        Ok(header)
    }

    /// Turns offsets in the data into ones in the file, and sees that all of it is there, and nothing twice.
    fn place(&mut self, data: u64, alignment: u64, length: u64) -> Result<()> {
        let mut names = HashSet::new();
        for entry in &mut self.entries {
            let name = &entry.name;
            if !names.insert(name.as_str()) {
                return Err(format!("two tensors are called {name}"));
            }
            if !entry.start.is_multiple_of(alignment) {
                return Err(format!(
                    "tensor {name} begins at byte {} of the data, which is no multiple of {alignment}",
                    entry.start
                ));
            }
            let start = data.checked_add(entry.start);
            let end = start.and_then(|start| start.checked_add(entry.bytes as u64));
            match (start, end) {
                (Some(start), Some(end)) if end <= length => entry.start = start,
                _ => {
                    return Err(format!(
                        "it ends at byte {length}, before the end of tensor {name}, which has {} bytes from byte {} of the \
                         data on: it is not whole, download it anew",
                        entry.bytes, entry.start
                    ));
                }
            }
        }
        self.side_by_side(data, alignment, length)
    }

    /// Whether tensors fill the file but for padding, as llama.cpp wants them too: what belongs to none is of one that the
    /// header has lost, and then all others are read shifted.
    fn side_by_side(&self, data: u64, alignment: u64, length: u64) -> Result<()> {
        let mut order: Vec<&Entry> = self.entries.iter().collect();
        order.sort_by_key(|entry| entry.start);
        let mut end = data;
        let mut before = None;
        for entry in order {
            if entry.start < end {
                let before = before.map_or("the header", |before: &Entry| before.name.as_str());
                return Err(format!("tensors {before} and {} overlap", entry.name));
            }
            if entry.start - end >= alignment {
                return Err(format!(
                    "{} bytes before tensor {} belong to no tensor: it is damaged, download it anew",
                    entry.start - end,
                    entry.name
                ));
            }
            end = entry.start + entry.bytes as u64;
            before = Some(entry);
        }
        match length.saturating_sub(end) >= alignment && before.is_some() {
            true => Err(format!(
                "{} bytes after its last tensor belong to none: it is damaged, download it anew",
                length - end
            )),
            false => Ok(()),
        }
    }
}

fn version<R: Read>(source: &mut Source<R>) -> Result<()> {
    let mut magic = [0; 4];
    for byte in &mut magic {
        *byte = source.u8()?;
    }
    if magic != MAGIC {
        return Err(format!(
            "it begins with {:?} instead of GGUF",
            String::from_utf8_lossy(&magic)
        ));
    }
    match source.u32()? {
        2 | 3 => Ok(()),
        1 => Err("it is of version 1 of the format, of 2023: take a newer file of the model".to_string()),
        other if other > 0 && other.swap_bytes() <= 0xFFFF => Err(
            "it is big-endian, for another kind of machines: take a little-endian file of the model".to_string(),
        ),
        other => Err(format!(
            "it is of version {other} of the format: 2 and 3 are read"
        )),
    }
}

fn metadata<R: Read>(source: &mut Source<R>, pairs: u64) -> Result<Metadata> {
    let (mut entries, mut lossy) = (Vec::new(), HashSet::new());
    for _ in 0..pairs {
        let key = source.name("key")?;
        let value = source.value();
        let value = value.map_err(|cause| format!("key {key}: {cause}"))?;
        if source.lossy {
            lossy.insert(key.clone());
        }
        entries.push((key, value));
    }
    Metadata::of(entries, lossy)
}

fn alignment(metadata: &Metadata) -> Result<u64> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else {
        return Ok(ALIGNMENT);
    };
    let alignment = value.integer().and_then(|n| u64::try_from(n).ok());
    alignment
        .filter(|alignment| alignment.is_power_of_two())
        .ok_or_else(|| {
            format!(
                "{ALIGNMENT_KEY} is {}: it must be a power of two",
                value.described()
            )
        })
}

/// A tensor, whose place is still counted from the beginning of the data.
fn entry<R: Read>(source: &mut Source<R>) -> Result<Entry> {
    let name = source.name("tensor")?;
    let entry = dimensions(source).and_then(|shape| {
        let (id, start) = (source.u32()?, source.u64()?);
        let kind = Kind::of_id(id).ok_or_else(|| {
            format!("it is in format {id} of ggml, which is not known: take a file in Q8_0, F16 or the like")
        })?;
        let bytes = bytes_of(&shape, kind)?;
        Ok((shape, kind, start, bytes))
    });
    let (shape, kind, start, bytes) = entry.map_err(|cause| format!("tensor {name}: {cause}"))?;
    Ok(Entry {
        name,
        shape,
        kind,
        start,
        bytes,
    })
}

fn dimensions<R: Read>(source: &mut Source<R>) -> Result<Vec<usize>> {
    let count = source.u32()? as usize;
    if !(1..=MOST_DIMENSIONS).contains(&count) {
        return Err(format!(
            "it has {count} dimensions: from 1 to {MOST_DIMENSIONS} are possible"
        ));
    }
    let mut shape = Vec::with_capacity(count);
    for _ in 0..count {
        let extent = source.u64()?;
        shape.push(usize::try_from(extent).map_err(|_| format!("it is {extent} long"))?);
    }
    shape.reverse();
    Ok(shape)
}

/// Length of a tensor of this shape, whose rows are whole blocks.
pub(crate) fn bytes_of(shape: &[usize], kind: Kind) -> Result<usize> {
    let row = shape.last().copied().unwrap_or(0);
    if shape.contains(&0) {
        return Err(format!("it has the shape {shape:?}, of no numbers"));
    }
    if !row.is_multiple_of(kind.block_values()) {
        return Err(format!(
            "its rows have {row} numbers, which are no whole blocks of {} of {kind}",
            kind.block_values()
        ));
    }
    let numbers = shape.iter().copied().try_fold(1, usize::checked_mul);
    let bytes = numbers.and_then(|numbers| kind.bytes(numbers));
    bytes.ok_or_else(|| {
        format!("it has the shape {shape:?} of {kind}, which takes no possible number of bytes")
    })
}
