//! Reading a model's weights from a bundle or a safetensors file.

use crate::error::{Error, Result};
use crate::model::{ActV1, ModelConfig, ParamInfo};
use crate::ops::Ops;
use crate::train::bundle::{Dtype, NamedTensor, TensorFile};
use crate::train::saved::Saved;
use std::path::Path;

/// Build a model from the tensors of a file.
///
/// # Errors
/// A tensor that is missing or has another shape, named with both shapes.
pub fn load<B: Ops>(
    config: &ModelConfig,
    file: &mut TensorFile,
    device: &B::Device,
) -> Result<ActV1<B>> {
    ActV1::build(config, device, &mut |info, _| read(file, info))
}

/// Tensors of `path`: a bundle directory, or one safetensors file.
///
/// # Errors
/// Nothing there, or a damaged file.
pub fn open(path: &Path) -> Result<TensorFile> {
    match path.is_dir() {
        true => Saved::open(path)?.bundle.model_tensors(),
        false => TensorFile::open(path),
    }
}

fn read(file: &mut TensorFile, info: &ParamInfo) -> Result<Vec<f32>> {
    let name = find(file, &info.name).ok_or_else(|| {
        Error::failed(format!(
            "the checkpoint has no tensor {} of shape {:?}: it is of another architecture; give \
             the model flags it was trained with",
            info.name, info.shape
        ))
    })?;
    let tensor = file.read(&name)?;
    if tensor.shape != info.shape {
        return Err(Error::failed(format!(
            "tensor {name} has shape {:?} in the checkpoint and {:?} in this configuration: give \
             the model flags it was trained with",
            tensor.shape, info.shape
        )));
    }
    floats(&tensor)
}

/// The published trainer wraps the model, which prefixes every name.
fn find(file: &TensorFile, name: &str) -> Option<String> {
    if file.shape(name).is_some() {
        return Some(name.to_string());
    }
    let suffix = format!(".{name}");
    file.names().into_iter().find(|n| n.ends_with(&suffix))
}

/// A stored tensor's elements in f32.
///
/// # Errors
/// A tensor of integers.
pub fn floats(tensor: &NamedTensor) -> Result<Vec<f32>> {
    let bytes = &tensor.bytes;
    match tensor.dtype {
        Dtype::F32 => Ok(bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()),
        Dtype::F16 => Ok(bytes
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect()),
        Dtype::BF16 => Ok(bytes
            .chunks_exact(2)
            .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect()),
        other => Err(Error::failed(format!(
            "tensor {} holds {other:?}, not floating-point numbers",
            tensor.name
        ))),
    }
}
