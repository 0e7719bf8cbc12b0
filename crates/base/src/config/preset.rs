//! Configurations that are built in, so that a first run needs no clone of the project.

use std::path::Path;

/// A built-in configuration: a file of `configs/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// As `--config` takes it.
    pub name: &'static str,
    /// The TOML file.
    pub text: &'static str,
}

/// All of them, by name.
pub const PRESETS: [Preset; 4] = [
    Preset {
        name: "conservative-vram",
        text: include_str!("../../../../configs/conservative-vram.toml"),
    },
    Preset {
        name: "cpu-smoke",
        text: include_str!("../../../../configs/cpu-smoke.toml"),
    },
    Preset {
        name: "long-context",
        text: include_str!("../../../../configs/long-context.toml"),
    },
    Preset {
        name: "quickstart",
        text: include_str!("../../../../configs/quickstart.toml"),
    },
];

impl Preset {
    /// The one that `--config` names. A file of that name goes before it.
    pub fn named(path: &Path) -> Option<Self> {
        let named = |preset: &Self| path == Path::new(preset.name);
        PRESETS.into_iter().find(named).filter(|_| !path.is_file())
    }

    /// Their names, for messages.
    pub fn names() -> String {
        PRESETS.map(|preset| preset.name).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_built_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let paths = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut names: Vec<String> = paths
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_string())
            .collect();
        names.sort();
        assert_eq!(names.join(", "), Preset::names());
    }

    #[test]
    fn no_preset_reads_a_file_of_the_project() {
        for preset in PRESETS {
            let table: toml::Table = preset.text.parse().unwrap();
            for key in ["model", "dataset_file", "eval_file"] {
                let value = table.get(key).and_then(|value| value.as_str());
                let built_in = |value: &str| value == "gpt2" || value.starts_with("builtin:");
                assert!(value.is_none_or(built_in), "{}: {key}", preset.name);
            }
        }
    }

    #[test]
    fn a_file_of_that_name_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quickstart");
        std::fs::write(&path, "steps = 1").unwrap();
        assert_eq!(Preset::named(&path), None);
        let named = Preset::named(Path::new("quickstart")).unwrap();
        assert!(named.text.contains("sample_every"));
        assert_eq!(Preset::named(Path::new("quickstart.toml")), None);
    }
}
