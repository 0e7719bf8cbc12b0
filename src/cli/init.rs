//! `aios init`: asks what is to be trained, and writes settings that fit this machine.

mod ask;
mod plan;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use aios_base::config::{DeviceChoice, MemorySize};
use aios_base::error::{Error, Result, shown};
use aios_base::terminal;
use aios_base::terminal::write_stdout;

/// What is to become of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Goal {
    /// A new model from random weights
    Pretrain,
    /// A pretrained model, all of its weights
    Finetune,
    /// A small adapter beside a frozen model
    Lora,
    /// The same, the model held in 4 bits
    Qlora,
}

impl Goal {
    fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Finetune => "finetune",
            Self::Lora => "lora",
            Self::Qlora => "qlora",
        }
    }
}

/// Arguments of `aios init`.
#[derive(Debug, Clone, Default, Args)]
#[command(args_override_self = true)]
pub struct InitArgs {
    /// What is to be trained; asked for, as the two below, where it is not given
    #[arg(long, value_name = "GOAL")]
    pub goal: Option<Goal>,
    /// Text to train on: a file, a directory, hf:OWNER/NAME, or builtin:stories and builtin:chat, which are in the program
    #[arg(long, value_name = "PATH")]
    pub dataset_file: Option<PathBuf>,
    /// Model: a folder, a GGUF file or a Hub id; for --goal pretrain a config.json, or actv1
    #[arg(long, value_name = "DIR|FILE|ID")]
    pub model: Option<String>,
    /// Tokens in a training sequence [default: 512, or 128 for actv1; fewer where no more fit]
    #[arg(long, value_name = "TOKENS")]
    pub max_seq_len: Option<usize>,
    /// Where it is to run: `auto`, `cpu`, `cuda[:INDEX]`, `wgpu[:INDEX]` or `ndarray` [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceChoice>,
    /// Most memory that it may take [default: what the device has free]
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<MemorySize>,
    /// File to write
    #[arg(short, long, value_name = "FILE.toml", default_value = "aios.toml")]
    pub output: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
}

/// What was asked for, complete.
#[derive(Debug, Clone)]
struct Wanted {
    goal: Goal,
    dataset: PathBuf,
    model: String,
    max_seq_len: Option<usize>,
    device: DeviceChoice,
    memory_limit: Option<MemorySize>,
}

/// Ask, plan, write, and say how to go on.
///
/// # Errors
/// A file that is there already, text or a model that is not, or nothing that fits.
pub fn run(args: InitArgs) -> Result<()> {
    // Nobody is to answer questions in vain.
    refuse_existing(&args.output, args.force)?;
    in_toml("-o", &args.output)?;
    if let Some(dataset) = &args.dataset_file {
        plan::content_of(dataset)?;
    }
    let wanted = ask::complete(&args)?;
    in_toml("--dataset-file", &wanted.dataset)?;
    in_toml("--model", Path::new(&wanted.model))?;
    refuse_source(&args.output, &wanted)?;
    let planned = plan::plan(&wanted)?;
    let text = text::render(&wanted, &planned, &args.output)?;
    write(&args.output, &text, args.force)?;
    terminal::say(&planned.in_words());
    let output = args.output.display();
    terminal::say(&format!("wrote {output}; train with"));
    write_stdout(
        format!(
            "{}\n",
            text::command(wanted.goal, &wanted.model, &args.output)
        )
        .as_bytes(),
    )
}

fn refuse_existing(output: &Path, force: bool) -> Result<()> {
    match output.exists() && !force {
        true => Err(Error::invalid(format!(
            "{} is there already: name another file by -o, or write over it with --force",
            shown(output)
        ))),
        false => Ok(()),
    }
}

/// Whether a TOML file and its comments can name it.
fn in_toml(flag: &str, path: &Path) -> Result<()> {
    let name = path
        .to_str()
        .filter(|name| !name.contains(char::is_control));
    match name {
        Some(_) => Ok(()),
        None => Err(Error::invalid(format!(
            "{flag} {}: TOML files are in UTF-8, and a name with control characters would break their lines: rename it",
            shown(path)
        ))),
    }
}

/// What is read is not to be written over.
fn refuse_source(output: &Path, wanted: &Wanted) -> Result<()> {
    let real = |path: &Path| path.canonicalize().ok();
    let Some(written) = real(output) else {
        return Ok(());
    };
    for (flag, path) in [
        ("--dataset-file", &*wanted.dataset),
        ("--model", Path::new(&wanted.model)),
    ] {
        if real(path).as_ref() == Some(&written) {
            let output = shown(output);
            return Err(Error::invalid(format!(
                "-o {output} is what {flag} names: name another file"
            )));
        }
    }
    Ok(())
}

fn write(output: &Path, text: &str, force: bool) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    match force {
        true => options.create(true).truncate(true),
        // What came there meanwhile is somebody's.
        false => options.create_new(true),
    };
    let made = match output.parent() {
        Some(folder) => std::fs::create_dir_all(folder),
        None => Ok(()),
    };
    let written = made
        .and_then(|()| options.open(output))
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|cause| Error::io(output, "write", cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text.txt");
        std::fs::write(&text, "once").unwrap();
        let args = InitArgs {
            goal: Some(Goal::Pretrain),
            dataset_file: Some(text.clone()),
            model: Some("actv1".into()),
            output: folder.path().join("./text.txt"),
            force: true,
            ..InitArgs::default()
        };
        let error = run(args).unwrap_err().to_string();
        assert!(error.contains("--dataset-file"), "{error}");
        assert_eq!(std::fs::read_to_string(text).unwrap(), "once");
    }

    #[test]
    fn names_that_toml_cannot_hold_are_refused() {
        assert!(in_toml("-o", Path::new("a b'\"$.toml")).is_ok());
        let error = in_toml("--model", Path::new("a\nlr = 5")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--model"), "{error}");
    }

    #[test]
    fn a_file_that_is_there_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        write(&path, "steps = 1", false).unwrap();
        let error = refuse_existing(&path, false).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--force"), "{error}");
        assert!(write(&path, "", false).is_err());
        refuse_existing(&path, true).unwrap();
        write(&path, "lr = 1", true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "lr = 1");
    }
}
