//! Brains by their names alone.

use std::path::{Path, PathBuf};

use aios_base::config::BRAINS;
use aios_bundle::Bundle;

/// The bundle of this name, if there is one such, of whatever model.
pub fn bundle(name: &Path) -> Option<PathBuf> {
    within(Path::new(BRAINS), name)
}

fn within(brains: &Path, name: &Path) -> Option<PathBuf> {
    let is_name = name.file_name() == Some(name.as_os_str());
    if !is_name || name.exists() {
        return None;
    }
    let models = std::fs::read_dir(brains).ok()?.flatten();
    let bundles = models.map(|model| model.path().join(name));
    let mut bundles = bundles.filter(|path| Bundle::exists(path));
    match (bundles.next(), bundles.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_the_only_one_is_found() {
        let brains = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let folder = brains.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("manifest.json"), "{}").unwrap();
            folder
        };
        let a = make("actv1/a");
        make("actv1/b");
        make("smol/b");
        let found = |name: &str| within(brains.path(), Path::new(name));
        assert_eq!(found("a"), Some(a));
        for name in ["b", "c", "actv1/a", "..", "org/model"] {
            assert_eq!(found(name), None, "{name}");
        }
    }
}
