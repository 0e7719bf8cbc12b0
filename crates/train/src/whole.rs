//! A model as a whole, perhaps with an adapter added to its weights, to be written tensor by tensor.

use crate::adapting::{applied, tokenizer_of};
use crate::blueprint::with_tokenizer;
use aios_adapters::merge::{Change as OfModule, merge};
use aios_adapters::{Module, names};
use aios_base::error::Result;
use aios_bundle::TensorFile;
use aios_engine::adapter;
use aios_engine::weights::{floats, place_in_folder};
use aios_hf::{Dtype, Folder, FolderFile, Weights, encode};
use aios_models::Model;
use aios_models::decoder::{HfModel, without_quantization};
use aios_process::stop::{self, StopSignal};
use serde_json::Value;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The model in a folder, with what is to be added to it.
pub struct Whole {
    folder: Folder,
    weights: Weights,
    model: HfModel,
    added: Option<Added>,
    /// Asks for an end of the writing.
    stop: Option<StopSignal>,
}

/// An adapter.
struct Added {
    tensors: TensorFile,
    path: PathBuf,
}

/// A tensor as it is to be written.
pub struct Part<'a> {
    of: &'a Whole,
    /// In the model's files.
    pub name: String,
    /// Type of its numbers there, or the one to write them in where they are in few bits.
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    in_few_bits: bool,
    changes: Vec<Change<'a>>,
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

impl Whole {
    /// The model in a folder, with the adapter in another one.
    ///
    /// # Errors
    /// An adapter that is not of this model, or whose numbers are none.
    pub fn open(folder: Folder, adapter_dir: Option<&Path>) -> Result<Self> {
        let weights = Weights::open(&folder)?;
        let model = HfModel::new(folder.config().clone(), 1, 0)?;
        let (model, added) = match adapter_dir {
            None => (model, None),
            Some(path) => {
                let (model, tensors) = applied(model, &weights, path)?;
                adapter::check(&Model::Decoder(model.clone()), &tensors)?;
                tensors.require(f32::is_finite)?;
                let path = path.to_path_buf();
                (model, Some(Added { tensors, path }))
            }
        };
        Ok(Self {
            folder,
            weights,
            model,
            added,
            stop: None,
        })
    }

    /// The same, of which no more tensors are read after a request to stop: that is an error where it is written, which leaves
    /// nothing behind.
    pub fn until(self, stop: StopSignal) -> Self {
        stop::ending();
        Self {
            stop: Some(stop),
            ..self
        }
    }

    /// What its config.json says then.
    pub fn config(&self) -> Value {
        without_quantization(self.model.config())
    }

    /// Modules whose weights are changed.
    pub fn changed(&self) -> usize {
        self.model.adapted_modules().len()
    }

    /// Weights that the adapter holds as a whole.
    pub fn replaced(&self) -> usize {
        let all = self.changes().into_values();
        all.map(|changes| changes.len()).sum::<usize>() - self.changed()
    }

    /// Tokenizer, templates and what else travels along.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn passengers(&self) -> Result<Vec<FolderFile>> {
        let mut passengers = self.folder.load_passengers()?;
        // The tokenizer that has a name for each of the rows.
        if let Some(added) = &self.added {
            if let Some(tokenizer) = tokenizer_of(&self.model, &added.path)? {
                passengers = with_tokenizer(passengers, &tokenizer)?;
            }
            let own = Folder::of_adapter(&added.path)?.load_templates()?;
            // The ones that it was trained by.
            if !own.is_empty() {
                passengers.retain(|file| !aios_hf::is_template(&file.name));
                passengers.extend(own);
            }
        }
        Ok(passengers)
    }

    /// All tensors of the model's files.
    ///
    /// # Errors
    /// Weights in few bits that make no sense.
    pub fn parts(&self) -> Result<Vec<Part<'_>>> {
        let mut changes = self.changes();
        let names = self.weights.names();
        let names = names.filter(|name| !self.weights.is_beside_codes(name));
        names
            .map(|name| self.part(name, changes.remove(name).unwrap_or_default()))
            .collect()
    }

    /// The tensors that a model of this architecture has, each with its usual name.
    ///
    /// # Errors
    /// As [`Whole::parts`].
    pub fn parts_by_usual_names(&self) -> Result<Vec<(String, Part<'_>)>> {
        let mut parts: HashMap<String, Part> = (self.parts()?.into_iter())
            .map(|part| (part.name.clone(), part))
            .collect();
        let plain = HfModel::new(self.model.config().clone(), 1, 0)?;
        let usual = plain.layout().into_iter().filter_map(|(info, _)| {
            let (name, _) = place_in_folder(&self.weights, &info.name)?;
            Some((info.name, parts.remove(&name)?))
        });
        Ok(usual.collect())
    }

    fn part<'a>(&'a self, name: &str, changes: Vec<Change<'a>>) -> Result<Part<'a>> {
        let in_more_bits = self.weights.in_more_bits(name)?;
        let in_few_bits = in_more_bits.is_some();
        let (dtype, shape) = match in_more_bits {
            Some(found) => found,
            None => self.weights.info(name).unwrap_or((Dtype::F32, Vec::new())),
        };
        let own = changes.iter().find_map(Change::shape);
        Ok(Part {
            of: self,
            name: name.to_string(),
            dtype,
            shape: own.unwrap_or(shape),
            in_few_bits,
            changes,
        })
    }

    /// By their names in the model's files.
    fn changes(&self) -> HashMap<String, Vec<Change<'_>>> {
        let mut all: HashMap<String, Vec<Change>> = HashMap::new();
        let mut put = |name: &str, shape: &[usize], by| {
            let found = place_in_folder(&self.weights, name);
            let (name, part) = found.unwrap_or_else(|| (name.to_string(), None));
            let elements = part.map(|part| part.elements(shape));
            all.entry(name).or_default().push(Change { elements, by });
        };
        for module in self.model.adapted_modules() {
            let shape = [module.outputs, module.inputs];
            put(
                &format!("{}.weight", module.name),
                &shape,
                Replaced::Module(module),
            );
        }
        if self.added.is_none() {
            return all;
        }
        let whole = self.model.layout().into_iter().map(|(info, _)| info);
        for info in whole.filter(|info| info.trained && !names::is_of_an_adapter(&info.name)) {
            let whole = Replaced::Whole {
                name: names::in_file(&info.name),
                shape: info.shape.clone(),
            };
            put(&info.name, &info.shape, whole);
        }
        all
    }
}

impl Part<'_> {
    /// Whether it is of numbers that other formats can hold.
    pub fn is_float(&self) -> bool {
        self.dtype.is_float()
    }

    /// Its numbers, with what is added, in f32.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn values(&self) -> Result<Vec<f32>> {
        let Whole {
            weights,
            model,
            added,
            stop,
            ..
        } = self.of;
        stop.iter().try_for_each(StopSignal::check)?;
        let mut values = match weights.nf4(&self.name)? {
            Some(nf4) => nf4.values(),
            None => weights.read_f32(&self.name)?,
        };
        weights.release(&self.name);
        for change in &self.changes {
            if let Some(Added { tensors, .. }) = added {
                apply(&mut values, change, model.is_transposed(), tensors)?;
            }
        }
        Ok(values)
    }

    /// The same as they are written in a type; rounded once.
    ///
    /// # Errors
    /// They cannot be read, or one is beyond the type's range.
    pub fn bytes(&self, dtype: Dtype) -> Result<Vec<u8>> {
        self.of.stop.iter().try_for_each(StopSignal::check)?;
        if self.changes.is_empty() && !self.in_few_bits && dtype == self.dtype {
            let bytes = self.of.weights.bytes(&self.name)?.into_owned();
            self.of.weights.release(&self.name);
            return Ok(bytes);
        }
        encode(&self.values()?, dtype).map_err(|error| error.of_file(&self.name))
    }
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
