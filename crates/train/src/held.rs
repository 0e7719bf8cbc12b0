//! How weights that are not trained are held: as their files have them.

use aios_adapters::{Frozen, is_linear};
use aios_base::storage::Storage;
use aios_engine::weights::place_in_folder;
use aios_hf::{Dtype, Weights};
use aios_models::decoder::HfModel;
use aios_nn::{Init, ParamInfo};
use aios_tensor::stored_in;

/// Of a model that is read alone: each matrix as its files have it.
pub fn for_reading(model: HfModel, weights: &Weights) -> HfModel {
    let frozen = as_in_files(&model.layout(), weights, |_| true);
    model.held(frozen)
}

/// Beside an adapter that is not trained.
pub fn read_beside_adapter(model: &HfModel, weights: &Weights) -> Frozen {
    as_in_files(&model.adaptable(), weights, |_| true)
}

/// Beside an adapter that is trained: embedding and head are decoded once, not for each step.
pub fn beside_adapter(model: &HfModel, weights: &Weights) -> Frozen {
    as_in_files(&model.adaptable(), weights, is_linear)
}

/// As the files have it; in few bits only what `stays` so.
fn as_in_files(
    layout: &[(ParamInfo, Init)],
    weights: &Weights,
    stays: impl Fn(&ParamInfo) -> bool,
) -> Frozen {
    let mut frozen = Frozen::new(storage_of(weights), None);
    for (info, _) in layout.iter().filter(|(info, _)| info.shape.len() == 2) {
        // What is a part of a larger tensor is as most of it.
        let Some((name, None)) = place_in_folder(weights, &info.name) else {
            continue;
        };
        let own = match weights.block_format(&name) {
            Some(format) => stays(info).then(|| stored_in(format)),
            None if in_few_bits(weights, &name) => None,
            None => weights.info(&name).and_then(|(dtype, _)| of_dtype(dtype)),
        };
        if let Some(own) = own.filter(|own| *own != frozen.storage) {
            frozen.own.insert(info.name.clone(), own);
        }
    }
    frozen
}

fn of_dtype(dtype: Dtype) -> Option<Storage> {
    match dtype {
        Dtype::F32 => Some(Storage::F32),
        Dtype::BF16 => Some(Storage::Bf16),
        Dtype::F16 => Some(Storage::F16),
        _ => None,
    }
}

/// In other numbers than floats, whether or not these can stay as they are.
fn in_few_bits(weights: &Weights, name: &str) -> bool {
    !matches!(weights.in_more_bits(name), Ok(None))
}

/// Names of the block formats that a model's files have, each once.
pub fn formats_in(weights: &Weights) -> Vec<&'static str> {
    let mut names: Vec<&str> = (weights.names())
        .filter_map(|name| weights.block_format(name))
        .map(|format| format.name())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The format of most of a model's numbers; f32 if that is none that is computed with. Numbers in few bits are decoded to 16.
pub fn storage_of(weights: &Weights) -> Storage {
    let mut counts = [
        (Storage::F32, 0_usize),
        (Storage::Bf16, 0),
        (Storage::F16, 0),
    ];
    for name in weights.names() {
        let (dtype, shape) = match weights.in_more_bits(name) {
            Ok(Some(found)) => found,
            _ => weights.info(name).unwrap_or((Dtype::F32, Vec::new())),
        };
        let storage = of_dtype(dtype);
        let of = counts.iter_mut().filter(|(own, _)| Some(*own) == storage);
        of.for_each(|(_, count)| *count += shape.iter().product::<usize>());
    }
    let most = counts.into_iter().rev().max_by_key(|(_, count)| *count);
    most.map_or(Storage::F32, |(storage, _)| storage)
}
