//! What a line asks for.

use std::path::PathBuf;

/// A line that was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing is said.
    Empty,
    Say(String),
    Help,
    Reset,
    Again,
    /// Another system message, or none.
    System(Option<String>),
    Save(PathBuf),
    Quit,
    /// Such a command there is not.
    Unknown(String),
    /// What a command lacks.
    Lacks(&'static str),
}

/// Commands with what they do.
pub const COMMANDS: [(&str, &str); 6] = [
    ("/reset", "begin anew"),
    ("/regen", "another answer to the last message"),
    (
        "/system TEXT",
        "begin anew with this system message, or without one",
    ),
    (
        "/save FILE.jsonl",
        "add the conversation to a file, as a record to train on",
    ),
    ("/help", "these lines"),
    ("/quit", "end, as Ctrl-D does"),
];

/// What a line means. A text that begins with a slash is said by two of them.
pub fn parse(line: &str) -> Line {
    let text = line.trim();
    let Some(rest) = text.strip_prefix('/') else {
        return match text.is_empty() {
            true => Line::Empty,
            false => Line::Say(text.to_string()),
        };
    };
    if rest.starts_with('/') {
        return Line::Say(rest.to_string());
    }
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    match name {
        "help" | "?" => Line::Help,
        "reset" | "new" | "clear" => Line::Reset,
        "regen" | "retry" => Line::Again,
        "system" => Line::System((!argument.is_empty()).then(|| argument.to_string())),
        "save" if argument.is_empty() => {
            Line::Lacks("/save needs the name of a file: /save talk.jsonl")
        }
        "save" => Line::Save(argument.into()),
        "quit" | "exit" | "bye" => Line::Quit,
        _ => Line::Unknown(name.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let say = |text: &str| Line::Say(text.to_string());
        for (line, meant) in [
            ("  ", Line::Empty),
            (" hello\n world ", say("hello\n world")),
            ("/reset", Line::Reset),
            ("/regen ", Line::Again),
            (
                "/system  Be brief. ",
                Line::System(Some("Be brief.".to_string())),
            ),
            ("/system", Line::System(None)),
            ("/save a b.jsonl", Line::Save("a b.jsonl".into())),
            ("/exit", Line::Quit),
            ("//etc/passwd, what is it?", say("/etc/passwd, what is it?")),
            ("/etc", Line::Unknown("etc".to_string())),
        ] {
            assert_eq!(parse(line), meant, "{line:?}");
        }
        assert!(matches!(parse("/save"), Line::Lacks(_)));
    }
}
