//! Flags about records of conversations: their form, their template, what of them is learnt.

use std::path::PathBuf;

use clap::Args;

use crate::cli::train_flags::{set, set_some};
use aios_base::config::{RecordForm, TooLong, TrainConfig, TrainOn};

/// How records become rows of tokens.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Conversations")]
pub struct RecordFlags {
    /// Which fields the records have [default: auto]
    ///
    /// messages: objects with role and content. conversations: ShareGPT's, with from and value. prompt-completion: two
    /// texts that follow each other as they stand, with an end of text behind them, or two lists of messages.
    /// instruction: instruction, output and perhaps input, a question and its answer. text is what --text-field names.
    /// auto goes by the first record, and takes text where there is some. JSON objects, tables with a header and
    /// Parquet.
    #[arg(long, value_name = "FORM")]
    pub format: Option<RecordForm>,
    /// File with a chat template, in Jinja, in place of the model's own
    ///
    /// As transformers reads it. It is saved with the model.
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Which tokens of a conversation are learnt: all, those of the assistant, or of its last turn
    /// [default: assistant]
    ///
    /// With the token that ends its turn; of a prompt and its completion the latter. They are what the template has in
    /// {% generation %}, else what it puts behind the text before an answer, with what an answer begins with. Where it
    /// writes an answer in another way once a question follows, as those do that drop the reasoning of earlier answers,
    /// it is looked for between the messages around it and learnt as it stands there; one that cannot be told from the
    /// rest is an error. A token belongs to where it begins. The start shows an example, and `aios data show` more.
    #[arg(long, value_name = "WHICH")]
    pub train_on: Option<TrainOn>,
}

impl RecordFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.format, &self.format);
        set_some(&mut config.chat_template, &self.chat_template);
        set(&mut config.train_on, &self.train_on);
    }
}

/// How rows of tokens become sequences.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Conversations")]
pub struct RowFlags {
    /// What becomes of rows with more tokens than --max-seq-len: truncate, drop or error
    /// [default: truncate]
    ///
    /// They are counted, which is said. Of a text whose documents are packed nothing is cut off by truncate: it goes on in
    /// another row.
    #[arg(long, value_name = "WHAT")]
    pub too_long: Option<TooLong>,
    /// Several rows share a sequence, in which each sees itself alone [default: on for records of conversations or texts]
    ///
    /// Best-fit decreasing. Losses and gradients are those of each row by itself; there is next to no padding. Which rows
    /// are together depends on the dataset and --seed. Records are JSON objects, and rows of tables and Parquet; a text that
    /// is longer than a sequence goes on in another row. Off unless given for rows of tokens, and for the documents of a
    /// plain text. Not with truncated gradients of chunks, nor by default with --pack-rows or --full-windows.
    #[arg(long, overrides_with_all = ["no_packing", "packing"])]
    pub packing: bool,
    /// Each row is a sequence by itself; texts follow each other in full windows, and see those before
    #[arg(long, hide_short_help = true, overrides_with_all = ["packing", "no_packing"])]
    pub no_packing: bool,
}

impl RowFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.too_long, &self.too_long);
        if self.packing || self.no_packing {
            config.packing = Some(self.packing);
        }
    }
}
