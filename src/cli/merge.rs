//! `aios merge`.

use std::path::PathBuf;

use clap::Args;

use aios_adapters::peft::AdapterConfig;
use aios_base::error::{Error, Result};
use aios_base::terminal;
use aios_data::telling;
use aios_hf::Folder;
use aios_train::adapting::base_of;
use aios_train::merge;

/// Arguments of `aios merge`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct MergeArgs {
    /// Model that the adapter is of: a folder, a GGUF file or a Hugging Face Hub id [default: the one that the adapter names]
    #[arg(long, value_name = "DIR|FILE.gguf|ID")]
    pub model: Option<String>,
    /// Folder of the adapter: a bundle of a training with --lora-rank, or one that PEFT wrote
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Folder to write, which must not be there or be empty
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
}

/// Merge an adapter into its model.
pub fn run(args: MergeArgs) -> Result<()> {
    if args
        .output
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
    {
        return Err(Error::invalid(format!(
            "--output {}: a folder is written here; for a GGUF file: aios export --adapter {} --merge -o {}",
            args.output.display(),
            args.adapter.display(),
            args.output.display()
        )));
    }
    let spec = match &args.model {
        Some(model) => model.clone(),
        None => base_of(&AdapterConfig::open(&args.adapter)?, &args.adapter)?,
    };
    let mut tell = telling(&format!("downloading {spec}"), false);
    let folder = Folder::locate(&spec, &mut tell)?;
    let merged = merge::write(&folder, &args.adapter, &args.output)?;
    let whole = match merged.whole {
        0 => String::new(),
        whole => format!(", and {whole} taken as they are"),
    };
    terminal::say(&format!(
        "{}: {spec} with {} weights changed{whole}",
        args.output.display(),
        merged.modules
    ));
    Ok(())
}
