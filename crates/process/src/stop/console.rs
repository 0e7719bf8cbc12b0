//! What a Windows console's events mean. Free of the system, so that it is tested everywhere.

/// Ctrl-C, Ctrl-Break: the console waits for nothing.
const CTRL_C: u32 = 0;
const CTRL_BREAK: u32 = 1;

/// The console is closed, the user logs off, the system shuts down: as soon as the handler returns, the process is ended.
const CLOSE: u32 = 2;
const LOGOFF: u32 = 5;
const SHUTDOWN: u32 = 6;

/// Obeys an event: `ask` is the request to stop, and `hold` keeps the handler from returning until the process has ended
/// by itself. Whether the event was one of those.
pub(super) fn obey(event: u32, ask: impl FnOnce(), hold: impl FnOnce()) -> bool {
    match event {
        CTRL_C | CTRL_BREAK => ask(),
        CLOSE | LOGOFF | SHUTDOWN => {
            ask();
            hold();
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// What is done for an event, in order.
    fn done(event: u32) -> (Vec<&'static str>, bool) {
        let log = RefCell::new(Vec::new());
        let note = |what| log.borrow_mut().push(what);
        let taken = obey(event, || note("ask"), || note("hold"));
        (log.into_inner(), taken)
    }

    #[test]
    fn ctrl_c_asks_and_returns() {
        for event in [CTRL_C, CTRL_BREAK] {
            assert_eq!(done(event), (vec!["ask"], true));
        }
    }

    #[test]
    fn a_closing_console_waits_until_the_run_is_saved() {
        for event in [CLOSE, LOGOFF, SHUTDOWN] {
            assert_eq!(done(event), (vec!["ask", "hold"], true));
        }
    }

    #[test]
    fn other_events_are_not_ours() {
        assert_eq!(done(7), (vec![], false));
    }
}
