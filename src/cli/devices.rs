//! `aios devices`.

use crate::cli::args::DevicesArgs;
use crate::cli::sums;
use aios_base::config::{DeviceChoice, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::terminal::{to_json_line, write_stdout};
use aios_device::{Adapter, DeviceCheck, DeviceReport, enumerate, render_table, report};
use aios_plan::checks::{checks, outcome};
use aios_train::ranks;

/// List the devices.
///
/// # Errors
/// With `--check`, a device that computes wrongly; the list is written all the same.
pub fn run(args: DevicesArgs) -> Result<()> {
    match ranks::launched(&TrainConfig::default())? {
        Some(launched) => sums::run(&args, launched),
        None => of_this_host(&args),
    }
}

fn of_this_host(args: &DevicesArgs) -> Result<()> {
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

/// Everything that training may want of a device, tried on it.
fn check_adapter(adapter: &Adapter) -> Vec<DeviceCheck> {
    match aios_backends::open(&adapter.selected) {
        Err(error) => vec![outcome(adapter, "start".to_string(), Err(error))],
        Ok(device) => checks(adapter)
            .into_iter()
            .map(|(work, check)| outcome(adapter, work, device.check(check)))
            .collect(),
    }
}
