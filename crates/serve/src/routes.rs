//! What is answered where.

use crate::answer::{self, Form};
use crate::failure::{Failure, json_response};
use crate::guard::Guard;
use crate::line::{self, Tokens};
use crate::queue::Queue;
use crate::request::{self, Asked};
use crate::settings::{Limits, Settings};
use crate::worker::Job;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc::unbounded_channel;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// What the answers are made of.
struct Site {
    model: String,
    created: u64,
    limits: Limits,
    queue: Arc<Queue>,
}

pub fn router(settings: &Settings, address: SocketAddr, queue: Arc<Queue>) -> Router {
    let site = Site {
        model: settings.model.clone(),
        created: answer::now(),
        limits: settings.limits,
        queue,
    };
    let guard = Arc::new(Guard::new(settings, address));
    let router = Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(models))
        // Names have slashes.
        .route("/v1/models/{*name}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .fallback(nothing_here)
        .method_not_allowed_fallback(other_method)
        .with_state(Arc::new(site))
        .layer(from_fn_with_state(guard, check));
    let router = match cors(&settings.allow_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    // The last is the outermost.
    router.layer(from_fn(line::log))
}

async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

/// What browsers ask for before a page of another origin may ask, and read the answer.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        // Checked before.
        false => AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::from_str(origin).ok()),
        ),
    };
    let cors = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        // Named one by one, as is needed for Authorization.
        .allow_headers(AllowHeaders::mirror_request());
    Some(cors)
}

async fn health() -> Response {
    json_response(&json!({"status": "ok"}))
}

async fn models(State(site): State<Arc<Site>>) -> Response {
    json_response(&json!({"object": "list", "data": [described(&site)]}))
}

async fn model(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Response {
    if name == site.model {
        return json_response(&described(&site));
    }
    Failure::no_such_model(&request::said(&name), &site.model).into_response()
}

fn described(site: &Site) -> Value {
    json!({"id": site.model, "object": "model", "created": site.created, "owned_by": "aios"})
}

async fn nothing_here() -> Failure {
    Failure::new(
        StatusCode::NOT_FOUND,
        "there is nothing here: this server has /v1/chat/completions, /v1/completions, /v1/models and /health",
    )
}

async fn other_method() -> Failure {
    let message = "this path takes another method: POST for completions, GET for the others";
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

async fn chat(State(site): State<Arc<Site>>, request: Request) -> Result<Response, Failure> {
    let (tokens, body) = received(&site.limits, request).await?;
    let asked = request::chat(&body, &site.model)?;
    answered(&site, asked, tokens, true).await
}

async fn completion(State(site): State<Arc<Site>>, request: Request) -> Result<Response, Failure> {
    let (tokens, body) = received(&site.limits, request).await?;
    let asked = request::completion(&body, &site.model)?;
    answered(&site, asked, tokens, false).await
}

async fn answered(
    site: &Site,
    asked: Asked,
    tokens: Tokens,
    chat: bool,
) -> Result<Response, Failure> {
    // Once the receiver is dropped, with this future or the answer's body, the job is not wanted any more.
    let (sender, events) = unbounded_channel();
    site.queue.add(Job {
        task: asked.task,
        sampling: asked.sampling,
        stops: asked.stops,
        events: sender,
    })?;
    let form = Form::new(&site.model, chat);
    match asked.stream {
        true => answer::streamed(form, events, tokens, asked.usage).await,
        false => answer::whole(&form, events, &tokens).await,
    }
}

/// All of a request's body, and where to note its tokens.
async fn received(limits: &Limits, request: Request) -> Result<(Tokens, Bytes), Failure> {
    let (parts, body) = request.into_parts();
    let tokens = parts.extensions.get::<Tokens>().cloned();
    let body = tokio::time::timeout(limits.body_time, read(body, limits.body)).await;
    let late = |_| {
        Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body took too long to arrive",
        )
    };
    Ok((tokens.unwrap_or_default(), body.map_err(late)??))
}

async fn read(body: Body, most: usize) -> Result<Bytes, Failure> {
    let too_long = || {
        let message = format!("the body is longer than {most} bytes, which is this server's limit");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_long());
    }
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(cause) if cause.is::<LengthLimitError>() => Err(too_long()),
        Err(_) => Err(Failure::request(
            "the body did not arrive as it was announced",
        )),
    }
}
