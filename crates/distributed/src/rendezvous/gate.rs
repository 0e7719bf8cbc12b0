//! Rank 0's door.

use super::place::{PORT, Place};
use crate::doors;
use crate::handshake::{self, Meeting};
use aios_base::error::{Error, Result};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Connections that have proved nothing yet; others wait in the system's queue.
const STRANGERS: usize = 64;

/// How long an earlier job may take to leave the port.
const LEAVING: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(100);

/// One that knows the secret, and waits to hear whether it has a place.
pub(super) type Known = (TcpStream, Meeting);

pub(super) struct Gate {
    listeners: Vec<TcpListener>,
    key: [u8; 32],
    tell: Sender<Known>,
    known: Receiver<Known>,
    /// Each stranger holds a clone.
    strangers: Arc<()>,
}

impl Gate {
    /// Listen: where all ranks are on this host, to them alone.
    ///
    /// # Errors
    /// The port stays taken.
    pub(super) fn open(place: &Place, key: [u8; 32]) -> Result<Self> {
        let began = Instant::now();
        let listeners = loop {
            match listen(place) {
                Ok(listeners) => break listeners,
                Err(e) if e.kind() == ErrorKind::AddrInUse && began.elapsed() < LEAVING => {
                    std::thread::sleep(PAUSE);
                }
                Err(e) => {
                    let port = place.port;
                    return Err(Error::failed(format!(
                        "rank 0 cannot listen at port {port} for the other ranks: {e}; set {PORT} to a free one on all ranks"
                    )));
                }
            }
        };
        let (tell, known) = channel();
        Ok(Self {
            listeners,
            key,
            tell,
            known,
            strangers: Arc::default(),
        })
    }

    /// Those who have proved by now that they know the secret.
    pub(super) fn known(&self) -> Vec<Known> {
        for listener in &self.listeners {
            while Arc::strong_count(&self.strangers) <= STRANGERS
                && let Ok((stream, _)) = listener.accept()
            {
                self.look_at(stream);
            }
        }
        self.known.try_iter().collect()
    }

    pub(super) fn key(&self) -> &[u8; 32] {
        &self.key
    }

    fn look_at(&self, stream: TcpStream) {
        let (key, tell, stranger) = (self.key, self.tell.clone(), self.strangers.clone());
        let thread = std::thread::Builder::new().name("rendezvous stranger".into());
        let looked = thread.spawn(move || {
            match examined(&stream, &key) {
                // Where the job has begun or ended meanwhile nobody hears it.
                Ok(meeting) => drop(tell.send((stream, meeting))),
                Err(e) => tracing::debug!("a connection of a stranger was refused: {e}"),
            }
            drop(stranger);
        });
        if let Err(e) = looked {
            tracing::debug!("cannot start a thread: {e}");
        }
    }
}

fn examined(stream: &TcpStream, key: &[u8; 32]) -> io::Result<Meeting> {
    // Some systems hand on what the listener is.
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    handshake::examine(stream, key)
}

fn listen(place: &Place) -> io::Result<Vec<TcpListener>> {
    let hosts: [IpAddr; 2] = match place.is_here() {
        true => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        false => [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()],
    };
    doors::listen(hosts, place.port)
}
