//! Reading an adapter's weights from its file.

use crate::weights::{check_finite, floats};
use aios_adapters::names;
use aios_base::error::{Error, Result};
use aios_bundle::TensorFile;
use aios_models::Model;
use aios_nn::ParamInfo;

/// Sees that a file has the tensors of a model's adapter and no others, in their shapes.
///
/// # Errors
/// Names the file, and the tensor that is missing, unknown or of another shape.
pub fn check(model: &Model, file: &TensorFile) -> Result<()> {
    let place = file.path().display();
    let mut left = file.names();
    for info in model.saved() {
        let shape = file.shape(&info.name);
        let Some(shape) = shape else {
            return Err(Error::failed(format!(
                "{place}: the adapter has no tensor {} of shape {:?}, which its adapter_config.json asks for",
                info.name, info.shape
            )));
        };
        if shape != info.shape {
            return Err(Error::failed(format!(
                "{place}: tensor {} has shape {shape:?}, and by adapter_config.json and the model it has {:?}",
                info.name, info.shape
            )));
        }
        left.retain(|name| *name != info.name);
    }
    match left.first() {
        None => Ok(()),
        Some(name) => Err(Error::failed(format!(
            "{place}: tensor {name} ({} in all) belongs to no module that adapter_config.json names: the adapter is of \
             another model",
            left.len()
        ))),
    }
}

/// The values of one of its parameters.
///
/// # Errors
/// No such tensor, or one that cannot be read or holds what is no number.
pub fn read(file: &mut TensorFile, info: &ParamInfo) -> Result<Vec<f32>> {
    let place = file.path().display().to_string();
    let name = names::in_file(&info.name);
    let tensor = file.read(&name)?;
    let values = floats(&tensor).map_err(|error| error.of_file(&place))?;
    check_finite(&name, &tensor.shape, &values).map_err(|error| error.of_file(&place))?;
    Ok(values)
}
