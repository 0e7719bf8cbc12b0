//! What the samples of a run go on from.

use aios_base::config::ChatOptions;
use aios_base::error::Result;
use aios_base::micro_batch::IGNORE;
use aios_chat::{Message, Role, Template};
use aios_data::{Sequences, Tokenizer};

/// A text that the model goes on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// What the model reads.
    pub ids: Vec<u32>,
    /// What of it is shown before what the model writes.
    pub shown: String,
    /// Tokens that end a sample.
    pub stop: Vec<u32>,
}

impl Opening {
    /// Of `--sample-prompt`, in a conversation what the user says; without one the beginning of a new document, of records of
    /// prompts the first one's, up to where its answer begins.
    ///
    /// # Errors
    /// What the template or the tokenizer has against it.
    pub fn of(
        prompt: Option<&str>,
        chat: Option<&ChatOptions>,
        text: &Sequences,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let Some(chat) = chat else {
            return of_document(prompt, tokenizer);
        };
        let first = of_first_row(text, tokenizer);
        let stop = match &first {
            Some((_, stop)) => stop.clone(),
            None => vec![tokenizer.end_of_text()],
        };
        let ids = match (prompt, &chat.template, first) {
            (Some(prompt), Some(template), _) => {
                let template = Template::new(template, &chat.tokens)?;
                let said = template.conversation(&[Message::new(Role::User, prompt)])?;
                tokenizer.with_control_tokens()?.encode(&said)?
            }
            (Some(prompt), None, _) => tokenizer.encode(prompt)?,
            (None, _, Some((ids, _))) => ids,
            (None, _, None) => Vec::new(),
        };
        match ids.is_empty() {
            true => of_document(prompt, tokenizer),
            false => Ok(Self {
                shown: tokenizer.decode(&ids)?,
                ids,
                stop,
            }),
        }
    }
}

fn of_document(prompt: Option<&str>, tokenizer: &Tokenizer) -> Result<Opening> {
    let (shown, end) = (prompt.unwrap_or_default(), tokenizer.end_of_text());
    let mut ids = vec![end];
    ids.extend(tokenizer.encode(shown)?);
    Ok(Opening {
        ids,
        shown: shown.to_string(),
        stop: vec![end],
    })
}

/// What stands in the first row before its first answer, and what ends an answer; nothing if there is none, or nothing before it.
fn of_first_row(text: &Sequences, tokenizer: &Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    let (mut ids, labels) = text.first_row();
    let begin = labels.iter().position(|&label| label != IGNORE)?;
    let learnt = labels[begin..].iter().take_while(|&&label| label != IGNORE);
    let last = ids[begin + learnt.count() - 1];
    let mut stop = vec![tokenizer.end_of_text()];
    if tokenizer.is_named(last) && last != stop[0] {
        stop.push(last);
    }
    ids.truncate(begin);
    (begin > 0).then_some((ids, stop))
}
