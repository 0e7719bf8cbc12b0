//! What training sees of the other ranks.

use crate::communicator::{Communicator, gone, late};
use crate::host::{self, Host};
use crate::process::Process;
use crate::watch::{Invitation, Options, Watch};
use crate::{Collectives, Launched};
use aios_base::error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How often a rank that waits looks whether another one is lost.
const LOOK: Duration = Duration::from_millis(50);

/// How often what is busy is said to be.
const BUSY: Duration = Duration::from_millis(200);

/// How long after an error of the engine the watch may take to say whose fault it is.
const BLAME: Duration = Duration::from_secs(3);

/// How long a rank has to save and to end after another one is lost.
const GRACE: Duration = Duration::from_secs(60);

/// Longer than any meeting takes.
const LONGEST: Duration = Duration::from_secs(1 << 32);

/// More bytes than a rank says at once: what claims to be longer is something else.
const MOST: usize = 1 << 36;

/// How long all ranks have to find rank 0.
const PATIENCE: Duration = Duration::from_secs(60);

/// The ranks of the job, or this process by itself. A handle: clones are the same.
#[derive(Clone, Default)]
pub struct World(Option<Arc<Joined>>);

struct Joined {
    rank: usize,
    size: usize,
    library: String,
    communicator: Communicator,
    hosts: OnceLock<Vec<Host>>,
    /// Of the other ranks of this host; none among threads.
    mates: OnceLock<Vec<Process>>,
    /// None among threads.
    watch: OnceLock<Watch>,
    /// How long others may take while there is no watch.
    patience: Duration,
    /// Nanoseconds that this rank has waited for others.
    waited: AtomicU64,
}

/// Ends something however its scope is left.
struct Ends<'a>(&'a dyn Fn());

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Something that the engine works at.
#[must_use]
pub struct Pending<T> {
    answer: Answer<T>,
    world: World,
}

enum Answer<T> {
    Here(T),
    Coming(Receiver<Result<T>>),
}

impl<T> Pending<T> {
    fn here(value: T) -> Self {
        Self {
            answer: Answer::Here(value),
            world: World::default(),
        }
    }

    /// What came of it.
    ///
    /// # Errors
    /// What the engine says; or the line that names a rank that is lost.
    pub fn wait(self) -> Result<T> {
        match (self.answer, &self.world.0) {
            (Answer::Here(value), _) => Ok(value),
            (Answer::Coming(answer), Some(joined)) => joined.wait(&answer),
            (Answer::Coming(_), None) => Err(gone()),
        }
    }
}

impl World {
    /// This process by itself.
    pub fn of_one() -> Self {
        Self::default()
    }

    /// Meet the other ranks, by an engine that `open` starts, on a thread of its own. `fail_after` is how long a rank may
    /// make no progress; `give_up` ends the process where its main thread does not.
    ///
    /// # Errors
    /// The engine cannot be started or gives another world than the launcher promised, or a rank cannot be reached.
    pub fn open(
        launched: Launched,
        fail_after: Duration,
        open: impl FnOnce() -> Result<Box<dyn Collectives>> + Send + 'static,
        give_up: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self> {
        let joined = Joined::new(fail_after, open)?;
        joined.is_as_promised(launched)?;
        let world = Self(Some(Arc::new(joined)));
        let ranks = world.gather(&(Host::this(), Process::this()))?;
        let (hosts, processes): (Vec<_>, Vec<_>) = ranks.into_iter().unzip();
        let mates = mates(&hosts, &processes, world.rank());
        let names = hosts.iter().enumerate();
        let names = names.map(|(rank, host)| format!("rank {rank} ({})", host.name));
        let asleep = mates.clone();
        let last_resort = move |line: &str| {
            wake(&asleep);
            give_up(line);
        };
        let watch = world.watched(Options {
            deadline: fail_after,
            names: names.collect(),
            grace: GRACE,
            give_up: Box::new(last_resort),
        })?;
        if let Some(joined) = &world.0 {
            joined.hosts.get_or_init(|| hosts);
            joined.mates.get_or_init(|| mates);
            joined.watch.get_or_init(|| watch);
        }
        Ok(world)
    }

    /// Ranks that are threads of this process: for tests.
    ///
    /// # Errors
    /// No threads.
    pub fn threads(size: usize) -> Result<Vec<Self>> {
        let threads = crate::threads::Thread::several(size);
        let open = |thread: crate::threads::Thread| {
            let joined = Joined::new(Duration::MAX, move || Ok(Box::new(thread)))?;
            joined.hosts.get_or_init(|| vec![Host::this(); size]);
            Ok(Self(Some(Arc::new(joined))))
        };
        threads.into_iter().map(open).collect()
    }

    /// All ranks joined to a watch, or an error on all of them.
    fn watched(&self, options: Options) -> Result<Watch> {
        let joined = match self.is_first() {
            true => self.lead(options)?,
            false => self.follow(options)?,
        };
        let words = joined.as_ref().err().map(ToString::to_string);
        match self.gather(&words)?.into_iter().flatten().next() {
            None => joined,
            Some(words) => Err(Error::failed(words)),
        }
    }

    /// Rank 0 invites the others and waits for them; the outer error is the engine's.
    fn lead(&self, options: Options) -> Result<Result<Watch>> {
        let led = Watch::lead(self.size(), options);
        let invitation = led.as_ref().map(|(_, invitation)| invitation.clone());
        drop(self.share(&invitation.map_err(ToString::to_string))?);
        Ok(led.and_then(|(watch, _)| watch.all_here(PATIENCE).map(|()| watch)))
    }

    /// The others follow.
    fn follow(&self, options: Options) -> Result<Result<Watch>> {
        let invitation: Result<Invitation, String> = self.share(&Err(String::new()))?;
        let invitation = invitation.map_err(Error::failed);
        Ok(invitation.and_then(|invitation| Watch::follow(self.rank(), &invitation, options)))
    }

    /// This process's number.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |joined| joined.rank)
    }

    /// Processes of the job.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |joined| joined.size)
    }

    /// Whether this is the one that writes and speaks.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there are other ranks.
    pub fn has_others(&self) -> bool {
        self.size() > 1
    }

    /// The engine's library, in words.
    pub fn library(&self) -> &str {
        self.0.as_ref().map_or("", |joined| &joined.library)
    }

    /// This rank's number among those of its host, and how many these are.
    pub fn on_host(&self) -> (usize, usize) {
        match &self.0 {
            None => (0, 1),
            Some(joined) => host::place(joined.hosts(), joined.rank),
        }
    }

    /// Names of the hosts, by rank.
    pub fn hosts(&self) -> Vec<&str> {
        let hosts = self.0.iter().flat_map(|joined| joined.hosts());
        hosts.map(|host| &*host.name).collect()
    }

    /// Begin to add up `values` over all ranks.
    pub fn all_reduce(&self, values: Vec<f32>) -> Pending<Vec<f32>> {
        self.ask(values, move |engine, mut values| {
            engine.all_reduce(&mut values)?;
            Ok(values)
        })
    }

    /// Begin to add up `values` over all ranks, of which each gets the part of its number: they are `size` parts of the
    /// same length.
    pub fn reduce_scatter(&self, values: Vec<f32>) -> Pending<Vec<f32>> {
        self.ask(values, |engine, values| {
            let mut part = vec![0.0; values.len() / engine.size()];
            engine.reduce_scatter(&values, &mut part)?;
            Ok(part)
        })
    }

    /// Begin to put the parts of all ranks, which have the same length, one after the other.
    pub fn all_gather(&self, part: Vec<u8>) -> Pending<Vec<u8>> {
        self.ask(part, |engine, part| {
            let mut whole = vec![0; part.len() * engine.size()];
            engine.all_gather(&part, &mut whole)?;
            Ok(whole)
        })
    }

    /// Begin to give all ranks the bytes of one of them; they have the same length.
    pub fn broadcast(&self, bytes: Vec<u8>, root: usize) -> Pending<Vec<u8>> {
        self.ask(bytes, move |engine, mut bytes| {
            engine.broadcast(&mut bytes, root)?;
            Ok(bytes)
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        value: T,
        work: impl FnOnce(&mut dyn Collectives, T) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        match &self.0 {
            None => Pending::here(value),
            Some(joined) => Pending {
                answer: Answer::Coming(joined.communicator.ask(move |engine| work(engine, value))),
                world: self.clone(),
            },
        }
    }

    /// What every rank brings, by rank: bytes of any length.
    ///
    /// # Errors
    /// What the engine says; or the line that names a rank that is lost.
    pub fn gather_bytes(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        match &self.0 {
            None => Ok(vec![bytes]),
            Some(joined) => {
                let answer = joined
                    .communicator
                    .ask(move |engine| gather(engine, &bytes));
                joined.wait(&answer)
            }
        }
    }

    /// What every rank brings, by rank.
    ///
    /// # Errors
    /// As above.
    pub fn gather<T: Serialize + DeserializeOwned + Clone>(&self, value: &T) -> Result<Vec<T>> {
        if self.0.is_none() {
            return Ok(vec![value.clone()]);
        }
        let text = serde_json::to_vec(value).map_err(Error::failed)?;
        let texts = self.gather_bytes(text)?;
        texts.iter().map(|text| read(text)).collect()
    }

    /// What rank 0 brings; what others bring is not looked at.
    ///
    /// # Errors
    /// As above.
    pub fn share<T: Serialize + DeserializeOwned + Clone>(&self, value: &T) -> Result<T> {
        let Some(joined) = &self.0 else {
            return Ok(value.clone());
        };
        let text = serde_json::to_vec(value).map_err(Error::failed)?;
        let answer = joined.communicator.ask(|engine| share(engine, text));
        read(&joined.wait(&answer)?)
    }

    /// Wait until all ranks are here.
    ///
    /// # Errors
    /// As above.
    pub fn barrier(&self) -> Result<()> {
        self.gather(&()).map(drop)
    }

    /// Something was done: this rank does not hang.
    pub fn progress(&self) {
        if let Some(watch) = self.watch() {
            watch.progress();
        }
    }

    /// Do something that may take long and cannot say how far it is: meanwhile this rank does not count as one that hangs.
    pub fn while_busy<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(watch) = self.watch() else {
            return work();
        };
        let over = (Mutex::new(false), Condvar::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut is_over = over.0.lock().unwrap_or_else(PoisonError::into_inner);
                while !*is_over {
                    watch.progress();
                    let waited = over.1.wait_timeout(is_over, BUSY);
                    is_over = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            });
            let end = || {
                *over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
                over.1.notify_all();
            };
            let _ends = Ends(&end);
            work()
        })
    }

    /// This rank cannot go on: all others hear of it.
    pub fn fail(&self, words: &str) {
        if let Some(watch) = self.watch() {
            watch.fail(words);
        }
    }

    /// The line that ended the job, if something has.
    pub fn failure(&self) -> Option<String> {
        self.watch().and_then(Watch::failure)
    }

    /// Whether that line came from rank 0, which has said it to the user too.
    pub fn was_told(&self) -> bool {
        self.watch().is_some_and(Watch::was_told)
    }

    /// After a failure: let rank 0 save and end first.
    pub fn outlive_rank_0(&self) {
        if let Some(watch) = self.watch() {
            watch.outlive_rank_0(GRACE / 2);
        }
    }

    /// After a failure, and as the last thing before this process ends: ranks of this host that are stopped learn of it,
    /// and end. Launchers wait for them (srun without `--kill-on-bad-exit`, and MPICH's mpiexec where it reaps the rank that
    /// ended before it reads that its connection did).
    pub fn wake_stopped(&self) {
        if let Some(mates) = self.0.as_ref().and_then(|joined| joined.mates.get()) {
            wake(mates);
        }
    }

    /// All ranks take leave.
    ///
    /// # Errors
    /// As above.
    pub fn close(&self) -> Result<()> {
        let Some(joined) = &self.0 else {
            return Ok(());
        };
        self.barrier()?;
        if let Some(watch) = joined.watch.get() {
            watch.done();
        }
        let last = joined.communicator.ask(|engine| engine.finalize());
        // What an engine does at its end is no concern of a run that is over.
        let _ = last.recv_timeout(BLAME);
        Ok(())
    }

    /// Time that this rank has waited for others, and that the engine has worked.
    pub fn times(&self) -> [Duration; 2] {
        match &self.0 {
            None => [Duration::ZERO; 2],
            Some(joined) => [
                Duration::from_nanos(joined.waited.load(Ordering::Relaxed)),
                joined.communicator.busy(),
            ],
        }
    }

    fn watch(&self) -> Option<&Watch> {
        self.0.as_ref().and_then(|joined| joined.watch.get())
    }
}

impl Joined {
    fn new(
        patience: Duration,
        open: impl FnOnce() -> Result<Box<dyn Collectives>> + Send + 'static,
    ) -> Result<Self> {
        let patience = patience.min(LONGEST);
        let (communicator, introduction) = Communicator::start(patience, open)?;
        Ok(Self {
            rank: introduction.rank,
            size: introduction.size,
            library: introduction.library,
            communicator,
            hosts: OnceLock::new(),
            mates: OnceLock::new(),
            watch: OnceLock::new(),
            patience,
            waited: AtomicU64::new(0),
        })
    }

    fn hosts(&self) -> &[Host] {
        self.hosts.get().map_or(&[], Vec::as_slice)
    }

    /// A library that is not the launcher's makes a world of its own.
    fn is_as_promised(&self, launched: Launched) -> Result<()> {
        let Self {
            rank,
            size,
            library,
            ..
        } = self;
        match (*rank, *size) == (launched.rank, launched.size) {
            true => Ok(()),
            false => Err(Error::failed(format!(
                "{} started rank {} of {}, but {library} says rank {rank} of {size}: it is not the MPI of this launcher; set \
                 AIOS_MPI_LIBRARY to the file of its own, or start by the mpiexec that came with this one",
                launched.by, launched.rank, launched.size
            ))),
        }
    }

    fn wait<T>(&self, answer: &Receiver<Result<T>>) -> Result<T> {
        let started = Instant::now();
        let waiting = self.watch.get().map(Watch::waiting);
        let outcome = loop {
            match answer.recv_timeout(LOOK) {
                Ok(outcome) => break outcome,
                Err(RecvTimeoutError::Disconnected) => break Err(gone()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            match self.watch.get() {
                None if started.elapsed() > self.patience => return Err(late(self.patience)),
                None => {}
                Some(watch) => {
                    if let Some(line) = watch.failure() {
                        return Err(ended(&line));
                    }
                }
            }
        };
        drop(waiting);
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(nanoseconds, Ordering::Relaxed);
        outcome.map_err(|error| self.blamed(error))
    }

    /// An engine that lost a rank says so in its own words, if at all: the watch knows which.
    fn blamed(&self, error: Error) -> Error {
        let Some(watch) = self.watch.get() else {
            return error;
        };
        let started = Instant::now();
        while started.elapsed() < BLAME {
            if let Some(line) = watch.failure() {
                return ended(&line);
            }
            std::thread::sleep(LOOK);
        }
        error
    }
}

/// The other ranks of a rank's host.
fn mates(hosts: &[Host], processes: &[Process], rank: usize) -> Vec<Process> {
    let all = hosts.iter().zip(processes).enumerate();
    let others = all.filter(|(other, (host, _))| *other != rank && hosts.get(rank) == Some(host));
    others.map(|(_, (_, process))| *process).collect()
}

fn wake(mates: &[Process]) {
    for process in mates {
        process.wake();
    }
}

/// What ended the job; a request to stop, on whichever rank, is no failure.
fn ended(line: &str) -> Error {
    match line.ends_with(&Error::Stopped.to_string()) {
        true => Error::Stopped,
        false => Error::failed(line),
    }
}

fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|cause| {
        Error::failed(format!(
            "another rank says what this version does not understand ({cause}): all ranks have to run the same version"
        ))
    })
}

/// This rank's number among those of its host, and how many these are: for what has to know before there is a [`World`].
///
/// # Errors
/// What the engine says.
pub fn on_host(engine: &mut dyn Collectives) -> Result<(usize, usize)> {
    let own = serde_json::to_vec(&Host::this()).map_err(Error::failed)?;
    let texts = gather(engine, &own)?;
    let hosts: Result<Vec<Host>> = texts.iter().map(|text| read(text)).collect();
    Ok(host::place(&hosts?, engine.rank()))
}

/// Texts of any length, by rank.
pub(crate) fn gather(engine: &mut dyn Collectives, text: &[u8]) -> Result<Vec<Vec<u8>>> {
    let size = engine.size();
    let mut lengths = vec![0; 8 * size];
    engine.all_gather(&(text.len() as u64).to_le_bytes(), &mut lengths)?;
    let lengths = lengths.as_chunks().0.iter();
    let lengths: Vec<usize> = lengths.map(|b| u64::from_le_bytes(*b) as usize).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    sensible(longest)?;
    let mut part = text.to_vec();
    part.resize(longest, 0);
    let mut whole = vec![0; longest * size];
    engine.all_gather(&part, &mut whole)?;
    let parts = lengths.iter().enumerate();
    Ok(parts
        .map(|(rank, length)| whole[rank * longest..][..*length].to_vec())
        .collect())
}

/// Whether a length can be one.
fn sensible(length: usize) -> Result<()> {
    match length <= MOST {
        true => Ok(()),
        false => Err(Error::failed(
            "ranks are at different places of the same work: all have to have the same settings and version",
        )),
    }
}

/// Rank 0's text.
fn share(engine: &mut dyn Collectives, mut text: Vec<u8>) -> Result<Vec<u8>> {
    let mut length = (text.len() as u64).to_le_bytes();
    engine.broadcast(&mut length, 0)?;
    let length = u64::from_le_bytes(length) as usize;
    sensible(length)?;
    text.resize(length, 0);
    engine.broadcast(&mut text, 0)?;
    Ok(text)
}
