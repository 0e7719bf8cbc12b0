//! A row of a benchmark in a process of its own, so that no row finds another's memory.

use crate::bench::outcome::Unmeasured;
use aios_base::error::{Error, Result};
use aios_base::terminal::{to_json_line, write_stdout};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::process::{Command, Output, Stdio};

/// What such a process writes, unless it fails.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<T> {
    Measured(T),
    /// Why there was not the memory for it.
    Unfit(String),
}

/// Write to standard output what a row's process has found.
///
/// # Errors
/// What it failed of, other than lack of memory.
pub fn answer<T: Serialize>(outcome: Result<T>) -> Result<()> {
    let answer = match outcome {
        Ok(measured) => Answer::Measured(measured),
        Err(Error::OutOfMemory(why)) => Answer::Unfit(why),
        Err(error) => return Err(error),
    };
    write_stdout(to_json_line(&answer)?.as_bytes())
}

/// Run this command line again with `flags` behind it, which then count, and `--single`, and read the
/// JSON that it writes: what was measured, or why nothing was.
///
/// # Errors
/// The program cannot be started.
pub fn in_a_process<T: DeserializeOwned>(
    flags: impl IntoIterator<Item = String>,
) -> Result<Result<T, Unmeasured>> {
    let program = std::env::current_exe().map_err(|cause| Error::io("aios", "find", cause))?;
    let output = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .args(flags)
        .arg("--single")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|cause| Error::io(&program, "run", cause))?;
    if !output.status.success() {
        return Ok(Err(reason(&output)));
    }
    Ok(match serde_json::from_slice(&output.stdout) {
        Ok(Answer::Measured(measured)) => Ok(measured),
        Ok(Answer::Unfit(why)) => Err(Unmeasured::unfit(why)),
        Err(cause) => Err(Unmeasured::failed(format!(
            "its result does not make sense: {cause}"
        ))),
    })
}

/// Refuse a name in the list of `--FLAGs` that no row or form of the table has.
///
/// # Errors
/// Names it, and those there are.
pub fn check_names(flag: &str, wanted: &[String], there: &[&str]) -> Result<()> {
    match wanted.iter().find(|name| !there.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(Error::invalid(format!(
            "--{flag}s: there is no {flag} `{unknown}` on this device: use of {}",
            there.join(", ")
        ))),
    }
}

/// What a process wrote last to standard error: why it failed.
pub fn last_words(stderr: &str) -> Option<&str> {
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    last.map(|line| line.trim_start_matches("error: "))
}

fn reason(output: &Output) -> Unmeasured {
    let text = String::from_utf8_lossy(&output.stderr);
    match (output.status.code(), last_words(&text)) {
        (Some(0..=255), Some(words)) => Unmeasured::failed(words),
        (Some(0..=255), None) => Unmeasured::failed(format!("it ended with {}", output.status)),
        // By a signal, or an exception of Windows: as in training that is taken for lack of memory.
        _ => Unmeasured::unfit(format!("the process died: {}", output.status)),
    }
}
