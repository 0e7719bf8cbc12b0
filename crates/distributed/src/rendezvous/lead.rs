//! Rank 0's part.

use super::gate::{Gate, Known};
use super::place::{Place, Secret};
use super::{Brought, message, secret};
use crate::handshake;
use crate::watch::words;
use aios_base::error::{Error, Result};
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How often it looks whether somebody is there.
const LOOK: Duration = Duration::from_millis(20);

/// How long one who knows the secret may take to say what it brings.
const SAYING: Duration = Duration::from_secs(5);

/// After this long it says whom it waits for.
const QUIET: Duration = Duration::from_secs(10);

/// How long it goes on telling those who come that one cannot go on.
const LINGER: Duration = Duration::from_secs(10);

/// Another rank that is here.
struct Guest {
    stream: TcpStream,
    brought: Brought,
}

/// Those who are here.
struct Guests {
    own: Brought,
    /// By rank; rank 0's own place stays empty.
    others: Vec<Option<Guest>>,
}

pub(super) fn lead(
    place: &Place,
    size: usize,
    own: Brought,
    patience: Duration,
) -> Result<Vec<Vec<u8>>> {
    if size == 1 {
        return own.map(|own| vec![own]).map_err(Error::failed);
    }
    // The file of a secret is there until all have come.
    let (_file, text) = match &place.secret {
        Secret::Text(text) => (None, text.clone()),
        Secret::File(file) => secret::make(file).map(|(made, text)| (Some(made), text))?,
    };
    let key = place.key(&text).map_err(Error::failed)?;
    let gate = Gate::open(place, key)?;
    let mut guests = Guests {
        own,
        others: (0..size).map(|_| None).collect(),
    };
    match guests.all_come(&gate, place, patience) {
        Ok(()) => guests.part(),
        Err(error) => {
            guests.tell(&Err(error.to_string()));
            Err(error)
        }
    }
}

impl Guests {
    fn all_come(&mut self, gate: &Gate, place: &Place, patience: Duration) -> Result<()> {
        let began = Instant::now();
        let mut said = false;
        // Until when it is waited.
        let mut limit = patience;
        loop {
            self.let_in(gate);
            let (absent, words, waited) = (self.absent(), self.words(), began.elapsed());
            if words.is_some() && limit == patience {
                // Those who come a little later are told too: they would wait for a rank 0 that has gone.
                limit = patience.min(waited + LINGER);
            }
            if absent.is_empty() || waited >= limit {
                return match (words, absent.as_slice()) {
                    (Some(words), _) => Err(Error::failed(words)),
                    (None, []) => Ok(()),
                    (None, absent) => Err(Error::failed(missed(absent, place, patience))),
                };
            }
            if waited >= QUIET && !said {
                said = true;
                tracing::warn!("{}: waiting", missed(&absent, place, QUIET));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Those who have come, and not those who have left again.
    fn let_in(&mut self, gate: &Gate) {
        for known in gate.known() {
            if let Err(e) = self.admit(known, gate.key()) {
                tracing::debug!("a rank that came has gone again: {e}");
            }
        }
        let others = self.others.iter_mut();
        others.for_each(|guest| drop(guest.take_if(|guest| guest.has_left())));
    }

    fn absent(&self) -> Vec<usize> {
        let others = self.others.iter().enumerate().skip(1);
        others
            .filter(|(_, guest)| guest.is_none())
            .map(|(rank, _)| rank)
            .collect()
    }

    /// Why a rank cannot go on, if one cannot.
    fn words(&self) -> Option<String> {
        let others = self.others.iter().skip(1);
        let others = others.map(|guest| guest.as_ref().map(|guest| &guest.brought));
        let mut all = [Some(&self.own)].into_iter().chain(others).enumerate();
        all.find_map(|(rank, brought)| {
            let words = brought?.as_ref().err()?;
            Some(format!("rank {rank}: {words}"))
        })
    }

    /// A place for one who has none, and what it brings.
    fn admit(&mut self, (stream, meeting): Known, key: &[u8; 32]) -> io::Result<()> {
        let rank = meeting.rank as usize;
        let place = self.others.get_mut(rank).filter(|_| rank > 0);
        // One that was started again comes in place of the one before.
        let free = place.filter(|guest| guest.as_ref().is_none_or(Guest::has_left));
        handshake::answer(&stream, key, &meeting, free.is_some())?;
        if let Some(place) = free {
            let brought = message::receive(&stream, Instant::now() + SAYING)?;
            *place = Some(Guest { stream, brought });
        }
        Ok(())
    }

    fn tell(&self, message: &Brought) -> Vec<io::Result<()>> {
        let here = self.others.iter().flatten();
        here.map(|guest| message::send(&guest.stream, message))
            .collect()
    }

    /// All are here: each gets what all have brought.
    fn part(self) -> Result<Vec<Vec<u8>>> {
        let brought = |guest: &Option<Guest>| match guest {
            Some(guest) => guest.brought.clone(),
            None => self.own.clone(),
        };
        let all: Result<Vec<Vec<u8>>, String> = self.others.iter().map(brought).collect();
        let all = all.map_err(Error::failed)?;
        let told = self.tell(&Ok(message::joined(&all))).into_iter();
        match told
            .zip(1..)
            .find_map(|(told, rank)| Some((told.err()?, rank)))
        {
            None => Ok(all),
            Some((e, rank)) => Err(Error::failed(format!(
                "rank {rank} has gone again before all had come: {e}"
            ))),
        }
    }
}

fn missed(absent: &[usize], place: &Place, waited: Duration) -> String {
    let absent = words::absent(&[], absent, waited);
    format!("{absent} at {}", place.in_words())
}

impl Guest {
    /// Whether its connection is over: it says nothing more while it waits.
    fn has_left(&self) -> bool {
        let looked = self
            .stream
            .set_nonblocking(true)
            .and_then(|()| self.stream.peek(&mut [0]));
        let back = self.stream.set_nonblocking(false);
        let there = looked
            .is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted));
        !there || back.is_err()
    }
}
