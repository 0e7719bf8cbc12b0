//! A follower's way to rank 0.

use super::Invitation;
use super::words::seconds;
use crate::handshake;
use aios_base::error::{Error, Result};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long one connection may take, in each round; the last of them for all later ones.
const ROUNDS: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

const PAUSE: Duration = Duration::from_millis(200);

/// A connection to the one that leads this job.
pub(super) fn reach(rank: usize, invitation: &Invitation, patience: Duration) -> Result<TcpStream> {
    let end = Instant::now() + patience;
    // On another host somebody else may be there, or nobody: the handshake tells.
    let mut addresses = invitation.addresses.clone();
    addresses.sort_by_key(|address| !address.ip().is_loopback());
    let mut reasons = vec![String::new(); addresses.len()];
    let mut rounds = ROUNDS.into_iter();
    let mut limit = Duration::ZERO;
    loop {
        limit = rounds.next().unwrap_or(limit);
        for (address, reason) in addresses.iter().zip(&mut reasons) {
            match attempt(rank, address, &invitation.secret, limit) {
                Ok((stream, true)) => return Ok(stream),
                Ok((_, false)) => return Err(taken(rank)),
                Err(e) => *reason = format!("{address} ({e})"),
            }
            if Instant::now() >= end {
                break;
            }
        }
        if Instant::now() + PAUSE >= end {
            return Err(unreached(rank, &reasons, patience));
        }
        std::thread::sleep(PAUSE);
    }
}

fn attempt(
    rank: usize,
    address: &SocketAddr,
    secret: &[u8; 32],
    limit: Duration,
) -> io::Result<(TcpStream, bool)> {
    let number = u32::try_from(rank).map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(address, limit)?;
    let welcome = handshake::join(&stream, secret, number)?;
    Ok((stream, welcome))
}

fn taken(rank: usize) -> Error {
    Error::failed(format!(
        "rank {rank} was refused: the job has a rank {rank} already, or is over"
    ))
}

fn unreached(rank: usize, reasons: &[String], patience: Duration) -> Error {
    let tried: Vec<_> = reasons.iter().filter(|r| !r.is_empty()).cloned().collect();
    Error::failed(format!(
        "rank {rank} cannot reach rank 0 within {}, at any of its addresses: {}; does a firewall stand between?",
        seconds(patience),
        tried.join(", ")
    ))
}
