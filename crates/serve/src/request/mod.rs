//! What a client asks for, out of its JSON.
//!
//! A field that changes the answer is obeyed or refused by its name. Others (`user`, `metadata`, `store`, `service_tier`, and
//! whatever is not known) are left alone, and so are those that are off: null, false, 0 or empty.

mod fields;
mod messages;

use crate::failure::Failure;
use crate::generator::Sampling;
use crate::worker::Task;
pub use fields::said;
use fields::{Fields, off};
use serde_json::Value;

/// Most tokens of a completion for whose length nobody asks, as OpenAI has it.
const COMPLETION_TOKENS: usize = 16;
/// Most texts to stop at.
const STOPS: usize = 4;
/// More than any model has room for, and a number that every client can hold.
const MOST_TOKENS: i128 = i32::MAX as i128;

/// Fields that would change an answer and that nothing here obeys: OpenAI's, then those of vLLM and llama.cpp.
const UNSUPPORTED: [&str; 37] = [
    "tools",
    "functions",
    "audio",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "echo",
    "suffix",
    "web_search_options",
    "frequency_penalty",
    "presence_penalty",
    "add_special_tokens",
    "allowed_token_ids",
    "bad_words",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "dry_multiplier",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "ignore_eos",
    "json_schema",
    "length_penalty",
    "min_tokens",
    "mirostat",
    "n_probs",
    "prompt_logprobs",
    "return_token_ids",
    "stop_token_ids",
    "structured_outputs",
    "truncate_prompt_tokens",
    "use_beam_search",
    "xtc_probability",
];

/// A request that can be tried.
#[derive(Debug, PartialEq)]
pub struct Asked {
    pub task: Task,
    pub sampling: Sampling,
    pub stops: Vec<String>,
    /// The text is sent as it is made.
    pub stream: bool,
    /// A streamed answer ends with its tokens' numbers.
    pub usage: bool,
}

/// The body of `POST /v1/chat/completions`.
///
/// # Errors
/// What is wrong with it, by the field's name.
pub fn chat(body: &[u8], served: &str) -> Result<Asked, Failure> {
    let body = parsed(body)?;
    let fields = Fields::of(&body)?;
    let task = Task::Chat(messages::messages(&fields)?);
    asked(&fields, served, task, None)
}

/// The body of `POST /v1/completions`.
///
/// # Errors
/// What is wrong with it, by the field's name.
pub fn completion(body: &[u8], served: &str) -> Result<Asked, Failure> {
    let body = parsed(body)?;
    let fields = Fields::of(&body)?;
    // Even 0 asks for the drawn token's own.
    if fields.get("logprobs").is_some_and(Value::is_number) {
        return Err(Failure::unsupported("logprobs"));
    }
    let task = Task::Complete(prompt(&fields)?);
    asked(&fields, served, task, Some(COMPLETION_TOKENS))
}

/// Nesting is limited to 128 by the parser.
fn parsed(body: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(body)
        .map_err(|cause| Failure::request(format!("the body is not valid JSON: {cause}")))
}

fn asked(fields: &Fields, served: &str, task: Task, most: Option<usize>) -> Result<Asked, Failure> {
    check_model(fields, served)?;
    check_support(fields)?;
    let stream = fields.flag("stream")?;
    Ok(Asked {
        task,
        sampling: sampling(fields, most)?,
        stops: stops(fields)?,
        stream,
        usage: usage(fields, stream)?,
    })
}

/// A name that is not given means the one model there is.
fn check_model(fields: &Fields, served: &str) -> Result<(), Failure> {
    match fields.text("model")? {
        None | Some("") => Ok(()),
        Some(asked) if asked == served => Ok(()),
        Some(asked) => Err(Failure::no_such_model(&said(asked), served)),
    }
}

fn check_support(fields: &Fields) -> Result<(), Failure> {
    for name in UNSUPPORTED {
        if fields.get(name).is_some_and(|value| !off(value)) {
            return Err(Failure::unsupported(name));
        }
    }
    for name in ["tool_choice", "function_call"] {
        let choice = fields.get(name).filter(|value| !off(value));
        if choice.is_some_and(|value| value != "none" && value != "auto") {
            return Err(Failure::unsupported(name));
        }
    }
    for name in ["n", "best_of"] {
        if fields.whole(name, 1, i128::from(u32::MAX))?.unwrap_or(1) != 1 {
            return Err(Failure::field(
                name,
                "is not 1: this server makes one answer a request",
            ));
        }
    }
    if let Some(format) = fields.get("response_format")
        && format.get("type").is_none_or(|kind| kind != "text")
    {
        let what = "is not {\"type\": \"text\"}: this server makes no other form";
        return Err(Failure::field("response_format", what));
    }
    if let Some(modalities) = fields.get("modalities")
        && *modalities != serde_json::json!(["text"])
    {
        return Err(Failure::field(
            "modalities",
            "is not [\"text\"]: this server makes nothing else",
        ));
    }
    Ok(())
}

fn sampling(fields: &Fields, most: Option<usize>) -> Result<Sampling, Failure> {
    let share = |n: f64| (0.0..=1.0).contains(&n);
    let penalty = |n: f64| n > 0.0;
    let temperature = |n: f64| (0.0..=2.0).contains(&n);
    // The first is vLLM's name, the other llama.cpp's.
    let penalties = ["repetition_penalty", "repeat_penalty"];
    let mut repetition_penalty = None;
    for name in penalties {
        let number = fields.number(name, penalty, "a number above 0, such as 1.1")?;
        repetition_penalty = repetition_penalty.or(number);
    }
    let mut max_tokens = None;
    for name in ["max_completion_tokens", "max_tokens"] {
        max_tokens = max_tokens.or(fields.whole(name, 1, MOST_TOKENS)?);
    }
    Ok(Sampling {
        temperature: fields.number("temperature", temperature, "a number from 0 to 2")?,
        top_p: fields.number(
            "top_p",
            |n| share(n) && n > 0.0,
            "a number above 0 and at most 1",
        )?,
        // There, -1 is all as well.
        top_k: fields
            .whole("top_k", -1, MOST_TOKENS)?
            .map(|n| n.max(0) as usize),
        min_p: fields.number("min_p", share, "a number from 0 to 1")?,
        repetition_penalty,
        // Negative ones are other seeds, with the same bits.
        seed: fields
            .whole("seed", i128::from(i64::MIN), i128::from(u64::MAX))?
            .map(|n| n as u64),
        max_tokens: max_tokens.map(|n| n as usize).or(most),
    })
}

fn stops(fields: &Fields) -> Result<Vec<String>, Failure> {
    let wrong = || {
        let what = format!("must be a text or a list of at most {STOPS} texts, none of them empty");
        Failure::field("stop", what)
    };
    let stops = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(stops)) if stops.len() <= STOPS => &stops[..],
        Some(one) => std::slice::from_ref(one),
    };
    let texts = stops.iter().map(|stop| match stop.as_str() {
        None | Some("") => Err(wrong()),
        Some(text) => Ok(text.to_string()),
    });
    texts.collect()
}

fn usage(fields: &Fields, stream: bool) -> Result<bool, Failure> {
    let Some(options) = fields.get("stream_options") else {
        return Ok(false);
    };
    let Some(options) = options.as_object() else {
        return Err(Failure::field("stream_options", "must be an object"));
    };
    if !stream {
        return Err(Failure::field(
            "stream_options",
            "is only for \"stream\": true",
        ));
    }
    match options.get("include_usage") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(usage)) => Ok(*usage),
        Some(_) => Err(Failure::field(
            "stream_options.include_usage",
            "must be true or false",
        )),
    }
}

/// One text, which may be in a list.
fn prompt(fields: &Fields) -> Result<String, Failure> {
    match fields.get("prompt") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(list)) if list.len() == 1 && list[0].is_string() => {
            Ok(list[0].as_str().unwrap_or_default().to_string())
        }
        None => Err(Failure::field("prompt", "is missing: it must be a text")),
        Some(_) => {
            let what = "must be one text: this server takes neither several nor tokens";
            Err(Failure::field("prompt", what))
        }
    }
}

#[cfg(test)]
mod tests;
