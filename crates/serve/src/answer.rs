//! Answers in OpenAI's forms: whole, or as server-sent events.

use crate::failure::{Failure, json_response};
use crate::generator::{Finish, Reason};
use crate::line::Tokens;
use crate::worker::Event;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_lite::stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::UnboundedReceiver;

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What all parts of an answer share.
pub struct Form {
    id: String,
    created: u64,
    model: String,
    chat: bool,
}

impl Form {
    pub fn new(model: &str, chat: bool) -> Self {
        static ANSWERS: AtomicU64 = AtomicU64::new(0);
        let created = now();
        let number = ANSWERS.fetch_add(1, Ordering::Relaxed);
        let prefix = if chat { "chatcmpl" } else { "cmpl" };
        Self {
            id: format!("{prefix}-{created:x}{number:08x}"),
            created,
            model: model.to_string(),
            chat,
        }
    }

    fn whole(&self, text: &str, finish: &Finish) -> Value {
        let reason = reason_name(finish);
        let (object, choice) = if self.chat {
            let message = json!({"role": "assistant", "content": text, "refusal": null});
            let choice =
                json!({"index": 0, "message": message, "logprobs": null, "finish_reason": reason});
            ("chat.completion", choice)
        } else {
            let choice =
                json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason});
            ("text_completion", choice)
        };
        let mut whole = self.around(object, json!([choice]));
        whole["usage"] = usage(finish);
        whole
    }

    /// The first chunk, where the form has one before the text.
    fn opening(&self) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        self.chat.then(|| self.chunk(delta, None))
    }

    fn piece(&self, text: &str) -> Value {
        match self.chat {
            true => self.chunk(json!({"content": text}), None),
            false => self.chunk(json!(text), None),
        }
    }

    fn closing(&self, finish: &Finish) -> Value {
        let nothing = if self.chat { json!({}) } else { json!("") };
        self.chunk(nothing, Some(finish))
    }

    fn chunk(&self, what: Value, finish: Option<&Finish>) -> Value {
        let (object, key) = match self.chat {
            true => ("chat.completion.chunk", "delta"),
            false => ("text_completion", "text"),
        };
        let reason = finish.map(reason_name);
        let choice = json!({"index": 0, key: what, "logprobs": null, "finish_reason": reason});
        self.around(object, json!([choice]))
    }

    fn usage(&self, finish: &Finish) -> Value {
        let object = if self.chat {
            "chat.completion.chunk"
        } else {
            "text_completion"
        };
        let mut chunk = self.around(object, json!([]));
        chunk["usage"] = usage(finish);
        chunk
    }

    fn around(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        })
    }
}

fn reason_name(finish: &Finish) -> &'static str {
    match finish.reason {
        Reason::Stop => "stop",
        Reason::Length | Reason::Cancelled => "length",
    }
}

fn usage(finish: &Finish) -> Value {
    let (prompt, completion) = (finish.prompt_tokens, finish.completion_tokens);
    let total = prompt.saturating_add(completion);
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total})
}

/// The text once it is there.
///
/// # Errors
/// As the worker says.
pub async fn whole(
    form: &Form,
    mut events: UnboundedReceiver<Event>,
    tokens: &Tokens,
) -> Result<Response, Failure> {
    let mut text = String::new();
    loop {
        match next(&mut events).await {
            Event::Text(piece) => text += &piece,
            Event::Done(finish) => {
                let _ = tokens.set(finish);
                return Ok(json_response(&form.whole(&text, &finish)));
            }
            Event::Failed(failure) => return Err(failure),
        }
    }
}

/// The text as it comes. Waits for its beginning, so that a request that cannot be answered has the status that says so.
///
/// # Errors
/// As the worker says before there is any text; after that, failures are an event, and the last one.
pub async fn streamed(
    form: Form,
    mut events: UnboundedReceiver<Event>,
    tokens: Tokens,
    with_usage: bool,
) -> Result<Response, Failure> {
    let first = match next(&mut events).await {
        Event::Failed(failure) => return Err(failure),
        first => first,
    };
    let mut telling = Telling {
        waiting: VecDeque::new(),
        form,
        events,
        tokens,
        with_usage,
        ended: false,
    };
    if let Some(opening) = telling.form.opening() {
        telling.say(opening);
    }
    telling.take(first);
    let told = stream::unfold(telling, async |mut telling| {
        let data = telling.next().await?;
        let event = sse::Event::default().data(data);
        Some((Ok::<_, Infallible>(event), telling))
    });
    Ok(Sse::new(told)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// A worker that says nothing more has panicked.
async fn next(events: &mut UnboundedReceiver<Event>) -> Event {
    let event = events.recv().await;
    event.unwrap_or_else(|| Event::Failed(Failure::model_gone()))
}

/// An answer that is being streamed.
struct Telling {
    form: Form,
    events: UnboundedReceiver<Event>,
    tokens: Tokens,
    with_usage: bool,
    /// Events to be sent.
    waiting: VecDeque<String>,
    /// Nothing comes after those.
    ended: bool,
}

impl Telling {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.waiting.pop_front() {
                return Some(data);
            }
            if self.ended {
                return None;
            }
            let event = next(&mut self.events).await;
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Text(text) => self.say(self.form.piece(&text)),
            Event::Done(finish) => {
                let _ = self.tokens.set(finish);
                self.say(self.form.closing(&finish));
                if self.with_usage {
                    self.waiting.push_back(self.form.usage(&finish).to_string());
                }
                self.waiting.push_back("[DONE]".to_string());
                self.ended = true;
            }
            Event::Failed(failure) => {
                self.waiting.push_back(failure.object().to_string());
                self.ended = true;
            }
        }
    }

    /// Chunks before the one with the usage have none, and say so.
    fn say(&mut self, mut chunk: Value) {
        if self.with_usage {
            chunk["usage"] = Value::Null;
        }
        self.waiting.push_back(chunk.to_string());
    }
}
