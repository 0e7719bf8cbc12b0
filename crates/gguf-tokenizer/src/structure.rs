//! The parts of a `tokenizer.json` around its model: normalizer, pre-tokenizer, post-processor, decoder.

use serde_json::{Map, Value, json};

use aios_base::error::{Error, Result, shortened};

use crate::pieces::BLANK;
use crate::pre::{DIGIT, GPT2, PUNCTUATION, spelled};

/// A token's text and id.
pub(crate) type Token<'a> = (&'a str, u32);

/// Ids of what stands before and behind a text.
pub(crate) type Around = (Option<u32>, Option<u32>);

/// `▁` for blanks, and one before the text if `prefix`.
pub(crate) fn blank_normalizer(prefix: bool) -> Value {
    let blanks = json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK});
    match prefix {
        true => {
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": BLANK}, blanks]})
        }
        false => blanks,
    }
}

/// Its reverse, with bytes put together.
pub(crate) fn blank_decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": BLANK}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

pub(crate) fn byte_decoder() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
}

/// Puts tokens before and behind a text.
pub(crate) fn around(before: Option<Token>, behind: Option<Token>) -> Value {
    if before.is_none() && behind.is_none() {
        return Value::Null;
    }
    let one = |sequence: &str, kind: u32| {
        let special = |token: Token| json!({"SpecialToken": {"id": token.0, "type_id": kind}});
        let mut parts: Vec<Value> = before.map(special).into_iter().collect();
        parts.push(json!({"Sequence": {"id": sequence, "type_id": kind}}));
        parts.extend(behind.map(special));
        parts
    };
    let mut tokens = Map::new();
    for (token, id) in before.into_iter().chain(behind) {
        let entry = json!({"id": token, "ids": [id], "tokens": [token]});
        tokens.insert(token.to_string(), entry);
    }
    let pair = [one("A", 0), one("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": one("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}

/// What stands in sequences, one after the other. `inner` is their key.
fn steps<'a>(value: Option<&'a Value>, inner: &str) -> Vec<&'a Value> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Vec::new();
    };
    match (kind(value), value.get(inner).and_then(Value::as_array)) {
        // A sequence in a sequence is nothing that anybody writes, and is refused as an unknown step.
        ("Sequence", Some(list)) => list.iter().collect(),
        _ => vec![value],
    }
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("")
}

fn flag(value: &Value, key: &str, usual: bool) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(usual)
}

fn unsaid<T>(what: &str, value: &Value) -> Result<T> {
    let shown: String = value.to_string().chars().take(300).collect();
    Err(Error::failed(format!(
        "tokenizer.json: the {what} is {}, which has no place in a GGUF: llama.cpp would make other tokens of a text",
        shortened(&shown)
    )))
}

/// The regular expressions at which text is cut one after the other, if it becomes bytes behind them.
///
/// # Errors
/// Shows a step that a GGUF cannot say.
pub(crate) fn cuts(tokenizer: &Value) -> Result<Option<Vec<String>>> {
    let pre = tokenizer.get("pre_tokenizer");
    let steps = steps(pre, "pretokenizers");
    if !steps.iter().any(|step| kind(step) == "ByteLevel") {
        return Ok(None);
    }
    let mut cuts = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let last = at + 1 == steps.len();
        let cut = match kind(step) {
            "ByteLevel" if last && !flag(step, "add_prefix_space", true) => {
                match flag(step, "use_regex", true) {
                    true => GPT2.to_string(),
                    false => continue,
                }
            }
            "Digits" => match flag(step, "individual_digits", false) {
                true => DIGIT.to_string(),
                false => format!("{DIGIT}+"),
            },
            "Punctuation" if text(step, "behavior") == "Contiguous" => PUNCTUATION.to_string(),
            "Split" => match regex(step, steps.len()) {
                Some(cut) => spelled(cut),
                None => return unsaid("pre_tokenizer", step),
            },
            _ => return unsaid("pre_tokenizer", step),
        };
        cuts.push(cut);
    }
    match normalizers(tokenizer).as_slice() {
        [] => Ok(Some(cuts)),
        [step] if kind(step) == "NFC" => Ok(Some(cuts)),
        [step, ..] => unsaid("normalizer", step),
    }
}

fn normalizers(tokenizer: &Value) -> Vec<&Value> {
    steps(tokenizer.get("normalizer"), "normalizers")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

/// Of a `Split` that cuts at matches. One that takes matches and drops what is between is the same where matches leave
/// nothing between, as when blanks are the last that it matches.
fn regex(step: &Value, among: usize) -> Option<&str> {
    let cut = step.pointer("/pattern/Regex")?.as_str()?;
    let all = among == 2 && cut.ends_with(r"|\s+");
    match (text(step, "behavior"), flag(step, "invert", false)) {
        ("Isolated", false) => Some(cut),
        ("Removed", true) if all => Some(cut),
        _ => None,
    }
}

/// Whether a blank is put before a text, of a tokenizer that writes `▁` for blanks.
///
/// # Errors
/// Shows a step that a GGUF cannot say.
pub(crate) fn blank_prefix(tokenizer: &Value) -> Result<bool> {
    let mark = BLANK.to_string();
    let (mut prefix, mut replaced) = (false, false);
    for step in normalizers(tokenizer) {
        match kind(step) {
            "Prepend" if text(step, "prepend") == mark && !replaced => prefix = true,
            "Replace" if is_replace(step, &mark) => replaced = true,
            _ => return unsaid("normalizer", step),
        }
    }
    for step in steps(tokenizer.get("pre_tokenizer"), "pretokenizers") {
        match kind(step) {
            // There are no blanks left.
            "Split" if replaced && step.pointer("/pattern/String") == Some(&" ".into()) => {}
            "Metaspace" if !replaced && text(step, "replacement") == mark => {
                if flag(step, "split", true) {
                    return unsaid("pre_tokenizer", step);
                }
                replaced = true;
                prefix = match text(step, "prepend_scheme") {
                    "never" => false,
                    "first" | "always" => true,
                    _ => flag(step, "add_prefix_space", true),
                };
            }
            _ => return unsaid("pre_tokenizer", step),
        }
    }
    match replaced {
        true => Ok(prefix),
        false => unsaid("pre_tokenizer", &tokenizer["pre_tokenizer"]),
    }
}

fn is_replace(step: &Value, mark: &str) -> bool {
    step.pointer("/pattern/String") == Some(&" ".into()) && text(step, "content") == mark
}

/// The ids of the tokens that are put before and behind a text, where a post-processor says.
///
/// # Errors
/// Shows one that a GGUF cannot say.
pub(crate) fn put_around(tokenizer: &Value) -> Result<Option<Around>> {
    let mut found = None;
    for step in steps(tokenizer.get("post_processor"), "processors") {
        match kind(step) {
            // Offsets only.
            "ByteLevel" => found = found.or(Some((None, None))),
            "TemplateProcessing" => match template(step) {
                Some(ids) => found = Some(ids),
                None => return unsaid("post_processor", step),
            },
            _ => return unsaid("post_processor", step),
        }
    }
    Ok(found)
}

fn template(step: &Value) -> Option<Around> {
    let single = step.get("single")?.as_array()?;
    let id = |part: &Value| -> Option<u32> {
        let name = part.pointer("/SpecialToken/id")?.as_str()?;
        let ids = step.get("special_tokens")?.get(name)?.get("ids")?;
        match ids.as_array()?.as_slice() {
            [id] => u32::try_from(id.as_u64()?).ok(),
            _ => None,
        }
    };
    let is_text = |part: &Value| part.pointer("/Sequence/id") == Some(&"A".into());
    match single.as_slice() {
        [text] if is_text(text) => Some((None, None)),
        [bos, text] if is_text(text) => Some((Some(id(bos)?), None)),
        [text, eos] if is_text(text) => Some((None, Some(id(eos)?))),
        [bos, text, eos] if is_text(text) => Some((Some(id(bos)?), Some(id(eos)?))),
        _ => None,
    }
}
