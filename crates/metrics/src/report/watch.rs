//! The report served on this machine alone, made anew whenever its files have changed.
//!
//! Connections live on one thread that never waits: files are read and pages made beside it, once for all clients. What a
//! client does not send, or does not take, holds up nobody else.

mod guests;
mod host;
mod news;
mod patient;

use aios_base::error::{Error, Result};
use guests::{Guests, Turn};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, REFRESH, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use news::News;
use patient::Patient;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// Seconds between two looks of an open page.
const PAUSE: u64 = 2;
/// Longest request line and headers together: a browser may send many cookies of other servers on this machine.
const LONGEST_HEAD: usize = 64 << 10;

/// A server on 127.0.0.1.
pub struct Server {
    paths: Vec<PathBuf>,
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

/// How many clients there are at once, and how long they are waited for.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Well below the files a process may open, of which macOS grants 256.
    guests: usize,
    /// A connection on which no request has come for this long is closed, be it that the client says nothing or a byte now
    /// and then.
    request: Duration,
    /// A client that takes nothing of its answer for this long has gone.
    answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            guests: 100,
            request: Duration::from_secs(10),
            answer: Duration::from_secs(10),
        }
    }
}

type Answer = Response<Full<Bytes>>;

impl Server {
    /// Listen on a port, or on any free one for 0.
    ///
    /// # Errors
    /// A port that is taken or not allowed.
    pub fn new(paths: Vec<PathBuf>, port: u16) -> Result<Self> {
        let listen = || {
            let listener = TcpListener::bind(("127.0.0.1", port))?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|cause: std::io::Error| {
            Error::failed(format!(
                "cannot serve on 127.0.0.1:{port}: {cause}; choose another --port"
            ))
        })?;
        Ok(Self {
            paths,
            listener,
            address,
            limits: Limits::default(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answer until the process ends.
    ///
    /// # Errors
    /// A system that does not let it wait for connections.
    pub fn serve(self) -> Result<()> {
        let cannot = |cause| Error::failed(format!("cannot serve on {}: {cause}", self.address));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(cannot)?;
        let news = Arc::new(Mutex::new(News::new(&self.paths, PAUSE)));
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener).map_err(cannot)?;
            let mut guests = Guests::new(self.limits.guests);
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let news = Arc::clone(&news);
                        let limits = self.limits;
                        guests.admit(stream, |stream, turn| attend(stream, limits, news, turn));
                    }
                    // Such as too many open files: one is closed, and there is room for the next.
                    Err(cause) => {
                        tracing::debug!("cannot take a connection: {cause}");
                        guests.make_room();
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        })
    }
}

/// Answer the requests of a connection until it ends.
async fn attend(stream: TcpStream, limits: Limits, news: Arc<Mutex<News>>, turn: Arc<Turn>) {
    let stream = Patient::new(stream, limits.answer);
    let service = service_fn(|request| {
        let (news, turn) = (Arc::clone(&news), Arc::clone(&turn));
        async move {
            turn.ours();
            let answer = answer(&request, news).await;
            turn.theirs();
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .max_buf_size(LONGEST_HEAD)
        // A client may end its side once it has asked.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(cause) = served.await {
        tracing::debug!("a connection ended: {cause}");
    }
}

/// The request's body, if it has one, is never read.
async fn answer(request: &Request<Incoming>, news: Arc<Mutex<News>>) -> Answer {
    if !host::is_ours(request) {
        return text(
            StatusCode::FORBIDDEN,
            "this server answers its own page only",
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered");
        return with_header(answer, ALLOW, "GET, HEAD");
    }
    let query = request.uri().query().unwrap_or_default().to_string();
    let make: fn(&mut News, &str) -> Answer = match request.uri().path() {
        "/" => |news, _| page(news),
        "/data.json" => data,
        _ => return text(StatusCode::NOT_FOUND, "there is only /"),
    };
    let mut news = news.lock_owned().await;
    let made = tokio::task::spawn_blocking(move || make(&mut news, &query)).await;
    made.unwrap_or_else(|cause| {
        let why = format!("the report could not be made: {cause}");
        text(StatusCode::INTERNAL_SERVER_ERROR, &why)
    })
}

fn page(news: &mut News) -> Answer {
    match news.page() {
        Ok(page) => typed(page, "text/html; charset=utf-8"),
        // The training may be about to write its first line.
        Err(error) => {
            let answer = text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
            with_header(answer, REFRESH, "2")
        }
    }
}

/// All of the report as JSON, or nothing (204) for whoever has it.
fn data(news: &mut News, query: &str) -> Answer {
    match news.since(query.strip_prefix("have=").unwrap_or_default()) {
        Ok(None) => text(StatusCode::NO_CONTENT, ""),
        Ok(Some(data)) => typed(data, "application/json"),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

fn text(status: StatusCode, text: &str) -> Answer {
    let mut answer = typed(Bytes::from(text.to_string()), "text/plain; charset=utf-8");
    *answer.status_mut() = status;
    answer
}

fn typed(body: Bytes, kind: &'static str) -> Answer {
    let answer = with_header(Response::new(Full::new(body)), CONTENT_TYPE, kind);
    with_header(answer, X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn with_header(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    let value = HeaderValue::from_static(value);
    answer.headers_mut().insert(name, value);
    answer
}

#[cfg(test)]
mod tests;
