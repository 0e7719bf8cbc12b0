//! Tokens for people to read, with those that are learnt marked.

use crate::Tokenizer;
use aios_base::error::Result;
use aios_base::micro_batch::IGNORE;

/// Around what is learnt: green on a terminal, else brackets.
const COLOURS: [&str; 2] = ["\x1b[32m", "\x1b[0m"];
const BRACKETS: [&str; 2] = ["[", "]"];

/// The text of `ids`, with those marked whose label is none of [`IGNORE`]. Control tokens come by their names; what would
/// move a terminal's cursor or worse is left out.
///
/// # Errors
/// The tokenizer's rules make unreasonably much of a token.
pub fn marked(tokenizer: &Tokenizer, ids: &[u32], labels: &[i32], colour: bool) -> Result<String> {
    let [open, close] = if colour { COLOURS } else { BRACKETS };
    let mut text = String::new();
    let mut at = 0;
    while at < ids.len() {
        let is_learnt = |label: &i32| *label != IGNORE;
        let learnt = is_learnt(&labels[at]);
        let run = labels[at..]
            .iter()
            .take_while(|label| is_learnt(label) == learnt);
        let end = (at + run.count()).min(ids.len());
        let shown = printable(&tokenizer.decode_with_names(&ids[at..end])?);
        match learnt {
            true => text.extend([open, &shown, close]),
            false => text.push_str(&shown),
        }
        at = end;
    }
    Ok(text)
}

fn printable(text: &str) -> String {
    let harmless = |char: &char| !char.is_control() || matches!(char, '\n' | '\t');
    text.chars().filter(harmless).collect()
}
