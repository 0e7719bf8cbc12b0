//! A conversation with one model, or with two at once.

use std::path::Path;

use serde::Serialize;

use super::columns::side_by_side;
use super::command::{COMMANDS, Line, parse};
use super::input::Input;
use crate::cli::speech::{Answer, Speaker, Speech};
use aios_base::error::{Error, Result, shown};
use aios_base::terminal::{is_coloured, say, to_json_line, write_stdout};
use aios_chat::{Message, Role};
use aios_engine::{Ended, Sampling};
use aios_process::stop::CtrlC;

/// How it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most tokens of an answer.
    pub most: usize,
    pub json: bool,
    /// Somebody sits before it.
    pub at_terminal: bool,
}

/// One of those who answer.
pub struct Voice<'a> {
    name: &'a str,
    speech: &'a Speech,
    speaker: Speaker<'a>,
    sampling: Sampling,
    messages: Vec<Message>,
}

impl<'a> Voice<'a> {
    pub fn new(
        name: &'a str,
        speech: &'a Speech,
        speaker: Speaker<'a>,
        sampling: Sampling,
    ) -> Self {
        Self {
            name,
            speech,
            speaker,
            sampling,
            messages: Vec::new(),
        }
    }

    /// Leave out the oldest exchanges until there is room for an answer of half the longest text, or of `most` tokens.
    /// How many were left out.
    fn shorten(&mut self, most: usize) -> Result<usize> {
        let longest = self.speaker.longest;
        let room = most.min(longest / 2);
        let first = usize::from(
            self.messages
                .first()
                .is_some_and(|m| m.role == Role::System),
        );
        let mut left_out = 0;
        while self.speech.ids(&self.messages)?.len() + room > longest {
            // The last message is the question.
            let exchange = first..first + 2;
            if exchange.end >= self.messages.len() {
                break;
            }
            self.messages.drain(exchange);
            left_out += 1;
        }
        Ok(left_out)
    }
}

/// The conversation.
pub struct Talk<'a> {
    voices: Vec<Voice<'a>>,
    system: Option<String>,
    options: Options,
    ctrl_c: &'a CtrlC,
    /// Answers drawn so far: each has draws of its own.
    drawn: u64,
}

/// An answer as a line of JSON.
#[derive(Serialize)]
struct Said<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    model: &'a str,
    question: &'a str,
    answer: &'a str,
    prompt_tokens: usize,
    tokens: usize,
    tokens_per_second: Option<f64>,
    finish_reason: &'static str,
}

/// A conversation as a record to train on.
#[derive(Serialize)]
struct Record<'a> {
    messages: &'a [Message],
}

impl<'a> Talk<'a> {
    pub fn new(
        voices: Vec<Voice<'a>>,
        system: Option<String>,
        options: Options,
        ctrl_c: &'a CtrlC,
    ) -> Self {
        let mut talk = Self {
            voices,
            system,
            options,
            ctrl_c,
            drawn: 0,
        };
        talk.reset();
        talk
    }

    /// Answer what comes in, to its end.
    ///
    /// # Errors
    /// A model that fails, or standard input or output. At a terminal, what a template or the length has against a message is
    /// only said.
    pub fn run(&mut self, input: &mut Input) -> Result<()> {
        if self.options.at_terminal {
            say("/help names the commands; Ctrl-C ends an answer, Ctrl-D the program");
        }
        while let Some(line) = input.next()? {
            // A press that came too late for the answer.
            self.ctrl_c.was_pressed();
            let done = match parse(&line) {
                Line::Quit => return Ok(()),
                Line::Empty => Ok(()),
                Line::Say(text) => self.ask(text),
                Line::Again => self.again(),
                Line::Reset => {
                    self.reset();
                    Ok(())
                }
                Line::System(text) => {
                    self.system = text;
                    self.reset();
                    Ok(())
                }
                Line::Save(path) => self.save(&path),
                Line::Help => {
                    help();
                    Ok(())
                }
                Line::Unknown(name) => Err(Error::invalid(format!(
                    "there is no command /{name}; /help names them, and a text that begins with / is said with //"
                ))),
                Line::Lacks(what) => Err(Error::invalid(what)),
            };
            match done {
                Err(Error::Invalid(_) | Error::Failed(_)) if self.options.at_terminal => {
                    say(&done.err().map_or(String::new(), |error| error.last_words()));
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        let system = self.system.iter();
        let system: Vec<_> = system
            .map(|text| Message::new(Role::System, text))
            .collect();
        for voice in &mut self.voices {
            voice.messages.clone_from(&system);
        }
    }

    fn ask(&mut self, text: String) -> Result<()> {
        self.after(|voice| voice.messages.push(Message::new(Role::User, &text)))
    }

    fn again(&mut self) -> Result<()> {
        let answered =
            |voice: &Voice| (voice.messages.last()).is_some_and(|m| m.role == Role::Assistant);
        if !self.voices.iter().all(answered) {
            return Err(Error::invalid("/regen: there is no answer yet"));
        }
        if (self.voices.iter()).all(|voice| voice.sampling.temperature == 0.0) {
            return Err(Error::invalid(
                "/regen: the likeliest tokens are taken, so that the answer would be the same: start with --temperature 0.7 for \
                 others",
            ));
        }
        self.after(|voice| drop(voice.messages.pop()))
    }

    /// Answer after a change of all conversations; if that fails, it is as if it had not been asked.
    fn after(&mut self, change: impl Fn(&mut Voice)) -> Result<()> {
        let before = self.voices.iter().map(|voice| voice.messages.clone());
        let before: Vec<_> = before.collect();
        self.voices.iter_mut().for_each(change);
        let answered = self.answer();
        if answered.is_err() {
            for (voice, before) in self.voices.iter_mut().zip(before) {
                voice.messages = before;
            }
        }
        answered
    }

    /// Let all answer, and show what they say.
    fn answer(&mut self) -> Result<()> {
        for voice in &mut self.voices {
            let left_out = voice.shorten(self.options.most)?;
            if left_out > 0 {
                tracing::warn!(
                    "the conversation is longer than {} tokens (--max-seq-len): the oldest {left_out} of its exchanges are \
                     forgotten",
                    voice.speaker.longest
                );
            }
        }
        let width = self.columns();
        let mut answers = Vec::new();
        for at in 0..self.voices.len() {
            let answer = self.answer_of(at, width.is_some())?;
            self.voices[at]
                .messages
                .push(Message::new(Role::Assistant, &answer.text));
            answers.push(answer);
        }
        self.drawn += 1;
        if let (Some(width), [left, right]) = (width, answers.as_slice()) {
            let names = [self.voices[0].name, self.voices[1].name];
            let [left, right] = [left, right].map(|answer| harmless(&answer.text));
            let both = side_by_side(names, [&left, &right], width);
            write_stdout(both.unwrap_or_default().as_bytes())?;
        }
        if self.options.at_terminal {
            let figures: Vec<String> = answers.iter().map(figures).collect();
            say(&dim(&figures.join("; ")));
        }
        Ok(())
    }

    /// Width of the terminal, if two answers go side by side in it.
    fn columns(&self) -> Option<usize> {
        if self.voices.len() != 2 || !self.options.at_terminal {
            return None;
        }
        let (width, _) = terminal_size::terminal_size()?;
        let width = usize::from(width.0);
        side_by_side([""; 2], [""; 2], width).map(|_| width)
    }

    /// The answer of one, written as it comes unless it waits for the other.
    fn answer_of(&mut self, at: usize, waits: bool) -> Result<Answer> {
        let (options, ctrl_c, several) = (self.options, self.ctrl_c, self.voices.len() > 1);
        let voice = &mut self.voices[at];
        let streams = !options.json && !waits;
        if several && streams {
            write_stdout(format!("[{}]\n", voice.name).as_bytes())?;
        }
        let mut sampling = voice.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(self.drawn);
        let mut piece = |text: &str| {
            if streams && options.at_terminal {
                write_stdout(harmless(text).as_bytes())?;
            } else if streams {
                write_stdout(text.as_bytes())?;
            }
            Ok(!ctrl_c.was_pressed())
        };
        let ids = voice.speech.ids(&voice.messages)?;
        let answer = (voice.speaker).go_on(&ids, &sampling, options.most, &mut piece)?;
        if streams {
            write_stdout(b"\n")?;
        }
        if options.json {
            let question = voice
                .messages
                .last()
                .map_or("", |asked| asked.content.as_str());
            let said = Said {
                model: voice.name,
                question,
                answer: &answer.text,
                prompt_tokens: answer.read,
                tokens: answer.tokens,
                tokens_per_second: answer.tokens_per_second(),
                finish_reason: match answer.ended {
                    Ended::Stop => "stop",
                    Ended::Length => "length",
                    Ended::Asked => "cancelled",
                },
            };
            write_stdout(to_json_line(&said)?.as_bytes())?;
        }
        Ok(answer)
    }

    /// Add the conversations to a file of records, a line each.
    fn save(&self, path: &Path) -> Result<()> {
        if path
            .extension()
            .is_none_or(|extension| extension != "jsonl")
        {
            return Err(Error::invalid(format!(
                "/save {}: give a name that ends in .jsonl: conversations are lines of JSON there, and are added to what it has",
                shown(path)
            )));
        }
        let mut lines = String::new();
        for voice in &self.voices {
            lines += &to_json_line(&Record {
                messages: &voice.messages,
            })?;
        }
        let mut file = std::fs::OpenOptions::new();
        let file = file.create(true).append(true).open(path);
        let written =
            file.and_then(|mut file| std::io::Write::write_all(&mut file, lines.as_bytes()));
        // No reason to end the conversation.
        written.map_err(|cause| Error::failed(Error::io(path, "write", cause)))?;
        say(&format!("added to {}", shown(path)));
        Ok(())
    }
}

fn help() {
    let widest = COMMANDS
        .iter()
        .map(|(usage, _)| usage.len())
        .max()
        .unwrap_or(0);
    for (usage, what) in COMMANDS {
        say(&format!("{usage:widest$}  {what}"));
    }
    say(
        "A line that ends in \\ goes on in the next; text between two lines of \"\"\" is one message.",
    );
}

/// Without what would command the terminal.
fn harmless(text: &str) -> String {
    let shown = |c: char| match c.is_control() && !"\n\t".contains(c) {
        true => char::REPLACEMENT_CHARACTER,
        false => c,
    };
    text.chars().map(shown).collect()
}

/// What an answer took.
fn figures(answer: &Answer) -> String {
    let speed = answer.tokens_per_second();
    let speed = speed.map_or(String::new(), |speed| format!(", {speed:.1} tokens/s"));
    let cut = match answer.ended {
        Ended::Stop => "",
        Ended::Length => ", cut off (--max-new-tokens)",
        Ended::Asked => ", stopped",
    };
    format!(
        "{} tokens{speed}; the first after {:.1} s{cut}",
        answer.tokens,
        answer.reading.as_secs_f64()
    )
}

fn dim(text: &str) -> String {
    match is_coloured() {
        true => format!("\x1b[2m{text}\x1b[0m"),
        false => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_does_not_command_the_terminal() {
        assert_eq!(
            harmless("a\u{1b}[2J\r\u{9b}\tb\nc"),
            "a\u{fffd}[2J\u{fffd}\u{fffd}\tb\nc"
        );
    }
}
