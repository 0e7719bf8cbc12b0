//! Text of ids that come one at a time.
//!
//! The decoder of a tokenizer file is a chain of steps over the list of all tokens. Here each step takes one token after
//! the other and gives what can no longer change, so that what has come out is, at any time, the beginning of the text of
//! all ids, and at the end all of it.

use tokenizers::decoders::wordpiece::cleanup;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::tokenizer::DecoderWrapper;

use crate::tokenizer::bounds::{Rule, most};
use crate::tokenizer::{GPT2_END_OF_TEXT, Kind, Tokenizer};
use aios_base::error::{Error, Result};

/// What short tokens may become besides.
const ROOM_BYTES: usize = 64 << 10;

/// Turns ids that come one at a time into text, never showing half a character and never taking back what it showed:
/// all that it gives, put together, is [`Tokenizer::decode`] of all ids.
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    chain: Chain,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            chain: Chain::of(&tokenizer.kind),
            tokenizer,
        }
    }

    /// Takes the next id; gives the text that is certain with it, if any.
    ///
    /// # Errors
    /// If the tokenizer's rules make unreasonably much of a token.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        let pieces = match &*self.tokenizer.kind {
            Kind::Gpt2(tables) => {
                let core = tables.core();
                let known = Some(id).filter(|&id| id < GPT2_END_OF_TEXT);
                let bytes = known.and_then(|id| core.decode_bytes(&[id]).ok());
                bytes.map(|bytes| self.chain.bytes.push(&bytes))
            }
            Kind::Json { .. } => match self.tokenizer.token(id) {
                Some(token) => Some(self.chain.push(token).map_err(|()| self.too_much())?),
                None => None,
            },
        };
        Ok(pieces.filter(|text| !text.is_empty()))
    }

    /// The rest, with U+FFFD for bytes that never became a character. Ready for a new text after.
    ///
    /// # Errors
    /// As for [`StreamDecoder::push`].
    pub fn finish(&mut self) -> Result<Option<String>> {
        let mut chain = std::mem::replace(&mut self.chain, Chain::of(&self.tokenizer.kind));
        let text = match &*self.tokenizer.kind {
            Kind::Gpt2(_) => chain.bytes.end(),
            Kind::Json { .. } => chain.end().map_err(|()| self.too_much())?,
        };
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    fn too_much(&self) -> Error {
        Error::failed(format!(
            "tokenizer {}: the rules of its decoder make too long a text of a token",
            self.tokenizer.name
        ))
    }
}

/// The steps, and how much has gone through them.
struct Chain {
    stages: Vec<Stage>,
    /// Bytes of all tokens so far, and bytes that each stage gave.
    taken: usize,
    given: Vec<usize>,
    /// For a tokenizer whose tokens are bytes.
    bytes: Utf8Pieces,
}

impl Chain {
    fn of(kind: &Kind) -> Self {
        let mut stages = Vec::new();
        if let Kind::Json { pipeline, .. } = kind {
            match pipeline.get_decoder() {
                Some(decoder) => add(decoder, &mut false, &mut stages),
                None => stages.push(Stage::Blanks { begun: false }),
            }
        }
        Self {
            given: vec![0; stages.len()],
            stages,
            taken: 0,
            bytes: Utf8Pieces::default(),
        }
    }

    fn push(&mut self, token: String) -> Result<String, ()> {
        self.taken += token.len();
        self.run(vec![token], false)
    }

    fn end(&mut self) -> Result<String, ()> {
        self.run(Vec::new(), true)
    }

    fn run(&mut self, mut pieces: Vec<String>, ends: bool) -> Result<String, ()> {
        let most = most(self.taken) + ROOM_BYTES;
        for (stage, given) in self.stages.iter_mut().zip(&mut self.given) {
            let mut out = Vec::new();
            for piece in pieces {
                stage.push(piece, most, &mut out)?;
            }
            if ends {
                stage.end(most, &mut out)?;
            }
            *given += out.iter().map(String::len).sum::<usize>();
            if *given > most {
                return Err(());
            }
            pieces = out;
        }
        Ok(pieces.concat())
    }
}

/// One step of a decoder. It takes whole tokens, or, behind one that makes a single token of all, pieces of that.
enum Stage {
    /// Without a decoder there is a blank between tokens.
    Blanks {
        begun: bool,
    },
    /// Holds back the last token if its end means something else there.
    Bpe {
        suffix: String,
        held: Option<String>,
    },
    ByteLevel(Utf8Pieces),
    WordPiece {
        prefix: String,
        cleans: bool,
        begun: bool,
    },
    /// Blanks at the beginning of the first token are dropped.
    Metaspace {
        blank: char,
        drops: bool,
        one_token: bool,
    },
    Ctc {
        pad: String,
        delimiter: String,
        cleans: bool,
        last: Option<String>,
    },
    Replace(Rule),
    /// Of a text in pieces; `held` may be the beginning of what is to be replaced.
    ReplaceInPieces {
        literal: String,
        content: String,
        held: String,
    },
    Fuse,
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    StripInPieces {
        content: char,
        start: usize,
        stop: usize,
        held: usize,
    },
    /// Bytes that are to be text together, or none of them is.
    ByteFallback(Vec<u8>),
    /// A step that sees all of the text at once.
    Whole {
        stage: Box<Stage>,
        text: String,
    },
}

/// Adds the stages of `decoder`; `one_token` once all tokens have become one.
fn add(decoder: &DecoderWrapper, one_token: &mut bool, stages: &mut Vec<Stage>) {
    let whole = |stage| Stage::Whole {
        stage: Box::new(stage),
        text: String::new(),
    };
    let if_pieces = |pieces: bool, stage| if pieces { whole(stage) } else { stage };
    let pieces = *one_token;
    stages.push(match decoder {
        DecoderWrapper::Sequence(sequence) => {
            for inner in sequence.get_decoders() {
                add(inner, one_token, stages);
            }
            return;
        }
        DecoderWrapper::BPE(bpe) => if_pieces(
            pieces,
            Stage::Bpe {
                suffix: bpe.suffix.clone(),
                held: None,
            },
        ),
        DecoderWrapper::ByteLevel(_) => {
            *one_token = true;
            if_pieces(pieces, Stage::ByteLevel(Utf8Pieces::default()))
        }
        DecoderWrapper::WordPiece(word_piece) => if_pieces(
            pieces,
            Stage::WordPiece {
                prefix: word_piece.prefix.clone(),
                cleans: word_piece.cleanup,
                begun: false,
            },
        ),
        DecoderWrapper::Metaspace(metaspace) => Stage::Metaspace {
            blank: metaspace.get_replacement(),
            drops: metaspace.get_prepend_scheme() != PrependScheme::Never,
            one_token: pieces,
        },
        DecoderWrapper::CTC(ctc) => if_pieces(
            pieces,
            Stage::Ctc {
                pad: ctc.pad_token.clone(),
                delimiter: ctc.word_delimiter_token.clone(),
                cleans: ctc.cleanup,
                last: None,
            },
        ),
        DecoderWrapper::Replace(replace) => match Rule::of(replace) {
            Ok(Rule {
                literal: Some(literal),
                content,
                ..
            }) if pieces => Stage::ReplaceInPieces {
                literal,
                content,
                held: String::new(),
            },
            Ok(rule) => if_pieces(pieces, Stage::Replace(rule)),
            // The library has compiled the same.
            Err(_) => return,
        },
        DecoderWrapper::Fuse(_) => {
            *one_token = true;
            Stage::Fuse
        }
        DecoderWrapper::Strip(strip) => match pieces {
            true => Stage::StripInPieces {
                content: strip.content,
                start: strip.start,
                stop: strip.stop,
                held: 0,
            },
            false => Stage::Strip {
                content: strip.content,
                start: strip.start,
                stop: strip.stop,
            },
        },
        DecoderWrapper::ByteFallback(_) => if_pieces(pieces, Stage::ByteFallback(Vec::new())),
    });
}

impl Stage {
    /// Takes a token, or a piece of the one token; `most` is the longest text that may come of it.
    fn push(&mut self, token: String, most: usize, out: &mut Vec<String>) -> Result<(), ()> {
        match self {
            Self::Blanks { begun } => {
                if std::mem::replace(begun, true) {
                    out.push(" ".to_string());
                }
                out.push(token);
            }
            Self::Bpe { suffix, held } => {
                if let Some(held) = held.take() {
                    out.push(held.replace(suffix.as_str(), " "));
                }
                match token.contains(suffix.as_str()) {
                    true => *held = Some(token),
                    false => out.push(token),
                }
            }
            Self::ByteLevel(pieces) => out.push(pieces.push(&bytes_of(token))),
            Self::WordPiece {
                prefix,
                cleans,
                begun,
            } => {
                let token = match (
                    std::mem::replace(begun, true),
                    token.strip_prefix(prefix.as_str()),
                ) {
                    (false, _) => token,
                    (true, Some(rest)) => rest.to_string(),
                    (true, None) => format!(" {token}"),
                };
                out.push(if *cleans { cleanup(&token) } else { token });
            }
            Self::Metaspace {
                blank,
                drops,
                one_token,
            } => {
                let is_blank = |character| character == *blank;
                out.push(match *drops {
                    true => token.replace(is_blank, ""),
                    false => token.replace(is_blank, " "),
                });
                *drops &= *one_token;
            }
            Self::Ctc {
                pad,
                delimiter,
                cleans,
                last,
            } => {
                if last.as_ref() == Some(&token) {
                    return Ok(());
                }
                let mut text = token.replace(pad.as_str(), "");
                if *cleans {
                    text = cleanup(&text).replace(delimiter.as_str(), " ");
                }
                *last = Some(token);
                if !text.is_empty() {
                    out.push(text);
                }
            }
            Self::Replace(rule) => out.push(rule.apply(&token, most)?),
            Self::ReplaceInPieces {
                literal,
                content,
                held,
            } => {
                held.push_str(&token);
                let last = held.match_indices(literal.as_str()).last();
                let rest = last.map_or(0, |(at, _)| at + literal.len());
                let keep = begun(&held[rest..], literal);
                let sure = held.len() - keep;
                if held.len() / literal.len() * content.len() > most {
                    return Err(());
                }
                out.push(held[..sure].replace(literal.as_str(), content));
                held.drain(..sure);
            }
            Self::Fuse => out.push(token),
            Self::Strip {
                content,
                start,
                stop,
            } => {
                let token = &token[leading(&token, *content, *start)..];
                out.push(token[..token.len() - trailing(token, *content, *stop)].to_string());
            }
            Self::StripInPieces {
                content,
                start,
                stop,
                held,
            } => {
                let dropped = leading(&token, *content, *start);
                let rest = &token[dropped..];
                *start = match rest.is_empty() {
                    true => *start - dropped / content.len_utf8(),
                    false => 0,
                };
                let run = trailing(rest, *content, usize::MAX);
                let body = &rest[..rest.len() - run];
                let mut text = String::new();
                if !body.is_empty() {
                    text.extend(std::iter::repeat_n(*content, std::mem::take(held)));
                    text.push_str(body);
                }
                *held += run / content.len_utf8();
                let sure = held.saturating_sub(*stop);
                text.extend(std::iter::repeat_n(*content, sure));
                *held -= sure;
                out.push(text);
            }
            Self::ByteFallback(run) => match byte_of(&token) {
                Some(byte) => run.push(byte),
                None => {
                    end_run(run, out);
                    out.push(token);
                }
            },
            Self::Whole { text, .. } => text.push_str(&token),
        }
        Ok(())
    }

    /// There are no more tokens.
    fn end(&mut self, most: usize, out: &mut Vec<String>) -> Result<(), ()> {
        match self {
            Self::Bpe { suffix, held } => {
                out.extend(held.take().map(|held| held.replace(suffix.as_str(), "")));
            }
            Self::ByteLevel(pieces) => out.push(pieces.end()),
            Self::ReplaceInPieces { held, .. } => out.push(std::mem::take(held)),
            Self::ByteFallback(run) => end_run(run, out),
            Self::Whole { stage, text } => {
                stage.push(std::mem::take(text), most, out)?;
                stage.end(most, out)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Length of the longest end of `text` with which `literal` begins.
fn begun(text: &str, literal: &str) -> usize {
    let longest = text.len().min(literal.len() - 1);
    (1..=longest)
        .rev()
        .find(|&length| {
            let at = text.len() - length;
            text.is_char_boundary(at) && literal.starts_with(&text[at..])
        })
        .unwrap_or(0)
}

/// Length of up to `most` times `content` at the beginning of `text`.
fn leading(text: &str, content: char, most: usize) -> usize {
    let found = text.chars().take(most).take_while(|&c| c == content);
    found.count() * content.len_utf8()
}

/// The same at its end.
fn trailing(text: &str, content: char, most: usize) -> usize {
    let found = text.chars().rev().take(most).take_while(|&c| c == content);
    found.count() * content.len_utf8()
}

/// The byte that a token such as `<0x0A>` stands for.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Gives the bytes of a run as the text they are, or as one U+FFFD each.
fn end_run(run: &mut Vec<u8>, out: &mut Vec<String>) {
    if run.is_empty() {
        return;
    }
    match String::from_utf8(std::mem::take(run)) {
        Ok(text) => out.push(text),
        Err(error) => {
            let count = error.as_bytes().len();
            out.extend(std::iter::repeat_n("\u{FFFD}".to_string(), count));
        }
    }
}

/// The bytes of a token whose characters stand for one each, as GPT-2 writes them; its own if they do not.
fn bytes_of(token: String) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of_character).collect();
    bytes.unwrap_or_else(|| token.into_bytes())
}

/// Printable characters of Latin-1 stand for themselves, the others follow each other from U+0100 on.
fn byte_of_character(character: char) -> Option<u8> {
    let code = character as u32;
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Text of bytes that come in pieces: whole characters, with U+FFFD for what can be none.
#[derive(Default)]
struct Utf8Pieces {
    /// The beginning of a character.
    half: Vec<u8>,
}

impl Utf8Pieces {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.half.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.half.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(length) = error.error_len() else {
                        break;
                    };
                    text.push('\u{FFFD}');
                    rest = &rest[length..];
                }
            }
        }
        self.half = rest.to_vec();
        text
    }

    fn end(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.half)).into_owned()
    }
}

#[cfg(test)]
mod tests;
