//! Who is answered.

use super::*;

fn get(headers: &str) -> String {
    format!("GET /v1/models HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")
}

#[test]
fn a_key_is_asked_for() {
    let site = site_with(|settings| settings.key = Some("secret".to_string()));
    let (status, head, body) = site.ask(&get("Host: any.example\r\n"));
    assert_eq!(status, 401);
    assert!(head.contains("www-authenticate: bearer"), "{head}");
    let error: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(error["error"]["code"], "invalid_api_key");
    let key = "Host: any.example\r\nAuthorization: Bearer secret\r\n";
    assert_eq!(site.ask(&get(key)).0, 200);
    assert_eq!(site.get("/health").0, 200);
}

#[test]
fn a_page_of_another_origin_reads_and_starts_nothing() {
    let site = site();
    let (status, _, body) = site.ask(&get("Host: evil.example\r\n"));
    assert_eq!(status, 403, "{body}");
    let origin = "Host: localhost\r\nOrigin: https://evil.example\r\n";
    let (status, head, _) = site.ask(&get(origin));
    assert_eq!(status, 403);
    assert!(!head.contains("access-control"), "{head}");
    let post = format!(
        "POST /v1/completions HTTP/1.1\r\n{origin}Content-Length: 15\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(site.ask(&(post + r#"{"prompt": "a"}"#)).0, 403);
    assert!(site.told.try_recv().is_err(), "nothing was computed");
}

#[test]
fn a_page_of_an_allowed_origin_may_ask() {
    let site = site_with(|settings| settings.allow_origins.push("http://a.example".to_string()));
    let (status, head, _) = site.ask(&get("Host: localhost\r\nOrigin: http://a.example\r\n"));
    assert_eq!(status, 200);
    assert!(
        head.contains("access-control-allow-origin: http://a.example"),
        "{head}"
    );
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://a.example\r\n\
        Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n\
        Connection: close\r\n\r\n";
    let (status, head, _) = site.ask(preflight);
    assert_eq!(status, 200);
    assert!(
        head.contains("access-control-allow-headers: authorization,content-type"),
        "{head}"
    );
    assert_eq!(
        site.ask(&get("Host: localhost\r\nOrigin: http://b.example\r\n"))
            .0,
        403
    );
}

#[test]
fn a_client_that_goes_away_ends_its_text() {
    let site = site();
    for prompt in ["on and on"; 2] {
        let mut stream = site.say_prompt(prompt);
        let mut some = [0; 10];
        stream.read_exact(&mut some).unwrap();
        drop(stream);
        site.wait_for_refusal();
    }
}

#[test]
fn a_client_that_goes_away_before_any_text_ends_it_too() {
    let site = site();
    let body = json!({"prompt": "on and on", "max_tokens": 1_000_000}).to_string();
    let stream = site.say(post_head("/v1/completions", body.len()) + &body);
    site.wait_for_start("on and on");
    drop(stream);
    site.wait_for_refusal();
}

#[test]
fn a_client_that_goes_away_while_it_waits_is_not_computed() {
    let site = site_with(|settings| settings.limits.queue = 1);
    let first = site.say_prompt("on and on");
    site.wait_for_start("on and on");
    drop(site.say_prompt("never"));
    // Its place is free again once its end was seen; this one waits there.
    let last = loop {
        let stream = site.say_prompt("last");
        if site.waits(&stream) {
            break stream;
        }
    };
    drop(first);
    site.wait_for_refusal();
    assert_eq!(site.next_told(), Told::Started("last".to_string()));
    drop(last);
}

#[test]
fn the_log_has_a_line_for_each_request_and_no_text() {
    let mut site = site();
    assert_eq!(
        site.post("/v1/chat/completions", &chat("secret words")).0,
        200
    );
    assert_eq!(site.get("/nowhere?secret").0, 404);
    assert_eq!(
        site.ask("HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .0,
        200
    );
    let stream = site.say_prompt("on and on");
    site.wait_for_start("on and on");
    drop(stream);
    site.wait_for_refusal();
    site.stop().unwrap();
    let log = site.log.text();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 4, "{log}");
    assert!(
        lines[0].contains("POST /v1/chat/completions: 200, 2 tokens read, 2 made, 0."),
        "{log}"
    );
    assert!(lines[1].contains("GET /nowhere: 404, 0."), "{log}");
    assert!(lines[2].contains("HEAD /health: 200, 0."), "{log}");
    assert!(
        lines[3].contains("POST /v1/completions: ") && lines[3].contains("went away"),
        "{log}"
    );
    assert!(!log.contains("secret") && !log.contains("on and"), "{log}");
}
