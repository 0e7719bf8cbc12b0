//! A line in the log for each request, once its answer is out or its client gone. It never has a text of either.

use crate::generator::Finish;
use aios_base::error::shortened;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

/// Characters of a path that are logged: known ones are shorter.
const LONGEST_PATH: usize = 100;

/// Where whoever answers says how many tokens that took.
pub type Tokens = Arc<OnceLock<Finish>>;

/// Around all others.
pub async fn log(mut request: Request, next: Next) -> Response {
    let mut line = Line::new(&request);
    request.extensions_mut().insert(Tokens::clone(&line.tokens));
    let response = next.run(request).await;
    line.status = Some(response.status().as_u16());
    // What is whole is out of our hands, and of some, as of HEAD's, nothing is taken.
    line.taken = response.body().size_hint().exact().is_some();
    response.map(|body| Body::new(Told { body, line }))
}

/// Written when it is dropped.
struct Line {
    method: String,
    path: String,
    started: Instant,
    /// Unless the client went away before.
    status: Option<u16>,
    tokens: Tokens,
    /// All of the answer was taken.
    taken: bool,
}

impl Line {
    fn new(request: &Request) -> Self {
        let path = request.uri().path();
        let length = path.floor_char_boundary(LONGEST_PATH);
        Self {
            method: shortened(request.method().as_str()),
            path: shortened(&path[..length]),
            started: Instant::now(),
            status: None,
            tokens: Tokens::default(),
            taken: false,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Self { method, path, .. } = self;
        let seconds = self.started.elapsed().as_secs_f64();
        let mut said = match self.status {
            Some(status) => format!("{method} {path}: {status}"),
            None => format!("{method} {path}: no answer"),
        };
        if let Some(finish) = self.tokens.get() {
            let (read, made) = (finish.prompt_tokens, finish.completion_tokens);
            said += &format!(", {read} tokens read, {made} made");
        }
        if !self.taken {
            said += ", the client went away";
        }
        tracing::info!("{said}, {seconds:.2} s");
    }
}

/// A body that knows whether it was taken.
struct Told {
    body: Body,
    line: Line,
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        self.line.taken |= ended;
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
