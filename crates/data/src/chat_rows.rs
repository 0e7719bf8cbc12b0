//! Conversations as rows of tokens.

use crate::json::Row;
use crate::records::LeftOut;
use crate::tokenizer::Tokenizer;
use aios_base::config::{BadRecords, ChatOptions, CorpusOptions};
use aios_base::error::{Error, Result};
use aios_base::micro_batch::IGNORE;
use aios_chat::{Chat, Rendered};
use std::sync::Once;

/// What makes rows of conversations; several threads share it.
pub(crate) struct ChatRows {
    chat: Chat,
    tokenizer: Tokenizer,
    bad_are_errors: bool,
    role_told: Once,
}

/// A conversation that is still an object in JSON, and where it stands.
pub(crate) struct Record {
    pub json: String,
    pub place: String,
}

impl ChatRows {
    /// With a tokenizer to which names of control tokens are these tokens.
    ///
    /// # Errors
    /// A template that is wrong.
    pub(crate) fn new(
        chat: &ChatOptions,
        options: &CorpusOptions,
        tokenizer: Tokenizer,
    ) -> Result<Self> {
        let chat = Chat::new(chat)?;
        if chat.tells_time() {
            tracing::warn!(
                "the chat template asks for the date: the tokens of {} have the one of the day on which they were \
                 cached",
                options.name()
            );
        }
        Ok(Self {
            chat,
            tokenizer,
            bad_are_errors: options.bad_records == BadRecords::Error,
            role_told: Once::new(),
        })
    }

    /// The row of a record, and the bytes of its text; nothing if it is bad, which then is noted.
    ///
    /// # Errors
    /// It is bad, and that is an error.
    pub(crate) fn row(
        &self,
        record: &Record,
        left_out: &mut LeftOut,
    ) -> Result<Option<(Row, usize)>> {
        let made = self.chat.render(&record.json).and_then(|rendered| {
            let row = self.tokenized(&rendered)?;
            if let Some(role) = &rendered.unknown_role {
                self.tell_role(role, &record.place);
            }
            Ok((row, rendered.text.len()))
        });
        match made {
            Ok(row) => Ok(Some(row)),
            Err(what) if self.bad_are_errors => Err(Error::failed(format!(
                "{}: {what}; --bad-records skip leaves such records out",
                record.place
            ))),
            Err(what) => {
                left_out.note(&record.place, &what);
                Ok(None)
            }
        }
    }

    fn tell_role(&self, role: &str, place: &str) {
        self.role_told.call_once(|| {
            tracing::warn!(
                "{place}: the role {role:?} is neither user, assistant, system nor tool: the template takes it as it is, and \
                 nothing of it is learnt as an answer"
            );
        });
    }

    fn tokenized(&self, rendered: &Rendered) -> std::result::Result<Row, String> {
        let (mut ids, starts) = (self.tokenizer)
            .encode_with_starts(&rendered.text)
            .map_err(|error| error.to_string())?;
        let mut labels = vec![IGNORE; ids.len()];
        for span in &rendered.trained {
            let begins = |start: &usize| span.contains(start);
            let from = starts.iter().position(begins);
            let to = starts.iter().rposition(begins).map(|last| last + 1);
            let (Some(from), Some(mut to)) = (from, to) else {
                continue;
            };
            if rendered.to_next_turn {
                to = self.end_of_turn(&rendered.text, &ids, &starts, from..to);
            }
            for at in from..to {
                labels[at] = ids[at] as i32;
            }
        }
        if rendered.end_of_text {
            let end = self.tokenizer.end_of_text();
            ids.push(end);
            labels.push(end as i32);
        }
        match ids.is_empty() {
            true => Err("it has no text".to_string()),
            false => Ok(Row { ids, labels }),
        }
    }

    /// Where a turn ends: behind its last token with a name, if nothing but blanks follows that.
    fn end_of_turn(
        &self,
        text: &str,
        ids: &[u32],
        starts: &[usize],
        span: std::ops::Range<usize>,
    ) -> usize {
        let blank = |&at: &usize| {
            let end = starts.get(at + 1).copied().unwrap_or(text.len());
            let own = text.get(starts[at]..end);
            own.is_some_and(|own| own.trim().is_empty()) && !self.tokenizer.is_named(ids[at])
        };
        let last = span.clone().rev().find(|at| !blank(at));
        match last {
            Some(last) if self.tokenizer.is_named(ids[last]) => last + 1,
            _ => span.end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::config::{RecordForm, TrainOn};
    use std::path::Path;

    const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}\
        {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn tokenizer(control: bool) -> Tokenizer {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
        let folder = tests.join("golden/decoders/a/llama");
        let tokenizer = Tokenizer::load(&folder.to_string_lossy()).unwrap();
        match control {
            true => tokenizer.with_control_tokens().unwrap(),
            false => tokenizer,
        }
    }

    fn rows(form: RecordForm, train_on: TrainOn) -> ChatRows {
        let chat = ChatOptions {
            form,
            train_on,
            template: Some(TEMPLATE.to_string()),
            tokens: Vec::new(),
        };
        ChatRows::new(&chat, &CorpusOptions::new("a"), tokenizer(true)).unwrap()
    }

    /// The text of a record with what is learnt in brackets.
    fn shown(rows: &ChatRows, json: &str) -> String {
        let record = Record {
            json: json.to_string(),
            place: "a line 1".to_string(),
        };
        let (row, _) = rows.row(&record, &mut LeftOut::default()).unwrap().unwrap();
        crate::marked(&rows.tokenizer, &row.ids, &row.labels, false).unwrap()
    }

    #[test]
    fn answers_are_learnt_with_the_end_of_their_turn_and_no_more() {
        let json = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b 日"},
            {"role": "user", "content": "c"}, {"role": "assistant", "content": "d\n"}]}"#;
        let rows = rows(RecordForm::Messages, TrainOn::Assistant);
        assert_eq!(
            shown(&rows, json),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b 日<|im_end|>]\n\
             <|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d\n<|im_end|>]\n"
        );
    }

    #[test]
    fn a_completion_is_learnt_with_an_end_of_text() {
        let rows = rows(RecordForm::PromptCompletion, TrainOn::Assistant);
        let json = r#"{"prompt": "1 + 1 =", "completion": " 2"}"#;
        assert_eq!(shown(&rows, json), "1 + 1 =[ 2<|endoftext|>]");
    }

    /// One token of both belongs to where it begins.
    #[test]
    fn a_token_that_straddles_belongs_to_where_it_begins() {
        let plain = tokenizer(true);
        // Some pair of letters that is one token.
        let letters = "abcdefghijklmnopqrstuvwxyz".chars();
        let pairs = letters
            .clone()
            .flat_map(|a| letters.clone().map(move |b| (a, b)));
        let one = pairs
            .map(|(a, b)| (a.to_string(), b.to_string()))
            .find(|(a, b)| plain.encode(&format!("{a}{b}")).unwrap().len() == 1);
        let (a, b) = one.expect("a pair is one token");
        let rows = rows(RecordForm::PromptCompletion, TrainOn::Assistant);
        let json = serde_json::json!({"prompt": a, "completion": format!("{b} 2")}).to_string();
        assert_eq!(shown(&rows, &json), format!("{a}{b}[ 2<|endoftext|>]"));
    }

    #[test]
    fn a_bad_record_is_named_or_noted() {
        let mut rows = rows(RecordForm::Messages, TrainOn::Assistant);
        let record = Record {
            json: "{}".to_string(),
            place: "a line 7".to_string(),
        };
        let mut left_out = LeftOut::default();
        let error = rows.row(&record, &mut left_out).err().unwrap().to_string();
        assert!(error.contains("a line 7: no field \"messages\""), "{error}");
        rows.bad_are_errors = false;
        assert!(rows.row(&record, &mut left_out).unwrap().is_none());
        assert!(left_out.in_words().contains("1 bad record"));
    }
}
