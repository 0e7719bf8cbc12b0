//! UTF-16 text as UTF-8.

use std::io::{self, Read};

const BUFFER_BYTES: usize = 32 * 1024;

/// Gives in UTF-8 what `inner` gives in UTF-16, byte order mark included.
pub(super) struct Utf16Reader<R> {
    inner: R,
    unit: fn([u8; 2]) -> u16,
    /// A NUL in place of an error for what is not UTF-16.
    lossy: bool,
    /// Half a unit that waits for the other half.
    half: Option<u8>,
    /// The first half of a character that takes two units.
    high: Option<u16>,
    /// Bytes of whole units taken from `inner`.
    offset: u64,
    ended: bool,
    text: Vec<u8>,
    /// How much of `text` was given.
    given: usize,
}

impl<R: Read> Utf16Reader<R> {
    /// `unit` makes a unit of its two bytes.
    pub(super) fn new(inner: R, unit: fn([u8; 2]) -> u16, lossy: bool) -> Self {
        Self {
            inner,
            unit,
            lossy,
            half: None,
            high: None,
            offset: 0,
            ended: false,
            text: Vec::new(),
            given: 0,
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.text.clear();
        self.given = 0;
        let mut bytes: Vec<u8> = self.half.take().into_iter().collect();
        let room = (BUFFER_BYTES - bytes.len()) as u64;
        let read = self.inner.by_ref().take(room).read_to_end(&mut bytes)?;
        self.ended = (read as u64) < room;
        let (pairs, rest) = bytes.as_chunks();
        for &pair in pairs {
            self.push((self.unit)(pair))?;
            self.offset += 2;
        }
        self.half = rest.first().copied();
        if self.ended {
            if self.high.take().is_some() {
                self.broken(self.offset - 2)?;
            }
            if self.half.take().is_some() {
                self.broken(self.offset)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, unit: u16) -> io::Result<()> {
        let high = self.high.take();
        let units = high.into_iter().chain([unit]);
        let mut start = self.offset - 2 * high.iter().len() as u64;
        for character in char::decode_utf16(units) {
            match character {
                Ok(character) => {
                    let mut utf8 = [0; 4];
                    self.text
                        .extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
                }
                Err(error) if start == self.offset && is_high(error.unpaired_surrogate()) => {
                    self.high = Some(error.unpaired_surrogate());
                }
                Err(_) => self.broken(start)?,
            }
            start += 2;
        }
        Ok(())
    }

    fn broken(&mut self, at: u64) -> io::Result<()> {
        if self.lossy {
            self.text.push(0);
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "half a character at byte {at}, so it is not UTF-16 text; convert it to UTF-8 or leave it out"
            ),
        ))
    }
}

fn is_high(unit: u16) -> bool {
    (0xD800..0xDC00).contains(&unit)
}

impl<R: Read> Read for Utf16Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.text.len() && !self.ended {
            self.refill()?;
        }
        let read = (&self.text[self.given..]).read(out)?;
        self.given += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(units: &[u16]) -> Vec<u8> {
        units.iter().copied().flat_map(u16::to_be_bytes).collect()
    }

    fn decode(bytes: &[u8], lossy: bool) -> io::Result<String> {
        let mut text = String::new();
        Utf16Reader::new(bytes, u16::from_be_bytes, lossy).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn characters_survive_every_buffer_boundary() {
        for shift in 0..3 {
            let expected = "x".repeat(shift) + &"é🦀日".repeat(BUFFER_BYTES / 5);
            let units: Vec<u16> = expected.encode_utf16().collect();
            assert_eq!(decode(&bytes(&units), false).unwrap(), expected);
        }
    }

    #[test]
    fn half_a_character_is_named_with_its_byte() {
        let cases = [
            (vec![0x61, 0xD83E, 0x62], 2),
            (vec![0x61, 0xDD80], 2),
            (vec![0x61, 0x62, 0xD83E], 4),
            (vec![0xD83E, 0xD83E, 0xDD80], 0),
        ];
        for (units, at) in cases {
            let error = decode(&bytes(&units), false).unwrap_err().to_string();
            assert!(error.contains(&format!("byte {at},")), "{error}");
        }
        assert!(decode(b"\0a\0", false).is_err());
    }

    #[test]
    fn what_is_not_text_becomes_nul_if_that_is_asked_for() {
        let text = decode(&bytes(&[0x61, 0xD83E, 0x62, 0xDD80]), true).unwrap();
        assert_eq!(text, "a\0b\0");
    }
}
