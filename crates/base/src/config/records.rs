//! What the records of a data set are, and what of them is learnt.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The form of a record: which fields it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab")]
pub enum RecordForm {
    /// As the first record tells.
    #[default]
    Auto,
    /// `text`, or what `--text-field` names.
    Text,
    /// `messages`: objects with `role` and `content`; perhaps `tools` beside them.
    Messages,
    /// ShareGPT's `conversations`: objects with `from` and `value`; perhaps `system` beside them.
    Conversations,
    /// `prompt` and `completion`: two texts that follow each other, or two lists of messages.
    PromptCompletion,
    /// `instruction` and `output`, perhaps `input`: a question and its answer.
    Instruction,
}

impl RecordForm {
    /// As flags and messages have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Messages => "messages",
            Self::Conversations => "conversations",
            Self::PromptCompletion => "prompt-completion",
            Self::Instruction => "instruction",
        }
    }
}

impl fmt::Display for RecordForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which tokens of a conversation are learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum TrainOn {
    /// All.
    All,
    /// Those of the assistant, with the token that ends its turn; of a prompt and its completion the latter.
    #[default]
    Assistant,
    /// Those of the assistant's last turn.
    Last,
}

impl TrainOn {
    /// As flags have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Assistant => "assistant",
            Self::Last => "last",
        }
    }
}

/// What becomes of a row with more tokens than a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum TooLong {
    /// The rest is cut off.
    #[default]
    Truncate,
    /// It is left out.
    Drop,
    /// It is an error.
    Error,
}

impl TooLong {
    /// As flags have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Truncate => "truncate",
            Self::Drop => "drop",
            Self::Error => "error",
        }
    }
}

/// How the records of a corpus become rows of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatOptions {
    /// Of all records; not `Auto` and not `Text`.
    pub form: RecordForm,
    pub train_on: TrainOn,
    /// The chat template, in Jinja; `None` where none is needed.
    pub template: Option<String>,
    /// Variables of the template: names of control tokens, such as `bos_token`, and what they are.
    pub tokens: Vec<(String, String)>,
}
