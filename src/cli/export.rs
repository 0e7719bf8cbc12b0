//! `aios export`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::cli::args::BundleArgs;
use crate::cli::brain::missing;
use aios_base::error::{Error, Result, shown};
use aios_base::terminal;
use aios_bundle::Bundle;
use aios_data::telling;
use aios_hf::{ADAPTER_CONFIG_FILE, CONFIG_FILE, Folder, is_gguf};
use aios_process::stop::StopSignal;
use aios_train::export::{self, Alone, Exported, Numbers, name_of};
use aios_train::whole::Whole;

/// Arguments of `aios export`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct ExportArgs {
    /// What to write.
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// File or folder to write, which must not be there or be an empty folder
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Form of what is written [default: gguf if the output's name ends in .gguf, else safetensors]
    ///
    /// safetensors is a folder that transformers loads, or PEFT if it is an adapter; gguf one file that llama.cpp, Ollama and LM
    /// Studio run, with tokenizer and chat template in it.
    #[arg(long, value_name = "FORM")]
    pub format: Option<ExportFormat>,
    /// Format of the numbers [default: that of the model's files; f16 where these are quantized]
    ///
    /// q8_0 is for gguf: blocks of 32 8-bit numbers with a scale. Norms stay in f32 in gguf, as llama.cpp wants them.
    #[arg(long, value_name = "FORMAT")]
    pub dtype: Option<ExportDtype>,
    /// Add the adapter to its model and write that, in place of the adapter alone
    #[arg(long)]
    pub merge: bool,
}

/// Forms of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    Safetensors,
    Gguf,
}

/// Formats of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportDtype {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<ExportDtype> for Numbers {
    fn from(dtype: ExportDtype) -> Self {
        match dtype {
            ExportDtype::F32 => Self::F32,
            ExportDtype::F16 => Self::F16,
            ExportDtype::Bf16 => Self::Bf16,
            ExportDtype::Q8_0 => Self::Q8_0,
        }
    }
}

/// What is to be written.
enum Subject {
    Model(String),
    /// An adapter, and its model if it is said.
    Adapter(PathBuf, Option<String>),
}

impl ExportArgs {
    fn format(&self) -> ExportFormat {
        let is_gguf = |path: &Path| {
            path.extension()
                .is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
        };
        match self.format {
            Some(format) => format,
            None if is_gguf(&self.output) => ExportFormat::Gguf,
            None => ExportFormat::Safetensors,
        }
    }

    fn subject(&self) -> Result<Subject> {
        let args = &self.bundle;
        if let Some(adapter) = &args.adapter {
            return Ok(Subject::Adapter(adapter.clone(), args.base()));
        }
        let path = args.path();
        if path.join(ADAPTER_CONFIG_FILE).is_file() {
            return Ok(Subject::Adapter(path, None));
        }
        let is_folder = path.join(CONFIG_FILE).is_file() || is_gguf(&path);
        if Bundle::exists(&path) && !is_folder {
            return Err(Error::invalid(format!(
                "{} is of ACT-v1, which no other program runs: its weights are model.safetensors there",
                shown(&path)
            )));
        }
        match args.is_by_name() && !is_folder {
            true => Err(missing(&path)),
            false => Ok(Subject::Model(path.to_string_lossy().into_owned())),
        }
    }
}

/// Ctrl-C ends the writing, and leaves nothing behind.
fn interruptible(whole: Whole) -> Result<Whole> {
    Ok(whole.until(StopSignal::install(None)?))
}

fn located(spec: &str) -> Result<Folder> {
    Folder::locate(spec, &mut telling(&format!("downloading {spec}"), false))
}

/// Write a model or an adapter for other programs.
pub fn run(args: ExportArgs) -> Result<()> {
    let (what, exported) = match args.subject()? {
        Subject::Model(spec) if args.merge => {
            return Err(Error::invalid(format!(
                "--merge: {spec} is a model as a whole, without an adapter to add: give --adapter DIR, or leave --merge out"
            )));
        }
        Subject::Model(spec) => {
            let whole = interruptible(Whole::open(located(&spec)?, None)?)?;
            (spec.clone(), write_model(&args, &whole, &spec)?)
        }
        Subject::Adapter(path, base) => {
            let alone = Alone::open(&path)?;
            let base = base.map_or_else(|| alone.base(), Ok);
            match args.merge {
                true => {
                    let base = base?;
                    let whole = interruptible(Whole::open(located(&base)?, Some(&path))?)?;
                    let what = format!("{base} with {}", shown(&path));
                    (what, write_model(&args, &whole, &base)?)
                }
                false => (shown(&path), write_adapter(&args, &alone, base)?),
            }
        }
    };
    for remark in &exported.remarks {
        tracing::warn!("{remark}");
    }
    terminal::say(&format!(
        "{}: {what}, {} tensors in {}",
        shown(&args.output),
        exported.tensors,
        exported.numbers.as_str()
    ));
    Ok(())
}

fn write_model(args: &ExportArgs, whole: &Whole, spec: &str) -> Result<Exported> {
    let numbers = args.dtype.map(Numbers::from);
    match args.format() {
        ExportFormat::Safetensors => export::folder(whole, numbers, &args.output),
        ExportFormat::Gguf => export::gguf(whole, &name_of(spec), numbers, &args.output),
    }
}

fn write_adapter(args: &ExportArgs, alone: &Alone, base: Result<String>) -> Result<Exported> {
    let numbers = args.dtype.map(Numbers::from);
    match args.format() {
        ExportFormat::Safetensors => alone.folder(numbers, &args.output),
        ExportFormat::Gguf => {
            let folder = located(&base?)?;
            alone.gguf(folder.config(), numbers, &args.output)
        }
    }
}
