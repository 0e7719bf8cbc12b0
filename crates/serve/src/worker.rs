//! The thread that computes: it builds the model, and makes one text after another.

use crate::failure::Failure;
use crate::generator::{Fault, Finish, Generator, Message, Reason, Sampling};
use crate::queue::Queue;
use crate::server::Build;
use crate::stops::Stops;
use aios_base::error::{Error, Result, shortened};
use axum::http::StatusCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// As much as the main thread of a program has: models may recurse as deeply here as there.
const STACK: usize = 8 << 20;

/// A text to be made.
pub struct Job {
    pub task: Task,
    pub sampling: Sampling,
    pub stops: Vec<String>,
    /// Without a bound, so that the model waits for no client: it holds at most one text.
    pub events: UnboundedSender<Event>,
}

/// What the text is made of.
#[derive(Debug, PartialEq)]
pub enum Task {
    Chat(Vec<Message>),
    Complete(String),
}

/// What a client gets to know, in this order: pieces of text, then one of the others.
#[derive(Debug)]
pub enum Event {
    Text(String),
    /// Its reason is never [`Reason::Cancelled`].
    Done(Finish),
    Failed(Failure),
}

impl Job {
    /// Whether its client is still there.
    pub fn is_wanted(&self) -> bool {
        !self.events.is_closed()
    }

    pub fn fail(self, why: Failure) {
        // The client may have gone by now.
        let _ = self.events.send(Event::Failed(why));
    }
}

/// The thread, as seen by the server.
pub struct Worker {
    pub queue: Arc<Queue>,
    /// Ends the text that is being made.
    pub cut: Arc<AtomicBool>,
    /// Says when the model is there.
    pub built: oneshot::Receiver<()>,
    /// Says why the thread has ended; nothing at all if it panicked.
    pub ended: oneshot::Receiver<Result<()>>,
}

impl Worker {
    /// # Errors
    /// A system that has no more threads.
    pub fn start(build: Build, waiting: usize, patience: Duration) -> Result<Self> {
        let queue = Arc::new(Queue::new(waiting));
        let cut = Arc::new(AtomicBool::new(false));
        let (say_built, built) = oneshot::channel();
        let (say_ended, ended) = oneshot::channel();
        let bench = Bench {
            queue: Arc::clone(&queue),
            cut: Arc::clone(&cut),
            patience,
        };
        let thread = std::thread::Builder::new()
            .name("model".to_string())
            .stack_size(STACK);
        let work = move || {
            let outcome = bench.work(build, say_built);
            // Those who wait hear it before the server ends.
            drop(bench);
            let _ = say_ended.send(outcome);
        };
        thread
            .spawn(work)
            .map_err(|cause| Error::failed(format!("cannot start the model's thread: {cause}")))?;
        Ok(Self {
            queue,
            cut,
            built,
            ended,
        })
    }
}

/// What the thread has at hand. Closes the queue when it goes, be it by a panic.
struct Bench {
    queue: Arc<Queue>,
    cut: Arc<AtomicBool>,
    patience: Duration,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.queue.close(&Failure::model_gone());
    }
}

/// Why a text is to end before the model says so.
#[derive(Clone, Copy)]
enum End {
    /// A stop text has come.
    Stop,
    /// It has taken too long.
    Late,
    /// Nobody listens.
    Gone,
    /// The server is to stop.
    Cut,
}

impl Bench {
    fn work(&self, build: Build, built: oneshot::Sender<()>) -> Result<()> {
        let mut generator = build()?;
        // A server that was stopped meanwhile does not listen.
        let _ = built.send(());
        while let Some(job) = self.queue.next() {
            self.run(&mut *generator, job)?;
        }
        Ok(())
    }

    /// # Errors
    /// A fault after which the model cannot be used.
    fn run(&self, generator: &mut dyn Generator, job: Job) -> Result<()> {
        let Job {
            task,
            sampling,
            stops,
            events,
        } = job;
        let started = Instant::now();
        let mut stops = Stops::new(stops);
        let mut end = None;
        let mut piece = |text: &str| {
            if end.is_none() {
                let passed = stops.pass(text);
                let taken = passed.text.is_empty() || events.send(Event::Text(passed.text)).is_ok();
                end = if !taken || events.is_closed() {
                    Some(End::Gone)
                } else if passed.stopped {
                    Some(End::Stop)
                } else if self.cut.load(Ordering::Relaxed) {
                    Some(End::Cut)
                } else if started.elapsed() >= self.patience {
                    Some(End::Late)
                } else {
                    None
                };
            }
            end.is_none()
        };
        let made = match &task {
            Task::Chat(messages) => generator.chat(messages, &sampling, &mut piece),
            Task::Complete(prompt) => generator.complete(prompt, &sampling, &mut piece),
        };
        let tell = |event| {
            // The client may have gone by now.
            let _ = events.send(event);
        };
        let (failure, fatal) = match made {
            Ok(finish) => match reason(end, finish.reason) {
                Some(reason) => {
                    // With a stop text nothing is held back any more.
                    let rest = stops.rest();
                    if !rest.is_empty() {
                        tell(Event::Text(rest));
                    }
                    tell(Event::Done(Finish { reason, ..finish }));
                    return Ok(());
                }
                None => (Failure::stopping(), None),
            },
            Err(Fault::Request(why)) => (Failure::request(shortened(&why)), None),
            Err(Fault::Server(error)) => {
                let why = shortened(&error.to_string());
                tracing::warn!("a request failed: {why}");
                let fatal = matches!(error, Error::Device(_)).then_some(error);
                (Failure::new(StatusCode::INTERNAL_SERVER_ERROR, why), fatal)
            }
        };
        tell(Event::Failed(failure));
        fatal.map_or(Ok(()), Err)
    }
}

/// What a client is told about why the text ended; `None` if it was the server.
fn reason(end: Option<End>, by_model: Reason) -> Option<Reason> {
    match (end, by_model) {
        (Some(End::Stop), _) | (_, Reason::Stop) => Some(Reason::Stop),
        (Some(End::Cut), Reason::Cancelled) => None,
        // One that nobody cancelled had a limit of its own.
        (_, Reason::Length | Reason::Cancelled) => Some(Reason::Length),
    }
}
