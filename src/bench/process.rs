//! A row of a benchmark in a process of its own, so that no row finds another's memory.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use std::process::{Command, Output, Stdio};

/// Run this command line again with `flags` behind it, which then count, and `--single`, and read the
/// JSON that it writes: the result, or why there is none.
///
/// # Errors
/// The program cannot be started.
pub fn in_a_process<T: DeserializeOwned>(
    flags: impl IntoIterator<Item = String>,
) -> Result<(Option<T>, Option<String>)> {
    let program = std::env::current_exe().map_err(|cause| Error::io("aios", "find", cause))?;
    let output = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .args(flags)
        .arg("--single")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|cause| Error::io(&program, "run", cause))?;
    let outcome = match output.status.success() {
        true => serde_json::from_slice(&output.stdout)
            .map_err(|cause| format!("its result does not make sense: {cause}")),
        false => Err(reason(&output)),
    };
    Ok(match outcome {
        Ok(outcome) => (Some(outcome), None),
        Err(error) => (None, Some(error)),
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

fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    match (output.status.code(), last) {
        (Some(_), Some(line)) => line.trim_start_matches("error: ").to_string(),
        _ => format!("the process died: {}", output.status),
    }
}
