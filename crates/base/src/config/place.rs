//! Where a run is saved unless it is said, which goes by the model.

use std::path::{Path, PathBuf};

use crate::config::{Subject, TrainConfig};

/// Directory of all bundles.
pub const BRAINS: &str = "artifacts/brains";

impl TrainConfig {
    /// Directory of the brain bundle: `save_dir` if given, else `bundle_dir`/`brain_name`.
    pub fn bundle_path(&self) -> PathBuf {
        match (&self.save_dir, &self.bundle_dir) {
            (Some(directory), _) => directory.clone(),
            (None, Some(directory)) => directory.join(&self.brain_name),
            (None, None) => Path::new(BRAINS)
                .join(self.model_name())
                .join(&self.brain_name),
        }
    }

    /// Whether nothing says where the run is: of a decoder that is to be gone on with, neither a place nor a model.
    pub fn is_nowhere(&self) -> bool {
        let placed = self.save_dir.is_some() || self.bundle_dir.is_some();
        let named = self.pretrained.is_some() || self.model_config.is_some();
        self.subject != Subject::Scratch && !placed && !named
    }

    /// By which runs of a model are kept apart: that of its folder, of its repository on the Hub, or of its config.json.
    fn model_name(&self) -> String {
        let name = match (&self.pretrained, &self.model_config) {
            (Some(spec), _) => name_of(Path::new(spec)),
            (None, Some(path)) => name_of(path),
            (None, None) if self.subject == Subject::Scratch => return "actv1".to_string(),
            (None, None) => None,
        };
        name.unwrap_or_else(|| "decoder".to_string())
    }
}

/// A model's name out of `OWNER/NAME@REVISION`, `some/folder`, `some/folder/config.json`, `some/model.json` or
/// `some/model.gguf`.
pub fn name_of(path: &Path) -> Option<String> {
    let path = match path.file_name().is_some_and(|name| name == "config.json") {
        true => path.parent()?,
        false => path,
    };
    // As of `.`.
    let whole = match path.file_name() {
        Some(_) => path.to_path_buf(),
        None => path.join(".").canonicalize().ok()?,
    };
    let name = whole.file_name()?.to_str()?;
    let ends = [".json", ".gguf"]
        .iter()
        .find_map(|end| name.strip_suffix(end));
    let name = ends.unwrap_or(name);
    let name = name.split('@').next().unwrap_or_default();
    (!name.is_empty()).then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundle_lies_under_its_name_or_exactly_where_asked() {
        let mut config = TrainConfig::default();
        let path = |config: &TrainConfig| config.bundle_path().display().to_string();
        assert_eq!(path(&config), "artifacts/brains/actv1/default");
        config.bundle_dir = Some("d".into());
        assert_eq!(path(&config), "d/default");
        config.save_dir = Some("elsewhere".into());
        assert_eq!(path(&config), "elsewhere");
    }

    #[test]
    fn runs_of_a_decoder_lie_under_the_name_of_their_model() {
        let path = |spec: &str| {
            let config = TrainConfig {
                pretrained: Some(spec.to_string()),
                ..TrainConfig::defaults(Subject::Pretrained)
            };
            config.bundle_path().display().to_string()
        };
        for spec in [
            "HuggingFaceTB/tiny",
            "org/tiny@main",
            "a/b/tiny/",
            "tiny",
            "a/tiny.gguf",
        ] {
            assert_eq!(path(spec), "artifacts/brains/tiny/default", "{spec}");
        }
        let config = |file: &str| TrainConfig {
            model_config: Some(file.into()),
            ..TrainConfig::defaults(Subject::Decoder)
        };
        for file in ["models/tiny/config.json", "tiny.json", "models/tiny"] {
            let path = config(file).bundle_path();
            assert!(path.ends_with("brains/tiny/default"), "{file}");
        }
        let here = std::env::current_dir().unwrap();
        let here = Path::new(BRAINS).join(here.file_name().unwrap());
        assert_eq!(config("config.json").bundle_path(), here.join("default"));
    }
}
