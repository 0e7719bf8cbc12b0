//! Where a text ends because of what it says.

/// Texts that end a generation, looked for while it comes in pieces. What might be the beginning of one is held back until
/// that is known.
pub struct Stops {
    stops: Vec<Stop>,
    /// The end of the text so far that begins a stop: as long as the longest of these beginnings.
    held: String,
}

/// One of the texts, with what the algorithm of Knuth, Morris and Pratt knows of it.
struct Stop {
    text: Vec<u8>,
    /// For the beginning of each length from 1, the length of the longest shorter one that it ends with.
    shorter: Vec<usize>,
    /// How much of the stop the text so far ends with, in bytes.
    matched: usize,
}

/// What a piece brought.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    /// What can be sent; may be empty.
    pub text: String,
    /// One of the stops has come: nothing is sent after `text`.
    pub stopped: bool,
}

impl Stops {
    /// Empty texts stop nothing.
    pub fn new(texts: Vec<String>) -> Self {
        let texts = texts.into_iter().filter(|text| !text.is_empty());
        Self {
            stops: texts.map(Stop::new).collect(),
            held: String::new(),
        }
    }

    /// The stop that is complete first ends the text, where it begins; of those complete at the same place, the longest.
    ///
    /// A match begins as a stop does, with the first byte of a character, so that all cuts are between characters.
    pub fn pass(&mut self, piece: &str) -> Passed {
        let mut text = std::mem::take(&mut self.held);
        let before = text.len();
        text.push_str(piece);
        for (at, byte) in piece.bytes().enumerate() {
            let complete = self.stops.iter_mut().filter_map(|stop| stop.step(byte));
            if let Some(length) = complete.max() {
                text.truncate(before + at + 1 - length);
                return Passed {
                    text,
                    stopped: true,
                };
            }
        }
        let begun = self.stops.iter().map(|stop| stop.matched).max();
        self.held = text.split_off(text.len() - begun.unwrap_or(0));
        Passed {
            text,
            stopped: false,
        }
    }

    /// What was held back, of a text that has ended.
    pub fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

impl Stop {
    fn new(text: String) -> Self {
        let text = text.into_bytes();
        let mut shorter = vec![0; text.len()];
        let mut matched = 0;
        for at in 1..text.len() {
            while matched > 0 && text[at] != text[matched] {
                matched = shorter[matched - 1];
            }
            if text[at] == text[matched] {
                matched += 1;
            }
            shorter[at] = matched;
        }
        Self {
            text,
            shorter,
            matched: 0,
        }
    }

    /// Its length, once the text has all of it.
    fn step(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && byte != self.text[self.matched] {
            self.matched = self.shorter[self.matched - 1];
        }
        if byte == self.text[self.matched] {
            self.matched += 1;
        }
        if self.matched < self.text.len() {
            return None;
        }
        // As if the text began again, should anybody ask.
        Some(std::mem::take(&mut self.matched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stops(texts: &[&str]) -> Stops {
        Stops::new(texts.iter().map(|text| text.to_string()).collect())
    }

    /// What is sent of each piece, and of the rest if no stop has come.
    fn sent(texts: &[&str], pieces: &[&str]) -> Vec<String> {
        let mut stops = stops(texts);
        let mut sent = Vec::new();
        for piece in pieces {
            let passed = stops.pass(piece);
            sent.push(passed.text);
            if passed.stopped {
                return sent;
            }
        }
        sent.push(stops.rest());
        sent
    }

    #[test]
    fn a_stop_across_pieces_is_not_sent() {
        assert_eq!(sent(&["END"], &["a E", "N", "D b"]), ["a ", "", ""]);
        assert_eq!(
            sent(&["END"], &["a E", "N", "d b"]),
            ["a ", "", "ENd b", ""]
        );
        assert_eq!(sent(&["END"], &["a", " EN"]), ["a", " ", "EN"]);
        assert_eq!(sent(&[], &["a", "b"]), ["a", "b", ""]);
    }

    #[test]
    fn a_beginning_within_a_beginning_is_found() {
        assert_eq!(sent(&["aab"], &["aa", "ab!"]), ["", "a"]);
        assert_eq!(sent(&["abac"], &["aba", "bac"]), ["", "ab"]);
    }

    #[test]
    fn the_first_complete_stop_ends_the_text() {
        assert_eq!(sent(&["abcd", "bc"], &["xabcd"]), ["xa"]);
        assert_eq!(sent(&["c", "bc"], &["abc"]), ["a"], "the longest of two");
    }

    #[test]
    fn characters_stay_whole() {
        // These begin with the same bytes as each other.
        assert_eq!(sent(&["é"], &["aè"]), ["aè", ""]);
        assert_eq!(sent(&["日本"], &["x日", "曜"]), ["x", "日曜", ""]);
        assert_eq!(sent(&["日本"], &["x日", "本y"]), ["x", ""]);
    }

    proptest! {
        /// However a text is cut, what is sent is what precedes the stop that is complete first.
        #[test]
        fn pieces_do_not_matter(
            text in "[abé日😀]{0,30}",
            texts in prop::collection::vec("[abé日😀]{1,3}", 0..4),
            cuts in prop::collection::vec(0usize..60, 0..6),
        ) {
            let ends = texts.iter().filter_map(|stop| Some((text.find(stop)?, stop.len())));
            let first = ends.map(|(at, length)| (at + length, at)).min();
            let expected = first.map_or(&text[..], |(_, at)| &text[..at]);
            let mut places: Vec<usize> = cuts.iter().map(|&at| text.floor_char_boundary(at)).collect();
            places.extend([0, text.len()]);
            places.sort_unstable();
            let pieces: Vec<&str> = places.windows(2).map(|two| &text[two[0]..two[1]]).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            prop_assert_eq!(sent(&texts, &pieces).concat(), expected);
        }
    }
}
