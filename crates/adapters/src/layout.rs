//! A model's parameters with an adapter: which are frozen, how these are held, and which there are beside them.

use crate::lora::Lora;
use crate::names;
use aios_base::error::{Error, Result};
use aios_base::storage::{Quantize, Storage};
use aios_nn::{Init, ParamInfo};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a frozen model is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// Format of its matrices: that of its files.
    pub storage: Storage,
    /// Format of those of its linear layers but the head, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantize>,
    /// Formats of parameters that stay as their files have them, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub own: BTreeMap<String, Storage>,
}

impl Frozen {
    /// All matrices in one format, and those of the linear layers perhaps in another.
    pub fn new(storage: Storage, quantize: Option<Quantize>) -> Self {
        Self {
            storage,
            quantize,
            own: BTreeMap::new(),
        }
    }

    /// Freezes a model's parameters but those that are to be trained as a whole.
    ///
    /// # Errors
    /// A module to be trained as a whole that there is not.
    pub fn freeze(&self, layout: &mut [(ParamInfo, Init)], whole: &[String]) -> Result<()> {
        for name in whole {
            if !layout.iter().any(|(info, _)| is_module(info, name)) {
                return Err(Error::invalid(format!(
                    "{name:?} is no module of this model that could be trained as a whole"
                )));
            }
        }
        for (info, _) in layout {
            if whole.iter().any(|name| is_module(info, name)) {
                continue;
            }
            info.trained = false;
            let own = self.own.get(&info.name).copied();
            let in_few_bits = own.filter(|own| own.is_quantized());
            let quantize = self.quantize.filter(|_| is_linear(info)).map(Storage::from);
            info.storage = match info.shape.len() {
                // Vectors are little beside what they belong to.
                0 | 1 => Storage::F32,
                _ => in_few_bits.or(quantize).or(own).unwrap_or(self.storage),
            };
        }
        Ok(())
    }
}

fn is_module(info: &ParamInfo, name: &str) -> bool {
    let module = info.name.strip_suffix(".weight").unwrap_or(&info.name);
    let before = module.strip_suffix(name);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Whether a parameter is the weight of a linear layer other than the head.
pub fn is_linear(info: &ParamInfo) -> bool {
    linear(info).is_some()
}

/// The module of a linear layer's weight; `None` of what else there is, and of the head.
fn linear(info: &ParamInfo) -> Option<&str> {
    let module = info.name.strip_suffix(".weight")?;
    let multiplies = info.shape.len() == 2 && !info.is_embedding();
    (multiplies && !module.ends_with("lm_head")).then_some(module)
}

/// The modules of a model that can be adapted.
pub fn linear_modules(layout: &[(ParamInfo, Init)]) -> Vec<&str> {
    layout.iter().filter_map(|(info, _)| linear(info)).collect()
}

/// An adapted module.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    pub name: String,
    pub rank: usize,
    pub scale: f64,
    pub dora: bool,
    /// Which share of what it reads is dropped in training.
    pub dropout: f64,
    pub inputs: usize,
    pub outputs: usize,
}

impl Module {
    /// Its parameters, and how they start: A as PEFT draws it, Kaiming-uniform with a = √5, and B at zero. Magnitudes of
    /// zero stand for those of the base.
    pub fn parameters(&self) -> Vec<(ParamInfo, Init)> {
        let info = |name, shape: &[usize], decay| ParamInfo {
            name,
            shape: shape.to_vec(),
            decay,
            trained: true,
            storage: Storage::F32,
        };
        let bound = 1.0 / (self.inputs as f64).sqrt();
        let (name, rank) = (&self.name, self.rank);
        let a = info(names::a(name), &[rank, self.inputs], true);
        let b = info(names::b(name), &[self.outputs, rank], true);
        let mut all = vec![(a, Init::Uniform(bound)), (b, Init::Constant(0.0))];
        if self.dora {
            let magnitude = info(names::magnitude(name), &[self.outputs], false);
            all.push((magnitude, Init::Constant(0.0)));
        }
        all
    }
}

impl Lora {
    /// The modules of a model that are adapted, in the order of its parameters; `transposed` if its weights are
    /// `[inputs, outputs]`.
    ///
    /// # Errors
    /// Targets that mean no module.
    pub fn modules(&self, layout: &[(ParamInfo, Init)], transposed: bool) -> Result<Vec<Module>> {
        self.validate()?;
        let names = linear_modules(layout);
        let mut meant = self.targets.of(&names)?;
        if let Some(exclude) = &self.exclude {
            let excluded = exclude.of(&names).unwrap_or_default();
            meant.retain(|name| !excluded.contains(name));
        }
        let weights = layout.iter().filter(|(info, _)| {
            let module = linear(info);
            module.is_some_and(|module| meant.contains(&module))
        });
        let module = |(info, _): &(ParamInfo, Init)| {
            let name = linear(info).unwrap_or_default().to_string();
            let (rows, columns) = (info.shape[0], info.shape[1]);
            let (inputs, outputs) = match transposed {
                true => (rows, columns),
                false => (columns, rows),
            };
            Ok(Module {
                rank: self.rank_of(&name)?,
                scale: self.scale_of(&name)?,
                dora: self.dora,
                dropout: self.dropout,
                inputs,
                outputs,
                name,
            })
        };
        weights.map(module).collect()
    }
}
