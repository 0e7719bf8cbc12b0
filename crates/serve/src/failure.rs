//! What a client reads when there is no answer: OpenAI's error object.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Seconds after which a client may try again.
const RETRY: &str = "5";

/// A status and what is said about it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub status: StatusCode,
    message: String,
    /// The field that is wrong.
    param: Option<String>,
    code: Option<&'static str>,
    header: Option<(HeaderName, &'static str)>,
}

impl Failure {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code: None,
            header: None,
        }
    }

    /// The request is wrong.
    pub fn request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field of the request is wrong: `what` completes "FIELD ...".
    pub fn field(param: &str, what: impl std::fmt::Display) -> Self {
        let mut failure = Self::request(format!("{param} {what}"));
        failure.param = Some(param.to_string());
        failure
    }

    /// A field asks for what is not done here.
    pub fn unsupported(param: &str) -> Self {
        Self::field(param, "is not supported by this server: leave it out")
            .coded("unsupported_parameter")
    }

    pub fn no_such_model(asked: &str, served: &str) -> Self {
        let message =
            format!("there is no model \"{asked}\" here: the one that is served is \"{served}\"");
        let mut failure = Self::new(StatusCode::NOT_FOUND, message).coded("model_not_found");
        failure.param = Some("model".to_string());
        failure
    }

    pub fn wrong_key() -> Self {
        let message =
            "the API key is missing or wrong: send the server's as \"Authorization: Bearer KEY\"";
        let mut failure = Self::new(StatusCode::UNAUTHORIZED, message).coded("invalid_api_key");
        failure.header = Some((WWW_AUTHENTICATE, "Bearer"));
        failure
    }

    pub fn full() -> Self {
        let message = "too many requests wait for the model: try again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
            .coded("rate_limit_exceeded")
            .again()
    }

    pub fn too_many_connections() -> Self {
        let message = "too many connections: try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).again()
    }

    pub fn stopping() -> Self {
        let message = "the server is stopping";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).again()
    }

    pub fn model_gone() -> Self {
        let message = "the model has failed and the server ends";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    fn coded(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    fn again(mut self) -> Self {
        self.header = Some((RETRY_AFTER, RETRY));
        self
    }

    /// OpenAI's error object.
    pub fn object(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }

    /// The whole answer, for a connection that is closed at once.
    pub fn bare(&self) -> String {
        let status = self.status;
        let body = self.object();
        let length = body.to_string().len();
        let header = self.header.iter();
        let header: String = header
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!(
            "HTTP/1.1 {status}\r\n{header}content-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{body}"
        )
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = json_response(&self.object());
        *response.status_mut() = self.status;
        if let Some((name, value)) = self.header {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

pub fn json_response(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
