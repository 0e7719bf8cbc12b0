//! Names of tensors, both ways.

use std::collections::HashSet;

use aios_base::error::Result;
use serde_json::Value;

use crate::change::Change;
use crate::file::GgufFile;
use crate::model::family::{Bias, Family, Heads, Part, Role};
use crate::model::fields::Fields;

/// Tensors that say how positions are turned: [`super::config`] has it in its own words.
const OF_ROPE: [&str; 3] = [
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];

/// A tensor of a file, as a Hugging Face folder would have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub hugging_face: String,
    pub gguf: String,
    /// What makes the folder's numbers of the file's.
    pub change: Change,
    /// In the folder.
    pub shape: Vec<usize>,
}

/// The tensors of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensors {
    /// In the order of the file.
    pub named: Vec<Named>,
    /// Those that belong to nothing that is known of such a model.
    pub unknown: Vec<String>,
}

/// All tensors of a model's file, given its [`super::config`].
///
/// # Errors
/// One is missing that such a model needs, or one cannot be changed as it has to be.
pub fn tensors(file: &GgufFile, config: &Value) -> Result<Tensors> {
    let names = Names::of(config)?;
    let layers = match names.family.architecture {
        "gpt2" => names.config.needed("n_layer")?,
        _ => names.config.needed("num_hidden_layers")?,
    };
    let mut found = Tensors::default();
    let mut there = HashSet::new();
    for tensor in file.tensors() {
        let gguf = tensor.name.as_str();
        let Some((hugging_face, change)) = names.read(gguf, layers) else {
            if !OF_ROPE.contains(&gguf) {
                found.unknown.push(gguf.to_string());
            }
            continue;
        };
        there.insert(gguf);
        fits(&tensor.shape, change)
            .map_err(|cause| file.wrong(&format!("tensor {gguf} {cause}")))?;
        found.named.push(Named {
            hugging_face,
            gguf: gguf.to_string(),
            change,
            shape: change.shape(&tensor.shape),
        });
    }
    match names
        .needed(layers)
        .find(|name| !there.contains(name.as_str()))
    {
        None => Ok(found),
        Some(name) => Err(file.wrong(&format!(
            "it has no tensor {name}, which a model of architecture {} needs: it is not whole",
            names.family.architecture
        ))),
    }
}

/// What a tensor of a folder is called in a file, and what has to be done to its numbers; none if no such file has it, as it
/// has no head of its own where that is tied.
///
/// # Errors
/// A model that has no place in a GGUF file.
pub fn tensor_out(config: &Value, hugging_face: &str) -> Result<Option<(String, Change)>> {
    let names = Names::of(config)?;
    let found = names.written(hugging_face);
    let is_tied = names.tied()?;
    Ok(found
        .filter(|(part, _, _)| !(is_tied && part.role == Role::Head))
        .map(|(_, gguf, change)| (gguf, change)))
}

/// Whether llama.cpp wants a tensor of a file in f32, whatever the others are in.
pub fn is_always_f32(gguf: &str, shape: &[usize]) -> bool {
    shape.len() <= 1 || gguf.ends_with("_norm.weight") || gguf == "position_embd.weight"
}

fn fits(shape: &[usize], change: Change) -> Result<(), String> {
    match (change, shape) {
        (Change::UnpermuteRows { heads }, [rows, ..])
            if heads == 0 || !rows.is_multiple_of(heads) || !(rows / heads).is_multiple_of(2) =>
        {
            Err(format!(
                "has {rows} rows, which are not {heads} heads of pairs of rows"
            ))
        }
        (Change::Transpose, shape) if shape.len() != 2 => {
            Err(format!("has the shape {shape:?}: it must be a matrix"))
        }
        _ => Ok(()),
    }
}

/// A block's number, which is written in one way only.
fn block(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The names of a model's tensors.
pub(crate) struct Names<'a> {
    pub(crate) family: &'static Family,
    config: Fields<'a>,
    heads: Heads,
}

impl<'a> Names<'a> {
    pub(crate) fn of(config: &'a Value) -> Result<Self> {
        let config = Fields::of(config)?;
        let family = Family::of_model(&config)?;
        let heads = Heads::of(&config, family)?;
        Ok(Self {
            family,
            config,
            heads,
        })
    }

    /// Whether the head is the embedding.
    pub(crate) fn tied(&self) -> Result<bool> {
        let tied = self.config.flag("tie_word_embeddings")?;
        Ok(tied.unwrap_or(self.family.usual.tied))
    }

    /// Of a file's tensor that in a folder.
    fn read(&self, gguf: &str, layers: u32) -> Option<(String, Change)> {
        let (module, kind) = gguf.rsplit_once('.')?;
        let at_name =
            |parts: &'static [Part], name: &str| parts.iter().find(|part| part.gguf == name);
        let (part, hugging_face) = match module.strip_prefix("blk.") {
            Some(rest) => {
                let (number, name) = rest.split_once('.')?;
                let part = at_name(self.family.parts, name)?;
                let number = block(number).filter(|number| *number < layers)?;
                let blocks = self.family.blocks;
                (part, format!("{blocks}.{number}.{}", part.hugging_face))
            }
            None => {
                let part = at_name(self.family.around, module)?;
                (part, part.hugging_face.to_string())
            }
        };
        let change = self.of_kind(part, kind)?;
        Some((format!("{hugging_face}.{kind}"), change.inverse()))
    }

    /// Of a folder's tensor that in a file, and what it is of.
    pub(crate) fn written(&self, hugging_face: &str) -> Option<(&'static Part, String, Change)> {
        let (module, kind) = hugging_face.rsplit_once('.')?;
        let (part, gguf) = self.module(module)?;
        let change = self.of_kind(part, kind)?;
        Some((part, format!("{gguf}.{kind}"), change))
    }

    /// Of a module.
    pub(crate) fn module(&self, hugging_face: &str) -> Option<(&'static Part, String)> {
        let family = self.family;
        // Some files of GPT-2 leave that out.
        let bare = |name: &'static str| name.strip_prefix("transformer.").unwrap_or(name);
        let found = |part: &&Part| {
            let name = part.hugging_face;
            name == hugging_face || bare(name) == hugging_face
        };
        if let Some(part) = family.around.iter().find(found) {
            return Some((part, part.gguf.to_string()));
        }
        let rest = hugging_face.strip_prefix(family.blocks);
        let rest = rest.or_else(|| hugging_face.strip_prefix(bare(family.blocks)));
        let (number, name) = rest?.strip_prefix('.')?.split_once('.')?;
        let part = family.parts.iter().find(|part| part.hugging_face == name)?;
        let number = block(number)?;
        Some((part, format!("blk.{number}.{}", part.gguf)))
    }

    /// What is done to a part's matrix to write it.
    pub(crate) fn weight_change(&self, part: &Part) -> Change {
        self.family.change(part, true, self.heads)
    }

    fn of_kind(&self, part: &Part, kind: &str) -> Option<Change> {
        let change = |is_weight| self.family.change(part, is_weight, self.heads);
        match kind {
            "weight" => Some(change(true)),
            "bias" if part.bias != Bias::Never => Some(change(false)),
            _ => None,
        }
    }

    /// Names in a file of what such a model cannot be without.
    fn needed(&self, layers: u32) -> impl Iterator<Item = String> {
        let of = |at: String, part: &'static Part| {
            let bias = (part.bias == Bias::Always).then(|| format!("{at}{}.bias", part.gguf));
            [format!("{at}{}.weight", part.gguf)]
                .into_iter()
                .chain(bias)
        };
        let around = self
            .family
            .around
            .iter()
            .filter(|part| part.role != Role::Head);
        let around = around.flat_map(move |part| of(String::new(), part));
        let parts = self.family.parts;
        let blocks = (0..layers).flat_map(move |layer| {
            parts
                .iter()
                .flat_map(move |part| of(format!("blk.{layer}."), part))
        });
        around.chain(blocks)
    }
}
