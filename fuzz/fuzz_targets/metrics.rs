//! A metrics file, read for the report: whole, and as it grows.

#![no_main]

use std::fs::OpenOptions;
use std::io::Write;

use aios_fuzz::{file, folder, in_proportion};
use aios_metrics::MetricsLog;
use aios_metrics::report::{Reader, Report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    in_proportion(input, || read(input));
});

fn read(input: &[u8]) {
    let paths = [file("run.jsonl", &[input])];
    let whole = Report::read(&paths).map(|report| report.to_html());
    let _ = MetricsLog::open(Some(&paths[0]));

    // After a whole line: one that is cut off may look whole by itself.
    let half = &input[..input.len() / 2];
    let end = half.iter().rposition(|&byte| byte == b'\n');
    let (first, rest) = input.split_at(end.map_or(0, |at| at + 1));
    let growing = [file("growing.jsonl", &[first])];
    let mut reader = Reader::new(&growing, Some(1));
    let _ = reader.read();
    append(rest);
    let grown = reader.read().map(|report| report.to_html());
    assert_eq!(whole.is_ok(), grown.is_ok());
}

fn append(rest: &[u8]) {
    let path = folder().join("growing.jsonl");
    let mut file = OpenOptions::new().append(true).open(path).expect("a file");
    file.write_all(rest).expect("room for a file");
}
