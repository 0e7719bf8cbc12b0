//! An adapter added to the weights of its model.

use crate::adapting::{applied, tokenizer_of};
use crate::blueprint::with_tokenizer;
use aios_adapters::merge::{Change as OfModule, merge};
use aios_adapters::{Module, names};
use aios_base::error::Result;
use aios_bundle::TensorFile;
use aios_engine::adapter;
use aios_engine::weights::{floats, place_in_folder};
use aios_hf::{Dtype, Folder, TensorSource, Weights, encode, write_folder};
use aios_models::Model;
use aios_models::decoder::{HfModel, without_quantization};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Modules whose weights were changed.
    pub modules: usize,
    /// Weights that the adapter holds as a whole.
    pub whole: usize,
}

/// What is written in the place of a tensor, or of these elements of it.
struct Change<'a> {
    elements: Option<Range<usize>>,
    by: Replaced<'a>,
}

impl Change<'_> {
    /// Of the tensor, if all of it is another.
    fn shape(&self) -> Option<Vec<usize>> {
        match (&self.elements, &self.by) {
            (None, Replaced::Whole { shape, .. }) => Some(shape.clone()),
            _ => None,
        }
    }
}

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
        whole: changes.values().map(Vec::len).sum::<usize>() - model.adapted_modules().len(),
    };
    let in_few_bits = in_few_bits(&weights)?;
    let own = weights
        .names()
        .filter(|name| !weights.is_beside_codes(name));
    let sources = own.map(|name| {
        let before = in_few_bits.get(name);
        let (dtype, shape) = match before {
            Some((dtype, shape)) => (*dtype, shape.clone()),
            None => weights.info(name).unwrap_or((Dtype::F32, Vec::new())),
        };
        let is_packed = before.is_some();
        let (weights, model, tensors) = (&weights, &model, &tensors);
        let change = changes.get(name);
        let own = change.into_iter().flatten().find_map(Change::shape);
        let shape = own.unwrap_or(shape);
        TensorSource {
            name: name.to_string(),
            dtype,
            shape,
            fetch: Box::new(move || match change {
                None if is_packed => {
                    let values = numbers(weights, name)?;
                    encode(&values, dtype).map_err(|error| error.of_file(name))
                }
                None => {
                    let bytes = weights.bytes(name)?.to_vec();
                    weights.release(name);
                    Ok(bytes)
                }
                Some(changes) => {
                    let mut values = numbers(weights, name)?;
                    for change in changes {
                        apply(&mut values, change, model.is_transposed(), tensors)?;
                    }
                    encode(&values, dtype).map_err(|error| error.of_file(name))
                }
            }),
        }
    });
    let sources: Vec<TensorSource> = sources.collect();
    let mut passengers = folder.load_passengers()?;
    // The tokenizer that has a name for each of the rows.
    if let Some(tokenizer) = tokenizer_of(&model, adapter_dir)? {
        passengers = with_tokenizer(passengers, &tokenizer)?;
    }
    let config = without_quantization(model.config());
    write_folder(output, &config, sources, &passengers)?;
    Ok(merged)
}

/// Types and shapes of weights that are in few bits, as they are written.
fn in_few_bits(weights: &Weights) -> Result<HashMap<String, (Dtype, Vec<usize>)>> {
    let mut all = HashMap::new();
    for name in weights.names() {
        if let Some(before) = weights.before_nf4(name)? {
            all.insert(name.to_string(), before);
        }
    }
    Ok(all)
}

/// A tensor's numbers, whatever they are held in.
fn numbers(weights: &Weights, name: &str) -> Result<Vec<f32>> {
    match weights.nf4(name)? {
        Some(nf4) => Ok(nf4.values()),
        None => weights.read_f32(name),
    }
}

/// By their names in the model's files.
fn changes<'a>(model: &'a HfModel, weights: &Weights) -> HashMap<String, Vec<Change<'a>>> {
    let mut all: HashMap<String, Vec<Change>> = HashMap::new();
    let mut put = |name: &str, shape: &[usize], by| {
        let found = place_in_folder(weights, name);
        let (name, part) = found.unwrap_or_else(|| (name.to_string(), None));
        let elements = part.map(|part| part.elements(shape));
        all.entry(name).or_default().push(Change { elements, by });
    };
    for module in model.adapted_modules() {
        let shape = [module.outputs, module.inputs];
        put(
            &format!("{}.weight", module.name),
            &shape,
            Replaced::Module(module),
        );
    }
    let whole = model.layout().into_iter().map(|(info, _)| info);
    for info in whole.filter(|info| info.trained && !names::is_of_an_adapter(&info.name)) {
        let whole = Replaced::Whole {
            name: names::in_file(&info.name),
            shape: info.shape.clone(),
        };
        put(&info.name, &info.shape, whole);
    }
    all
}

fn apply(
    values: &mut Vec<f32>,
    change: &Change,
    transposed: bool,
    tensors: &TensorFile,
) -> Result<()> {
    let read = |name: &str| floats(&tensors.read(name)?);
    let elements = change.elements.clone().unwrap_or(0..values.len());
    match &change.by {
        // There may be more of them than before.
        Replaced::Whole { name, .. } => drop(values.splice(elements, read(name)?)),
        Replaced::Module(module) => {
            let magnitude = names::magnitude(&module.name);
            let magnitude = module.dora.then(|| read(&magnitude)).transpose()?;
            let change = OfModule {
                a: read(&names::a(&module.name))?,
                b: read(&names::b(&module.name))?,
                magnitude,
            };
            merge(&mut values[elements], module, transposed, &change);
        }
    }
    Ok(())
}
