//! Connections: taken, limited, and ended.
//!
//! All of them live on the calling thread, in a runtime that never computes; the model has a thread of its own.

use crate::failure::Failure;
use crate::generator::Generator;
use crate::routes;
use crate::settings::{Limits, Settings};
use crate::worker::Worker;
use aios_base::error::{Error, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

/// Longest request line and headers together.
const LONGEST_HEAD: usize = 64 << 10;
/// Between two looks at whether to stop.
const LOOK: Duration = Duration::from_millis(100);
/// After a system's refusal to take a connection, such as for too many open files.
const PAUSE: Duration = Duration::from_millis(50);
/// For clients to take the end of what was cut.
const FAREWELL: Duration = Duration::from_millis(500);
/// Connections beyond the limit that are told so, and for how long at most; those beyond are closed without a word.
const TURNED_AWAY: usize = 50;
const TURN_AWAY: Duration = Duration::from_secs(1);
/// For the model's thread to end once nothing is wanted from it. A process that ends earlier may take a device's driver from
/// under it.
const LEAVE: Duration = Duration::from_secs(5);

/// Makes the model, on the thread that it will compute on.
pub type Build = Box<dyn FnOnce() -> Result<Box<dyn Generator>> + Send>;

/// Serve a model until `stop` says so, which is asked about ten times a second. `started` hears where, once the model is there
/// and requests are answered; a port that is taken is found out before the model is built.
///
/// On a stop, no more is taken, those who wait are told, and the text that is being made has [`Limits::stop_time`] to end. A
/// model that is still computing seconds after that is left to the end of the process.
///
/// # Errors
/// Settings that cannot be; an address that cannot be listened on; whatever `build` says; and a model that has panicked or lost
/// its device ([`Error::Device`]).
pub fn serve(
    settings: Settings,
    build: Build,
    stop: &dyn Fn() -> bool,
    started: &mut dyn FnMut(SocketAddr),
) -> Result<()> {
    settings.check()?;
    let (listener, address) = listen(settings.address)?;
    let cannot = |cause| Error::failed(format!("cannot serve on {address}: {cause}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(cannot)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(cannot)?;
        let limits = settings.limits;
        let mut worker = Worker::start(build, limits.queue, limits.generation_time)?;
        let outcome = tokio::select! {
            built = &mut worker.built => match built {
                Ok(()) => {
                    started(address);
                    let router = routes::router(&settings, address, Arc::clone(&worker.queue));
                    attend(&listener, router, &limits, &mut worker, stop).await
                }
                Err(_) => Some(death(&mut worker).await),
            },
            () = until(stop) => None,
        };
        match outcome {
            Some(outcome) => outcome,
            None => {
                leave(&mut worker).await;
                Ok(())
            }
        }
    })
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listen = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    listen().map_err(|cause: io::Error| {
        let way_out = match cause.kind() {
            io::ErrorKind::AddrInUse => "choose another --port, or 0 for any free one",
            io::ErrorKind::PermissionDenied => "choose a --port above 1023",
            _ => "choose another --host, such as 127.0.0.1",
        };
        Error::failed(format!("cannot serve on {address}: {cause}; {way_out}"))
    })
}

async fn until(stop: &dyn Fn() -> bool) {
    while !stop() {
        sleep(LOOK).await;
    }
}

/// Why the worker has ended.
async fn death(worker: &mut Worker) -> Result<()> {
    let outcome = (&mut worker.ended).await;
    outcome.unwrap_or_else(|_| {
        Err(Error::failed(
            "the model's thread has panicked; its message is above",
        ))
    })
}

/// The worker ends by itself once it learns that nothing is wanted.
async fn leave(worker: &mut Worker) {
    worker.queue.close(&Failure::stopping());
    worker.cut.store(true, Ordering::Relaxed);
    if timeout(LEAVE, &mut worker.ended).await.is_err() {
        tracing::warn!("the model still computes and is left to the end of the process");
    }
}

/// Take connections until there is a stop, or the worker's end, which is returned.
async fn attend(
    listener: &tokio::net::TcpListener,
    router: Router,
    limits: &Limits,
    worker: &mut Worker,
    stop: &dyn Fn() -> bool,
) -> Option<Result<()>> {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(limits.connections));
    let door = Arc::new(Semaphore::new(TURNED_AWAY));
    let outcome = {
        let mut stopped = pin!(until(stop));
        let mut dead = pin!(death(worker));
        loop {
            let taken = tokio::select! {
                taken = listener.accept() => taken,
                () = &mut stopped => break None,
                outcome = &mut dead => break Some(outcome),
            };
            match taken {
                Ok((stream, _)) => {
                    if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
                        meet(stream, router.clone(), limits, &graceful, place);
                    } else if let Ok(place) = Arc::clone(&door).try_acquire_owned() {
                        tokio::spawn(turn_away(stream, place));
                    }
                }
                Err(cause) => {
                    tracing::debug!("cannot take a connection: {cause}");
                    sleep(PAUSE).await;
                }
            }
        }
    };
    part(graceful, limits, worker).await;
    outcome
}

/// Answer the requests of a connection until it ends, which it does when its client has ended its side: that is how a text is
/// no longer wanted.
fn meet(
    stream: TcpStream,
    router: Router,
    limits: &Limits,
    graceful: &GracefulShutdown,
    place: OwnedSemaphorePermit,
) {
    // Pieces are small, and are to arrive at once.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.answer_time));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            TowerToHyperService::new(router),
        );
    let served = graceful.watch(served);
    tokio::spawn(async move {
        if let Err(cause) = served.await {
            tracing::debug!("a connection ended: {cause}");
        }
        drop(place);
    });
}

/// There is no room for this client. What it says is read, since a connection that is closed over it loses the answer.
async fn turn_away(mut stream: TcpStream, _place: OwnedSemaphorePermit) {
    let answer = Failure::too_many_connections().bare();
    let told = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut said = [0; 4096];
        while stream.read(&mut said).await? > 0 {}
        io::Result::Ok(())
    };
    // It may have gone before.
    let _ = timeout(TURN_AWAY, told).await;
}

/// End all connections: with what is being answered now, or with a failure where that takes too long.
async fn part(graceful: GracefulShutdown, limits: &Limits, worker: &Worker) {
    worker.queue.close(&Failure::stopping());
    let mut ended = pin!(graceful.shutdown());
    if timeout(limits.stop_time, &mut ended).await.is_err() {
        worker.cut.store(true, Ordering::Relaxed);
        let _ = timeout(FAREWELL, &mut ended).await;
    }
}
