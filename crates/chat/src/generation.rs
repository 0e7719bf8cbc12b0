//! `{% generation %}`: what of a template is the model's to say.
//!
//! The engine has no tags of others; a call block is what transformers makes of this one too.

use std::ops::Range;

use minijinja::value::Kwargs;
use minijinja::{Error, State, Value};

/// What such a block calls.
pub(crate) const FUNCTION: &str = "__generation";
/// Stand around what it gives. They hold what no text has: U+0000.
const BEGIN: &str = "\0<generation>\0";
const END: &str = "\0</generation>\0";

/// The template with call blocks in place of the tags, and whether there are any.
pub(crate) fn with_calls(template: &str) -> (String, bool) {
    let mut out = String::with_capacity(template.len());
    let (mut rest, mut found) = (template, false);
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let inner = tag.strip_prefix(['-', '+']).unwrap_or(tag).trim_start();
        out.push_str(&tag[..tag.len() - inner.len()]);
        let word = |word: &str| {
            let after = inner.strip_prefix(word)?;
            let closes = after.trim_start().trim_start_matches(['-', '+']);
            closes.starts_with("%}").then_some(after)
        };
        rest = if let Some(after) = word("generation") {
            found = true;
            out.push_str(&format!("call {FUNCTION}()"));
            after
        } else if let Some(after) = word("endgeneration") {
            out.push_str("endcall");
            after
        } else {
            inner
        };
    }
    out.push_str(rest);
    (out, found)
}

/// Renders the block, between marks.
pub(crate) fn marked(state: &mut State, options: Kwargs) -> Result<String, Error> {
    let caller: Value = options.get("caller")?;
    options.assert_all_used()?;
    let body = caller.call(state, &[])?;
    Ok(format!("{BEGIN}{body}{END}"))
}

/// The text without marks, and what stood between them, in bytes; nothing if they do not pair.
pub(crate) fn unmarked(text: &str) -> Option<(String, Vec<Range<usize>>)> {
    let mut out = String::with_capacity(text.len());
    let mut spans = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (inside, behind) = after.split_once(END)?;
        if before.contains(END) || inside.contains(BEGIN) {
            return None;
        }
        out.push_str(before);
        let start = out.len();
        out.push_str(inside);
        spans.push(start..out.len());
        rest = behind;
    }
    out.push_str(rest);
    (!rest.contains(END)).then_some((out, spans))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_call_blocks_with_their_signs() {
        let template = "{% for m in x %}{%- generation -%} a {%+endgeneration%}{% generations %}";
        let (calls, found) = with_calls(template);
        assert_eq!(
            calls,
            "{% for m in x %}{%- call __generation() -%} a {%+endcall%}{% generations %}"
        );
        assert!(found);
        assert_eq!(
            with_calls("{{ generation }}"),
            ("{{ generation }}".into(), false)
        );
    }

    #[test]
    fn marks_have_to_pair() {
        let text = format!("ab{BEGIN}cd{END}e{BEGIN}{END}");
        assert_eq!(unmarked(&text), Some(("abcde".into(), vec![2..4, 5..5])));
        for broken in [
            BEGIN,
            END,
            &format!("{END}{BEGIN}"),
            &format!("{BEGIN}{BEGIN}{END}"),
        ] {
            assert_eq!(unmarked(broken), None, "{broken:?}");
        }
    }
}
