//! An adapter added to the weights of its model.

use crate::adapting::{applied, tokenizer_of};
use crate::blueprint::tokenizer_files;
use aios_adapters::merge::{Change, merge};
use aios_adapters::{Module, names};
use aios_base::error::Result;
use aios_bundle::TensorFile;
use aios_engine::adapter;
use aios_engine::weights::{floats, name_in_folder};
use aios_hf::{Dtype, Folder, TensorSource, Weights, encode, write_folder};
use aios_models::Model;
use aios_models::decoder::HfModel;
use std::collections::HashMap;
use std::path::Path;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Modules whose weights were changed.
    pub modules: usize,
    /// Weights that the adapter holds as a whole.
    pub whole: usize,
}

/// What is written in a tensor's place.
enum Replaced<'a> {
    Module(&'a Module),
    Whole {
        /// In the adapter's file.
        name: String,
        shape: Vec<usize>,
    },
}

/// Writes the model in a folder with an adapter added as a new folder, which `from_pretrained` loads. Sums are in f32, and
/// rounded once to the format that the model's file has.
///
/// # Errors
/// An adapter that is not of this model, a number beyond the range of the model's format, or a place that is taken.
pub fn write(folder: &Folder, adapter_dir: &Path, output: &Path) -> Result<Merged> {
    let weights = Weights::open(folder)?;
    let model = HfModel::new(folder.config().clone(), 1, 0)?;
    let (model, tensors) = applied(model, &weights, adapter_dir)?;
    adapter::check(&Model::Decoder(model.clone()), &tensors)?;
    tensors.require(f32::is_finite)?;
    let changes = changes(&model, &weights);
    let merged = Merged {
        modules: model.adapted_modules().len(),
        whole: changes.len() - model.adapted_modules().len(),
    };
    let sources = weights.names().map(|name| {
        let (dtype, shape) = weights.info(name).unwrap_or((Dtype::F32, Vec::new()));
        let (weights, model, tensors) = (&weights, &model, &tensors);
        let change = changes.get(name);
        let shape = match change {
            Some(Replaced::Whole { shape, .. }) => shape.clone(),
            _ => shape,
        };
        TensorSource {
            name: name.to_string(),
            dtype,
            shape,
            fetch: Box::new(move || match change {
                None => {
                    let bytes = weights.bytes(name)?.to_vec();
                    weights.release(name);
                    Ok(bytes)
                }
                Some(change) => {
                    let values = match change {
                        Replaced::Whole { name, .. } => floats(&tensors.read(name)?)?,
                        Replaced::Module(module) => {
                            let values = weights.read_f32(name)?;
                            changed(values, module, model.is_transposed(), tensors)?
                        }
                    };
                    encode(&values, dtype).map_err(|error| error.of_file(name))
                }
            }),
        }
    });
    let sources: Vec<TensorSource> = sources.collect();
    let mut passengers = folder.load_passengers()?;
    // The tokenizer that has a name for each of the rows.
    if let Some(tokenizer) = tokenizer_of(&model, adapter_dir)? {
        let own = tokenizer_files(&tokenizer)?;
        passengers.retain(|file| own.iter().all(|own| own.name != file.name));
        passengers.extend(own);
    }
    write_folder(output, model.config(), sources, &passengers)?;
    Ok(merged)
}

/// By their names in the model's files.
fn changes<'a>(model: &'a HfModel, weights: &Weights) -> HashMap<String, Replaced<'a>> {
    let mut all = HashMap::new();
    let mut put = |name: &str, change| {
        let found = name_in_folder(weights, name);
        all.insert(found.unwrap_or_else(|| name.to_string()), change);
    };
    for module in model.adapted_modules() {
        put(&format!("{}.weight", module.name), Replaced::Module(module));
    }
    let whole = model.layout().into_iter().map(|(info, _)| info);
    for info in whole.filter(|info| info.trained && !names::is_of_an_adapter(&info.name)) {
        let whole = Replaced::Whole {
            name: names::in_file(&info.name),
            shape: info.shape.clone(),
        };
        put(&info.name, whole);
    }
    all
}

fn changed(
    mut values: Vec<f32>,
    module: &Module,
    transposed: bool,
    tensors: &TensorFile,
) -> Result<Vec<f32>> {
    let read = |name: &str| floats(&tensors.read(name)?);
    let magnitude = names::magnitude(&module.name);
    let magnitude = module.dora.then(|| read(&magnitude)).transpose()?;
    let change = Change {
        a: read(&names::a(&module.name))?,
        b: read(&names::b(&module.name))?,
        magnitude,
    };
    merge(&mut values, module, transposed, &change);
    Ok(values)
}
