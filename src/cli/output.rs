//! Standard output, without the panic of `println!` when the reader has gone.

use std::io::Write;

use crate::error::{Error, Result};

/// Writes `bytes` to standard output and flushes it.
pub fn write_stdout(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|cause| Error::io("standard output", "write to", cause))
}

/// A value as one line of JSON.
pub fn to_json_line(value: &impl serde::Serialize) -> Result<String> {
    let json = serde_json::to_string(value)
        .map_err(|cause| Error::failed(format!("cannot write JSON: {cause}")))?;
    Ok(json + "\n")
}
