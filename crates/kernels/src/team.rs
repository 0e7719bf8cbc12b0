//! The threads that kernels run on: work is handed over in about a microsecond.
//!
//! A step of training is some thousands of kernels of a fraction of a millisecond, with a little work between them that only
//! one thread can do. A pool whose threads go to sleep in those gaps, and that runs the work of a thread outside of it on
//! others, leaves a quarter of a processor idle. Here the calling thread works too, and the others wait awake for a while.
//!
//! Tasks that follow one another are a thread's, the same ones of every work of that many tasks, since what they read is in
//! the caches of the thread that wrote it; who has none left takes those of others. What the tasks are must not depend on
//! which thread runs them.

use crossbeam_utils::{Backoff, CachePadded};
use rayon::iter::plumbing::{Producer, ProducerCallback};
use rayon::prelude::*;
use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a thread waits awake for the next work.
const AWAKE: Duration = Duration::from_micros(500);
/// How long all threads may take to come.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pieces a thread of an iterator, so that one that comes late takes fewer.
const PIECES: usize = 32;

/// Threads that a kernel runs on, the calling one among them.
pub fn threads() -> usize {
    own(|team| team.threads)
}

/// Run `f(0)`, ..., `f(tasks - 1)`, in any order and at the same time.
///
/// # Panics
/// As `f` does, once no task runs any more.
pub fn run(tasks: usize, f: impl Fn(usize) + Sync) {
    own(|team| team.run(tasks, &f));
}

/// Run `f` once on each thread, as far as none of them is at work for somebody else.
pub fn on_each(f: impl Fn() + Sync) {
    own(|team| {
        let (here, started) = (AtomicUsize::new(0), Instant::now());
        // No thread can take a second task before all have one.
        team.run(team.threads, &|_| {
            f();
            here.fetch_add(1, SeqCst);
            while here.load(SeqCst) < team.threads && started.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
        });
    });
}

/// Parallel iterators on the team.
pub trait Each: IndexedParallelIterator {
    /// Run `f` on each item.
    fn each(self, f: impl Fn(Self::Item) + Sync) {
        let items = self.len();
        let pieces = match threads() {
            1 => 1,
            threads => items.min(PIECES * threads),
        };
        self.with_producer(Pieces { items, pieces, f });
    }
}

impl<I: IndexedParallelIterator> Each for I {}

struct Pieces<F> {
    items: usize,
    pieces: usize,
    f: F,
}

impl<T, F: Fn(T) + Sync> ProducerCallback<T> for Pieces<F> {
    type Output = ();

    fn callback<P: Producer<Item = T>>(self, producer: P) {
        let Self { items, pieces, f } = self;
        if pieces <= 1 {
            return producer.into_iter().for_each(f);
        }
        let mut rest = Some(producer);
        let mut parts = Vec::with_capacity(pieces);
        for piece in 0..pieces {
            let whole = rest.take().expect("put back below");
            let size = items * (piece + 1) / pieces - items * piece / pieces;
            if piece + 1 == pieces {
                parts.push(Mutex::new(Some(whole)));
                break;
            }
            let (part, tail) = whole.split_at(size);
            parts.push(Mutex::new(Some(part)));
            rest = Some(tail);
        }
        run(pieces, |i| {
            let part = locked(&parts[i]).take();
            part.into_iter().flat_map(Producer::into_iter).for_each(&f);
        });
    }
}

/// Nothing that a panic could leave half done is behind these.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The calling thread's team: that of the process, unless a test asked for another.
fn own<R>(f: impl FnOnce(&Team) -> R) -> R {
    #[cfg(test)]
    if let Some(team) = tests::OTHER.get() {
        return f(team);
    }
    static TEAM: OnceLock<Team> = OnceLock::new();
    f(TEAM.get_or_init(|| Team::new(wanted())))
}

/// Threads of this process's share of the cores, if it has no more than a share.
static SHARE: OnceLock<usize> = OnceLock::new();

/// Start no more threads than that unless `RAYON_NUM_THREADS` says so, of which it has no effect on those that run.
pub fn share(threads: usize) {
    SHARE.get_or_init(|| threads);
}

/// As many as rayon would start, without starting them: `RAYON_NUM_THREADS`, or one a core.
fn wanted() -> usize {
    let given = std::env::var("RAYON_NUM_THREADS").ok();
    let given = given.and_then(|given| given.parse().ok());
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    match (given, SHARE.get()) {
        (Some(threads), _) if threads > 0 => threads,
        (_, Some(share)) => *share,
        _ => cores(),
    }
}

struct Team {
    threads: usize,
    /// Held by whoever gives out work.
    giving: Mutex<()>,
    shared: &'static Shared,
}

/// What the threads of a team see.
struct Shared {
    /// Counts what was given out.
    given: AtomicUsize,
    /// Whether the work may be joined.
    open: AtomicBool,
    /// Threads that may be looking at it.
    near: AtomicUsize,
    /// For each thread, the next of its tasks that nobody has.
    next: Box<[CachePadded<AtomicUsize>]>,
    work: UnsafeCell<Option<Work>>,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is written only while it is closed and nobody is near, and read only by who came near while it was open.
unsafe impl Sync for Shared {}

#[derive(Clone, Copy)]
struct Work {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

impl Team {
    fn new(threads: usize) -> Self {
        // For good, as the threads are.
        let shared: &'static Shared = Box::leak(Box::new(Shared::new(threads)));
        let started = (1..threads).take_while(|&i| {
            let thread = std::thread::Builder::new().name(format!("aios-kernel-{i}"));
            thread.spawn(move || shared.serve(i)).is_ok()
        });
        Self {
            threads: 1 + started.count(),
            giving: Mutex::new(()),
            shared,
        }
    }

    fn run(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let giving = match self.giving.try_lock() {
            Ok(giving) => Some(giving),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            // They work for another thread, or for this one already.
            Err(TryLockError::WouldBlock) => None,
        };
        if giving.is_none() || self.threads == 1 || tasks <= 1 {
            return (0..tasks).for_each(f);
        }
        let shared = self.shared;
        // SAFETY: only the lifetime changes; nobody looks at it once `close` has returned.
        let task: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(f) };
        // SAFETY: the last work was closed, and nobody was near it any more.
        unsafe { *shared.work.get() = Some(Work { task, tasks }) };
        shared.open(tasks);
        shared.take_part(0, f, tasks);
        shared.close();
        // Before another caller's work, whose own it might be taken for.
        let panic = locked(&shared.panic).take();
        drop(giving);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn new(threads: usize) -> Self {
        Self {
            given: AtomicUsize::new(0),
            open: AtomicBool::new(false),
            near: AtomicUsize::new(0),
            next: (0..threads).map(|_| CachePadded::default()).collect(),
            work: UnsafeCell::new(None),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
            panic: Mutex::new(None),
        }
    }

    /// A thread's tasks.
    fn part(&self, thread: usize, tasks: usize) -> Range<usize> {
        let threads = self.next.len();
        tasks * thread / threads..tasks * (thread + 1) / threads
    }

    fn open(&self, tasks: usize) {
        for (thread, next) in self.next.iter().enumerate() {
            next.store(self.part(thread, tasks).start, SeqCst);
        }
        self.open.store(true, SeqCst);
        self.given.fetch_add(1, SeqCst);
        if self.asleep.load(SeqCst) > 0 {
            drop(locked(&self.bed));
            self.bell.notify_all();
        }
    }

    /// Wait until nobody is at the work. Whoever comes near from now on finds it closed.
    fn close(&self) {
        self.open.store(false, SeqCst);
        let backoff = Backoff::new();
        while self.near.load(SeqCst) > 0 {
            backoff.snooze();
        }
    }

    /// Do the own tasks, then what others have left. After a panic the rest is left undone.
    fn take_part(&self, thread: usize, f: &(dyn Fn(usize) + Sync), tasks: usize) {
        let threads = self.next.len();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for of in (thread..threads).chain(0..thread) {
                let (next, end) = (&self.next[of], self.part(of, tasks).end);
                // Only looked at where nothing is left, since a write takes it away from the others.
                while next.load(SeqCst) < end {
                    let task = next.fetch_add(1, SeqCst);
                    if task < end {
                        f(task);
                    }
                }
            }
        }));
        if let Err(panic) = outcome {
            self.next.iter().for_each(|next| next.store(tasks, SeqCst));
            locked(&self.panic).get_or_insert(panic);
        }
    }

    /// What a thread of the team does for ever.
    fn serve(&self, thread: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            self.near.fetch_add(1, SeqCst);
            if self.open.load(SeqCst) {
                // SAFETY: it was open after this thread came near, so that `close` waits for this thread.
                let work = unsafe { *self.work.get() };
                if let Some(Work { task, tasks }) = work {
                    // SAFETY: as above; whoever gave it out waits in `close`.
                    self.take_part(thread, unsafe { &*task }, tasks);
                }
            }
            self.near.fetch_sub(1, SeqCst);
        }
    }

    /// Wait for more than `seen`: awake at first, then asleep.
    fn wait(&self, seen: usize) -> usize {
        let started = Instant::now();
        let backoff = Backoff::new();
        while started.elapsed() < AWAKE {
            let given = self.given.load(SeqCst);
            if given != seen {
                return given;
            }
            // Spins, then lets others run.
            backoff.snooze();
        }
        let mut bed = locked(&self.bed);
        self.asleep.fetch_add(1, SeqCst);
        while self.given.load(SeqCst) == seen {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, SeqCst);
        self.given.load(SeqCst)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    thread_local! {
        pub(super) static OTHER: Cell<Option<&'static Team>> = const { Cell::new(None) };
        /// Those that were asked for, by their size: threads are there for good.
        static KNOWN: RefCell<BTreeMap<usize, &'static Team>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Run `f` with a team of so many threads.
    pub(crate) fn with_threads<R>(threads: usize, f: impl FnOnce() -> R) -> R {
        let team = KNOWN.with_borrow_mut(|known| {
            *known
                .entry(threads)
                .or_insert_with(|| Box::leak(Box::new(Team::new(threads))))
        });
        let before = OTHER.replace(Some(team));
        let result = f();
        OTHER.set(before);
        result
    }

    #[test]
    fn every_task_runs_once_whatever_the_threads() {
        for threads in [1, 2, 3, 7] {
            with_threads(threads, || {
                assert_eq!(super::threads(), threads);
                for tasks in [0, 1, 2, 63, 1000] {
                    let runs: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    run(tasks, |i| {
                        runs[i].fetch_add(1, SeqCst);
                    });
                    assert!(runs.iter().all(|runs| runs.load(SeqCst) == 1));
                }
            });
        }
    }

    #[test]
    fn work_follows_work_and_pauses() {
        with_threads(3, || {
            let sum = AtomicUsize::new(0);
            for round in 0..2000 {
                run(3, |i| {
                    sum.fetch_add(i, SeqCst);
                });
                if round % 500 == 0 {
                    // Long enough for the others to go to sleep.
                    std::thread::sleep(3 * AWAKE);
                }
            }
            assert_eq!(sum.load(SeqCst), 3 * 2000);
        });
    }

    #[test]
    fn iterators_give_every_item_once() {
        with_threads(2, || {
            for n in [0, 1, 5, 16, 1001] {
                let (from, mut to): (Vec<usize>, _) = ((0..n).collect(), vec![0; n]);
                let pairs = to.par_chunks_mut(3).zip(from.par_chunks(3)).enumerate();
                pairs.each(|(i, (to, from))| {
                    assert_eq!(from[0], 3 * i);
                    to.copy_from_slice(from);
                });
                assert_eq!(to, from);
            }
        });
    }

    #[test]
    fn work_inside_of_work_and_of_several_callers_is_done() {
        with_threads(2, || {
            let sum = AtomicUsize::new(0);
            run(10, |_| {
                run(10, |_| {
                    sum.fetch_add(1, SeqCst);
                })
            });
            assert_eq!(sum.load(SeqCst), 100);
        });
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        run(5, |_| {
                            sum.fetch_add(1, SeqCst);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.load(SeqCst), 4 * 500 * 5);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        with_threads(3, || {
            let fails = catch_unwind(|| {
                run(50, |i| assert!(i != 20, "task 20"));
            });
            let message = fails.unwrap_err();
            assert_eq!(message.downcast_ref::<&str>(), Some(&"task 20"));
            let runs = AtomicUsize::new(0);
            run(50, |_| {
                runs.fetch_add(1, SeqCst);
            });
            assert_eq!(runs.load(SeqCst), 50);
        });
    }
}
