//! `aios devices`.

use super::args::DevicesArgs;
use crate::backend::{DeviceReport, enumerate, render_table, report};
use crate::config::DeviceChoice;
use crate::error::{Error, Result};
use crate::terminal::{to_json_line, write_stdout};
use crate::train::plan::check_adapter;

/// List the devices.
///
/// # Errors
/// With `--check`, a device that computes wrongly; the list is written all the same.
pub fn run(args: DevicesArgs) -> Result<()> {
    let mut report = report(enumerate(), &DeviceChoice::Auto);
    if args.check {
        let usable = report.adapters.iter().filter(|a| a.problem.is_none());
        report.checks = usable.flat_map(check_adapter).collect();
    }
    match args.json {
        true => write_stdout(to_json_line(&report)?.as_bytes())?,
        false => write_stdout(render_table(&report).as_bytes())?,
    }
    verdict(&report)
}

fn verdict(report: &DeviceReport) -> Result<()> {
    let wrong = report.checks.iter().filter(|check| check.problem.is_some());
    match wrong.count() {
        0 => Ok(()),
        n => Err(Error::failed(format!(
            "{n} of {} checks failed: see above",
            report.checks.len()
        ))),
    }
}
