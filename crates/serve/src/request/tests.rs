use super::*;
use crate::generator::{Message, Role};
use proptest::prelude::*;
use serde_json::json;

fn chat_with(more: Value) -> Result<Asked, Failure> {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    chat(body.to_string().as_bytes(), "tiny")
}

/// Status, message and field of a refusal.
#[track_caller]
fn refused(asked: Result<Asked, Failure>) -> (u16, String, Value) {
    let failure = asked.unwrap_err();
    let error = &failure.object()["error"];
    let message = error["message"].as_str().unwrap().to_string();
    (failure.status.as_u16(), message, error["param"].clone())
}

fn message(role: Role, content: &str) -> Message {
    let content = content.to_string();
    Message { role, content }
}

#[test]
fn a_plain_request_leaves_everything_to_the_model() {
    let asked = chat_with(json!({})).unwrap();
    let expected = Asked {
        task: Task::Chat(vec![message(Role::User, "hi")]),
        sampling: Sampling::default(),
        stops: Vec::new(),
        stream: false,
        usage: false,
    };
    assert_eq!(asked, expected);
    let asked = completion(br#"{"prompt": ["a"], "model": "tiny"}"#, "tiny").unwrap();
    assert_eq!(asked.task, Task::Complete("a".to_string()));
    assert_eq!(asked.sampling.max_tokens, Some(16));
}

#[test]
fn every_number_arrives() {
    let asked = chat_with(json!({
        "temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5, "seed": 9,
        "max_tokens": 3, "stop": ["x", "y"], "stream": true, "stream_options": {"include_usage": true},
    }));
    let asked = asked.unwrap();
    let expected = Sampling {
        temperature: Some(0.5),
        top_p: Some(0.25),
        top_k: Some(7),
        min_p: Some(0.125),
        repetition_penalty: Some(1.5),
        seed: Some(9),
        max_tokens: Some(3),
    };
    assert_eq!(asked.sampling, expected);
    assert_eq!(asked.stops, ["x", "y"]);
    assert!(asked.stream && asked.usage);
}

#[test]
fn other_names_and_forms_of_numbers() {
    let sampling = |more| chat_with(more).unwrap().sampling;
    assert_eq!(
        sampling(json!({"repeat_penalty": 1.2})).repetition_penalty,
        Some(1.2)
    );
    assert_eq!(sampling(json!({"top_k": -1})).top_k, Some(0));
    assert_eq!(sampling(json!({"seed": -1})).seed, Some(u64::MAX));
    assert_eq!(sampling(json!({"seed": u64::MAX})).seed, Some(u64::MAX));
    assert_eq!(sampling(json!({"max_tokens": 5.0})).max_tokens, Some(5));
    let both = json!({"max_tokens": 5, "max_completion_tokens": 6});
    assert_eq!(sampling(both).max_tokens, Some(6));
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    for (field, value, range) in [
        ("temperature", json!(2.1), "from 0 to 2"),
        ("temperature", json!("1"), "from 0 to 2"),
        ("top_p", json!(0), "above 0 and at most 1"),
        ("top_k", json!(-2), "from -1 to 2147483647"),
        ("min_p", json!(1.1), "from 0 to 1"),
        ("repetition_penalty", json!(0), "above 0"),
        (
            "seed",
            json!(1.5),
            "from -9223372036854775808 to 18446744073709551615",
        ),
        ("max_tokens", json!(0), "from 1 to 2147483647"),
        (
            "max_completion_tokens",
            json!(1e300),
            "from 1 to 2147483647",
        ),
    ] {
        let (status, message, param) = refused(chat_with(json!({field: value})));
        assert_eq!((status, param), (400, json!(field)));
        assert!(message.contains(range), "{message}");
    }
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    for (field, value) in [
        ("n", json!(2)),
        ("echo", json!(true)),
        ("logprobs", json!(true)),
        ("tools", json!([{}])),
        ("tool_choice", json!("required")),
        ("functions", json!([{}])),
        ("response_format", json!({"type": "json_object"})),
        ("audio", json!({"voice": "x"})),
        ("modalities", json!(["text", "audio"])),
        ("frequency_penalty", json!(0.5)),
        ("presence_penalty", json!(-0.5)),
        ("logit_bias", json!({"1": 2})),
        ("grammar", json!("root ::= x")),
    ] {
        let (status, message, param) = refused(chat_with(json!({field: value})));
        assert_eq!((status, param), (400, json!(field)));
        assert!(message.starts_with(field), "{message}");
    }
    let (status, _, param) = refused(completion(br#"{"prompt": "a", "logprobs": 0}"#, "tiny"));
    assert_eq!((status, param), (400, json!("logprobs")));
}

#[test]
fn what_changes_nothing_is_accepted() {
    let asked = chat_with(json!({
        "user": "u", "metadata": {"a": "b"}, "store": false, "service_tier": "auto", "n": 1, "echo": false, "logprobs": false,
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"],
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "stop": null, "temperature": null, "new": [1],
    }));
    assert_eq!(asked.unwrap().sampling, Sampling::default());
}

#[test]
fn stops_are_few_and_not_empty() {
    let stops = |stop: Value| chat_with(json!({"stop": stop})).map(|asked| asked.stops);
    assert_eq!(stops(json!("é")).unwrap(), ["é"]);
    assert!(stops(json!([])).unwrap().is_empty());
    for wrong in [
        json!(""),
        json!(["a", ""]),
        json!([1]),
        json!(7),
        json!(["a", "b", "c", "d", "e"]),
    ] {
        assert!(stops(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn stream_options_are_for_streams() {
    let (_, message, param) = refused(chat_with(
        json!({"stream_options": {"include_usage": true}}),
    ));
    assert_eq!(param, "stream_options");
    assert!(message.contains("stream"), "{message}");
}

#[test]
fn another_model_is_not_found() {
    assert!(chat_with(json!({"model": "tiny"})).is_ok());
    assert!(chat_with(json!({"model": ""})).is_ok());
    let (status, message, param) = refused(chat_with(json!({"model": "gpt-4"})));
    assert_eq!((status, param), (404, json!("model")));
    assert!(
        message.contains("gpt-4") && message.contains("tiny"),
        "{message}"
    );
}

#[test]
fn messages_are_turns_of_text() {
    let body = json!({"messages": [
        {"role": "developer", "content": "a"},
        {"role": "system", "content": "b", "name": "n"},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
        {"role": "assistant", "content": "e", "tool_calls": null},
    ]});
    let asked = chat(body.to_string().as_bytes(), "tiny").unwrap();
    let expected = vec![
        message(Role::System, "a"),
        message(Role::System, "b"),
        message(Role::User, "c\nd"),
        message(Role::Assistant, "e"),
    ];
    assert_eq!(asked.task, Task::Chat(expected));
}

#[test]
fn other_messages_are_refused_by_their_place() {
    for (value, place) in [
        (json!(null), "messages"),
        (json!([]), "messages"),
        (json!("a"), "messages"),
        (json!([1]), "messages[0]"),
        (json!([{"content": "a"}]), "messages[0].role"),
        (
            json!([{"role": "tool", "content": "a"}]),
            "messages[0].role",
        ),
        (json!([{"role": "user"}]), "messages[0].content"),
        (
            json!([{"role": "user", "content": []}]),
            "messages[0].content",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url"}]}]),
            "messages[0].content[0].type",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text"}]}]),
            "messages[0].content[0].text",
        ),
        (
            json!([{"role": "assistant", "content": "a", "tool_calls": [1]}]),
            "messages[0].tool_calls",
        ),
    ] {
        let (status, _, param) = refused(chat_with(json!({"messages": value})));
        assert_eq!((status, param), (400, json!(place)));
    }
}

#[test]
fn prompts_are_one_text() {
    for wrong in [
        r#"{}"#,
        r#"{"prompt": ["a", "b"]}"#,
        r#"{"prompt": [1, 2]}"#,
        r#"{"prompt": 3}"#,
    ] {
        let (_, _, param) = refused(completion(wrong.as_bytes(), "tiny"));
        assert_eq!(param, "prompt");
    }
}

#[test]
fn hostile_bodies_are_refused() {
    let deep = "[".repeat(100_000);
    let deep_field = format!(r#"{{"messages": {deep}"#);
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"\"a\"",
        b"{\"prompt\": \"\xff\"}",
        b"{\"prompt\": \"\\ud800\"}",
        b"{\"prompt\": \"a\", \"seed\": 1e999}",
        b"{\"prompt\": \"a\"}\0",
        b"{\"prompt\": \"a\0\"}",
        deep.as_bytes(),
        deep_field.as_bytes(),
    ] {
        let (status, message, _) = refused(completion(body, "tiny"));
        assert_eq!(status, 400);
        assert!(message.len() < 200, "{message}");
    }
    // A character as any other.
    let asked = completion(br#"{"prompt": "a\u0000"}"#, "tiny").unwrap();
    assert_eq!(asked.task, Task::Complete("a\0".to_string()));
}

#[test]
fn errors_repeat_little_of_a_request() {
    let long = "é".repeat(100_000);
    let (_, message, _) = refused(chat_with(json!({"model": long})));
    assert!(message.len() < 300, "{message}");
}

proptest! {
    /// Any value in any field is obeyed, ignored or refused, and by its own name.
    #[test]
    fn no_value_does_harm(
        field in prop::sample::select(vec![
            "messages", "prompt", "temperature", "top_k", "seed", "max_tokens", "stop", "stream", "stream_options", "n", "model",
            "response_format", "modalities", "tools", "tool_choice", "logprobs",
        ]),
        value in prop::sample::select(vec![
            "null", "true", "-1", "1e308", "18446744073709551616", "-0.0", "5e-324", "\"\"", "\"a\"", "[]", "[null]", "[[]]", "[\"\"]",
            "{}", "{\"type\":1}", "[{}]", "[{\"role\":1}]", "[{\"role\":\"user\",\"content\":[1]}]",
        ]),
    ) {
        let body = format!("{{\"prompt\":\"a\",\"messages\":[{{\"role\":\"user\",\"content\":\"a\"}}],\"{field}\":{value}}}");
        for asked in [chat(body.as_bytes(), "tiny"), completion(body.as_bytes(), "tiny")] {
            if let Err(failure) = asked {
                let param = failure.object()["error"]["param"].clone();
                prop_assert!(param.as_str().is_some_and(|param| param.starts_with(field)), "{body}: {param}");
            }
        }
    }
}
