//! The turns of a conversation.

use super::fields::{Fields, off, said, shown};
use crate::failure::Failure;
use crate::generator::{Message, Role};
use serde_json::Value;

/// What a message may have in OpenAI's interface and a model that reads text alone has no use for.
const UNSUPPORTED: [&str; 4] = ["tool_calls", "function_call", "tool_call_id", "audio"];

pub fn messages(fields: &Fields) -> Result<Vec<Message>, Failure> {
    match fields.get("messages") {
        Some(Value::Array(list)) if !list.is_empty() => {
            let each = list.iter().enumerate();
            each.map(|(at, value)| message(at, value)).collect()
        }
        None => Err(Failure::field(
            "messages",
            "is missing: it must be a list of messages",
        )),
        Some(_) => Err(Failure::field(
            "messages",
            "must be a list of at least one message",
        )),
    }
}

fn message(at: usize, value: &Value) -> Result<Message, Failure> {
    let place = format!("messages[{at}]");
    let Some(fields) = value.as_object() else {
        return Err(Failure::field(
            &place,
            format!("is {}: it must be an object", shown(value)),
        ));
    };
    for name in UNSUPPORTED {
        if fields.get(name).is_some_and(|value| !off(value)) {
            return Err(Failure::unsupported(&format!("{place}.{name}")));
        }
    }
    Ok(Message {
        role: role(&place, fields.get("role"))?,
        content: content(&format!("{place}.content"), fields.get("content"))?,
    })
}

fn role(place: &str, value: Option<&Value>) -> Result<Role, Failure> {
    match value.and_then(Value::as_str) {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        other => {
            let shown = other.map_or("no text".to_string(), |role| format!("\"{}\"", said(role)));
            let what = format!("is {shown}: it must be system, developer, user or assistant");
            Err(Failure::field(&format!("{place}.role"), what))
        }
    }
}

/// A text, or parts that are texts, a line each as vLLM and llama.cpp put them together.
fn content(place: &str, value: Option<&Value>) -> Result<String, Failure> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) if !parts.is_empty() => {
            let each = parts.iter().enumerate();
            let texts = each.map(|(at, part)| text_of(&format!("{place}[{at}]"), part));
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        _ => Err(Failure::field(
            place,
            "must be a text or a list of parts of type text",
        )),
    }
}

fn text_of<'a>(place: &str, part: &'a Value) -> Result<&'a str, Failure> {
    let kind = part.get("type").and_then(Value::as_str);
    if kind != Some("text") {
        let shown = kind.map_or("no text".to_string(), |kind| format!("\"{}\"", said(kind)));
        let what = format!("is {shown}: this server takes parts of type text alone");
        return Err(Failure::field(&format!("{place}.type"), what));
    }
    let text = part.get("text").and_then(Value::as_str);
    text.ok_or_else(|| Failure::field(&format!("{place}.text"), "must be a text"))
}
