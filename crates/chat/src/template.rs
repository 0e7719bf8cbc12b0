//! A chat template in Jinja, as transformers runs it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error as JinjaError, ErrorKind, Value};

use crate::generation::{self, with_calls};
use crate::json::tojson;
use crate::message::Message;
use crate::python;
use crate::record::message;
use aios_base::error::{Error, Result, shown};

/// The environment's name of it.
const NAME: &str = "chat template";
/// Instructions of the engine for one conversation: what runs longer does not end.
const FUEL: u64 = 50_000_000;
/// Longest words of the engine.
const LONGEST: usize = 300;
/// What [`raise_exception`] puts before its words.
const RAISED: &str = "the template refuses it: ";

/// What a template makes of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub text: String,
    /// What stood in `{% generation %}`, in bytes.
    pub generated: Vec<Range<usize>>,
}

/// A chat template, compiled.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    /// Variables besides the conversation's: `bos_token` and its like.
    tokens: Vec<(String, Value)>,
    marks: bool,
    tells_time: bool,
}

impl Template {
    /// Of its text, with the control tokens by which it calls them.
    ///
    /// # Errors
    /// What is wrong with it, and where; in one line.
    pub fn new(source: &str, tokens: &[(String, String)]) -> Result<Self> {
        let (source, marks) = with_calls(source);
        let tells_time = source.contains("strftime_now");
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|cause| Error::failed(in_a_line(&cause)))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(python::method);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", python::strftime_now);
        environment.add_function(generation::FUNCTION, generation::marked);
        let added = environment.add_template_owned(NAME, source);
        added.map_err(|cause| {
            Error::failed(format!(
                "the chat template cannot be read: {}",
                in_a_line(&cause)
            ))
        })?;
        let tokens = tokens.iter();
        Ok(Self {
            environment,
            tokens: tokens
                .map(|(name, token)| (name.clone(), token.as_str().into()))
                .collect(),
            marks,
            tells_time,
        })
    }

    /// The text of a template in a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> Result<String> {
        std::fs::read_to_string(path)
            .map_err(|cause| Error::invalid(format!("--chat-template {}: {cause}", shown(path))))
    }

    /// Whether it says by `{% generation %}` what is the model's.
    pub fn marks(&self) -> bool {
        self.marks
    }

    /// Whether its text may be another one tomorrow.
    pub fn tells_time(&self) -> bool {
        self.tells_time
    }

    /// What the model reads of a conversation before it answers.
    ///
    /// # Errors
    /// What the template has against it.
    pub fn conversation(&self, messages: &[Message]) -> Result<String> {
        let messages: Vec<Value> = (messages.iter())
            .map(|said| message(said.role.as_str(), &said.content))
            .collect();
        let rendered = self.render(&messages, &[], true);
        let rendered = rendered.map_err(|what| Error::failed(format!("chat template: {what}")))?;
        Ok(rendered.text)
    }

    /// What follows an answer, such as the end of a turn.
    ///
    /// # Errors
    /// What the template has against it.
    pub fn behind_an_answer(&self) -> Result<String> {
        let answer = "an answer";
        let messages = [message("user", "?"), message("assistant", answer)];
        let rendered = self.render(&messages, &[], false);
        let rendered = rendered.map_err(|what| Error::failed(format!("chat template: {what}")))?;
        let behind = rendered.text.rsplit_once(answer);
        Ok(behind.map_or(String::new(), |(_, behind)| behind.to_string()))
    }

    /// The text of these messages, with more variables; with `prompt` also what an answer begins with.
    ///
    /// # Errors
    /// What is wrong, in a line.
    pub(crate) fn render(
        &self,
        messages: &[Value],
        more: &[(String, Value)],
        prompt: bool,
    ) -> std::result::Result<Text, String> {
        let own = [
            ("messages", messages.to_vec().into()),
            ("tools", ().into()),
            ("documents", ().into()),
            ("add_generation_prompt", prompt.into()),
        ];
        let own = own.map(|(name, value): (&str, Value)| (name.to_string(), value));
        let tokens = self.tokens.iter().cloned();
        // Of one name the last counts.
        let variables = tokens.chain(own).chain(more.iter().cloned());
        let variables: BTreeMap<String, Value> = variables.collect();
        let template = self.environment.get_template(NAME);
        let rendered = template.and_then(|template| template.render(Value::from(variables)));
        let text = rendered.map_err(|cause| in_a_line(&cause))?;
        if !self.marks {
            return Ok(Text {
                text,
                generated: Vec::new(),
            });
        }
        let (text, generated) = generation::unmarked(&text).ok_or(
            "its {% generation %} blocks are one in another, or taken apart by the template",
        )?;
        Ok(Text { text, generated })
    }
}

fn raise_exception(message: String) -> std::result::Result<Value, JinjaError> {
    Err(JinjaError::new(
        ErrorKind::InvalidOperation,
        format!("{RAISED}{message}"),
    ))
}

/// What the engine says, short.
fn in_a_line(cause: &JinjaError) -> String {
    let detail = cause.detail().filter(|detail| detail.starts_with(RAISED));
    let text = detail.map_or_else(|| cause.to_string(), str::to_string);
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    match text.len() > LONGEST {
        true => format!("{}…", &text[..text.floor_char_boundary(LONGEST)]),
        false => text,
    }
}
