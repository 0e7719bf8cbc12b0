//! Which model a benchmark measures.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::ShapeArgs;
use crate::cli::train_flags::LimitFlags;
use aios_base::config::{Subject, TrainConfig};
use aios_base::error::{Error, Result};
use aios_hf::{ADAPTER_CONFIG_FILE, CONFIG_FILE, is_gguf, is_hub_id};

/// Help of `--model`, which training of ACT-v1 has another one for.
pub const MODEL: [&str; 2] = [
    "Hugging Face model to measure: a folder with config.json, or a Hub id; or ACT-v1's tokenizer [default: gpt2]",
    "Hugging Face model to measure: a folder with config.json, or a Hub id; or ACT-v1's tokenizer [default: gpt2]\n\n\
     Of a Hugging Face model the shape counts: weights are drawn, which takes the same memory and time. A tokenizer \
     (`gpt2`, a tokenizer.json, or a directory with one and no config.json) sets the vocabulary of ACT-v1, whose sizes are \
     flags of their own.",
];

/// Another way to name the model.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct BlueprintArgs {
    /// Hugging Face model to measure, by its config.json alone
    #[arg(long, value_name = "FILE.json", conflicts_with = "model")]
    pub model_config: Option<PathBuf>,
}

impl BlueprintArgs {
    /// The configuration that all rows start from: `rows` changes the defaults. A row itself may set what users may not.
    ///
    /// # Errors
    /// Bad arguments, among them sizes of ACT-v1 for a Hugging Face model.
    pub fn to_config(
        &self,
        shape: &ShapeArgs,
        limits: &LimitFlags,
        is_a_row: bool,
        rows: impl Fn(TrainConfig) -> TrainConfig,
    ) -> Result<TrainConfig> {
        let of = |subject| shape.to_config(rows(TrainConfig::defaults(subject)), limits);
        let of_actv1 = of(Subject::Scratch)?;
        let is_named = is_decoder(&of_actv1.model);
        if Path::new(&of_actv1.model)
            .join(ADAPTER_CONFIG_FILE)
            .is_file()
        {
            return Err(Error::invalid(format!(
                "--model {} is an adapter: give the model that it is for",
                of_actv1.model
            )));
        }
        if self.model_config.is_none() && !is_named && !of_actv1.trains_decoder() {
            return Ok(of_actv1);
        }
        if let (false, Some(flag)) = (is_a_row, shape.model.of_actv1()) {
            return Err(Error::invalid(format!(
                "--{flag} is for ACT-v1: a Hugging Face model is as its config.json says, so leave it out"
            )));
        }
        let mut config = of(Subject::Pretrained)?;
        if self.model_config.is_some() {
            (config.pretrained, config.model_config) = (None, self.model_config.clone());
        } else if is_named {
            config.pretrained = Some(config.model.clone());
        }
        Ok(config)
    }
}

/// Whether a folder or an id is of a Hugging Face model, rather than a tokenizer alone.
pub fn is_decoder(model: &str) -> bool {
    let path = Path::new(model);
    let built_in = model == TrainConfig::default().model;
    let is_model = path.join(CONFIG_FILE).is_file() || is_gguf(path);
    is_model || !(built_in || path.exists()) && is_hub_id(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::train_flags::ModelFlags;

    fn config(
        model: Option<&str>,
        model_config: Option<&str>,
        hidden_size: Option<usize>,
    ) -> Result<TrainConfig> {
        let shape = ShapeArgs {
            model: ModelFlags {
                model: model.map(String::from),
                hidden_size,
                ..ModelFlags::default()
            },
            ..ShapeArgs::default()
        };
        let model_config = model_config.map(PathBuf::from);
        let limits = LimitFlags::default();
        BlueprintArgs { model_config }.to_config(&shape, &limits, false, |config| config)
    }

    #[test]
    fn a_tokenizer_is_of_actv1_and_a_folder_or_an_id_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        for (model, decoder) in [
            (None, false),
            (Some("gpt2"), false),
            (Some(path), false),
            (Some("a/b"), true),
        ] {
            let config = config(model, None, None).unwrap();
            assert_eq!(config.trains_decoder(), decoder, "{model:?}");
            assert_eq!(config.halt_max_steps, 2 - usize::from(decoder));
        }
        std::fs::write(folder.path().join(CONFIG_FILE), "{}").unwrap();
        assert_eq!(
            config(Some(path), None, None)
                .unwrap()
                .pretrained
                .as_deref(),
            Some(path)
        );
        assert!(
            config(None, Some("c.json"), None)
                .unwrap()
                .model_config
                .is_some()
        );
    }

    #[test]
    fn sizes_of_actv1_are_refused_for_another_model() {
        assert!(config(None, None, Some(64)).is_ok());
        let error = config(None, Some("c.json"), Some(64))
            .unwrap_err()
            .to_string();
        assert!(error.contains("--hidden-size is for ACT-v1"), "{error}");
    }
}
