//! A word to the user now and then while something takes long.

use std::time::{Duration, Instant};

use aios_base::error::Result;
use aios_base::meter::format_bytes;
use aios_base::terminal;

const PAUSE: Duration = Duration::from_secs(2);

/// A [`super::Watch`] that never ends the work and says what is going on, with how far it is, every two seconds, unless
/// it is `quiet`.
pub fn telling(what: &str, quiet: bool) -> impl FnMut(u64, u64) -> Result<()> + use<> {
    let what = what.to_string();
    let mut said = Instant::now();
    move |done, all| {
        if said.elapsed() >= PAUSE && !quiet && done > 0 {
            said = Instant::now();
            let all = match all {
                0 => String::new(),
                all => format!(" of {}", format_bytes(all)),
            };
            terminal::say(&format!("{what}: {}{all}", format_bytes(done)));
        }
        Ok(())
    }
}
