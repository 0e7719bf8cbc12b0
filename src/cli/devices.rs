//! `aios devices`.

use super::args::DevicesArgs;
use super::output::{to_json_line, write_stdout};
use crate::backend::{enumerate, render_table, report};
use crate::config::DeviceChoice;
use crate::error::Result;

/// List the devices.
pub fn run(args: DevicesArgs) -> Result<()> {
    let report = report(enumerate(), &DeviceChoice::Auto);
    match args.json {
        true => write_stdout(to_json_line(&report)?.as_bytes()),
        false => write_stdout(render_table(&report).as_bytes()),
    }
}
