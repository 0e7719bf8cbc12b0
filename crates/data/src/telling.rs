//! A word to the user now and then while something takes long.

use std::time::{Duration, Instant};

use aios_base::error::Result;
use aios_base::meter::format_bytes;
use aios_base::terminal;
use aios_base::waiting::time_left;
use indicatif::HumanDuration;

const PAUSE: Duration = Duration::from_secs(2);

/// A [`super::Watch`] that never ends the work and says what is going on, with how far it is and the time left, every two seconds, unless
/// it is `quiet`.
pub fn telling(what: &str, quiet: bool) -> impl FnMut(u64, u64) -> Result<()> + use<> {
    let what = what.to_string();
    let started = Instant::now();
    let mut said = started;
    move |done, all| {
        if said.elapsed() >= PAUSE && !quiet && done > 0 {
            said = Instant::now();
            let left = match time_left(started.elapsed(), done, all) {
                Some(left) => format!(", {:#} left", HumanDuration(left)),
                None => String::new(),
            };
            let all = match all {
                0 => String::new(),
                all => format!(" of {}", format_bytes(all)),
            };
            terminal::say(&format!("{what}: {}{all}{left}", format_bytes(done)));
        }
        Ok(())
    }
}
