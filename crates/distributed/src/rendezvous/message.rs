//! What is said at the place, once both sides know each other.

use super::Brought;
use crate::handshake;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::time::Instant;

/// The longest message, in bytes: more than all ranks of the largest jobs bring.
const LONGEST: usize = 16 << 20;

const FINE: u8 = 0;
const WORDS: u8 = 1;

/// The write limit is the stream's own.
pub(super) fn send(mut to: &TcpStream, message: &Brought) -> io::Result<()> {
    let (kind, body) = match message {
        Ok(bytes) => (FINE, bytes.as_slice()),
        Err(words) => (WORDS, words.as_bytes()),
    };
    let length = (body.len() as u32).to_le_bytes();
    to.write_all(&[&[kind], &length[..], body].concat())
}

/// What comes by `end`.
pub(super) fn receive(from: &TcpStream, end: Instant) -> io::Result<Brought> {
    let mut head = [0; 5];
    handshake::read(from, &mut head, end)?;
    let [kind, length @ ..] = head;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    handshake::read(from, &mut body, end)?;
    match kind {
        FINE => Ok(Ok(body)),
        WORDS => Ok(Err(String::from_utf8_lossy(&body).into_owned())),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// What all have brought, as one.
pub(super) fn joined(all: &[Vec<u8>]) -> Vec<u8> {
    let each = all
        .iter()
        .flat_map(|one| [&(one.len() as u32).to_le_bytes()[..], one].concat());
    each.collect()
}

/// The same taken apart; `None` if it is nothing of the kind.
pub(super) fn parted(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk()?;
        let (one, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        all.push(one.to_vec());
        bytes = rest;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_joined_comes_apart_and_nonsense_does_not() {
        let all = vec![vec![1, 2], vec![], vec![3]];
        assert_eq!(parted(&joined(&all)), Some(all.clone()));
        assert_eq!(parted(&[9, 0, 0, 0, 1]), None);
        assert_eq!(parted(&[9]), None);
    }
}
