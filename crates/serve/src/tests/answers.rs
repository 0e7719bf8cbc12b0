//! What is answered to requests as they should be, and to others.

use super::*;

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";

/// The parts that are other ones each time, checked and taken out.
#[track_caller]
fn common(answer: &mut Value, object: &str, prefix: &str) {
    let answer = answer.as_object_mut().unwrap();
    let id = answer.remove("id").unwrap();
    assert!(id.as_str().unwrap().starts_with(prefix), "{id}");
    assert!(answer.remove("created").unwrap().as_u64().unwrap() > 1_700_000_000);
    assert_eq!(answer.remove("object").unwrap(), object);
    assert_eq!(answer.remove("model").unwrap(), MODEL);
}

#[test]
fn a_whole_chat() {
    let (status, mut answer) = site().post(CHAT, &with(chat("a b c"), json!({"model": MODEL})));
    assert_eq!(status, 200);
    common(&mut answer, "chat.completion", "chatcmpl-");
    let message = json!({"role": "assistant", "content": "a b c", "refusal": null});
    let expected = json!({
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
    });
    assert_eq!(answer, expected);
}

#[test]
fn a_streamed_chat() {
    let mut events = site().events(CHAT, &with(chat("a b"), json!({"stream": true})));
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let mut chunks = parsed(&events);
    let id = chunks[0]["id"].clone();
    assert!(chunks.iter().all(|chunk| chunk["id"] == id), "one answer");
    for chunk in &mut chunks {
        common(chunk, "chat.completion.chunk", "chatcmpl-");
    }
    let chunk = |delta: Value, reason: Value| json!({"choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]});
    let expected = [
        chunk(json!({"role": "assistant", "content": ""}), Value::Null),
        chunk(json!({"content": "a "}), Value::Null),
        chunk(json!({"content": "b"}), Value::Null),
        chunk(json!({}), json!("stop")),
    ];
    assert_eq!(chunks, expected);
}

#[test]
fn a_whole_completion() {
    let (status, mut answer) =
        site().post(COMPLETION, &json!({"prompt": "a b c", "max_tokens": 2}));
    assert_eq!(status, 200);
    common(&mut answer, "text_completion", "cmpl-");
    let expected = json!({
        "choices": [{"index": 0, "text": "a b ", "logprobs": null, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    });
    assert_eq!(answer, expected);
}

#[test]
fn a_streamed_completion_with_its_usage() {
    let body = json!({"prompt": "a b", "stream": true, "stream_options": {"include_usage": true}});
    let mut events = site().events(COMPLETION, &body);
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let mut chunks = parsed(&events);
    for chunk in &mut chunks {
        common(chunk, "text_completion", "cmpl-");
    }
    let chunk = |text: &str, reason: Value| json!({"choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": reason}], "usage": null});
    let usage = json!({"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4});
    let expected = [
        chunk("a ", Value::Null),
        chunk("b", Value::Null),
        chunk("", json!("stop")),
        json!({"choices": [], "usage": usage}),
    ];
    assert_eq!(chunks, expected);
}

#[test]
fn the_head_of_a_stream_says_what_it_is() {
    let (status, head, _) = answer(site().say_prompt("a"));
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert!(head.contains("cache-control: no-cache"), "{head}");
}

#[test]
fn a_stop_text_ends_the_answer_and_the_model() {
    let site = site();
    let (_, answer) = site.post(
        COMPLETION,
        &json!({"prompt": "on and on", "stop": "onon a"}),
    );
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "on and ");
    assert_eq!(choice["finish_reason"], "stop");
    site.wait_for_refusal();
}

#[test]
fn what_a_stop_text_held_back_is_sent_at_the_end() {
    let body = json!({"prompt": "ab é日", "stop": ["é日本", "b c"], "stream": true});
    let events = site().events(COMPLETION, &body);
    let chunks = parsed(&events[..events.len() - 1]);
    let texts: Vec<&str> = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["a", "b ", "é日", ""]);
}

#[test]
fn the_model_hears_how_to_draw() {
    let site = site();
    let body = json!({"prompt": "sampling", "temperature": 0, "seed": 7, "max_tokens": 5});
    assert_eq!(site.post(COMPLETION, &body).0, 200);
    site.wait_for_start("sampling");
    let expected = Sampling {
        temperature: Some(0.0),
        seed: Some(7),
        max_tokens: Some(5),
        ..Sampling::default()
    };
    assert_eq!(site.next_told(), Told::Sampling(expected));
}

#[test]
fn the_models_are_one() {
    let site = site();
    let (status, models) = site.get("/v1/models");
    assert_eq!((status, &models["object"]), (200, &json!("list")));
    let data = models["data"].as_array().unwrap();
    assert_eq!(data.len(), 1);
    assert_eq!(data[0]["id"], MODEL);
    for path in ["/v1/models/org/tiny", "/v1/models/org%2Ftiny"] {
        let (status, model) = site.get(path);
        assert_eq!((status, &model), (200, &data[0]));
    }
    let (status, error) = site.get("/v1/models/other");
    assert_eq!(
        (status, &error["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    assert_eq!(site.get("/health"), (200, json!({"status": "ok"})));
}

#[test]
fn faults_of_requests_and_of_the_server_differ() {
    let site = site();
    for stream in [false, true] {
        let body = |prompt: &str| json!({"prompt": prompt, "stream": stream});
        let (status, error) = site.post(COMPLETION, &body("refuse"));
        let expected = json!({
            "message": "too long a prompt", "type": "invalid_request_error", "param": null, "code": null,
        });
        assert_eq!((status, &error["error"]), (400, &expected));
        let (status, error) = site.post(COMPLETION, &body("fail"));
        let expected =
            json!({"message": "no such luck", "type": "server_error", "param": null, "code": null});
        assert_eq!((status, &error["error"]), (500, &expected));
    }
    assert_eq!(
        site.post(COMPLETION, &json!({"prompt": "a"})).0,
        200,
        "it goes on"
    );
}

#[test]
fn a_wrong_field_is_named() {
    let (status, error) = site().post(CHAT, &with(chat("a"), json!({"n": 2})));
    assert_eq!(status, 400);
    assert_eq!(error["error"]["param"], "n");
    assert_eq!(error["error"]["type"], "invalid_request_error");
}

#[test]
fn other_paths_and_methods_are_errors_in_the_same_form() {
    let site = site();
    let (status, error) = site.get("/v1/embeddings");
    assert_eq!(
        (status, &error["error"]["type"]),
        (404, &json!("invalid_request_error"))
    );
    let (status, head, body) =
        site.ask("GET /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(status, 405);
    assert!(head.contains("allow: post"), "{head}");
    let error: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(error["error"]["type"], "invalid_request_error");
}
