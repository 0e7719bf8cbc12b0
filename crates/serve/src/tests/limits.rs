//! How much, and how long.

use super::*;

const HASTY: Duration = Duration::from_millis(200);

fn limited(change: impl FnOnce(&mut Limits)) -> Site {
    site_with(|settings| change(&mut settings.limits))
}

/// The code of an error's body.
fn code(body: &str) -> Value {
    let error: Value = serde_json::from_str(body).unwrap();
    error["error"]["code"].clone()
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let site = limited(|limits| limits.queue = 2);
    let running = site.say_prompt("on and on");
    site.wait_for_start("on and on");
    let waiting = [site.say_prompt("b"), site.say_prompt("c")];
    assert!(waiting.iter().all(|stream| site.waits(stream)));
    let (status, head, body) = answer(site.say_prompt("d"));
    assert_eq!(status, 429);
    assert!(head.contains("retry-after: 5"), "{head}");
    assert_eq!(code(&body), "rate_limit_exceeded");
    drop(running);
    for stream in waiting {
        assert_eq!(answer(stream).0, 200, "those that wait are computed");
    }
}

#[test]
fn a_text_that_takes_too_long_ends_as_it_is() {
    let site = limited(|limits| limits.generation_time = HASTY);
    let body = json!({"prompt": "on and on", "max_tokens": 1_000_000});
    let (status, answer) = site.post("/v1/completions", &body);
    assert_eq!(status, 200);
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert!(
        choice["text"]
            .as_str()
            .unwrap()
            .starts_with("on and onon and on")
    );
    site.wait_for_refusal();
}

#[test]
fn a_body_has_a_limit() {
    let site = limited(|limits| limits.body = 100);
    let (status, _, body) = site.ask(&post_head("/v1/completions", 101));
    assert_eq!(status, 413);
    assert!(body.contains("100 bytes"), "{body}");
    let head =
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("65\r\n{}\r\n", "a".repeat(0x65));
    assert_eq!(site.ask(&(head.to_string() + &chunk)).0, 413);
    let fits = format!("{:<100}", r#"{"prompt": "a"}"#);
    assert_eq!(
        site.ask(&(post_head("/v1/completions", 100) + &fits)).0,
        200
    );
}

#[test]
fn a_slow_head_ends_its_connection() {
    let site = limited(|limits| limits.head_time = HASTY);
    let started = Instant::now();
    let silent = site.connect();
    let slow = site.say("GET /health HTTP/1.1\r\nHost: loc");
    assert_eq!(site.get("/health").0, 200, "others are answered meanwhile");
    assert_eq!(rest(silent), "");
    assert!(!rest(slow).contains("200 OK"));
    let took = started.elapsed();
    assert!(took >= HASTY && took < PATIENCE / 2, "{took:?}");
}

#[test]
fn a_slow_body_is_told_so() {
    let site = limited(|limits| limits.body_time = HASTY);
    let (status, _, body) = site.ask(&(post_head("/v1/completions", 50) + "{"));
    assert_eq!(status, 408, "{body}");
}

#[test]
fn a_long_head_is_refused() {
    let site = site();
    let long = "a".repeat(1_000_000);
    let request = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nCookie: {long}\r\n\r\n");
    let mut stream = site.connect();
    // The answer may come before all is said.
    let _ = stream.write_all(request.as_bytes());
    assert!(!rest(stream).contains("200 OK"));
}

#[test]
fn a_head_that_is_none_is_refused() {
    let site = site();
    for words in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ] {
        let answer = rest(site.say(words));
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(site.get("/health").0, 200);
}

#[test]
fn a_body_that_is_no_request_is_refused() {
    let site = site();
    let deep = "[".repeat(500_000);
    for body in ["{", "\0", &deep] {
        let (status, body) = site.post_text("/v1/chat/completions", body);
        assert_eq!(status, 400, "{body}");
    }
}

#[test]
fn connections_have_a_limit() {
    let site = limited(|limits| limits.connections = 2);
    let held = [site.connect(), site.connect()];
    let (status, head, body) = site.ask(&post_head("/v1/completions", 0));
    assert_eq!(status, 503);
    assert!(head.contains("retry-after"), "{head}");
    assert_eq!(code(&body), Value::Null);
    drop(held);
    let started = Instant::now();
    while site.get("/health").0 != 200 {
        assert!(started.elapsed() < PATIENCE, "their places are not free");
        sleep(TICK);
    }
}

#[test]
fn a_client_that_takes_nothing_has_gone() {
    let site = limited(|limits| limits.answer_time = HASTY);
    let body = json!({"prompt": "x".repeat(200_000), "stream": true}).to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ";
    let request = format!("{head}{}\r\n\r\n{body}", body.len());
    let mut greedy = site.connect();
    greedy.set_write_timeout(Some(PATIENCE)).unwrap();
    // More than the system's buffers hold.
    let said = (0..64).try_for_each(|_| greedy.write_all(request.as_bytes()));
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let ended = said.unwrap_err().kind();
    assert!(
        matches!(ended, BrokenPipe | ConnectionAborted | ConnectionReset),
        "{ended}"
    );
}
