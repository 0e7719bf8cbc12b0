//! A trained model from its bundle, for the commands that use one.

use aios_base::config::{DeviceChoice, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::execution::{Execution, Kind, Place, Precision};
use aios_bundle::Bundle;
use aios_data::Tokenizer;
use aios_device::select;
use aios_engine::{Engine, OpenDevice, Settings, Weights};
use aios_plan::checked_path;
use aios_train::saved::Saved;
use aios_train::state::TrainerState;
use std::path::Path;

/// Everything of a bundle but the weights, which need a device.
pub struct Brain {
    bundle: Bundle,
    pub state: TrainerState,
    pub config: TrainConfig,
    pub tokenizer: Tokenizer,
}

impl Brain {
    /// Open the bundle in a directory, which a training may save into meanwhile.
    ///
    /// # Errors
    /// Nothing there, or damage, named with the file.
    pub fn open(path: &Path) -> Result<Self> {
        loop {
            let saved = Saved::open(path).map_err(|error| match Bundle::exists(path) {
                true => error,
                false => missing(path),
            })?;
            let folder = saved.bundle.tokenizer_dir();
            match Tokenizer::load_directory(&folder, &mut |_, _| Ok(())) {
                // The training has gone on, and removed this checkpoint for newer ones.
                Err(_) if !saved.bundle.path().exists() => {}
                tokenizer => {
                    return Ok(Self {
                        tokenizer: tokenizer?,
                        state: saved.state,
                        config: saved.config,
                        bundle: saved.bundle,
                    });
                }
            }
        }
    }

    /// The model on a device, for sequences of no more than `positions` tokens.
    ///
    /// # Errors
    /// Damaged weights, or more of them than there is memory for.
    pub fn model(&self, positions: usize, device: &dyn OpenDevice) -> Result<Box<dyn Engine>> {
        let mut file = self.bundle.model_tensors()?;
        let settings = Settings::fixed(&self.state.model, positions, self.config.chunking());
        device.model(&settings, Weights::File(&mut file))
    }

    /// How the model runs over sequences on a device.
    pub fn execution(&self, device: &dyn OpenDevice, kind: Kind) -> Execution {
        Execution {
            chunking: self.config.chunking(),
            place: Place::of(self.config.cpu_offload, kind),
            path: checked_path(kind, &self.config, &mut |check| device.check(check)),
            precision: Precision::F32,
        }
    }
}

/// No bundle in `path`; names those beside it.
fn missing(path: &Path) -> Error {
    let beside = path.parent().map(std::fs::read_dir).and_then(Result::ok);
    let mut names: Vec<String> = beside
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| Bundle::exists(path))
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    let advice = match names.is_empty() {
        true => "train one first, or give its path".to_string(),
        false => format!("beside it there is {}: use --brain-name", names.join(", ")),
    };
    Error::failed(format!("no bundle in {}: {advice}", path.display()))
}

/// Choose a device and start it.
///
/// # Errors
/// No such device.
pub fn open_device(choice: &DeviceChoice) -> Result<(Kind, Box<dyn OpenDevice>)> {
    let adapter = select(choice)?.adapter;
    let device = aios_backends::open(&adapter.selected)?;
    Ok((adapter.kind, device))
}
