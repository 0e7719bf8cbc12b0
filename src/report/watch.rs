//! The report served on this machine alone, read anew whenever its files have changed.

use super::Report;
use crate::error::{Error, Result};
use std::io::Cursor;
use std::net::SocketAddr;
use std::path::PathBuf;
use tiny_http::{Header, Method, Request, Response};

/// Seconds between two looks of an open page.
const PAUSE: u64 = 2;

/// A server on 127.0.0.1.
pub struct Server {
    paths: Vec<PathBuf>,
    http: tiny_http::Server,
    address: SocketAddr,
}

type Answer = Response<Cursor<Vec<u8>>>;

impl Server {
    /// Listen on a port, or on any free one for 0.
    ///
    /// # Errors
    /// A port that is taken or not allowed.
    pub fn new(paths: Vec<PathBuf>, port: u16) -> Result<Self> {
        let cannot = |cause: &dyn std::fmt::Display| {
            Error::failed(format!(
                "cannot serve on 127.0.0.1:{port}: {cause}; choose another --port"
            ))
        };
        let http = tiny_http::Server::http(("127.0.0.1", port)).map_err(|cause| cannot(&cause))?;
        let address = http.server_addr().to_ip();
        let address = address.ok_or_else(|| cannot(&"no address"))?;
        Ok(Self {
            paths,
            http,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answer until the process ends.
    pub fn serve(&self) {
        for request in self.http.incoming_requests() {
            let answer = self.answer(&request);
            // A browser that has gone does not want it.
            let _ = request.respond(answer);
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        if !is_ours(request) {
            return text(403, "this server answers its own page only");
        }
        if !matches!(request.method(), Method::Get | Method::Head) {
            return text(405, "only GET is answered");
        }
        match request.url().split_once('?').unwrap_or((request.url(), "")) {
            ("/", _) => self.page(),
            ("/data.json", query) => self.news(query),
            _ => text(404, "there is only /"),
        }
    }

    fn page(&self) -> Answer {
        match Report::read(&self.paths, Some(PAUSE)) {
            Ok(report) => typed(report.to_html(), "text/html; charset=utf-8"),
            // The training may be about to write its first line.
            Err(error) => with_header(text(503, &error.to_string()), "Refresh", &PAUSE.to_string()),
        }
    }

    /// All of the report as JSON, or nothing (204) for whoever has it.
    fn news(&self, query: &str) -> Answer {
        if query.strip_prefix("have=") == Some(&super::stamp(&self.paths)) {
            return text(204, "");
        }
        match Report::read(&self.paths, Some(PAUSE)) {
            Ok(report) => typed(report.to_json(), "application/json"),
            Err(error) => text(503, &error.to_string()),
        }
    }
}

/// Whether the browser means this machine: a page of another host whose name leads here may not read it. The port may be
/// another one, of a tunnel.
fn is_ours(request: &Request) -> bool {
    let host = (request.headers().iter()).find(|header| header.field.equiv("Host"));
    host.is_some_and(|host| {
        let host = host.value.as_str();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        ["127.0.0.1", "localhost"]
            .iter()
            .any(|ours| name.eq_ignore_ascii_case(ours))
    })
}

fn text(status: u16, text: &str) -> Answer {
    typed(text.to_string(), "text/plain; charset=utf-8").with_status_code(status)
}

fn typed(body: String, kind: &str) -> Answer {
    let answer = Response::from_data(body.into_bytes());
    let answer = with_header(answer, "Content-Type", kind);
    with_header(answer, "X-Content-Type-Options", "nosniff")
}

fn with_header(answer: Answer, name: &str, value: &str) -> Answer {
    match Header::from_bytes(name, value) {
        Ok(header) => answer.with_header(header),
        Err(()) => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::io::{Read, Write};
    use std::net::TcpStream;

    struct Site {
        address: SocketAddr,
        file: PathBuf,
        _dir: tempfile::TempDir,
    }

    fn site(lines: &str) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.jsonl");
        fs::write(&file, lines).unwrap();
        let server = Server::new(vec![file.clone()], 0).unwrap();
        let address = server.address();
        std::thread::spawn(move || server.serve());
        Site {
            address,
            file,
            _dir: dir,
        }
    }

    impl Site {
        /// Status and body.
        fn get(&self, path: &str, host: &str) -> (u16, String) {
            let mut stream = TcpStream::connect(self.address).unwrap();
            let port = self.address.port();
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            (status, body.to_string())
        }

        fn data(&self, have: &str) -> (u16, String) {
            self.get(&format!("/data.json?have={have}"), "127.0.0.1")
        }
    }

    const START: &str = "{\"event\":\"start\"}\n";

    #[test]
    fn news_are_sent_once() {
        let site = site(START);
        assert!(site.address.ip().is_loopback());
        let (status, page) = site.get("/", "localhost");
        assert_eq!(status, 200);
        assert!(page.contains("\"watch\":2"), "the page looks for news");
        let stamp = super::super::stamp(std::slice::from_ref(&site.file));
        assert_eq!(site.data(&stamp), (204, String::new()));
        let mut file = OpenOptions::new().append(true).open(&site.file).unwrap();
        file.write_all(b"{\"event\":\"step\",\"step\":1,\"ce\":2.5}\n")
            .unwrap();
        let (status, news) = site.data(&stamp);
        assert_eq!(status, 200);
        assert!(news.contains("\"ce\":[2.5]"), "{news}");
    }

    #[test]
    fn a_file_that_has_gone_is_told_and_the_server_stays() {
        let site = site(START);
        fs::remove_file(&site.file).unwrap();
        let (status, said) = site.data("");
        assert_eq!(status, 503);
        assert!(said.contains("m.jsonl"), "{said}");
        fs::write(&site.file, START).unwrap();
        assert_eq!(site.data("").0, 200);
    }

    #[test]
    fn others_get_nothing() {
        let site = site(START);
        assert_eq!(site.get("/", "evil.example").0, 403);
        assert_eq!(site.get("/", "LOCALHOST").0, 200);
        assert_eq!(site.get("/../etc/passwd", "127.0.0.1").0, 404);
    }

    #[test]
    fn a_port_that_is_taken_is_a_clear_error() {
        let site = site(START);
        let error = Server::new(vec![], site.address.port()).err().unwrap();
        assert!(error.to_string().contains("--port"), "{error}");
    }
}
