use super::*;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

struct Site {
    address: SocketAddr,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

fn site(lines: &str) -> Site {
    limited_site(lines, Limits::default())
}

/// A site that soon loses its patience.
fn hasty_site(lines: &str) -> Site {
    let limits = Limits {
        request: HASTY,
        answer: HASTY,
        ..Limits::default()
    };
    limited_site(lines, limits)
}

fn limited_site(lines: &str, limits: Limits) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.jsonl");
    fs::write(&file, lines).unwrap();
    let mut server = Server::new(vec![file.clone()], 0).unwrap();
    server.limits = limits;
    let address = server.address();
    std::thread::spawn(move || server.serve());
    Site {
        address,
        file,
        _dir: dir,
    }
}

impl Site {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        stream
    }

    /// A connection on which this was said.
    fn say(&self, words: impl AsRef<[u8]>) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(words.as_ref()).unwrap();
        stream
    }

    /// Status, head and body of the answer to a request that ends the connection.
    fn ask(&self, method: &str, path: &str, host: &str) -> (u16, String, String) {
        let port = self.address.port();
        let mut stream = self.say(format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        ));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (status(head), head.to_lowercase(), body.to_string())
    }

    /// Status and body.
    fn get(&self, path: &str, host: &str) -> (u16, String) {
        let (status, _, body) = self.ask("GET", path, host);
        (status, body)
    }

    fn data(&self, have: &str) -> (u16, String) {
        self.get(&format!("/data.json?have={have}"), "127.0.0.1")
    }

    fn stamp(&self) -> String {
        crate::report::stamp(&self.file)
    }

    /// Another client is answered, and long before any timeout.
    #[track_caller]
    fn answers_others(&self) {
        let started = Instant::now();
        assert_eq!(self.get("/", "localhost").0, 200);
        let took = started.elapsed();
        assert!(took < Limits::default().request / 2, "{took:?}");
    }
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// What comes until the connection ends, however it does.
fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

const HASTY: Duration = Duration::from_millis(400);
const START: &str = "{\"event\":\"start\"}\n";
const GET: &str = "GET /data.json HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn news_are_sent_once() {
    let site = site(START);
    assert!(site.address.ip().is_loopback());
    let (status, page) = site.get("/", "localhost");
    assert_eq!(status, 200);
    assert!(page.contains("\"watch\":2"), "the page looks for news");
    let stamp = site.stamp();
    assert_eq!(site.data(&stamp), (204, String::new()));
    let mut file = OpenOptions::new().append(true).open(&site.file).unwrap();
    file.write_all(b"{\"event\":\"step\",\"step\":1,\"ce\":2.5}\n")
        .unwrap();
    let (status, news) = site.data(&stamp);
    assert_eq!(status, 200);
    assert!(news.contains("\"ce\":[2.5]"), "{news}");
    assert!(site.get("/", "localhost").1.contains("\"ce\":[2.5]"));
}

#[test]
fn a_file_that_has_gone_is_told_and_the_server_stays() {
    let site = site(START);
    fs::remove_file(&site.file).unwrap();
    let (status, said) = site.data("");
    assert_eq!(status, 503);
    assert!(said.contains("m.jsonl"), "{said}");
    let (status, head, _) = site.ask("GET", "/", "localhost");
    assert!(status == 503 && head.contains("refresh: 2"), "{head}");
    fs::write(&site.file, START).unwrap();
    assert_eq!(site.data("").0, 200);
}

#[test]
fn others_get_nothing() {
    let site = site(START);
    assert_eq!(site.get("/", "evil.example").0, 403);
    assert_eq!(site.get("/", "LOCALHOST").0, 200);
    assert_eq!(site.get("/", "[::1]").0, 200);
    assert_eq!(site.get("/../etc/passwd", "127.0.0.1").0, 404);
}

#[test]
fn only_get_and_head_are_answered() {
    let site = site(START);
    let (status, head, body) = site.ask("HEAD", "/", "localhost");
    assert_eq!((status, body.as_str()), (200, ""));
    let length = format!("content-length: {}\r", site.get("/", "localhost").1.len());
    assert!(head.contains(&length), "{length} in {head}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let (status, head, _) = site.ask(method, "/", "localhost");
        assert_eq!(status, 405, "{method}");
        assert!(head.contains("allow: get, head"), "{head}");
    }
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let site = site(START);
    let error = Server::new(vec![], site.address.port()).err().unwrap();
    assert!(error.to_string().contains("--port"), "{error}");
}

#[test]
fn a_body_that_is_owed_holds_up_nobody() {
    let site = site(START);
    let owing = [
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nsome",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
    ]
    .map(|request| site.say(request));
    site.answers_others();
    let statuses = owing.map(|stream| status(&rest(stream)));
    assert_eq!(statuses, [405, 200, 405, 405]);
}

#[test]
fn who_says_little_or_nothing_holds_up_nobody() {
    let site = site(START);
    let _silent = site.connect();
    let mut slow = site.say("GET / HTTP/1.1\r\nHo");
    for byte in b"st: localhost" {
        slow.write_all(&[*byte]).unwrap();
        site.answers_others();
    }
    slow.write_all(b"\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(status(&rest(slow)), 200);
}

#[test]
fn a_head_that_never_ends_ends_the_connection() {
    let site = hasty_site(START);
    let silent = site.connect();
    let mut slow = site.say("GET / HTTP/1.1\r\n");
    let started = Instant::now();
    while slow.write_all(b"X: y\r\n").is_ok() {
        assert!(started.elapsed() < 50 * HASTY, "it is still read");
        std::thread::sleep(HASTY / 10);
    }
    assert!(started.elapsed() > HASTY / 2);
    assert_eq!(rest(silent), "");
    // One that has been answered, too.
    let done = rest(site.say(GET));
    assert_eq!(status(&done), 200);
}

#[test]
fn a_head_without_measure_is_refused() {
    let site = site(START);
    let mut long = "GET / HTTP/1.1\r\nHost: localhost\r\n".to_string();
    for number in 0..5000 {
        write!(long, "Cookie-{number}: some crumbs of another server\r\n").unwrap();
    }
    let mut stream = site.connect();
    let _ = stream.write_all(long.as_bytes());
    let said = rest(stream);
    assert!(said.is_empty() || status(&said) == 431, "{said}");
    let cookie = "x".repeat(20_000);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(status(&rest(site.say(request))), 200, "a browser's cookies");
}

#[test]
fn who_takes_nothing_of_a_large_answer_holds_up_nobody() {
    let text = "x".repeat(5_000);
    let sample = format!("{{\"event\":\"sample\",\"step\":1,\"text\":\"{text}\"}}\n");
    let run = format!(
        "{START}{{\"event\":\"step\",\"step\":1}}\n{}",
        sample.repeat(50)
    );
    let site = hasty_site(&run.repeat(50));
    let (_, page) = site.get("/", "localhost");
    assert!(
        page.len() > 8 << 20,
        "{} bytes may lie in buffers",
        page.len()
    );
    let mut stalled: Vec<_> = (0..3)
        .map(|_| site.say("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        .collect();
    // They take the beginning.
    for stream in &mut stalled {
        stream.read_exact(&mut [0; 100]).unwrap();
    }
    site.answers_others();
    std::thread::sleep(3 * HASTY);
    for stream in stalled {
        let taken = rest(stream).len();
        assert!(taken < page.len(), "the answer is still being sent");
    }
    site.answers_others();
}

#[test]
fn who_only_holds_connections_keeps_nobody_out() {
    let limits = Limits {
        guests: 10,
        ..Limits::default()
    };
    let site = limited_site(START, limits);
    let mut idle: Vec<_> = (0..30).map(|_| site.connect()).collect();
    site.answers_others();
    idle.extend((0..30).map(|_| site.say("GET / HT")));
    site.answers_others();
    // Those that came first made room.
    assert_eq!(rest(idle.remove(0)), "");
    site.answers_others();
}

#[test]
fn many_requests_on_a_connection_are_answered_in_turn() {
    let site = site(START);
    let last = GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let answers = rest(site.say(GET.repeat(20) + &last));
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 21, "{answers}");
    let stream = site.say(&last);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(status(&rest(stream)), 200, "it has ended its side");
}

#[test]
fn garbage_is_refused_and_harms_nothing() {
    let site = site(START);
    let garbage: [&[u8]; 7] = [
        b"\0\x01\x02\xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for words in garbage {
        let stream = site.say(words);
        stream.shutdown(Shutdown::Write).unwrap();
        let said = rest(stream);
        assert!(said.is_empty() || status(&said) >= 400, "{said}");
    }
    for target in ["*", "http://evil.example/", "//evil.example/"] {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let said = rest(site.say(&request));
        assert!(said.is_empty() || status(&said) >= 400, "{target}: {said}");
    }
    site.answers_others();
}
