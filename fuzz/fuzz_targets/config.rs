//! The TOML configuration of a run, as `--config` gives it and as a bundle from elsewhere holds it.

#![no_main]

use std::path::Path;

use aios_base::config::{Overlay, TrainConfig};
use aios_base::error::Result;
use aios_fuzz::in_proportion;
use libfuzzer_sys::fuzz_target;

struct NoFlags;

impl Overlay for NoFlags {
    fn config_file(&self) -> Option<&Path> {
        None
    }

    fn apply(&self, _: &mut TrainConfig) {}
}

fuzz_target!(|input: &[u8]| {
    in_proportion(input, || {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        // What it is wrong about is an error, and never more than that.
        let _ = read(text);
    });
});

fn read(text: &str) -> Result<()> {
    let path = Path::new("config.toml");
    let _ = TrainConfig::resolve_resumed(text, path, &NoFlags);
    let config = TrainConfig::from_toml(text, path)?;
    let _ = config.validate_saved();
    config.changes_from(&TrainConfig::default())?;
    config.validate()?;
    use_all_of(&config);
    let written = config.to_toml()?;
    assert_eq!(TrainConfig::from_toml(&written, path)?, config);
    Ok(())
}

/// What is computed from a configuration that is taken for a good one.
fn use_all_of(config: &TrainConfig) {
    config.bundle_path();
    config.warmup();
    config.window();
    config.chunking();
    config.head_dim();
    config.effective_batch();
    config.corpus(Path::new("text.txt"));
}
