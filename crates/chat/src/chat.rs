//! From a record to the text that a model reads.

use std::ops::Range;

use crate::masks::{Masked, masked};
use crate::record::{Content, understood};
use crate::template::Template;
use aios_base::config::{ChatOptions, RecordForm, TrainOn};
use aios_base::error::Result;

/// The text of a record, and what of it is learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Bytes of `text`, in order and apart from each other.
    pub trained: Vec<Range<usize>>,
    /// A span may end in blanks that stand behind the end of each turn, and are no part of it.
    pub to_next_turn: bool,
    /// An end of text follows, which is learnt with the rest.
    pub end_of_text: bool,
    /// A role of the record's that is nobody's.
    pub unknown_role: Option<String>,
}

/// What makes texts of the records of one form.
#[derive(Debug)]
pub struct Chat {
    form: RecordForm,
    train_on: TrainOn,
    template: Option<Template>,
}

impl Chat {
    /// As the options say.
    ///
    /// # Errors
    /// A template that is wrong.
    pub fn new(options: &ChatOptions) -> Result<Self> {
        let template = options.template.as_deref();
        let compiled = template.map(|source| Template::new(source, &options.tokens));
        Ok(Self {
            form: options.form,
            train_on: options.train_on,
            template: compiled.transpose()?,
        })
    }

    /// Whether a text may be another one tomorrow.
    pub fn tells_time(&self) -> bool {
        self.template.as_ref().is_some_and(Template::tells_time)
    }

    /// The text of a record, an object in JSON.
    ///
    /// # Errors
    /// What is wrong with it, in a line.
    pub fn render(&self, json: &str) -> std::result::Result<Rendered, String> {
        match understood(json, self.form)? {
            Content::Pair { prompt, completion } => Ok(self.pair(prompt, &completion)),
            Content::Turns(turns) => {
                let template = self.template.as_ref().ok_or(NO_TEMPLATE)?;
                let Masked {
                    text,
                    trained,
                    to_next_turn,
                } = masked(template, &turns, self.train_on)?;
                Ok(Rendered {
                    text,
                    trained,
                    to_next_turn,
                    end_of_text: false,
                    unknown_role: turns.unknown_role(),
                })
            }
        }
    }

    /// Two texts as they stand.
    fn pair(&self, prompt: String, completion: &str) -> Rendered {
        let start = match self.train_on {
            TrainOn::All => 0,
            TrainOn::Assistant | TrainOn::Last => prompt.len(),
        };
        let text = prompt + completion;
        Rendered {
            trained: std::iter::once(start..text.len()).collect(),
            text,
            to_next_turn: false,
            end_of_text: true,
            unknown_role: None,
        }
    }
}

/// What is said where a conversation has no template.
const NO_TEMPLATE: &str =
    "it is a conversation, and the model has no chat template: give one by --chat-template FILE";
