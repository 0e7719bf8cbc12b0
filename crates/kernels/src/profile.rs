//! Where a step's time goes: operations note what they do while a thread records.

use std::cell::RefCell;
use std::time::Instant;

/// What one kind of operation took, all calls together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operation {
    pub name: &'static str,
    pub calls: u64,
    pub seconds: f64,
    /// Multiplications and additions of products, each one; none of anything else.
    pub flops: u64,
    /// What is read and written of tensors, each once.
    pub bytes: u64,
}

#[derive(Default)]
struct Log {
    operations: Vec<Operation>,
    /// Whether an operation is at work: what it calls counts as its own.
    inside: bool,
    /// Arithmetic of what was called inside.
    flops: u64,
}

thread_local! {
    static LOG: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// What `f` gives, and the operations that this thread called for meanwhile.
pub fn record<R>(f: impl FnOnce() -> R) -> (R, Vec<Operation>) {
    LOG.set(Some(Log::default()));
    let result = f();
    (result, LOG.take().unwrap_or_default().operations)
}

/// An operation at work, until it is dropped.
#[must_use]
pub struct Note(Option<Noted>);

struct Noted {
    name: &'static str,
    started: Instant,
    bytes: u64,
}

/// Note an operation, if somebody records. `cost` gives its arithmetic, beside that of operations that it calls, whose time is
/// its own, and its bytes.
#[inline]
pub fn note(name: &'static str, cost: impl FnOnce() -> (usize, usize)) -> Note {
    let bytes = LOG.with_borrow_mut(|log| {
        let log = log.as_mut()?;
        let (flops, bytes) = cost();
        log.flops += flops as u64;
        (!std::mem::replace(&mut log.inside, true)).then_some(bytes as u64)
    });
    Note(bytes.map(|bytes| Noted {
        name,
        started: Instant::now(),
        bytes,
    }))
}

impl Drop for Note {
    fn drop(&mut self) {
        let Some(Noted {
            name,
            started,
            bytes,
        }) = self.0.take()
        else {
            return;
        };
        let seconds = started.elapsed().as_secs_f64();
        LOG.with_borrow_mut(|log| {
            if let Some(log) = log {
                log.close(name, seconds, bytes);
            }
        });
    }
}

impl Log {
    fn close(&mut self, name: &'static str, seconds: f64, bytes: u64) {
        self.inside = false;
        let own = Operation {
            name,
            calls: 1,
            seconds,
            flops: std::mem::take(&mut self.flops),
            bytes,
        };
        add(&mut self.operations, own);
    }
}

/// Add an operation to that of its name.
pub fn add(sums: &mut Vec<Operation>, own: Operation) {
    match sums.iter_mut().find(|sum| sum.name == own.name) {
        Some(sum) => {
            sum.calls += own.calls;
            sum.seconds += own.seconds;
            sum.flops += own.flops;
            sum.bytes += own.bytes;
        }
        None => sums.push(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_add_up_and_what_is_called_inside_is_the_outer_ones() {
        let work = || {
            {
                let _outer = note("outer", || (5, 1));
                drop(note("inner", || (10, 100)));
            }
            drop(note("inner", || (10, 100)));
            drop(note("outer", || (5, 1)));
            3
        };
        assert_eq!(work(), 3);
        let (result, mut found) = record(work);
        assert_eq!(result, 3);
        found.sort_by_key(|operation| operation.name);
        let found: Vec<_> = found
            .iter()
            .map(|o| (o.name, o.calls, o.flops, o.bytes))
            .collect();
        assert_eq!(found, [("inner", 1, 10, 100), ("outer", 2, 20, 2)]);
        assert!(record(|| ()).1.is_empty());
    }
}
