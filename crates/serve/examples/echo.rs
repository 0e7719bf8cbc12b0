//! A server without a model: it repeats the words it is given.
//!
//! `cargo run -p aios-serve --example echo -- [--port 8080] [--key KEY] [--allow-origin ORIGIN]`; scripts/prove_serve asks it as
//! OpenAI's client does.

use aios_base::error::{Error, Result};
use aios_serve::{Fault, Finish, Generator, Message, Reason, Sampling, Settings, serve};
use std::process::ExitCode;
use std::time::Duration;

/// As if there were something to compute.
const PAUSE: Duration = Duration::from_millis(20);

struct Echo;

impl Generator for Echo {
    fn chat(
        &mut self,
        messages: &[Message],
        sampling: &Sampling,
        piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Finish, Fault> {
        let last = messages.last().map_or("", |message| &message.content);
        self.complete(last, sampling, piece)
    }

    fn complete(
        &mut self,
        prompt: &str,
        sampling: &Sampling,
        piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Finish, Fault> {
        let words: Vec<&str> = prompt.split_inclusive(' ').collect();
        if words.is_empty() {
            let why = "there is nothing to repeat: say something";
            return Err(Fault::Request(why.to_string()));
        }
        let most = sampling.max_tokens.unwrap_or(usize::MAX);
        let mut finish = Finish {
            reason: Reason::Stop,
            prompt_tokens: words.len(),
            completion_tokens: 0,
        };
        for word in words {
            if finish.completion_tokens == most {
                finish.reason = Reason::Length;
                break;
            }
            std::thread::sleep(PAUSE);
            finish.completion_tokens += 1;
            if !piece(word) {
                finish.reason = Reason::Cancelled;
                break;
            }
        }
        Ok(finish)
    }
}

fn settings() -> Result<Settings> {
    let mut settings = Settings::new("echo");
    let mut flags = std::env::args().skip(1);
    while let Some(flag) = flags.next() {
        let needed = || Error::invalid(format!("{flag} needs a value"));
        let value = flags.next().ok_or_else(needed)?;
        match flag.as_str() {
            "--port" => {
                let wrong = |_| Error::invalid(format!("--port {value}: must be 0 to 65535"));
                settings.address.set_port(value.parse().map_err(wrong)?);
            }
            "--key" => settings.key = Some(value),
            "--allow-origin" => settings.allow_origins.push(value),
            _ => return Err(Error::invalid(format!("there is no flag {flag}"))),
        }
    }
    Ok(settings)
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let served = settings().and_then(|settings| {
        let build = Box::new(|| Ok(Box::new(Echo) as Box<dyn Generator>));
        // Ends as a process does.
        serve(settings, build, &|| false, &mut |address| {
            println!("http://{address}/v1");
        })
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.last_words());
            ExitCode::from(error.exit_code())
        }
    }
}
