//! The connections there are, of which only so many are kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// What a client hears for whom there is no room, since all others are being answered.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Retry-After: 2\r\nContent-Length: 21\r\nConnection: close\r\n\r\ntoo many connections\n";

/// Connections, each a task of its own.
pub struct Guests {
    most: usize,
    there: Vec<Guest>,
}

struct Guest {
    task: JoinHandle<()>,
    turn: Arc<Turn>,
}

/// Whose turn it is on a connection: ours to make an answer, or since some moment the client's, to ask for something or to
/// take it.
#[derive(Debug)]
pub struct Turn(Mutex<Option<Instant>>);

impl Turn {
    fn new() -> Self {
        Self(Mutex::new(Some(Instant::now())))
    }

    pub fn ours(&self) {
        self.set(None);
    }

    pub fn theirs(&self) {
        self.set(Some(Instant::now()));
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            there: Vec::new(),
        }
    }

    /// Attend to a new connection. Where there are too many, the one that has been waited for longest makes room, so that
    /// clients which only hold connections open keep nobody out.
    pub fn admit<F>(&mut self, stream: TcpStream, attend: impl FnOnce(TcpStream, Arc<Turn>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.there.retain(|guest| !guest.task.is_finished());
        if self.there.len() >= self.most && !self.make_room() {
            // Nor is this one waited for.
            let _ = stream.try_write(FULL);
            return;
        }
        let turn = Arc::new(Turn::new());
        let task = tokio::spawn(attend(stream, Arc::clone(&turn)));
        self.there.push(Guest { task, turn });
    }

    /// Close the connection whose client has been waited for longest; whether there was one.
    pub fn make_room(&mut self) -> bool {
        let waited = (self.there.iter().enumerate())
            .filter_map(|(at, guest)| Some((guest.turn.since()?, at)));
        let Some((_, longest)) = waited.min() else {
            return false;
        };
        self.there.swap_remove(longest).task.abort();
        true
    }
}
