//! A JSON object with the ids of tokens in place of a text.

use serde::Deserialize;

use aios_base::micro_batch::IGNORE;

/// The field that holds them.
pub(crate) const IDS: &str = "input_ids";

/// Fields of an object, as far as they say something about tokens.
#[derive(Deserialize)]
pub(super) struct Fields {
    input_ids: Option<Vec<i64>>,
    labels: Option<Vec<i64>>,
    attention_mask: Option<Vec<i64>>,
}

/// Ids, and what is to be learnt of each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub ids: Vec<u32>,
    pub labels: Vec<i32>,
}

impl Fields {
    /// The row, whose ids lie below `vocabulary`; `None` if the object has no ids.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn row(self, vocabulary: u32) -> Result<Option<Row>, String> {
        let Some(ids) = self.input_ids else {
            return Ok(None);
        };
        let unlabelled = self.labels.is_none();
        let labels = self.labels.unwrap_or_else(|| ids.clone());
        same_length("labels", labels.len(), ids.len())?;
        let mask = self.attention_mask.unwrap_or_else(|| vec![1; ids.len()]);
        same_length("attention_mask", mask.len(), ids.len())?;
        let kept = kept(&mask)?;
        if kept.is_empty() {
            return Err(format!("{IDS} is empty"));
        }
        let start = kept.start;
        let ids = in_vocabulary(IDS, &ids[kept.clone()], start, vocabulary, None)?;
        let ignored = (!unlabelled).then_some(i64::from(IGNORE));
        let labels = in_vocabulary("labels", &labels[kept], start, vocabulary, ignored)?;
        Ok(Some(Row {
            ids: ids.iter().map(|&id| id as u32).collect(),
            labels,
        }))
    }
}

fn same_length(field: &str, length: usize, ids: usize) -> Result<(), String> {
    match length == ids {
        true => Ok(()),
        false => Err(format!(
            "{field} has {length} entries and {IDS} {ids}: there has to be one for each"
        )),
    }
}

/// Where the tokens lie between those that pad the row.
fn kept(mask: &[i64]) -> Result<std::ops::Range<usize>, String> {
    let is_token = |&mask: &i64| mask != 0;
    let start = mask.iter().position(is_token).unwrap_or(mask.len());
    let end = mask
        .iter()
        .rposition(is_token)
        .map_or(start, |last| last + 1);
    match mask[start..end].iter().position(|&mask| mask == 0) {
        Some(at) => Err(format!(
            "attention_mask hides token {} in the midst of the row; only padding at its ends can be left out",
            start + at
        )),
        None => Ok(start..end),
    }
}

/// These ids, of which the first stands at `start` of `field`.
fn in_vocabulary(
    field: &str,
    ids: &[i64],
    start: usize,
    vocabulary: u32,
    ignored: Option<i64>,
) -> Result<Vec<i32>, String> {
    let checked = ids.iter().enumerate().map(|(at, &id)| {
        let known = (0..i64::from(vocabulary)).contains(&id);
        match i32::try_from(id) {
            Ok(id) if known || Some(i64::from(id)) == ignored => Ok(id),
            _ => Err(format!(
                "id {id} at position {} of {field} is outside the vocabulary, whose ids are 0 to {}",
                start + at,
                i64::from(vocabulary) - 1
            )),
        }
    });
    checked.collect()
}
