//! Where ranks join: rank 0's door.

use super::shared::Shared;
use super::{addresses, threads};
use crate::{doors, handshake};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Connections that have proved nothing yet; others wait in the system's queue.
const STRANGERS: usize = 64;

/// How often it looks whether somebody is there: only until all have joined.
const LOOK: Duration = Duration::from_millis(20);

pub(super) struct Gate {
    listeners: Vec<TcpListener>,
    secret: [u8; 32],
}

impl Gate {
    pub(super) fn open(secret: [u8; 32]) -> io::Result<Self> {
        let hosts = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let listeners = doors::listen(hosts, 0)?;
        Ok(Self { listeners, secret })
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let locals = || self.listeners.iter().filter_map(|l| l.local_addr().ok());
        let hosts = addresses::of_this_host();
        let ports = hosts.iter().flat_map(|host| {
            let same = locals().filter(|local| local.is_ipv4() == host.is_ipv4());
            same.map(|local| SocketAddr::new(*host, local.port()))
        });
        ports.collect()
    }

    /// Lets ranks in until all are here, or the job is over.
    pub(super) fn serve(&self, shared: &Arc<Shared>) {
        // Each stranger holds a clone.
        let strangers = Arc::new(());
        while shared.is_open() {
            std::thread::sleep(LOOK);
            for listener in &self.listeners {
                while Arc::strong_count(&strangers) <= STRANGERS
                    && let Ok((stream, _)) = listener.accept()
                {
                    self.look_at(stream, shared, strangers.clone());
                }
            }
        }
    }

    fn look_at(&self, stream: TcpStream, shared: &Arc<Shared>, stranger: Arc<()>) {
        let (secret, shared) = (self.secret, shared.clone());
        let looked = threads::spawn("watch stranger", move || {
            if let Err(e) = admit(stream, &secret, &shared) {
                tracing::debug!("a connection to the watch was refused: {e}");
            }
            drop(stranger);
        });
        if let Err(e) = looked {
            tracing::debug!("{e}");
        }
    }
}

fn admit(stream: TcpStream, secret: &[u8; 32], shared: &Arc<Shared>) -> io::Result<()> {
    // Some systems hand on what the listener is.
    stream.set_nonblocking(false)?;
    let meeting = handshake::examine(&stream, secret)?;
    let rank = meeting.rank as usize;
    let welcome = shared.take_place(rank);
    let answered = handshake::answer(&stream, secret, &meeting, welcome);
    match (welcome, answered) {
        (true, Ok(())) => {
            if let Err(e) = threads::connect(shared, rank, stream) {
                shared.fail(&e.to_string(), Duration::ZERO);
            }
            Ok(())
        }
        (true, Err(e)) => {
            shared.leave_place(rank);
            Err(e)
        }
        (false, _) => Err(io::Error::other(format!(
            "there is no place for rank {rank}"
        ))),
    }
}
