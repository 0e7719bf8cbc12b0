//! Where lines come from: a terminal with an editor, or a pipe.

use std::io::{BufRead, ErrorKind, StdinLock};
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper};

use super::command::COMMANDS;
use aios_base::error::{Error, Result};
use aios_base::terminal::say;

/// Lines that the history keeps.
const KEPT: usize = 1000;
/// Longest line from a pipe, in bytes.
const LONGEST: u64 = 1 << 20;
/// What stands before and after a message of several lines.
const FENCE: &str = "\"\"\"";
const PROMPT: &str = "> ";

/// Where lines come from.
pub enum Input<'a> {
    Editor(Box<Editing>),
    Lines(StdinLock<'a>),
}

/// An editor and the file of its history.
pub struct Editing {
    editor: Editor<Multiline, FileHistory>,
    history: Option<PathBuf>,
}

impl<'a> Input<'a> {
    /// Lines typed at a terminal.
    ///
    /// # Errors
    /// A terminal that cannot be used.
    pub fn editor(keep_history: bool) -> Result<Self> {
        let config = Config::builder().max_history_size(KEPT).map_err(failed)?;
        let config = config.auto_add_history(true).build();
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Multiline));
        let history = keep_history.then(history_file).flatten();
        if let Some(file) = &history
            && file.exists()
            && let Err(cause) = editor.load_history(file)
        {
            tracing::warn!("the history in {} is not read: {cause}", file.display());
        }
        Ok(Self::Editor(Box::new(Editing { editor, history })))
    }

    /// Lines of a pipe or a file.
    pub fn lines(stdin: StdinLock<'a>) -> Self {
        Self::Lines(stdin)
    }

    /// The next message or command; `None` at the end.
    ///
    /// # Errors
    /// A terminal or a pipe that fails, or a line that is not UTF-8.
    pub fn next(&mut self) -> Result<Option<String>> {
        match self {
            Self::Editor(editing) => editing.next(),
            Self::Lines(stdin) => line(stdin),
        }
    }
}

impl Editing {
    fn next(&mut self) -> Result<Option<String>> {
        loop {
            match self.editor.readline(PROMPT) {
                Ok(text) => {
                    self.keep();
                    return Ok(Some(joined(&text)));
                }
                // What was typed is gone; the next line begins.
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Io(cause)) if cause.kind() == ErrorKind::InvalidData => {
                    say("error: what was typed is not UTF-8 text, and is left out");
                }
                Err(cause) => return Err(failed(cause)),
            }
        }
    }

    /// Written at once: the program may end in any way.
    fn keep(&mut self) {
        let Some(file) = &self.history else {
            return;
        };
        let folder = file.parent().map(std::fs::create_dir_all);
        let saved = folder.transpose().map_err(ReadlineError::from);
        let saved = saved.and_then(|_| self.editor.append_history(file));
        if let Err(cause) = saved {
            tracing::warn!("no history is kept in {}: {cause}", file.display());
            self.history = None;
        }
    }
}

fn failed(cause: ReadlineError) -> Error {
    Error::failed(format!("the terminal cannot be read: {cause}"))
}

fn history_file() -> Option<PathBuf> {
    let folder = dirs::state_dir().or_else(dirs::data_local_dir)?;
    Some(folder.join("aios").join("chat_history"))
}

/// The next line of a pipe, without its end.
fn line(stdin: &mut StdinLock) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = std::io::Read::take(&mut *stdin, LONGEST).read_until(b'\n', &mut bytes);
    let read = read.map_err(|cause| Error::io("standard input", "read", cause))?;
    if read == 0 {
        return Ok(None);
    }
    if read as u64 == LONGEST && bytes.last() != Some(&b'\n') {
        return Err(Error::invalid(format!(
            "standard input: a line is longer than {LONGEST} bytes"
        )));
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| Error::invalid("standard input: a line is not UTF-8 text"))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_string()))
}

/// The message that was typed on several lines.
fn joined(text: &str) -> String {
    let trimmed = text.trim();
    let fenced = trimmed
        .strip_prefix(FENCE)
        .and_then(|rest| rest.strip_suffix(FENCE));
    match fenced {
        Some(inner) => inner.trim_matches(['\r', '\n']).to_string(),
        None => text.replace("\\\n", "\n"),
    }
}

/// Whether more lines follow.
fn goes_on(text: &str) -> bool {
    let text = text.trim();
    match text.strip_prefix(FENCE) {
        Some(rest) => !rest.ends_with(FENCE),
        None => text.ends_with('\\'),
    }
}

/// Lets a message take several lines, and completes commands.
struct Multiline;

impl Helper for Multiline {}
impl Highlighter for Multiline {}

impl Hinter for Multiline {
    type Hint = String;
}

impl Completer for Multiline {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..at];
        let names = COMMANDS
            .iter()
            .filter_map(|(usage, _)| usage.split(' ').next());
        let fitting = names.filter(|name| typed.starts_with('/') && name.starts_with(typed));
        Ok((0, fitting.map(str::to_string).collect()))
    }
}

impl Validator for Multiline {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(match goes_on(context.input()) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_may_take_several_lines() {
        for (text, more) in [
            ("one", false),
            ("one\\", true),
            ("one\\\ntwo", false),
            ("\"\"\"", true),
            ("\"\"\"one\n\ntwo", true),
            ("\"\"\"\none\n\"\"\"", false),
        ] {
            assert_eq!(goes_on(text), more, "{text:?}");
        }
        assert_eq!(joined("one\\\ntwo"), "one\ntwo");
        assert_eq!(joined("\"\"\"\none\n\n two\n\"\"\""), "one\n\n two");
        assert_eq!(joined("a \\ b"), "a \\ b");
    }

    #[test]
    fn commands_are_completed() {
        let history = FileHistory::new();
        let complete = |line: &str| {
            let found = Multiline.complete(line, line.len(), &Context::new(&history));
            found.unwrap().1
        };
        assert_eq!(complete("/re"), ["/reset", "/regen"]);
        assert_eq!(complete("/sy"), ["/system"]);
        assert!(complete("re").is_empty());
    }
}
