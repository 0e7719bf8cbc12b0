//! Where a model's chat templates are: their texts, which nothing here runs.

use serde_json::Value;

use aios_base::error::{Error, Result, shown};

use crate::folder::Folder;
use crate::names::{
    CHAT_TEMPLATE_FILE, OLD_CHAT_TEMPLATE_FILE, SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE,
    chat_template_name,
};

/// What a template without a name is called.
pub(crate) const DEFAULT: &str = "default";
const KEY: &str = "chat_template";

/// Names of control tokens in a tokenizer's settings.
const TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
/// Where they are named, the first that has one counts.
const PLACES: [&str; 2] = [TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE];

/// Control tokens with their names; each a text, or an object with `content`.
pub(crate) fn control_tokens(folder: &Folder) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for place in PLACES {
        let Some(settings) = folder.object(place)? else {
            continue;
        };
        for name in TOKENS {
            let token = settings.get(name);
            let token = token.map(|token| token.get("content").unwrap_or(token));
            let Some(token) = token.and_then(Value::as_str) else {
                continue;
            };
            if found.iter().all(|(known, _)| known != name) {
                found.push((name.to_string(), token.to_string()));
            }
        }
    }
    Ok(found)
}

/// All of them, with names; from the first place that has any.
pub(crate) fn all(folder: &Folder) -> Result<Vec<(String, String)>> {
    let files = of_files(folder)?;
    if !files.is_empty() {
        return Ok(files);
    }
    for name in [TOKENIZER_CONFIG_FILE, OLD_CHAT_TEMPLATE_FILE] {
        let Some(settings) = folder.object(name)? else {
            continue;
        };
        let found = of_settings(&settings).ok_or_else(|| {
            Error::failed(format!(
                "{}: its {KEY} is neither a text nor a list of texts with names",
                shown(&folder.path().join(name))
            ))
        })?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn of_files(folder: &Folder) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    if let Some(text) = folder.text(CHAT_TEMPLATE_FILE)? {
        found.push((DEFAULT.to_string(), text));
    }
    for file in folder.more_templates() {
        let name = chat_template_name(&file).unwrap_or_default().to_string();
        if let Some(text) = folder.text(&file)? {
            found.push((name, text));
        }
    }
    Ok(found)
}

/// Of a text, or of a list of objects with `name` and `template`; nothing if it is neither.
pub(crate) fn of_settings(settings: &Value) -> Option<Vec<(String, String)>> {
    let named = |entry: &Value| {
        let text = |key: &str| Some(entry.get(key)?.as_str()?.to_string());
        Some((text("name")?, text("template")?))
    };
    match settings.get(KEY) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(text)) => Some(vec![(DEFAULT.to_string(), text.clone())]),
        Some(Value::Array(list)) => list.iter().map(named).collect(),
        Some(_) => None,
    }
}
