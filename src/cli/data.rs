//! `aios data show`: rows of a data set as a model reads them, with what is learnt marked.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::train_flags::{RecordFlags, TextFlags};
use aios_base::config::{CorpusOptions, Subject, TrainConfig};
use aios_base::error::{Error, Result, shown};
use aios_base::terminal::write_stdout;
use aios_data::{TokenCache, Tokenizer, marked, telling};
use aios_train::chat::{Model, Reading};

/// The subcommands of `aios data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show rows of a data set as a model reads them, with the tokens that are learnt marked
    ///
    /// In colour on a terminal, else in brackets. Conversations become rows as `aios finetune` makes them.
    Show(Box<ShowArgs>),
}

/// Arguments of `aios data show`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct ShowArgs {
    /// Data set: a file, a directory of files, or - for standard input
    #[arg(value_name = "PATH")]
    pub file: PathBuf,
    /// Model whose tokenizer and chat template it is read by: a folder, a GGUF file, or a Hugging Face Hub id
    #[arg(long, value_name = "DIR|FILE.gguf|ID")]
    pub model: String,
    /// Rows to show
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rows: usize,
    /// What its records are.
    #[command(flatten)]
    pub records: RecordFlags,
    /// How the files are read.
    #[command(flatten)]
    pub text: TextFlags,
}

/// Show rows.
pub fn run(command: DataCommand) -> Result<()> {
    let DataCommand::Show(args) = command;
    let mut config = TrainConfig::defaults(Subject::Pretrained);
    (config.model, config.pretrained) = (args.model.clone(), Some(args.model.clone()));
    args.text.apply(&mut config);
    args.records.apply(&mut config);
    let reading = Reading {
        config: &config,
        model: Model::Named,
    };
    let mut tell = telling(&format!("tokenizing {}", shown(&args.file)), false);
    let options = CorpusOptions {
        leave_out: Vec::new(),
        ..config.corpus(&args.file)
    };
    let tokenizer = Tokenizer::load_watched(&args.model, &mut tell)?;
    let source = reading.recognised(options, &mut tell)?;
    let cache = TokenCache::open_or_build(&source.options, &tokenizer, &mut tell)?;
    if !cache.holds_rows() {
        return Err(Error::invalid(format!(
            "{} is text, of which every token is learnt: aios data show is for conversations and rows of tokens",
            shown(&args.file)
        )));
    }
    let form = source.options.chat.as_ref();
    let form = form.map_or("rows of tokens", |chat| chat.form.as_str());
    write_stdout(summary(&cache, form).as_bytes())?;
    let colour = std::io::stdout().is_terminal();
    for row in 0..cache.documents().min(args.rows) {
        write_stdout(one(&cache, row, &tokenizer, colour)?.as_bytes())?;
    }
    Ok(())
}

fn summary(cache: &TokenCache, form: &str) -> String {
    let rows = (0..cache.documents()).map(|row| cache.document(row));
    let trained: u64 = rows.map(|row| cache.learnt(row)).sum();
    format!(
        "{form}: {} rows, {} tokens, {:.1} % of them trained\n",
        cache.documents(),
        cache.len(),
        100.0 * trained as f64 / cache.len().max(1) as f64
    )
}

fn one(cache: &TokenCache, row: usize, tokenizer: &Tokenizer, colour: bool) -> Result<String> {
    let range = cache.document(row);
    let ((ids, labels), trained) = (cache.marks(range.clone()), cache.learnt(range));
    let text = marked(tokenizer, &ids, &labels, colour)?;
    Ok(format!(
        "\nrow {}: {} tokens, {trained} trained\n{}\n",
        row + 1,
        ids.len(),
        text.trim_end_matches('\n')
    ))
}
