//! The part of any other rank.

use super::place::{Place, SECRET, Secret};
use super::{Brought, message, secret};
use crate::handshake;
use crate::watch::words::seconds;
use aios_base::error::{Error, Result};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long one connection may take.
const CONNECTING: Duration = Duration::from_secs(3);

const PAUSE: Duration = Duration::from_millis(200);

/// How much longer than rank 0 waits for others its word may take.
const SLACK: Duration = Duration::from_secs(30);

pub(super) fn follow(
    place: &Place,
    rank: usize,
    brought: Brought,
    patience: Duration,
) -> Result<Vec<Vec<u8>>> {
    // One that cannot go on has only to say so.
    let patience = match brought {
        Ok(_) => patience,
        Err(_) => patience.min(SLACK),
    };
    let end = Instant::now() + patience;
    loop {
        // Rank 0 may not have begun yet, or begin again: whatever goes wrong, a later attempt may not.
        let why = match attempt(place, rank, &brought, patience + SLACK) {
            Ok(Ok(all)) => return message::parted(&all).ok_or_else(nonsense),
            Ok(Err(words)) => return Err(Error::failed(words)),
            Err(why) => why,
        };
        if Instant::now() + PAUSE >= end {
            return Err(Error::failed(match brought {
                Ok(_) => format!(
                    "rank {rank} has not met rank 0 at {} within {}: {why}",
                    place.in_words(),
                    seconds(patience)
                ),
                Err(words) => format!("rank {rank}: {words}"),
            }));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Rank 0's word.
fn attempt(
    place: &Place,
    rank: usize,
    brought: &Brought,
    patience: Duration,
) -> io::Result<Brought> {
    // Read each time: an earlier job may have left its own.
    let text = match &place.secret {
        Secret::Text(text) => text.clone(),
        Secret::File(file) => secret::read(file)?,
    };
    let key = place.key(&text)?;
    let mut why = io::Error::other(format!("{} has no address", place.host));
    for address in place.addresses()? {
        match join(&address, rank, &key) {
            Ok(stream) => {
                message::send(&stream, brought)?;
                return message::receive(&stream, Instant::now() + patience);
            }
            Err(e) => why = io::Error::new(e.kind(), format!("{address}: {e}")),
        }
    }
    Err(why)
}

/// A place at `address`.
fn join(address: &SocketAddr, rank: usize, key: &[u8; 32]) -> io::Result<TcpStream> {
    let number = u32::try_from(rank).map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(address, CONNECTING)?;
    stream.set_nodelay(true)?;
    match handshake::join(&stream, key, number) {
        Ok(true) => Ok(stream),
        Ok(false) => Err(io::Error::other(format!(
            "the job has a rank {rank} already, or none of that number"
        ))),
        // What rank 0 does where the proof is not one.
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(io::Error::other(format!(
            "who listens there is not of this job; is {SECRET} the same on all hosts?"
        ))),
        Err(e) => Err(e),
    }
}

fn nonsense() -> Error {
    Error::failed(
        "rank 0 says what this version does not understand: all ranks have to run the same version",
    )
}
