//! Where an answer stands in a conversation's text, told by the messages around it.
//!
//! A template that drops the reasoning of earlier answers writes a turn in one way while it is the last and in another way
//! once a question follows. Its text up to a turn is then not what the text of all turns begins with, but the contents of the
//! neighbours can still be found: a mark that is put at the end of the content before and at the beginning of the one behind
//! appears in the text and changes nothing else of it. Between the two stand the template's own words and the answer.

use std::ops::Range;

use minijinja::Value;

use crate::record::Turns;
use crate::template::Template;

/// What no template looks for, trims or escapes.
const MARK: &str = "zQ7xMarkKx9Qz";

/// The side of a content on which a mark is put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Front,
    Back,
}

/// The bytes of `text`, which is that of all messages, that are the answer with number `answer` and the end of its turn.
///
/// # Errors
/// Why they cannot be told from the rest, in words.
pub(crate) fn span(
    template: &Template,
    turns: &Turns,
    text: &str,
    answer: usize,
) -> Result<Range<usize>, String> {
    let before = answer.checked_sub(1).ok_or("no message is before it")?;
    let from = place(template, turns, text, before, Side::Back)?;
    let last = answer + 1 == turns.messages.len();
    let to = match last {
        true => text.len(),
        false => place(template, turns, text, answer + 1, Side::Front)?,
    };
    let gap = text.get(from..to).ok_or("its messages change places")?;
    let start = from + begin(template, turns, answer, gap)?;
    let end = match last {
        true => to,
        false => start + end(template, &text[start..to])?,
    };
    let own = &text[start..end];
    match said(&turns.messages[answer]).is_none_or(|said| own.contains(&said)) {
        true => Ok(start..end),
        false => Err("what it says is not found where its turn is".to_string()),
    }
}

/// Where the content of a message begins or ends in the text.
fn place(
    template: &Template,
    turns: &Turns,
    text: &str,
    at: usize,
    side: Side,
) -> Result<usize, String> {
    let message = &turns.messages[at];
    let content = message.get_attr("content").ok();
    let content = content.as_ref().and_then(Value::as_str);
    let content = content.ok_or_else(|| format!("message {} is no plain text", at + 1))?;
    // Blanks that the template drops would part the mark from the content.
    let marked = match side {
        Side::Front => [
            format!("{MARK}{content}"),
            format!("{MARK}{}", content.trim_start()),
        ],
        Side::Back => [
            format!("{content}{MARK}"),
            format!("{}{MARK}", content.trim_end()),
        ],
    };
    for marked in marked {
        let mut messages = turns.messages.clone();
        messages[at] = with_content(message, &marked)?;
        let rendered = template.render(&messages, &turns.more, false)?.text;
        if let Some((front, back)) = rendered.split_once(MARK)
            && text.len() == front.len() + back.len()
            && text.starts_with(front)
            && text.ends_with(back)
        {
            return Ok(front.len());
        }
    }
    Err(format!(
        "the content of message {} cannot be found in it",
        at + 1
    ))
}

fn with_content(message: &Value, content: &str) -> Result<Value, String> {
    let mut fields = Vec::new();
    for name in message.try_iter().map_err(|cause| cause.to_string())? {
        let value = message.get_item(&name).map_err(|cause| cause.to_string())?;
        fields.push((name.to_string(), value));
    }
    for (name, value) in &mut fields {
        if name == "content" {
            *value = Value::from(content);
        }
    }
    Ok(Value::from_pairs(fields))
}

/// Where the answer begins in what stands between its neighbours: behind what the template asks for it with. Of that some
/// last lines may be missing, such as those of an empty thought.
fn begin(template: &Template, turns: &Turns, answer: usize, gap: &str) -> Result<usize, String> {
    let messages = &turns.messages[..answer];
    let render = |prompt| template.render(messages, &turns.more, prompt);
    let (without, with) = (render(false)?.text, render(true)?.text);
    let prompt = with.strip_prefix(&without).unwrap_or_default();
    let lines: Vec<&str> = prompt.split_inclusive('\n').collect();
    for count in (1..=lines.len()).rev() {
        let asked = lines[..count].concat();
        let mut found = gap.match_indices(&asked);
        match (asked.trim().is_empty(), found.next(), found.next()) {
            (true, ..) => break,
            (_, Some((at, _)), None) => return Ok(at + asked.len()),
            (_, Some(_), Some(_)) => return Err(twice(&asked)),
            (_, None, _) => {}
        }
    }
    Err("what asks for an answer is not found before it".to_string())
}

/// Where the turn ends in the rest of what stands between the neighbours.
fn end(template: &Template, rest: &str) -> Result<usize, String> {
    let behind = template
        .behind_an_answer()
        .map_err(|cause| cause.to_string())?;
    let ending = behind.trim_end();
    let mut found = rest.match_indices(ending);
    match (ending.is_empty(), found.next(), found.next()) {
        (false, Some((at, _)), None) => {
            let whole = rest[at..].starts_with(&behind);
            Ok(at + if whole { behind.len() } else { ending.len() })
        }
        (false, Some(_), Some(_)) => Err(twice(ending)),
        _ => Err("what ends an answer is not found behind it".to_string()),
    }
}

fn twice(words: &str) -> String {
    format!("{words:?} stands in it twice")
}

/// What the template has to write of a message, whatever it drops: nothing where that is not plain text.
fn said(message: &Value) -> Option<String> {
    let content = message.get_attr("content").ok()?;
    let visible = content.as_str()?.rsplit("</think>").next()?;
    Some(visible.trim().to_string())
}
