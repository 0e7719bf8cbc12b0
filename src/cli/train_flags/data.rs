//! Flags about the text: where it is, how it is cut into documents and in which order it is read.

use std::path::PathBuf;

use clap::Args;

use crate::cli::train_flags::{set, set_some, switch};
use aios_base::config::{BadRecords, CsvSeparator, TextDocuments, TextFormat, TrainConfig};

/// Training and evaluation text.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct DataFlags {
    /// Text to train on: a file, a directory of files, or - for standard input (required)
    ///
    /// Text, JSON objects (.jsonl, .json) and tables with a header (.csv, .tsv), in UTF-8 or UTF-16,
    /// also compressed by gzip or zstd, and Parquet files. Its tokens are cached, so that a second start
    /// is instant. In a directory, hidden files, files of other kinds and what this program writes are
    /// left out, with a warning. hf:OWNER/NAME is a data set in the Hugging Face cache, of which
    /// hf:OWNER/NAME:SPLIT is another split than train and hf:OWNER/NAME/FOLDER a part; nothing is
    /// downloaded. builtin:stories and builtin:chat are in the program. JSON objects may hold tokens: input_ids, and labels where they differ, with -100 for
    /// what is not to be learnt.
    #[arg(long, value_name = "PATH")]
    pub dataset_file: Option<PathBuf>,
    /// Sequences shuffled together with --no-linear-dataset [default: 4000]
    ///
    /// More mixes the text better. Only their numbers are held in memory. It has no effect on a
    /// dataset read in its own order.
    #[arg(long, value_name = "SEQUENCES", allow_negative_numbers = true)]
    pub dataset_chunk_size: Option<usize>,
    /// First sequence to train on, counted from the start of the dataset [default: 0]
    ///
    /// A resumed run goes on from its saved position instead.
    #[arg(long, value_name = "SEQUENCES", allow_negative_numbers = true)]
    pub dataset_start_offset: Option<u64>,
    /// Read the dataset in its own order instead of shuffled [default: on]
    #[arg(long, overrides_with_all = ["no_linear_dataset", "linear_dataset"])]
    pub linear_dataset: bool,
    /// Shuffle the dataset, with the order drawn from --seed
    #[arg(
        long,
        hide_short_help = true,
        overrides_with_all = ["linear_dataset", "no_linear_dataset"]
    )]
    pub no_linear_dataset: bool,
    /// How the text is read.
    #[command(flatten)]
    pub text: TextFlags,
    /// How it becomes sequences.
    #[command(flatten)]
    pub sequences: SequenceFlags,
    /// Text to evaluate on, as for --dataset-file; without it or --eval-split there is no evaluation
    #[arg(long, value_name = "PATH")]
    pub eval_file: Option<PathBuf>,
    /// Share of the dataset to evaluate on, such as 0.02, which is never trained on [default: 0]
    ///
    /// Documents or rows drawn by --seed, or of a text with less than one such document its end. The
    /// same ones as long as seed and dataset are, also when the run is resumed.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub eval_split: Option<f64>,
    /// With --eval-file or --eval-split, batches per evaluation; 0 = the whole text [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub eval_batches: Option<u64>,
    /// With --eval-file or --eval-split, steps between evaluations; 0 = only at the end [default: 50]
    #[arg(long, value_name = "STEPS", allow_negative_numbers = true)]
    pub eval_every: Option<u64>,
}

impl DataFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set_some(&mut config.dataset_file, &self.dataset_file);
        set(&mut config.dataset_chunk_size, &self.dataset_chunk_size);
        set(&mut config.dataset_start_offset, &self.dataset_start_offset);
        switch(
            &mut config.linear_dataset,
            self.linear_dataset,
            self.no_linear_dataset,
        );
        self.text.apply(config);
        self.sequences.apply(config);
        set_some(&mut config.eval_file, &self.eval_file);
        set(&mut config.eval_split, &self.eval_split);
        set(&mut config.eval_batches, &self.eval_batches);
        set(&mut config.eval_every, &self.eval_every);
    }
}

/// How a dataset becomes sequences.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct SequenceFlags {
    /// Rows of tokens follow each other like documents [default: off]
    ///
    /// Otherwise each row is a sequence by itself: shorter ones are padded, and of one that is longer
    /// than --max-seq-len the rest is cut off, which is counted and said. ACT-v1 always packs them.
    #[arg(long, overrides_with_all = ["no_pack_rows", "pack_rows"])]
    pub pack_rows: bool,
    /// Each row of tokens is a sequence by itself
    #[arg(long, hide_short_help = true, overrides_with_all = ["pack_rows", "no_pack_rows"])]
    pub no_pack_rows: bool,
    /// Leave out the last window of a text if it is shorter than the others [default: off]
    ///
    /// Training of ACT-v1 always does, and only its evaluation goes by this.
    #[arg(long, overrides_with_all = ["no_full_windows", "full_windows"])]
    pub full_windows: bool,
    /// Keep the last, shorter window
    #[arg(long, hide_short_help = true, overrides_with_all = ["full_windows", "no_full_windows"])]
    pub no_full_windows: bool,
}

impl SequenceFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        switch(&mut config.pack_rows, self.pack_rows, self.no_pack_rows);
        switch(
            &mut config.full_windows,
            self.full_windows,
            self.no_full_windows,
        );
    }
}

/// How text is read, for training and for `aios eval`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct TextFlags {
    /// What ends a document in a text file [default: blank]
    ///
    /// blank, line and file: `<|endoftext|>` ends one too. whole: every character of a file or record is
    /// kept as it is, names of control tokens are these tokens, and an end of text stands between files
    /// and after records; that is the default for Hugging Face models.
    #[arg(long, value_name = "KIND")]
    pub text_documents: Option<TextDocuments>,
    /// Key or column that holds the text in JSON objects and tables [default: text]
    ///
    /// A key inside another is a.b, an element of a list its number, as in messages.0.content; a key
    /// that itself is called a.b comes first.
    #[arg(long, value_name = "NAME")]
    pub text_field: Option<String>,
    /// How the text lies in its files [default: auto]
    ///
    /// auto goes by their names, and by their content where a name says nothing or is plainly wrong;
    /// text takes all of a file, whatever its lines look like; tokens is for JSON objects with input_ids.
    /// What is no text, such as a PDF, is refused.
    #[arg(long, value_name = "FORMAT")]
    pub text_format: Option<TextFormat>,
    /// What stands between the fields of a table [default: auto]
    ///
    /// auto takes the one with which the header has the column of the text.
    #[arg(long, value_name = "NAME")]
    pub csv_separator: Option<CsvSeparator>,
    /// What becomes of JSON objects and rows that cannot be understood [default: error]
    ///
    /// skip leaves them out, and says how many there were and where the first ones are.
    #[arg(long, value_name = "WHAT")]
    pub bad_records: Option<BadRecords>,
    /// Drop all characters outside ASCII [default: off]
    #[arg(long, overrides_with_all = ["no_ascii_only", "ascii_only"])]
    pub ascii_only: bool,
    /// Keep all characters
    #[arg(long, hide_short_help = true, overrides_with_all = ["ascii_only", "no_ascii_only"])]
    pub no_ascii_only: bool,
}

impl TextFlags {
    /// Sets what was given.
    pub fn apply(&self, config: &mut TrainConfig) {
        set(&mut config.text_documents, &self.text_documents);
        set(&mut config.text_field, &self.text_field);
        set(&mut config.text_format, &self.text_format);
        set(&mut config.csv_separator, &self.csv_separator);
        set(&mut config.bad_records, &self.bad_records);
        switch(&mut config.ascii_only, self.ascii_only, self.no_ascii_only);
    }
}
