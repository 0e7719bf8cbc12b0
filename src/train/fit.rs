//! Whether a run fits its device, before anything is allocated.

use crate::backend::{Selection, device_memory, largest_buffer_bytes};
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::memory::estimate::Estimate;
use crate::memory::meter::format_bytes;
use crate::model::ModelConfig;
use crate::ops::AttentionPath;

/// Say it loudly if the prediction is beyond what is free.
///
/// # Errors
/// It is beyond what the device has at all.
pub fn check_memory(selection: &Selection, estimate: &Estimate) -> Result<()> {
    let memory = device_memory(&selection.adapter);
    let needed = format_bytes(estimate.total);
    const ADVICE: &str = "lower --batch-size (raising --gradient-accumulation-steps keeps the \
                          result), --max-seq-len or --hidden-size";
    if let Some(total) = memory.total_bytes.filter(|&total| estimate.total > total) {
        return Err(Error::failed(format!(
            "about {needed} would be needed and {} has {}: {ADVICE}",
            selection.adapter.flag(),
            format_bytes(total)
        )));
    }
    if let Some(free) = memory.free_bytes.filter(|&free| estimate.total > free) {
        let free = format_bytes(free);
        tracing::warn!("about {needed} will be needed and {free} is free: {ADVICE}");
    }
    Ok(())
}

/// Refuse tensors that are larger than one buffer of the device: their failure would be silent.
///
/// # Errors
/// Names the tensor, its size and the limit.
pub fn check_buffers(
    config: &TrainConfig,
    selection: &Selection,
    path: AttentionPath,
    model: &ModelConfig,
) -> Result<()> {
    let Some(largest) = largest_buffer_bytes(&selection.adapter)? else {
        return Ok(());
    };
    let head = 4 * (model.vocab_size * model.hidden_size) as u64;
    check_buffer(
        "the embedding's weights",
        head,
        largest,
        "lower --hidden-size",
    )?;
    let seq = model.max_seq_len as u64;
    let scores = 4 * (config.batch_size * model.num_heads) as u64 * seq * seq;
    match path {
        AttentionPath::Flash => Ok(()),
        AttentionPath::Sdpa => {
            let advice = "lower --batch-size or --max-seq-len";
            check_buffer("the attention scores", scores, largest, advice)
        }
    }
}

fn check_buffer(what: &str, bytes: u64, largest: u64, advice: &str) -> Result<()> {
    if bytes <= largest {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{what} take {} and this device's largest buffer is {}: {advice}",
        format_bytes(bytes),
        format_bytes(largest)
    )))
}
