//! Parses the command line, runs it, and turns the outcome into an exit code.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;

use aios::cli::{self, Cli};
use aios_base::error::{Error, Result};
use aios_base::meter::ProcessHeap;
use aios_base::{fault, terminal};
use aios_distributed::Launched;
use aios_process::stop;

#[global_allocator]
static HEAP: ProcessHeap = ProcessHeap;

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { aios_device::quiet_missing_session() };
    stop::survive_file_limits();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    fault::quiet_device_panics();
    match init_log().and_then(|()| cli::run(cli)) {
        Ok(code) => ExitCode::from(code),
        Err(error) if reader_is_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Of what a launcher started, one on each host says it.
            if launched().is_none_or(|launched| launched.local == 0) {
                terminal::say(&error.last_words());
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// What clap says of the arguments, help and version included.
fn usage(error: &clap::Error) -> ExitCode {
    let unreadable = || std::env::args_os().find(|argument| argument.to_str().is_none());
    match error.kind() {
        // Clap does not say which one it is.
        ErrorKind::InvalidUtf8 => terminal::say(&format!(
            "error: the argument {:?} is not valid UTF-8",
            unreadable().unwrap_or_default()
        )),
        // Of a job's ranks one says it. Whoever does not read it does not want it.
        _ if is_first() || !error.use_stderr() => drop(error.print()),
        _ => {}
    }
    ExitCode::from(error.exit_code() as u8)
}

/// Sends log records to standard error, as `AIOS_LOG` filters them.
fn init_log() -> Result<()> {
    let filter = std::env::var("AIOS_LOG").unwrap_or_else(|_| match is_first() {
        true => "warn,aios=info,wgpu=off,wgpu_hal=off,wgpu_core=off,naga=off,cubecl=off".into(),
        false => "off".into(),
    });
    let filter = EnvFilter::try_new(&filter).map_err(|cause| {
        Error::invalid(format!(
            "AIOS_LOG is `{filter}`: {cause}; use a filter such as aios=debug"
        ))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(terminal::stderr)
        .with_ansi(terminal::is_coloured())
        .log_internal_errors(false)
        .without_time()
        .with_target(false)
        .init();
    Ok(())
}

/// What a launcher says of this process, if it makes sense.
fn launched() -> Option<Launched> {
    Launched::from_env().ok().flatten()
}

/// Whether this process speaks for all that a launcher started to train together.
fn is_first() -> bool {
    let arguments: Vec<_> = std::env::args_os().collect();
    let trains = ["train", "finetune", "pretrain", "hrm-hf"];
    let together = arguments
        .get(1)
        .is_some_and(|name| trains.iter().any(|trains| name == trains));
    let mut pairs = arguments.iter().zip(arguments.iter().skip(1));
    let apart = pairs.any(|(flag, value)| flag == "--distributed" && value == "off");
    !together || apart || launched().is_none_or(|launched| launched.rank == 0)
}

/// `aios devices | head` ends the pipe early; that is no failure of ours.
fn reader_is_gone(error: &Error) -> bool {
    matches!(error, Error::Io { path, source, .. }
        if source.kind() == io::ErrorKind::BrokenPipe && path.as_os_str() == "standard output")
}
