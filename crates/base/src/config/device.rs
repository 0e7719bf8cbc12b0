//! Which device the user asks for. Whether it exists is for the backend to find out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device as named by `--device`: `auto`, `cpu`, `cuda[:INDEX]`, `wgpu[:INDEX]` or `ndarray`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// CUDA, then wgpu on a real GPU, then the CPU.
    Auto,
    /// The processor.
    Cpu,
    /// The CUDA device of this index; `cuda` alone is index 0.
    Cuda(usize),
    /// The wgpu adapter of this index in `aios devices`, or the best one.
    Wgpu(Option<usize>),
    /// The processor by plain tensor operations alone.
    Ndarray,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, Some(parse_index(text, index)?)),
            None => (text, None),
        };
        match (kind, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("ndarray", None) => Ok(Self::Ndarray),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("auto" | "cpu" | "ndarray", Some(_)) => Err(format!(
                "device `{text}`: `{kind}` takes no index; write `{kind}`"
            )),
            _ => Err(format!(
                "no device `{text}`: use auto, cpu, cuda, cuda:INDEX, wgpu, wgpu:INDEX or ndarray"
            )),
        }
    }
}

fn parse_index(text: &str, index: &str) -> Result<usize, String> {
    index.parse().map_err(|_| {
        format!("device `{text}`: `{index}` is not an index; use a number from `aios devices`")
    })
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Ndarray => f.write_str("ndarray"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Wgpu(None) => f.write_str("wgpu"),
            Self::Wgpu(Some(index)) => write!(f, "wgpu:{index}"),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_parses_and_prints_back() {
        for (text, choice, printed) in [
            ("auto", DeviceChoice::Auto, "auto"),
            ("cpu", DeviceChoice::Cpu, "cpu"),
            ("ndarray", DeviceChoice::Ndarray, "ndarray"),
            ("cuda", DeviceChoice::Cuda(0), "cuda:0"),
            ("cuda:3", DeviceChoice::Cuda(3), "cuda:3"),
            ("wgpu", DeviceChoice::Wgpu(None), "wgpu"),
            ("wgpu:1", DeviceChoice::Wgpu(Some(1)), "wgpu:1"),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), printed);
        }
    }

    #[test]
    fn bad_names_are_quoted_in_the_error() {
        for text in [
            "", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:1",
        ] {
            let error = text.parse::<DeviceChoice>().unwrap_err();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
