//! The threads of a connection.

use super::cannot;
use super::frame::Frame;
use super::link::Link;
use super::shared::Shared;
use aios_base::error::Result;
use std::net::TcpStream;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Nothing deep is done on these threads, and rank 0 has two for each other rank.
const STACK: usize = 256 * 1024;

/// From now on `stream` is the way to `rank`.
pub(super) fn connect(shared: &Arc<Shared>, rank: usize, stream: TcpStream) -> Result<()> {
    let link = Link::new(stream).map_err(cannot("use a connection"))?;
    let link = Arc::new(link);
    shared.seat(rank, &link);
    let (to_write, writing) = (shared.clone(), link.clone());
    spawn("watch writer", move || write(&to_write, &writing))?;
    let reading = shared.clone();
    spawn("watch reader", move || read(&reading, rank, &link))
}

fn read(shared: &Shared, rank: usize, link: &Link) {
    loop {
        match link.receive() {
            Ok(frame) => shared.hear(rank, frame),
            Err(e) => {
                shared.lose(rank, &e);
                return link.close();
            }
        }
    }
}

/// Beats and last words, until the link is closed. One that breaks is noticed by its reader.
fn write(shared: &Shared, link: &Link) {
    let mut next = Instant::now();
    while !link.is_closed() {
        let frames = link.posted(next.saturating_duration_since(Instant::now()));
        let mut bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        let now = Instant::now();
        if now >= next {
            let (progress, waiting) = shared.beat();
            bytes.extend(Frame::Beat { progress, waiting }.bytes());
            next = now + shared.interval;
        }
        #[cfg(test)]
        if shared.mute.load(Ordering::Relaxed) {
            continue;
        }
        if link.send(&bytes).is_err() {
            return;
        }
    }
}

pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let builder = std::thread::Builder::new().name(name.to_string());
    let spawned = builder.stack_size(STACK).spawn(work);
    spawned
        .map(drop)
        .map_err(cannot("start a thread of the watch"))
}
