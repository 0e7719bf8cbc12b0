//! The header of a safetensors file: what it says of each tensor, held against the file.

use std::collections::HashMap;
use std::fmt;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserializer;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use crate::dtype::Dtype;
use crate::json::twice;

/// The longest header that readers of the format accept, in bytes.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
const METADATA: &str = "__metadata__";

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// From the end of the header on, in bytes.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The tensors of a file, which lie one after the other without gaps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Header {
    /// In the order of the file.
    names: Vec<String>,
    entries: HashMap<String, Entry>,
    data_bytes: usize,
}

impl Entry {
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Header {
    /// Reads the JSON.
    ///
    /// # Errors
    /// In words: what is wrong, with the name of the tensor.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let infos = reader.deserialize_map(Infos);
        let infos = infos.map_err(|cause| cause.to_string())?;
        reader.end().map_err(|cause| cause.to_string())?;
        Self::new(infos)
    }

    fn new(mut infos: Vec<(String, TensorInfo)>) -> Result<Self, String> {
        if let Some(name) = twice(infos.iter().map(|(name, _)| name.as_str())) {
            return Err(format!("two tensors are called {name}"));
        }
        infos.sort_by(|(a, one), (b, other)| (one.data_offsets, a).cmp(&(other.data_offsets, b)));
        let mut header = Self::default();
        for (name, info) in infos {
            let entry = header.next(info);
            let entry = entry.map_err(|cause| format!("tensor {name} {cause}"))?;
            header.data_bytes = entry.end;
            header.names.push(name.clone());
            header.entries.insert(name, entry);
        }
        Ok(header)
    }

    /// What is said of the tensor after the last one.
    fn next(&self, info: TensorInfo) -> Result<Entry, String> {
        let dtype = Dtype::from_stored(info.dtype);
        let (start, end) = info.data_offsets;
        let (shape, before) = (info.shape, self.data_bytes);
        if start != before {
            let last = self.names.last().map_or("the header", String::as_str);
            return Err(format!(
                "begins at byte {start} of the data, and {last} ends at byte {before}"
            ));
        }
        let elements = shape.iter().copied().try_fold(1, usize::checked_mul);
        let takes = elements.and_then(|elements| dtype.bytes(elements));
        let Some(takes) = takes else {
            return Err(format!(
                "has the shape {shape:?} of {dtype}, which takes no possible number of bytes"
            ));
        };
        match end.checked_sub(start) {
            Some(bytes) if bytes == takes => Ok(Entry {
                dtype,
                shape,
                start,
                end,
            }),
            _ => Err(format!(
                "lies at the bytes {start} to {end}, and its shape {shape:?} of {dtype} takes {takes}"
            )),
        }
    }

    /// The tensors' names, in the order of the file.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Length of all tensors together.
    pub(crate) fn data_bytes(&self) -> usize {
        self.data_bytes
    }
}

/// Takes the tensors from the header's one object.
struct Infos;

impl<'de> Visitor<'de> for Infos {
    type Value = Vec<(String, TensorInfo)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut infos = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let info = map.next_value();
            let info = info.map_err(|cause| A::Error::custom(format!("tensor {name}: {cause}")))?;
            infos.push((name, info));
        }
        Ok(infos)
    }
}

/// Length and JSON, padded with spaces to a multiple of 8 bytes, of tensors that follow each other, for PyTorch.
///
/// # Errors
/// In words: two tensors of one name, or sizes that do not add up.
pub(crate) fn written(tensors: &[(&str, Dtype, &[usize])]) -> Result<Vec<u8>, String> {
    if let Some(name) = twice(tensors.iter().map(|(name, ..)| *name)) {
        return Err(format!("two tensors are called {name}"));
    }
    let (mut end, mut infos) = (0_usize, Vec::new());
    for (name, dtype, shape) in tensors {
        let start = end;
        let elements = shape.iter().copied().try_fold(1, usize::checked_mul);
        let bytes = elements.and_then(|elements| dtype.bytes(elements));
        let bytes = bytes.and_then(|bytes| end.checked_add(bytes));
        end = bytes.ok_or_else(|| format!("tensor {name} of shape {shape:?} is too large"))?;
        let info = TensorInfo {
            dtype: dtype.stored(),
            shape: shape.to_vec(),
            data_offsets: (start, end),
        };
        infos.push((name.to_string(), info));
    }
    // Without it, some versions of transformers refuse the file.
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|cause| cause.to_string())?;
    let mut json = serde_json::to_vec(&metadata).map_err(|cause| cause.to_string())?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
