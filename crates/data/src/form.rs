//! What the records of a corpus hold, told by the first of them.

use std::sync::Arc;

use crate::corpus::{CorpusFile, Named, listed};
use crate::text::{Meter, cannot_read};
use crate::{columnar, csv, json, text};
use aios_base::background::Watch;
use aios_base::config::{CorpusOptions, RecordForm, TextFormat};
use aios_base::error::Result;

/// What a corpus is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Text without records.
    Text,
    /// Records with a text each.
    Texts,
    /// Rows of tokens.
    Tokens,
    /// Records of this form, which become rows of tokens.
    Conversations(RecordForm),
}

/// What the corpus holds, as the first file shows.
///
/// # Errors
/// The corpus is missing, or cannot be read; or what `watch` gives.
pub fn content(options: &CorpusOptions, watch: &mut Watch) -> Result<Content> {
    listed(options, watch, |listing, options| {
        match listing.files.first() {
            Some(file) => of_file(file, options),
            None => Ok(Content::Text),
        }
    })
}

fn of_file(file: &CorpusFile, options: &CorpusOptions) -> Result<Content> {
    match options.text_format {
        TextFormat::Text => return Ok(Content::Text),
        TextFormat::Tokens => return Ok(Content::Tokens),
        TextFormat::Auto | TextFormat::Json | TextFormat::Csv => {}
    }
    if options.text_format == TextFormat::Auto && columnar::is_parquet(file)? {
        return Ok(of_fields(&columnar::fields(file)?, options));
    }
    let mut reader = text::open(file, &Arc::new(Meter::default()), true)?;
    let head = reader
        .fill_text()
        .map_err(|error| cannot_read(file, &error))?
        .to_string();
    let whole = reader.is_last();
    let field = &options.text_field;
    let is_table = matches!(
        (options.text_format, file.named),
        (TextFormat::Csv, _) | (TextFormat::Auto, Some(Named::Csv | Named::Tsv))
    );
    if is_table {
        let found = || csv::separator(&head, file.named, field);
        let separator = csv::given(options.csv_separator).unwrap_or_else(found);
        return Ok(of_fields(&csv::names(&head, separator), options));
    }
    let shape = match (options.text_format, file.named) {
        (TextFormat::Auto, Some(Named::Text)) => json::plain_shape(&head, whole, field),
        _ => json::shape(&head, whole),
    };
    Ok(match shape {
        Some(_) => of_fields(&json::first_names(&head), options),
        None => Content::Text,
    })
}

/// Text and tokens are what they were, whatever else there is.
fn of_fields(fields: &[String], options: &CorpusOptions) -> Content {
    let text = options.text_field.as_str();
    let outer = text.split('.').next().unwrap_or(text);
    let has = |name: &str| fields.iter().any(|field| field == name);
    match (has(text) || has(outer), has(json::IDS)) {
        (true, _) => Content::Texts,
        (false, true) => Content::Tokens,
        (false, false) => {
            aios_chat::recognise(fields).map_or(Content::Texts, Content::Conversations)
        }
    }
}
