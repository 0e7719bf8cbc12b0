//! A saved run, opened for whoever goes on with it or reads it.

use std::path::Path;

use crate::state::TrainerState;
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};
use aios_base::meter;
use aios_base::meter::format_bytes;
use aios_bundle::{Bundle, TensorFile};
use aios_models::{Architecture, Model};
use aios_nn::ParamInfo;

/// Weights of more than so many times the host's memory are read by nothing here.
const MOST_OF_MEMORY: u64 = 4;

/// What small tensors may take beyond a model's own sizes.
const MORE: u64 = 1 << 24;

/// A checkpoint that is whole and makes sense.
#[derive(Debug)]
pub struct Saved {
    pub bundle: Bundle,
    pub state: TrainerState,
    /// As it was saved; where it says to write is not to be followed.
    pub config: TrainConfig,
}

impl Saved {
    /// Opens the newest checkpoint in a bundle directory that is whole and makes sense.
    ///
    /// # Errors
    /// None there, or damage, named with the file.
    pub fn open(dir: &Path) -> Result<Self> {
        let bundle = Bundle::open(dir, &check)?;
        let (state, config) = parts(&bundle)?;
        Ok(Self {
            bundle,
            state,
            config,
        })
    }
}

/// Whether a checkpoint's parts make sense by themselves and together: numbers within the limits of flags, and all tensors
/// of such a model.
///
/// # Errors
/// Names the file and what is wrong.
pub fn check(bundle: &Bundle) -> Result<()> {
    let (state, config) = parts(bundle)?;
    let wrong = |cause: &dyn std::fmt::Display| {
        let place = bundle.path().join("trainer.json");
        Error::failed(format!("{}: {cause}", place.display()))
    };
    let settings = bundle.path().join("config.toml");
    let checked = config.validate_saved();
    checked.map_err(|error| error.of_file(settings.display()))?;
    state.validate().map_err(|cause| wrong(&cause))?;
    if state.step != bundle.step() {
        let cause = format!(
            "step {} is not that of the manifest, {}",
            state.step,
            bundle.step()
        );
        return Err(wrong(&cause));
    }
    complete(&state.model, &bundle.model_tensors()?)?;
    plausible(&state, &bundle.optimizer_tensors()?)
}

/// Tensors of `path`: a bundle directory, or one safetensors file.
///
/// # Errors
/// Nothing there, or a damaged file.
pub fn open_weights(path: &Path) -> Result<TensorFile> {
    match path.is_dir() {
        true => Saved::open(path)?.bundle.model_tensors(),
        false => TensorFile::open(path),
    }
}

fn parts(bundle: &Bundle) -> Result<(TrainerState, TrainConfig)> {
    let place = bundle.path().join("config.toml");
    Ok((
        TrainerState::parse(bundle.trainer())?,
        TrainConfig::from_toml(bundle.config_toml(), &place)?,
    ))
}

/// All weights of the model, and no more than can be read.
fn complete(model: &Model, file: &TensorFile) -> Result<()> {
    let wrong = |cause: String| {
        let place = file.path().display();
        Err(Error::failed(format!("{place}: {cause}")))
    };
    let bytes = 4 * model.trained() as u64;
    if bytes > MOST_OF_MEMORY.saturating_mul(meter::host_total()) {
        return wrong(format!(
            "its weights take {}, and this machine has {} of memory",
            format_bytes(bytes),
            format_bytes(meter::host_total())
        ));
    }
    // Before anything is made of a number that could be anything.
    let (there, blocks) = (file.names().len(), blocks(model));
    if model.adapter().is_none() && there / 4 < blocks {
        return wrong(format!(
            "it has {there} tensors, of a model of {blocks} blocks"
        ));
    }
    if file.data_bytes() > 2 * bytes + MORE {
        return wrong(format!(
            "it holds {}, of a model of {}",
            format_bytes(file.data_bytes()),
            format_bytes(bytes)
        ));
    }
    let lacks = |info: &ParamInfo| file.shape(&info.name) != Some(info.shape.as_slice());
    match model.saved().into_iter().find(lacks) {
        None => Ok(()),
        Some(ParamInfo { name, shape, .. }) => {
            wrong(format!("it has no tensor {name} of shape {shape:?}"))
        }
    }
}

fn blocks(model: &Model) -> usize {
    match model {
        Model::ActV1(model) => model.h_layers + model.l_layers,
        Model::Decoder(model) => model.decoder.blocks.len(),
    }
}

/// The optimizer's state is no larger than that of any optimizer here.
fn plausible(state: &TrainerState, file: &TensorFile) -> Result<()> {
    // With --local-steps each rank has its own, and all have a momentum.
    let each = 8 * state.ranks as u64 + 4;
    let most = each.saturating_mul(state.model.trained() as u64) + MORE;
    match file.data_bytes() <= most {
        true => Ok(()),
        false => Err(Error::failed(format!(
            "{}: it holds {}, and the state of such a model takes {} at most",
            file.path().display(),
            format_bytes(file.data_bytes()),
            format_bytes(most)
        ))),
    }
}
