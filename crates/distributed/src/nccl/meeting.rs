//! How ranks become one job of NCCL's.

use super::engine::Engine;
use super::find;
use super::functions::{Functions, ID, Id, in_words};
use super::staging::Staging;
use super::{GRAIN, PIECE};
use crate::rendezvous::Brought;
use crate::{Collectives, world};
use aios_base::error::{Error, Result};
use std::ffi::c_int;
use std::path::PathBuf;

/// A rank that has all it needs but the others.
pub struct Ready {
    call: Functions,
    staging: Staging,
    size: usize,
    version: c_int,
    file: PathBuf,
}

impl Ready {
    /// On the device of that index.
    pub fn on(device: Result<usize>, size: usize) -> Result<Self> {
        let device = device?;
        let found = find::nccl()?;
        let call = Functions::of(&found)?;
        Ok(Self {
            version: call.version()?,
            staging: Staging::on(device, PIECE.max(size * GRAIN))?,
            call,
            size,
            file: found.file,
        })
    }

    /// Name, version and file of the library.
    pub fn in_words(&self) -> String {
        format!("{} ({})", in_words(self.version), self.file.display())
    }

    /// What others have to know of this rank: the library's version and, of rank 0, the number to join by.
    fn card(&self, rank: usize) -> Result<Vec<u8>> {
        let mut card = self.version.to_le_bytes().to_vec();
        if rank == 0 {
            card.extend(self.call.unique_id()?.0);
        }
        Ok(card)
    }

    /// Join the others, whose cards are these by rank. Returns once all have.
    pub fn join(self, rank: usize, cards: &[Vec<u8>]) -> Result<Engine> {
        let id = number(self.version, cards)?;
        let comm = self.call.join(rank, self.size, id)?;
        Ok(Engine::new(
            self.call,
            comm,
            self.staging,
            [rank, self.size],
        ))
    }
}

/// The number to join by, if all ranks have the same library: others do not understand each other, or crash.
fn number(own: c_int, cards: &[Vec<u8>]) -> Result<Id> {
    let (versions, id) = match cards {
        [] => return Err(nonsense()),
        [first, ..] => (cards.iter(), first.get(4..)),
    };
    for (rank, card) in versions.enumerate() {
        let version = card.first_chunk().ok_or_else(nonsense)?;
        let version = c_int::from_le_bytes(*version);
        if version != own {
            return Err(Error::failed(format!(
                "rank {rank} has {}, and another {}: all ranks need the same",
                in_words(version),
                in_words(own)
            )));
        }
    }
    let id: Option<[u8; ID]> = id.and_then(|id| id.try_into().ok());
    id.map(Id).ok_or_else(nonsense)
}

/// What a rank brings to the others.
pub fn brought(ready: &Result<Ready>, rank: usize) -> Brought {
    match ready {
        Ok(ready) => ready.card(rank).map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// Join the ranks that `other` has joined; the library in words too.
///
/// # Errors
/// The same on all ranks, unless it is that of `other`.
pub fn over(other: &mut dyn Collectives, device: Result<usize>) -> Result<(Engine, String)> {
    let (rank, size) = (other.rank(), other.size());
    let ready = Ready::on(device, size);
    let cards = exchange(other, &brought(&ready, rank))?;
    let ready = ready?;
    let library = ready.in_words();
    let joined = ready.join(rank, &cards);
    // One that has joined others who have not would wait for them.
    let outcome = joined
        .as_ref()
        .map(|_| Vec::new())
        .map_err(ToString::to_string);
    exchange(other, &outcome)?;
    Ok((joined?, library))
}

/// What all ranks bring, or the words of the first that cannot go on.
fn exchange(other: &mut dyn Collectives, own: &Brought) -> Result<Vec<Vec<u8>>> {
    let text = match own {
        Ok(bytes) => [&[0], &bytes[..]].concat(),
        Err(words) => [&[1], words.as_bytes()].concat(),
    };
    let all = world::gather(other, &text)?.into_iter().enumerate();
    all.map(|(rank, text)| match text.split_first() {
        Some((0, bytes)) => Ok(bytes.to_vec()),
        Some((_, words)) => Err(Error::failed(format!(
            "rank {rank}: {}",
            String::from_utf8_lossy(words)
        ))),
        None => Err(nonsense()),
    })
    .collect()
}

fn nonsense() -> Error {
    Error::failed(
        "another rank says what this version does not understand: all ranks have to run the same version",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cards(versions: &[c_int]) -> Vec<Vec<u8>> {
        let cards = versions.iter().enumerate().map(|(rank, version)| {
            let id = [7; ID];
            [
                &version.to_le_bytes()[..],
                if rank == 0 { &id } else { &[] },
            ]
            .concat()
        });
        cards.collect()
    }

    #[test]
    fn one_with_another_library_is_named() {
        assert_eq!(
            number(22_703, &cards(&[22_703, 22_703])).unwrap().0,
            [7; ID]
        );
        let error = number(22_703, &cards(&[22_703, 22_105]))
            .map(drop)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("rank 1 has NCCL 2.21.5, and another NCCL 2.27.3"),
            "{error}"
        );
        assert!(number(1, &[]).is_err() && number(1, &[vec![1, 0, 0, 0]]).is_err());
    }
}
