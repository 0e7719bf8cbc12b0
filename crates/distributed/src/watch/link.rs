//! A connection to a rank that is known.

use super::frame::{Frame, HEAD};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often one that reads or writes looks whether the link is closed.
const LOOK: Duration = Duration::from_millis(500);

pub(super) struct Link {
    stream: TcpStream,
    /// Last words only, each of them once: beats are made when they are written.
    outbox: Mutex<Vec<Frame>>,
    posted: Condvar,
    closed: AtomicBool,
}

impl Link {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(LOOK))?;
        Ok(Self {
            stream,
            outbox: Mutex::default(),
            posted: Condvar::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// To be sent as soon as the other side takes it.
    pub(super) fn post(&self, frame: Frame) {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.push(frame);
        self.posted.notify_all();
    }

    /// What was posted, after `patience` at most.
    pub(super) fn posted(&self, patience: Duration) -> Vec<Frame> {
        let outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = |outbox: &mut Vec<Frame>| outbox.is_empty() && !self.is_closed();
        let waited = self.posted.wait_timeout_while(outbox, patience, nothing);
        let (mut outbox, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut outbox)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        let outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Relaxed);
        self.posted.notify_all();
        drop(outbox);
        // Closed by the other side already, at worst.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// All of it, however long the other side takes, as half a frame cannot be taken back.
    pub(super) fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.checked((&self.stream).write(bytes))? {
                Some(written) => bytes = &bytes[written..],
                None => continue,
            }
        }
        Ok(())
    }

    pub(super) fn receive(&self) -> io::Result<Frame> {
        let nonsense = || io::Error::from(ErrorKind::InvalidData);
        let mut head = [0; HEAD];
        self.fill(&mut head)?;
        let mut body = vec![0; Frame::length(head).ok_or_else(nonsense)?];
        self.fill(&mut body)?;
        Frame::parsed(head, &body).ok_or_else(nonsense)
    }

    fn fill(&self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if let Some(read) = self.checked((&self.stream).read(bytes))? {
                bytes = &mut bytes[read..];
            }
        }
        Ok(())
    }

    /// `None` where it is to be tried again.
    fn checked(&self, moved: io::Result<usize>) -> io::Result<Option<usize>> {
        match moved {
            _ if self.is_closed() => Err(ErrorKind::ConnectionAborted.into()),
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(moved) => Ok(Some(moved)),
            Err(e) if is_over(e.kind()) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Whether only the time of one call was over. Windows says of it what others say of a dead connection.
fn is_over(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
        || cfg!(windows) && kind == ErrorKind::TimedOut
}
