//! Parquet files, of which one column is wanted: a page of it at a time is in memory.
//!
//! The library reads the footer and puts values together. What a file could do harm with is looked at before: how deep its
//! schema goes, how long its pages say that they are (`pages.rs`), how many values they say to have (`delta.rs`).

mod codec;
mod delta;
mod pages;
mod records;
mod thrift;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::schema::types::ColumnDescPtr;

use crate::corpus::{Compression, CorpusFile, Named};
use crate::records::{Records, no_field, shorten};
use crate::text::{Meter, cannot_read};
use aios_base::error::{Error, Result};
use aios_base::fault::contained;
use aios_base::meter::format_bytes;
use pages::Pages;

/// At both ends of a file.
const MAGIC: &[u8; 4] = b"PAR1";
/// The length of the footer and the magic behind it.
const TAIL_BYTES: u64 = 8;
/// Longest footer: some thousand columns and row groups have ten megabytes.
const FOOTER_BYTES: u64 = 32 << 20;
/// Deepest schema.
const DEEPEST: usize = 64;
/// Rows that are taken at once.
const ROWS: usize = 256;
/// How many columns an error names, and how much of each.
const NAMES: usize = 12;
const NAME_BYTES: usize = 40;

/// Whether the content of a file is Parquet's.
///
/// # Errors
/// If it cannot be read, or its name alone says that it is.
pub(super) fn is_parquet(file: &CorpusFile) -> Result<bool> {
    let mut head = [0; 5];
    let mut opened = File::open(&file.path).map_err(|error| cannot_read(file, &error))?;
    let mut length = 0;
    while length < head.len() {
        match opened.read(&mut head[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) => return Err(cannot_read(file, &error)),
        }
    }
    // A text may begin with these letters, but not with the page header behind them.
    let is_named = file.named == Some(Named::Parquet) && file.compression == Compression::None;
    let is_parquet = head.starts_with(MAGIC) && (is_named || head[4] == 0x15);
    if !is_parquet && is_named {
        return Err(bad(
            file,
            "its name says that it is a Parquet file, but it does not begin like one",
        ));
    }
    Ok(is_parquet)
}

fn bad(file: &CorpusFile, what: &str) -> Error {
    Error::failed(format!("cannot read {}: {what}", file.name))
}

/// Reads the texts of the wanted column into `records`.
///
/// # Errors
/// If the file cannot be read, has no such column of texts, or a row is bad and that is an error; or whatever the
/// documents' taker gives.
pub(super) fn read(meter: &Arc<Meter>, records: &mut Records) -> Result<()> {
    let file = records.file;
    let mut opened = File::open(&file.path).map_err(|error| cannot_read(file, &error))?;
    let metadata = metadata(&mut opened, file)?;
    let opened = Arc::new(opened);
    if records.options.chat.is_some() {
        return records::read(&opened, &metadata, meter, records);
    }
    let column = column(&metadata, records)?;
    let mut row = 0;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let context = |what: String| bad(file, &format!("row group {}: {what}", number + 1));
        let chunk = contained(|| {
            let chunk = group.column(column);
            (chunk.byte_range(), chunk.compression())
        });
        let (range, compression) = chunk.map_err(context)?;
        let place = pages::Place::new(range, file.size).ok_or_else(|| context(cut_off()))?;
        let descriptor = group.column(column).column_descr_ptr();
        let pages = Pages::new(
            Arc::clone(&opened),
            place,
            compression,
            &descriptor,
            Arc::clone(meter),
        );
        let before = row;
        read_group(pages, descriptor, &mut row, records, &context)?;
        check_rows(group, row - before).map_err(context)?;
    }
    Ok(())
}

fn cut_off() -> String {
    "it lies outside of the file, which is damaged or cut off".to_string()
}

fn check_rows(group: &RowGroupMetaData, rows: u64) -> Result<(), String> {
    match u64::try_from(group.num_rows()) == Ok(rows) {
        true => Ok(()),
        false => Err(format!(
            "it has {rows} rows instead of {}: it is damaged",
            group.num_rows()
        )),
    }
}

/// The rows of one group; `row` counts on.
fn read_group(
    pages: Pages,
    descriptor: ColumnDescPtr,
    row: &mut u64,
    records: &mut Records,
    context: &dyn Fn(String) -> Error,
) -> Result<()> {
    let there = descriptor.max_def_level();
    let open =
        || get_typed_column_reader::<ByteArrayType>(get_column_reader(descriptor, Box::new(pages)));
    let mut reader: ColumnReaderImpl<ByteArrayType> = contained(open).map_err(context)?;
    let (mut values, mut levels): (Vec<ByteArray>, Vec<i16>) = (Vec::new(), Vec::new());
    loop {
        values.clear();
        levels.clear();
        let read = contained(|| reader.read_records(ROWS, Some(&mut levels), None, &mut values));
        let (rows, ..) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Err(context(shorten(&error.to_string(), 200))),
            Err(panic) => return Err(context(shorten(&panic, 200))),
        };
        if rows == 0 {
            return Ok(());
        }
        let mut values = values.iter();
        for at in 0..rows {
            *row += 1;
            let is_there = there == 0 || levels.get(at) == Some(&there);
            match is_there.then(|| values.next()).flatten() {
                None => records.bad(*row, "its text is null")?,
                Some(value) => match std::str::from_utf8(value.data()) {
                    Ok(text) => records.document(text)?,
                    Err(_) => records.bad(*row, "it holds bytes that are not UTF-8 text")?,
                },
            }
        }
    }
}

/// Names of the columns, those of nested ones without what is in them.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn fields(file: &CorpusFile) -> Result<Vec<String>> {
    let mut opened = File::open(&file.path).map_err(|error| cannot_read(file, &error))?;
    let metadata = metadata(&mut opened, file)?;
    let fields = metadata.file_metadata().schema().get_fields().iter();
    Ok(fields.map(|field| field.name().to_string()).collect())
}

/// What the end of the file says about the rest.
fn metadata(opened: &mut File, file: &CorpusFile) -> Result<ParquetMetaData> {
    let not_whole = || {
        bad(
            file,
            "it is a Parquet file without its end: it is damaged or cut off",
        )
    };
    let mut end = |length: u64| -> Result<Vec<u8>> {
        let start = file.size.checked_sub(length).ok_or_else(not_whole)?;
        let mut bytes = Vec::new();
        let read = opened.seek(SeekFrom::Start(start));
        let read = read.and_then(|_| opened.take(length).read_to_end(&mut bytes));
        match read.map_err(|error| cannot_read(file, &error))? as u64 == length {
            true => Ok(bytes),
            false => Err(not_whole()),
        }
    };
    let tail = end(TAIL_BYTES)?;
    let (length, magic) = tail.split_first_chunk().ok_or_else(not_whole)?;
    if magic == b"PARE" {
        return Err(bad(file, "it is encrypted; write it without"));
    }
    if magic != MAGIC {
        return Err(not_whole());
    }
    let length = u64::from(u32::from_le_bytes(*length));
    if length > FOOTER_BYTES {
        return Err(bad(
            file,
            &format!(
                "its footer of {} is longer than {}; write it with fewer columns or longer row groups",
                format_bytes(length),
                format_bytes(FOOTER_BYTES)
            ),
        ));
    }
    let footer = end(length + TAIL_BYTES)?;
    let footer = &footer[..length as usize];
    let damaged = |what: &str| {
        bad(
            file,
            &format!("its footer is damaged: {}", shorten(what, 200)),
        )
    };
    match thrift::schema_depth(footer) {
        Ok(depth) if depth > DEEPEST => {
            return Err(damaged(&format!(
                "columns nested deeper than {DEEPEST} levels"
            )));
        }
        Ok(_) => {}
        Err(what) => return Err(damaged(what)),
    }
    let decoded = contained(|| ParquetMetaDataReader::decode_metadata(footer));
    match decoded {
        Ok(Ok(metadata)) => Ok(metadata),
        Ok(Err(error)) => Err(damaged(&error.to_string())),
        Err(panic) => Err(damaged(&panic)),
    }
}

/// Number of the wanted column among the ones that have values.
fn column(metadata: &ParquetMetaData, records: &Records) -> Result<usize> {
    let (file, field) = (records.file, records.field());
    let columns = metadata.file_metadata().schema_descr().columns();
    let found = columns
        .iter()
        .position(|column| column.path().string() == field);
    let Some(found) = found else {
        let mut names: Vec<String> = columns
            .iter()
            .map(|column| column.path().string())
            .collect();
        names.truncate(NAMES);
        names
            .iter_mut()
            .for_each(|name| *name = shorten(name, NAME_BYTES));
        if columns.len() > NAMES {
            names.push("…".to_string());
        }
        return Err(bad(file, &no_field("column", field, &names)));
    };
    let column = &columns[found];
    let flaw = match column.physical_type() {
        _ if column.max_rep_level() > 0 => "is a list",
        Type::BYTE_ARRAY => "",
        _ => "does not hold text",
    };
    match flaw {
        "" => Ok(found),
        flaw => Err(bad(
            file,
            &format!("column \"{field}\" {flaw}; name one of strings by --text-field"),
        )),
    }
}

#[cfg(test)]
mod tests;
