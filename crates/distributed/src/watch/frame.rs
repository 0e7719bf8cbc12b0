//! What ranks say to each other once they know each other.

/// The longest body, in bytes: a line cut to about 2000.
const LONGEST: usize = 2048;

/// Bytes before a body: what it is, and its length.
pub(super) const HEAD: usize = 3;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    /// Each interval, both ways.
    Beat { progress: u64, waiting: bool },
    /// A follower cannot go on, and why.
    Words(String),
    /// What ended the job, for the sender.
    Verdict(String),
    /// The sender ends by itself.
    Bye,
    /// Rank 0 has heard a goodbye.
    Got,
}

impl Frame {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Beat { progress, waiting } => {
                let mut body = progress.to_le_bytes().to_vec();
                body.push(u8::from(*waiting));
                (1, body)
            }
            Self::Words(text) => (2, cut(text)),
            Self::Verdict(text) => (3, cut(text)),
            Self::Bye => (4, Vec::new()),
            Self::Got => (5, Vec::new()),
        };
        // At most LONGEST.
        let [low, high] = (body.len() as u16).to_le_bytes();
        [&[kind, low, high], &body[..]].concat()
    }

    /// The length of the body that follows, if such a thing can be.
    pub(super) fn length([_, low, high]: [u8; HEAD]) -> Option<usize> {
        let length = usize::from(u16::from_le_bytes([low, high]));
        (length <= LONGEST).then_some(length)
    }

    pub(super) fn parsed([kind, ..]: [u8; HEAD], body: &[u8]) -> Option<Self> {
        match (kind, body) {
            (1, &[a, b, c, d, e, f, g, h, waiting @ (0 | 1)]) => Some(Self::Beat {
                progress: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                waiting: waiting == 1,
            }),
            (2, text) => Some(Self::Words(shown(text))),
            (3, text) => Some(Self::Verdict(shown(text))),
            (4, []) => Some(Self::Bye),
            (5, []) => Some(Self::Got),
            _ => None,
        }
    }
}

fn cut(text: &str) -> Vec<u8> {
    text.as_bytes()[..text.floor_char_boundary(LONGEST)].to_vec()
}

/// It goes to a terminal: no characters that would move its cursor.
fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(char::is_control, "\u{FFFD}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(bytes: &[u8]) -> Option<Frame> {
        let (head, body) = bytes.split_first_chunk()?;
        assert_eq!(Frame::length(*head), Some(body.len()));
        Frame::parsed(*head, body)
    }

    #[test]
    fn frames_arrive_as_they_were_sent() {
        let beat = Frame::Beat {
            progress: 7 << 40,
            waiting: true,
        };
        let frames = [
            beat,
            Frame::Words("é".to_string()),
            Frame::Verdict(String::new()),
            Frame::Bye,
            Frame::Got,
        ];
        for frame in frames {
            assert_eq!(back(&frame.bytes()), Some(frame));
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_what_is_no_frame_refused() {
        let long = Frame::Words("é".repeat(3000)).bytes();
        assert_eq!(back(&long), Some(Frame::Words("é".repeat(LONGEST / 2))));
        assert_eq!(Frame::length([1, 255, 255]), None);
        assert_eq!(Frame::parsed([0, 0, 0], &[]), None);
        assert_eq!(Frame::parsed([1, 9, 0], &[2; 9]), None);
        assert_eq!(Frame::parsed([4, 1, 0], &[0]), None);
        let control = Frame::parsed([2, 2, 0], b"\x1b\xff");
        assert_eq!(control, Some(Frame::Words("\u{FFFD}\u{FFFD}".to_string())));
    }
}
