//! Both sides prove that they know the job's secret, without saying it.
//!
//! The follower names its rank and a nonce, rank 0 answers with a nonce of its own; the follower signs both and its rank,
//! then rank 0 does, and whether there is a place. A signature says which side made it, so none can be sent back.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long a stranger may take to prove that it is none; for rank 0's challenge too.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a follower waits for rank 0's proof: longer than rank 0 takes, or it would leave a place it was given.
const PROOF_PATIENCE: Duration = Duration::from_secs(10);

const GREETING: [u8; 8] = *b"aios/w1\n";
const NONCE: usize = 32;
const HELLO: usize = GREETING.len() + size_of::<u32>() + NONCE;

/// What a signature is of, besides who made it.
pub(crate) struct Meeting {
    pub(crate) rank: u32,
    follower: [u8; NONCE],
    leader: [u8; NONCE],
}

/// Who signs, and what they say by it.
#[derive(Clone, Copy, PartialEq)]
enum Signer {
    Follower,
    Welcome,
    Taken,
}

pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|e| io::Error::other(e.to_string()))
}

/// Rank 0's part, first half: a follower that knows the secret.
///
/// # Errors
/// It does not, or not in time.
pub(crate) fn examine(stream: &TcpStream, secret: &[u8; 32]) -> io::Result<Meeting> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let end = Instant::now() + PATIENCE;
    let mut hello = [0; HELLO];
    read(stream, &mut hello, end)?;
    let (greeting, rest) = hello.split_at(GREETING.len());
    let Some((rank, follower)) = rest.split_first_chunk() else {
        return Err(stranger());
    };
    if greeting != GREETING {
        return Err(stranger());
    }
    let mut meeting = Meeting {
        rank: u32::from_le_bytes(*rank),
        follower: [0; NONCE],
        leader: [0; NONCE],
    };
    meeting.follower.copy_from_slice(follower);
    random(&mut meeting.leader)?;
    let mut writer = stream;
    writer.write_all(&meeting.leader)?;
    let mut proof = [0; 32];
    read(stream, &mut proof, end)?;
    match meeting.is_signed(secret, Signer::Follower, &proof) {
        true => Ok(meeting),
        false => Err(stranger()),
    }
}

/// Rank 0's part, second half: whether there is a place.
pub(crate) fn answer(
    mut stream: &TcpStream,
    secret: &[u8; 32],
    meeting: &Meeting,
    welcome: bool,
) -> io::Result<()> {
    let signer = match welcome {
        true => Signer::Welcome,
        false => Signer::Taken,
    };
    stream.write_all(&meeting.signed(secret, signer)?)
}

/// A follower's part: whether there was a place for it.
///
/// # Errors
/// The other side does not lead this job, or is too slow.
pub(crate) fn join(mut stream: &TcpStream, secret: &[u8; 32], rank: u32) -> io::Result<bool> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut meeting = Meeting {
        rank,
        follower: [0; NONCE],
        leader: [0; NONCE],
    };
    random(&mut meeting.follower)?;
    let rank = rank.to_le_bytes();
    stream.write_all(&[&GREETING, &rank[..], &meeting.follower].concat())?;
    read(stream, &mut meeting.leader, Instant::now() + PATIENCE)?;
    stream.write_all(&meeting.signed(secret, Signer::Follower)?)?;
    let mut proof = [0; 32];
    read(stream, &mut proof, Instant::now() + PROOF_PATIENCE)?;
    if meeting.is_signed(secret, Signer::Welcome, &proof) {
        return Ok(true);
    }
    match meeting.is_signed(secret, Signer::Taken, &proof) {
        true => Ok(false),
        false => Err(stranger()),
    }
}

impl Meeting {
    fn signed(&self, secret: &[u8; 32], signer: Signer) -> io::Result<Vec<u8>> {
        let mac = self.mac(secret, signer)?;
        Ok(mac.finalize().into_bytes().to_vec())
    }

    fn is_signed(&self, secret: &[u8; 32], signer: Signer, proof: &[u8; 32]) -> bool {
        self.mac(secret, signer)
            .is_ok_and(|mac| mac.verify_slice(proof).is_ok())
    }

    fn mac(&self, secret: &[u8; 32], signer: Signer) -> io::Result<Hmac<Sha256>> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(secret).map_err(io::Error::other)?;
        mac.update(&GREETING);
        mac.update(&[signer as u8]);
        mac.update(&self.rank.to_le_bytes());
        mac.update(&self.follower);
        mac.update(&self.leader);
        Ok(mac)
    }
}

fn stranger() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it is no part of this job")
}

/// Fills `bytes` by `end`, however slowly they drip in.
pub(crate) fn read(mut stream: &TcpStream, bytes: &mut [u8], end: Instant) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(more) => filled += more,
            Err(e) => match e.kind() {
                ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                _ => return Err(e),
            },
        }
    }
    Ok(())
}
