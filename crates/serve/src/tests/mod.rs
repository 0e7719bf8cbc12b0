//! The server with a made-up model, over real sockets.

mod answers;
mod clients;
mod ending;
mod limits;
mod log;

use crate::{Fault, Finish, Generator, Limits, Message, Reason, Sampling, Settings, serve};
use aios_base::error::{Error, Result};
use log::Log;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

const MODEL: &str = "org/tiny";
/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(2);

/// Does what the last message says, or repeats it, a word a token.
struct Puppet {
    /// Hears of what a client would not.
    told: Sender<Told>,
}

#[derive(Debug, PartialEq)]
enum Told {
    Started(String),
    Sampling(Sampling),
    Refused,
}

impl Generator for Puppet {
    fn chat(
        &mut self,
        messages: &[Message],
        sampling: &Sampling,
        piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Finish, Fault> {
        self.complete(&messages.last().unwrap().content, sampling, piece)
    }

    fn complete(
        &mut self,
        prompt: &str,
        sampling: &Sampling,
        piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Finish, Fault> {
        let _ = self.told.send(Told::Started(prompt.to_string()));
        match prompt {
            "refuse" => return Err(Fault::Request("too long a prompt".to_string())),
            "fail" => return Err(Error::failed("no such luck").into()),
            "lose the device" => return Err(Error::Device("the device is lost".to_string()).into()),
            "panic" => panic!("as asked"),
            "sampling" => {
                let _ = self.told.send(Told::Sampling(sampling.clone()));
            }
            _ => {}
        }
        let words: Vec<&str> = prompt.split_inclusive(' ').collect();
        let mut said = words.iter().copied().cycle();
        let most = match prompt {
            "on and on" => usize::MAX,
            _ => words.len(),
        };
        let mut finish = Finish {
            reason: Reason::Stop,
            prompt_tokens: words.len(),
            completion_tokens: 0,
        };
        while finish.completion_tokens < most {
            if finish.completion_tokens == sampling.max_tokens.unwrap_or(most) {
                finish.reason = Reason::Length;
                break;
            }
            finish.completion_tokens += 1;
            sleep(TICK);
            if !piece(said.next().unwrap()) {
                let _ = self.told.send(Told::Refused);
                finish.reason = Reason::Cancelled;
                break;
            }
        }
        Ok(finish)
    }
}

/// A server that ends with the test.
struct Site {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    told: Receiver<Told>,
    log: Log,
    thread: Option<JoinHandle<Result<()>>>,
}

fn site() -> Site {
    site_with(|_| {})
}

fn site_with(change: impl FnOnce(&mut Settings)) -> Site {
    let mut settings = Settings::new(MODEL);
    settings.address.set_port(0);
    settings.limits.stop_time = Duration::from_millis(300);
    change(&mut settings);
    let stop = Arc::new(AtomicBool::new(false));
    let (say, told) = channel();
    let (say_address, address) = channel();
    let stopped = Arc::clone(&stop);
    let log = Log::default();
    let written = log.clone();
    let thread = std::thread::spawn(move || {
        written.take_this_thread();
        let build = Box::new(|| Ok(Box::new(Puppet { told: say }) as Box<dyn Generator>));
        let stop = || stopped.load(Ordering::Relaxed);
        serve(settings, build, &stop, &mut |address| {
            say_address.send(address).unwrap();
        })
    });
    Site {
        address: address.recv_timeout(PATIENCE).unwrap(),
        stop,
        told,
        log,
        thread: Some(thread),
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Site {
    /// Wait for the server's end, which somebody else has brought about.
    fn end(&mut self) -> Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }

    fn stop(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.end()
    }

    /// What the model tells next.
    #[track_caller]
    fn next_told(&self) -> Told {
        self.told.recv_timeout(PATIENCE).unwrap()
    }

    #[track_caller]
    fn wait_for_start(&self, prompt: &str) {
        while self.next_told() != Told::Started(prompt.to_string()) {}
    }

    #[track_caller]
    fn wait_for_refusal(&self) {
        while self.next_told() != Told::Refused {}
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, Value) {
        let url = format!("http://{}{path}", self.address);
        let mut answer = agent().get(url).call().unwrap();
        let body = answer.body_mut().read_to_string().unwrap();
        let json = serde_json::from_str(&body).unwrap();
        (answer.status().as_u16(), json)
    }

    fn post_text(&self, path: &str, body: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.address);
        let mut answer = agent().post(url).send(body).unwrap();
        let body = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), body)
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.post_text(path, &body.to_string());
        (status, serde_json::from_str(&body).unwrap())
    }

    /// The data of a streamed answer's events.
    fn events(&self, path: &str, body: &Value) -> Vec<String> {
        let (status, text) = self.post_text(path, &body.to_string());
        assert_eq!(status, 200, "{text}");
        events(&text)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A connection on which this was said.
    fn say(&self, words: impl AsRef<[u8]>) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(words.as_ref()).unwrap();
        stream
    }

    /// A connection on which a prompt is to be completed, and the answer streamed.
    fn say_prompt(&self, prompt: &str) -> TcpStream {
        let body = json!({"prompt": prompt, "stream": true, "max_tokens": 1_000_000}).to_string();
        self.say(post_head("/v1/completions", body.len()) + &body)
    }

    /// Whether nothing has come on a connection whose request was read, since a later one was.
    fn waits(&self, stream: &TcpStream) -> bool {
        assert_eq!(self.get("/health").0, 200);
        let moment = Duration::from_millis(50);
        stream.set_read_timeout(Some(moment)).unwrap();
        let waits = stream.peek(&mut [0]).is_err();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        waits
    }

    /// Status, head and body of the answer to a request that ends the connection.
    fn ask(&self, words: &str) -> (u16, String, String) {
        answer(self.say(words))
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE));
    config.build().into()
}

fn post_head(path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

fn events(text: &str) -> Vec<String> {
    let events = text.split_terminator("\n\n");
    events
        .map(|event| event.strip_prefix("data: ").unwrap().to_string())
        .collect()
}

fn parsed(events: &[String]) -> Vec<Value> {
    events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

/// What comes until the connection ends, however it does.
fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn answer(stream: TcpStream) -> (u16, String, String) {
    let answer = rest(stream);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_string())
}

fn chat(content: &str) -> Value {
    json!({"messages": [{"role": "user", "content": content}]})
}

/// The object with more fields.
fn with(mut body: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}
