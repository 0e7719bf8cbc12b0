//! Conversations in Parquet files: columns of texts, and of lists of objects with texts, put together row by row.

use std::fs::File;
use std::sync::Arc;

use parquet::basic::{Repetition, Type};
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type as SchemaType};
use serde_json::{Map, Value};

use super::pages::{Pages, Place};
use super::{ROWS, bad, check_rows, cut_off};
use crate::corpus::CorpusFile;
use crate::records::{Records, no_field, shorten};
use crate::text::Meter;
use aios_base::error::{Error, Result};
use aios_base::fault::contained;
use aios_chat::Columns;

/// A column of texts that belongs to a wanted field.
struct Leaf {
    column: usize,
    field: String,
    /// The name of the text in the objects of a list, and the definition level from which on there is an object.
    of_list: Option<(String, i16)>,
    /// Definition level of a text that is there.
    there: i16,
}

/// Texts of some rows: of each row one, or those of its list.
type Texts = Vec<Option<Vec<Option<String>>>>;

/// Reads the records of an opened file.
pub(super) fn read(
    opened: &Arc<File>,
    metadata: &ParquetMetaData,
    meter: &Arc<Meter>,
    records: &mut Records,
) -> Result<()> {
    let leaves = leaves(metadata, records)?;
    let mut row = 0;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let file = records.file;
        let context = |what: String| bad(file, &format!("row group {}: {what}", number + 1));
        let mut readers = Vec::with_capacity(leaves.len());
        for leaf in &leaves {
            readers.push(reader(group, leaf, opened, file, meter, &context)?);
        }
        let before = row;
        loop {
            let mut columns = Vec::with_capacity(leaves.len());
            for (leaf, reader) in leaves.iter().zip(&mut readers) {
                columns.push(next_rows(reader, leaf, &context)?);
            }
            let rows = columns.first().map_or(0, Vec::len);
            if columns.iter().any(|column| column.len() != rows) {
                return Err(context(
                    "its columns have not as many rows: it is damaged".to_string(),
                ));
            }
            if rows == 0 {
                break;
            }
            for at in 0..rows {
                row += 1;
                let of_row = columns.iter_mut().map(|column| column[at].take());
                let record = together(&leaves, of_row);
                records.record(row, &Value::Object(record).to_string())?;
            }
        }
        check_rows(group, row - before).map_err(context)?;
    }
    Ok(())
}

/// One object of what the columns have of a row.
fn together(
    leaves: &[Leaf],
    texts: impl Iterator<Item = Option<Vec<Option<String>>>>,
) -> Map<String, Value> {
    let mut record = Map::new();
    let value = |text: Option<String>| text.map_or(Value::Null, Value::String);
    for (leaf, texts) in leaves.iter().zip(texts) {
        let Some(texts) = texts else {
            continue;
        };
        let Some((name, _)) = &leaf.of_list else {
            let text = texts.into_iter().next().flatten();
            record.insert(leaf.field.clone(), value(text));
            continue;
        };
        let list = record.entry(leaf.field.clone());
        let Value::Array(list) = list.or_insert_with(|| Value::Array(Vec::new())) else {
            continue;
        };
        for (at, text) in texts.into_iter().enumerate() {
            if list.len() == at {
                list.push(Value::Object(Map::new()));
            }
            list[at][name.as_str()] = value(text);
        }
    }
    record
}

type Reader = ColumnReaderImpl<ByteArrayType>;

fn reader(
    group: &RowGroupMetaData,
    leaf: &Leaf,
    opened: &Arc<File>,
    file: &CorpusFile,
    meter: &Arc<Meter>,
    context: &dyn Fn(String) -> Error,
) -> Result<Reader> {
    let chunk = contained(|| {
        let chunk = group.column(leaf.column);
        (chunk.byte_range(), chunk.compression())
    });
    let (range, compression) = chunk.map_err(context)?;
    let place = Place::new(range, file.size).ok_or_else(|| context(cut_off()))?;
    let descriptor = group.column(leaf.column).column_descr_ptr();
    let pages = Pages::new(
        Arc::clone(opened),
        place,
        compression,
        &descriptor,
        Arc::clone(meter),
    );
    let open =
        || get_typed_column_reader::<ByteArrayType>(get_column_reader(descriptor, Box::new(pages)));
    contained(open).map_err(context)
}

/// What some rows have in a column; nothing at its end.
fn next_rows(reader: &mut Reader, leaf: &Leaf, context: &dyn Fn(String) -> Error) -> Result<Texts> {
    let mut values: Vec<ByteArray> = Vec::new();
    let (mut definitions, mut repetitions): (Vec<i16>, Vec<i16>) = (Vec::new(), Vec::new());
    let read = contained(|| {
        reader.read_records(
            ROWS,
            Some(&mut definitions),
            Some(&mut repetitions),
            &mut values,
        )
    });
    let (rows, ..) = match read {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => return Err(context(shorten(&error.to_string(), 200))),
        Err(panic) => return Err(context(shorten(&panic, 200))),
    };
    let mut values = values.iter();
    let mut text = |level: i16| match level == leaf.there {
        true => values.next().map(|value| {
            let text = String::from_utf8_lossy(value.data());
            text.into_owned()
        }),
        false => None,
    };
    if leaf.of_list.is_none() {
        let level = |at: usize| definitions.get(at).copied().unwrap_or(leaf.there);
        return Ok((0..rows).map(|at| Some(vec![text(level(at))])).collect());
    }
    let from = leaf.of_list.as_ref().map_or(0, |(_, from)| *from);
    let mut all: Texts = Vec::with_capacity(rows);
    for (&level, &repetition) in definitions.iter().zip(&repetitions) {
        if repetition == 0 {
            all.push(Some(Vec::new()));
        }
        let own = text(level);
        if let (true, Some(Some(list))) = (level >= from, all.last_mut()) {
            list.push(own);
        }
    }
    Ok(all)
}

/// The columns that are read. Says which parts of the wanted ones are not.
fn leaves(metadata: &ParquetMetaData, records: &Records) -> Result<Vec<Leaf>> {
    let columns = match &records.options.chat {
        Some(chat) => Columns::of(chat.form),
        None => return Ok(Vec::new()),
    };
    let schema = metadata.file_metadata().schema_descr();
    let wanted = |field: &str| columns.needed.contains(&field) || columns.others.contains(&field);
    let (mut leaves, mut passed_over) = (Vec::new(), Vec::new());
    for (column, descriptor) in schema.columns().iter().enumerate() {
        let parts = descriptor.path().parts();
        if !parts.first().is_some_and(|field| wanted(field)) {
            continue;
        }
        match leaf(schema, column, descriptor) {
            Some(leaf) => leaves.push(leaf),
            None => passed_over.push(descriptor.path().string()),
        }
    }
    let found = |field: &&&str| leaves.iter().any(|leaf| leaf.field == **field);
    if let Some(missing) = columns.needed.iter().find(|field| !found(field)) {
        let fields = metadata.file_metadata().schema().get_fields().iter();
        let mut names: Vec<String> = fields.map(|field| field.name().to_string()).collect();
        names.truncate(super::NAMES);
        return Err(bad(
            records.file,
            &format!(
                "{}: of texts, or of lists of objects with texts",
                no_field("column", missing, &names)
            ),
        ));
    }
    if !passed_over.is_empty() {
        tracing::warn!(
            "{}: columns {} are not read: they hold no texts, or lists in lists",
            records.file.name,
            shorten(&passed_over.join(", "), 200)
        );
    }
    Ok(leaves)
}

fn leaf(schema: &SchemaDescriptor, column: usize, descriptor: &ColumnDescriptor) -> Option<Leaf> {
    let parts = descriptor.path().parts();
    let of_list = match (parts, descriptor.max_rep_level()) {
        ([_], 0) => None,
        ([_, _, .., name], 1) => Some((
            name.clone(),
            element_level(schema.get_column_root(column), parts)?,
        )),
        _ => return None,
    };
    (descriptor.physical_type() == Type::BYTE_ARRAY).then(|| Leaf {
        column,
        field: parts[0].clone(),
        of_list,
        there: descriptor.max_def_level(),
    })
}

/// Definition level from which on a list has an element; nothing if there is no object in the list.
fn element_level(root: &SchemaType, parts: &[String]) -> Option<i16> {
    let (mut node, mut level) = (root, 0);
    for (depth, part) in parts.iter().enumerate() {
        if depth > 0 {
            node = node
                .get_fields()
                .iter()
                .find(|field| field.name() == part)?;
        }
        let info = node.get_basic_info();
        let repetition = info.has_repetition().then(|| info.repetition());
        level += i16::from(matches!(
            repetition,
            Some(Repetition::OPTIONAL | Repetition::REPEATED)
        ));
        if repetition == Some(Repetition::REPEATED) {
            // Behind it, or behind the group around an element, comes the text.
            return (parts.len() > depth + 1).then_some(level);
        }
    }
    None
}
