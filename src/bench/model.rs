//! What a table calls the model that it is about.

use aios_base::config::TrainConfig;
use aios_base::error::shown;

/// Folder, id or config.json of a Hugging Face model; `None` for ACT-v1, which tables show by its size.
pub fn name(config: &TrainConfig) -> Option<String> {
    let file = || config.model_config.as_deref().map(shown);
    config.pretrained.clone().or_else(file)
}

/// The same after a device's name.
pub fn named(model: &Option<String>) -> String {
    model
        .as_ref()
        .map_or(String::new(), |name| format!(", {name}"))
}
