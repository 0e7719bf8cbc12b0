//! JSON that may come from anybody.

use std::path::Path;

use serde_json::Value;

use aios_base::error::{Error, Result, shortened, shown};

/// A name that is there twice.
pub(crate) fn twice<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    let pair = names.windows(2).find(|pair| pair[0] == pair[1])?;
    Some(pair[0])
}

/// The object in a file's text.
///
/// # Errors
/// Names the file.
pub(crate) fn object(path: &Path, text: &[u8]) -> Result<Value> {
    let value = serde_json::from_slice::<Value>(text);
    let wrong = |cause: String| {
        let cause = shortened(&cause);
        Err(Error::failed(format!("{}: {cause}", shown(path))))
    };
    match value {
        Err(cause) => wrong(format!("is not valid JSON: {cause}")),
        Ok(value) if !value.is_object() => wrong("is not a JSON object".to_string()),
        Ok(value) => Ok(value),
    }
}
