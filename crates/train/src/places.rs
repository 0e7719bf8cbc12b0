//! Whether a run would write into what it reads.

use std::path::Path;

use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};

/// A path and the flag that gave it.
type Place<'a> = (&'static str, &'a Path);

/// Refuses a file to be written that is one to be read, under whatever name: metrics in a text would be trained on.
///
/// `config_file` is the file of `--config`.
///
/// # Errors
/// Names both flags.
pub fn check(config: &TrainConfig, config_file: Option<&Path>) -> Result<()> {
    let inputs = inputs(config, config_file);
    for (flag, output) in outputs(config) {
        if let Some((read, _)) = inputs.iter().find(|(_, input)| is_same(output, input)) {
            return Err(Error::invalid(format!(
                "{flag} {} is also what {read} reads: it would be written into; name another place",
                output.display()
            )));
        }
    }
    let bundle = config.bundle_path();
    let refused = |flag: &str, kind: &str, path: &Path| {
        Error::invalid(format!(
            "{flag} {} is a {kind} of the bundle in {}: name another one",
            path.display(),
            bundle.display()
        ))
    };
    if let Some(log) = &config.log_file
        && is_of_the_bundle(log, &bundle)
    {
        return Err(refused("--log-file", "file", log));
    }
    if let Some(folder) = &config.tensorboard
        && is_of_the_bundle(&folder.join("events"), &bundle)
    {
        return Err(refused("--tensorboard", "folder", folder));
    }
    Ok(())
}

fn inputs<'a>(config: &'a TrainConfig, config_file: Option<&'a Path>) -> Vec<Place<'a>> {
    let model = Path::new(&config.model);
    let given = [
        ("--dataset-file", config.dataset_file.as_deref()),
        ("--eval-file", config.eval_file.as_deref()),
        ("--student-init", config.student_init.as_deref()),
        ("--model", config.pretrained.as_deref().map(Path::new)),
        ("--model-config", config.model_config.as_deref()),
        ("--adapter", config.adapter.as_deref()),
        ("--config", config_file),
        ("--model", Some(model)),
        ("--stop-file", config.stop_file.as_deref()),
    ];
    let given = given.into_iter();
    given
        .filter_map(|(flag, path)| Some((flag, path?)))
        .collect()
}

fn outputs(config: &TrainConfig) -> Vec<Place<'_>> {
    let given = [
        ("--log-file", config.log_file.as_deref()),
        ("--tensorboard", config.tensorboard.as_deref()),
    ];
    let given = given.into_iter();
    given
        .filter_map(|(flag, path)| Some((flag, path?)))
        .collect()
}

/// Whether both are one file or folder, or will be.
fn is_same(a: &Path, b: &Path) -> bool {
    let whole = |path| std::path::absolute(path).ok();
    match (identity(a), identity(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => whole(a).is_some_and(|a| Some(a) == whole(b)),
        _ => false,
    }
}

/// The same for every name of a file, hard links too.
#[cfg(unix)]
fn identity(path: &Path) -> Option<impl PartialEq> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// The same for every name of a file but hard links.
#[cfg(not(unix))]
fn identity(path: &Path) -> Option<impl PartialEq> {
    path.canonicalize().ok()
}

/// Whether a file is one that a save writes, in the bundle's folder or in a checkpoint's.
fn is_of_the_bundle(file: &Path, bundle: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let parent = file
        .parent()
        .map(|parent| match parent.as_os_str().is_empty() {
            true => real(Path::new(".")),
            false => real(parent),
        });
    let Some(inside) = parent
        .as_ref()
        .and_then(|parent| parent.strip_prefix(real(bundle)).ok())
    else {
        return false;
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let first = inside.components().next();
    match first {
        None => aios_bundle::is_a_file_of(&name),
        Some(folder) => aios_bundle::is_a_folder_of(&folder.as_os_str().to_string_lossy()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    fn message(change: impl FnOnce(&mut TrainConfig, &Path)) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        for name in ["text.txt", "eval.txt", "run.toml"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("bundle")).unwrap();
        let mut config = TrainConfig {
            dataset_file: Some(dir.path().join("text.txt")),
            eval_file: Some(dir.path().join("eval.txt")),
            save_dir: Some(dir.path().join("bundle")),
            ..TrainConfig::default()
        };
        change(&mut config, dir.path());
        let config_file = dir.path().join("run.toml");
        check(&config, Some(&config_file)).err().map(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    fn with_log(name: &str) -> Option<String> {
        message(|config, dir| config.log_file = Some(dir.join(name)))
    }

    #[test]
    fn a_log_is_no_file_that_is_read() {
        for (name, flag) in [
            ("text.txt", "--dataset-file"),
            ("eval.txt", "--eval-file"),
            ("./bundle/../run.toml", "--config"),
        ] {
            let message = with_log(name).unwrap();
            assert!(
                message.contains(flag) && message.contains("--log-file"),
                "{message}"
            );
        }
        assert_eq!(with_log("metrics.jsonl"), None);
    }

    #[cfg(unix)]
    #[test]
    fn another_name_of_a_file_is_the_file() {
        type Link = fn(PathBuf, PathBuf) -> std::io::Result<()>;
        let links: [Link; 2] = [
            |from, to| fs::hard_link(from, to),
            |from, to| std::os::unix::fs::symlink(from, to),
        ];
        for link in links {
            let message = message(|config, dir| {
                link(dir.join("text.txt"), dir.join("log")).unwrap();
                config.log_file = Some(dir.join("log"));
            });
            assert!(message.unwrap().contains("--dataset-file"));
        }
    }

    #[test]
    fn a_log_is_no_file_of_the_bundle() {
        for name in [
            "bundle/config.toml",
            "bundle/.lock",
            "bundle/checkpoints/m.jsonl",
        ] {
            let message = with_log(name);
            assert!(
                message.is_some_and(|text| text.contains("of the bundle")),
                "{name}"
            );
        }
        assert_eq!(with_log("bundle/metrics.jsonl"), None);
    }
}
