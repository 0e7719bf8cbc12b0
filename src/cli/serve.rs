//! `aios serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::args::BundleArgs;
use crate::cli::brain::Brain;
use crate::cli::sampling::SamplingFlags;
use crate::cli::speech::{Answer, Speaker, Speech, prepared};
use aios_base::config::DeviceChoice;
use aios_base::error::{Error, Result};
use aios_base::terminal;
use aios_chat::Message;
use aios_engine::{Ended, Sampling};
use aios_process::stop::{self, StopSignal};
use aios_serve::{Fault, Finish, Generator, Reason, Sampling as Wishes, Settings, serve};
use aios_train::export::name_of;

/// Arguments of `aios serve`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct ServeArgs {
    /// Where the model is.
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// Address to listen on; 0.0.0.0 is any of this machine's, and needs --api-key
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_parser = host)]
    pub host: IpAddr,
    /// Port to listen on; 0 = any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Key that clients have to send (Authorization: Bearer KEY)
    #[arg(long, value_name = "KEY", env = "AIOS_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Web pages of this origin may ask too, such as http://localhost:3000; may be repeated, * = all
    #[arg(long, value_name = "ORIGIN", action = clap::ArgAction::Append)]
    pub allow_origin: Vec<String>,
    /// Name that clients ask for [default: that of the model's folder, file or repository]
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,
    /// Chat template in Jinja, in place of the model's own
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Longest text, in tokens, prompt and answer together [default: the model's, but no more than 8192]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    pub max_seq_len: Option<u32>,
    /// Requests that wait while one is answered; those beyond are refused (429)
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub queue: usize,
    /// Longest time for an answer, in seconds; then it ends as if it were long enough
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// How tokens are drawn where a request does not say it.
    #[command(flatten)]
    pub sampling: SamplingFlags,
    /// Where to compute: `auto`, `cpu`, `cuda[:INDEX]`, `wgpu[:INDEX]` or `ndarray`
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
}

fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        text => text
            .parse()
            .map_err(|_| "use an address such as 127.0.0.1 or 0.0.0.0".to_string()),
    }
}

impl ServeArgs {
    fn settings(&self) -> Result<Settings> {
        let name = self.served_model_name.clone();
        let name = name.unwrap_or_else(|| name_of(&self.bundle.path().to_string_lossy()));
        let mut settings = Settings {
            address: SocketAddr::new(self.host, self.port),
            key: self.api_key.clone(),
            allow_origins: self.allow_origin.clone(),
            ..Settings::new(name)
        };
        settings.limits.queue = self.queue;
        settings.limits.generation_time = Duration::from_secs(self.timeout);
        match settings.is_exposed() {
            false => Ok(settings),
            true => Err(Error::invalid(format!(
                "--host {}: other machines could use the model without a key: give --api-key KEY (or AIOS_API_KEY) as well",
                self.host
            ))),
        }
    }
}

/// Serve a model.
pub fn run(args: ServeArgs) -> Result<()> {
    let settings = args.settings()?;
    let signal = StopSignal::install(None)?;
    let wanted = || {
        let asked = signal.requested().is_some();
        if asked {
            stop::ending();
        }
        asked
    };
    let name = settings.model.clone();
    let mut started = |address: SocketAddr| {
        terminal::say(&format!(
            "{name} answers at http://{address}/v1 as OpenAI's servers do; Ctrl-C ends it. It is for trying a model, not for \
             production"
        ));
    };
    serve(
        settings,
        Box::new(move || Ok(Box::new(Served::new(args)?))),
        &wanted,
        &mut started,
    )
}

/// The model at work.
struct Served {
    brain: &'static Brain,
    speaker: Speaker<'static>,
    /// None of a model without a chat template, and why.
    speech: Result<Speech, String>,
    sampling: Sampling,
}

impl Served {
    fn new(args: ServeArgs) -> Result<Self> {
        let (brain, sampling) = prepared(&args.bundle, args.max_seq_len, &args.sampling)?;
        let speech = Speech::of(&brain, args.chat_template.as_deref());
        // They are there for as long as the program serves.
        let brain: &'static Brain = Box::leak(Box::new(brain));
        let (execution, device) = brain.open_device(&args.device)?;
        let device = Box::leak(device);
        let engine = Box::leak(brain.model(brain.config.max_seq_len, &*device)?);
        if let Err(why) = &speech {
            tracing::warn!("conversations are refused: {why}");
        }
        Ok(Self {
            brain,
            speaker: Speaker::new(brain, &*engine, execution),
            speech: speech.map_err(|why| why.to_string()),
            sampling,
        })
    }

    fn sampling(&self, wishes: &Wishes) -> Sampling {
        let own = &self.sampling;
        Sampling {
            temperature: wishes.temperature.unwrap_or(own.temperature),
            top_k: wishes.top_k.unwrap_or(own.top_k),
            top_p: wishes.top_p.unwrap_or(own.top_p),
            min_p: wishes.min_p.unwrap_or(own.min_p),
            repetition_penalty: wishes.repetition_penalty.unwrap_or(own.repetition_penalty),
            seed: wishes.seed.unwrap_or(own.seed),
            stop: own.stop.clone(),
        }
    }

    fn go_on(
        &mut self,
        ids: &[u32],
        sampling: &Sampling,
        most: Option<usize>,
        piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Finish, Fault> {
        if ids.len() >= self.speaker.longest {
            return Err(Fault::Request(format!(
                "the prompt is {} tokens long, and this model's longest text is {} tokens, answer included",
                ids.len(),
                self.speaker.longest
            )));
        }
        let most = most.unwrap_or(usize::MAX);
        let mut each = |text: &str| Ok(piece(text));
        let answer = self.speaker.go_on(ids, sampling, most, &mut each)?;
        Ok(finish(&answer))
    }
}

fn finish(answer: &Answer) -> Finish {
    Finish {
        reason: match answer.ended {
            Ended::Stop => Reason::Stop,
            Ended::Length => Reason::Length,
            Ended::Asked => Reason::Cancelled,
        },
        prompt_tokens: answer.read,
        completion_tokens: answer.tokens,
    }
}

/// What a request has wrong.
fn refused(error: Error) -> Fault {
    match error {
        Error::Invalid(why) | Error::Failed(why) => Fault::Request(why),
        error => Fault::Server(error),
    }
}

impl Generator for Served {
    fn chat(
        &mut self,
        messages: &[Message],
        wishes: &Wishes,
        piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Finish, Fault> {
        let speech = self.speech.as_ref();
        let speech = speech.map_err(|why| Fault::Request(why.clone()))?;
        let ids = speech.ids(messages).map_err(refused)?;
        let mut sampling = self.sampling(wishes);
        sampling.stop.extend(speech.end);
        self.go_on(&ids, &sampling, wishes.max_tokens, piece)
    }

    fn complete(
        &mut self,
        prompt: &str,
        wishes: &Wishes,
        piece: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Finish, Fault> {
        let ids = self.brain.prompt_with_names(prompt).map_err(refused)?;
        let sampling = self.sampling(wishes);
        self.go_on(&ids, &sampling, wishes.max_tokens, piece)
    }
}
