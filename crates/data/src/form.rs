//! Which form the records of a corpus have, told by the first of them.

use std::sync::Arc;

use crate::corpus::{CorpusFile, Named, listed};
use crate::text::{Meter, cannot_read};
use crate::{columnar, csv, json, text};
use aios_base::background::Watch;
use aios_base::config::{CorpusOptions, RecordForm, TextFormat};
use aios_base::error::Result;

/// The form of the records, as the first file shows: nothing if they are no conversations, which is text or tokens.
///
/// # Errors
/// The corpus is missing, or cannot be read; or what `watch` gives.
pub fn record_form(options: &CorpusOptions, watch: &mut Watch) -> Result<Option<RecordForm>> {
    listed(options, watch, |listing, options| {
        match listing.files.first() {
            Some(file) => of_file(file, options),
            None => Ok(None),
        }
    })
}

fn of_file(file: &CorpusFile, options: &CorpusOptions) -> Result<Option<RecordForm>> {
    if matches!(options.text_format, TextFormat::Text | TextFormat::Tokens) {
        return Ok(None);
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
    Ok(shape.and_then(|_| of_fields(&json::first_names(&head), options)))
}

/// Text and tokens are what they were, whatever else there is.
fn of_fields(fields: &[String], options: &CorpusOptions) -> Option<RecordForm> {
    let text = options.text_field.as_str();
    let outer = text.split('.').next().unwrap_or(text);
    let known = [text, outer, json::IDS];
    match fields.iter().any(|field| known.contains(&field.as_str())) {
        true => None,
        false => aios_chat::recognise(fields),
    }
}
