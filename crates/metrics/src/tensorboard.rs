//! TensorBoard's event files (`--tensorboard DIR`), which the real TensorBoard reads.
//!
//! A file is a sequence of TFRecords: length (u64), its checksum, the data, its checksum; all
//! little-endian, checksums being masked CRC-32C. The data is an `Event` of
//! tensorflow/core/util/event.proto in protocol-buffer encoding, of whose fields a few are needed.

use crate::appended::Appended;
use crate::{Eval, Event, Step};
use aios_base::error::{Error, Result};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file of one run.
#[derive(Debug)]
pub struct EventFile {
    file: Appended,
}

impl EventFile {
    /// Create a file in a directory, which may hold those of earlier runs.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)
            .map_err(|cause| Error::io(dir, "create the TensorBoard directory", cause))?;
        let now = since_epoch();
        // TensorBoard looks for `tfevents` in the name and reads files in the order of their names.
        let name = format!(
            "events.out.tfevents.{:010}.aios.{}",
            now as u64,
            std::process::id()
        );
        let path = dir.join(name);
        let unwritable = |cause| Error::io(&path, "write the TensorBoard file", cause);
        let file = Appended::open(&path).map_err(unwritable)?;
        let mut events = Self { file };
        events.begin().map_err(unwritable)?;
        Ok(events)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What every file begins with.
    fn begin(&mut self) -> io::Result<()> {
        let mut version = Message::default();
        version.bytes(3, b"brain.Event:2");
        self.file.append_whole(&record(&whole(0, version)))
    }

    /// Append what TensorBoard can show of an event.
    ///
    /// Whether it went into a new file, since the one so far has gone.
    ///
    /// # Errors
    /// A full disk or the like.
    pub fn write(&mut self, event: &Event) -> io::Result<bool> {
        match event {
            Event::Start(start) => {
                let config = serde_json::to_string_pretty(&start.config).unwrap_or_default();
                // TensorBoard shows Markdown.
                let text = format!("{} ({})\n```\n{config}\n```", start.device, start.backend);
                self.append(0, summary(&[text_value("start", &text)]))
            }
            // What an earlier run logged from the step of this event on is replaced.
            Event::Resume(resume) => {
                let mut log = Message::default();
                log.varint(1, SESSION_START);
                let mut event = Message::default();
                event.message(7, log);
                self.append(resume.step + 1, event)
            }
            Event::Step(step) => self.append(step.step, summary(&of_step(step))),
            Event::Eval(eval) => self.append(eval.step, summary(&of_eval(eval))),
            Event::Sample(sample) => {
                let text = format!("```\n{}\n```", sample.text);
                self.append(sample.step, summary(&[text_value("sample", &text)]))
            }
            Event::Checkpoint(_)
            | Event::OomBackoff(_)
            | Event::Fallback(_)
            | Event::Operations(_)
            | Event::End(_) => Ok(false),
        }
    }

    /// One record, in one write.
    fn append(&mut self, step: u64, event: Message) -> io::Result<bool> {
        let renewed = self.file.renew()?;
        if renewed {
            self.begin()?;
        }
        self.file.append_whole(&record(&whole(step, event)))?;
        Ok(renewed)
    }
}

/// An event with its time and step.
fn whole(step: u64, event: Message) -> Vec<u8> {
    let mut whole = Message::default();
    whole.double(1, since_epoch());
    whole.varint(2, step);
    whole.0.extend(event.0);
    whole.0
}

/// SessionLog.SessionStatus.START
const SESSION_START: u64 = 1;
/// DataType.DT_STRING
const STRING: u64 = 7;

fn of_step(step: &Step) -> Vec<Message> {
    let memory = &step.memory;
    [
        ("loss/total", step.loss),
        ("loss/cross_entropy", step.ce),
        ("loss/perplexity", step.ce.exp()),
        ("loss/q_halt", step.q_halt_loss),
        ("loss/q_continue", step.q_continue_loss),
        ("optimizer/learning_rate", step.learning_rate),
        ("optimizer/grad_norm", step.grad_norm),
        ("optimizer/loss_scale", step.loss_scale),
        ("optimizer/skipped", f64::from(u8::from(step.skipped))),
        ("speed/tokens_per_second", step.tokens_per_second),
        ("speed/segments", step.segments),
        ("memory/in_use_bytes", memory.in_use_bytes as f64),
        ("memory/reserved_bytes", memory.reserved_bytes as f64),
        ("memory/peak_bytes", memory.peak_bytes as f64),
        ("batch/micro_batch_size", step.batch_size as f64),
    ]
    .map(|(tag, value)| scalar(tag, value))
    .into()
}

fn of_eval(eval: &Eval) -> Vec<Message> {
    [
        ("eval/loss", eval.loss),
        ("eval/perplexity", eval.perplexity),
        ("eval/bits_per_byte", eval.bits_per_byte),
    ]
    .map(|(tag, value)| scalar(tag, value))
    .into()
}

/// An event with a summary of these values.
fn summary(values: &[Message]) -> Message {
    let mut summary = Message::default();
    for value in values {
        summary.bytes(1, &value.0);
    }
    let mut event = Message::default();
    event.message(5, summary);
    event
}

fn scalar(tag: &str, number: f64) -> Message {
    let mut value = Message::default();
    value.bytes(1, tag.as_bytes());
    value.float(2, number as f32);
    value
}

/// Of the text plugin: a tensor of one string.
fn text_value(tag: &str, text: &str) -> Message {
    let (mut plugin, mut metadata) = (Message::default(), Message::default());
    plugin.bytes(1, b"text");
    metadata.message(1, plugin);
    let (mut dim, mut shape, mut tensor) = <(Message, Message, Message)>::default();
    dim.varint(1, 1);
    shape.message(2, dim);
    tensor.varint(1, STRING);
    tensor.message(2, shape);
    tensor.bytes(8, text.as_bytes());
    let mut value = Message::default();
    value.bytes(1, tag.as_bytes());
    value.message(8, tensor);
    value.message(9, metadata);
    value
}

/// A protocol-buffer message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u8, wire_type: u8) {
        self.0.push(field << 3 | wire_type);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u8, value: u64) {
        self.key(field, 0);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u8, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u8, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u8, bytes: &[u8]) {
        self.key(field, 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn message(&mut self, field: u8, message: Self) {
        self.bytes(field, &message.0);
    }
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_checksum(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_checksum(data).to_le_bytes());
    record
}

/// Masked as TFRecords have it, so that data that holds checksums can be checked too.
fn masked_checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

fn since_epoch() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record of the version event as TensorBoard's own writer makes it, at time 0.
    #[test]
    fn a_record_is_that_of_tensorboards_writer() {
        let mut event = Message::default();
        event.bytes(3, b"brain.Event:2");
        let record = record(&event.0);
        assert_eq!(&record[..8], [15, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&record[12..27], b"\x1a\x0dbrain.Event:2");
        assert_eq!(record.len(), 8 + 4 + 15 + 4);
    }

    #[test]
    fn numbers_are_encoded_as_protocol_buffers_are() {
        let mut message = Message::default();
        message.varint(2, 300);
        message.float(2, 1.0);
        assert_eq!(message.0, [0x10, 0xac, 0x02, 0x15, 0, 0, 0x80, 0x3f]);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }
}
