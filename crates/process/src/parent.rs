//! The parent's side: start a child, pass requests on, and start another when memory ends one.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::death::Death;
use crate::notes::{Notes, Restart, Status};
use crate::split::Split;
use crate::stop::{EXIT_INTERRUPTED, Request, Requests, Sent};
use crate::{EXIT_OUT_OF_MEMORY, RESTART, STDIN, SUPERVISED, line, stop};
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};
use aios_bundle::Bundle;
use aios_data::{Spool, telling};

/// How long a child may take to leave at once, its own patience included, before the parent leaves without it.
const LEAVING: Duration = Duration::from_secs(4);

/// What the parent waits for.
enum Event {
    /// Ctrl-C, SIGTERM or a closed terminal.
    Asked(Instant, Sent),
    /// The child is gone.
    Ended(io::Result<ExitStatus>),
}

/// How a child's end concerns the parent.
enum Verdict {
    /// Exit with the same code.
    Exit(u8),
    /// Memory ran out. What happened, and whether these words already name the step.
    Memory { what: String, names_step: bool },
    /// A crash, which lack of memory may have caused. What happened.
    Crash { what: String },
}

/// A child's crash.
#[derive(PartialEq, Eq)]
struct Crash {
    what: String,
    /// The step it happened in.
    step: u64,
    /// The newest checkpoint by then.
    saved: Option<u64>,
}

/// Watches over children that train.
pub struct Parent {
    config: TrainConfig,
    notes: Notes,
    /// What came in on standard input, if it is wanted: a second child reads it again.
    stdin: Option<Spool>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    requests: Requests,
    asked: bool,
    leaving: bool,
    /// How the next child's steps are divided, as far as this process knows: a saved run may say otherwise.
    split: Option<Split>,
    /// The newest checkpoint that a child saved.
    saved: Option<u64>,
    /// The last child's crash, if it crashed.
    crash: Option<Crash>,
    /// What a child has to be told of the signals that were ignored when this process was started.
    ignored: Option<(&'static str, String)>,
}

impl Parent {
    /// Takes over Ctrl-C and SIGTERM.
    pub fn start(config: TrainConfig, notes: Notes) -> Result<Self> {
        let (sender, events) = channel();
        let asked = sender.clone();
        // Before they are caught.
        let ignored = stop::ignored_for_child();
        stop::catch(move |sent| {
            // The receiver lives as long as anybody could want to stop.
            let _ = asked.send(Event::Asked(Instant::now(), sent));
        })
        .map_err(|cause| Error::failed(format!("cannot catch Ctrl-C: {cause}")))?;
        Ok(Self {
            ignored,
            ..Self::new(config, notes, (sender, events))
        })
    }

    fn new(
        config: TrainConfig,
        notes: Notes,
        (sender, events): (Sender<Event>, Receiver<Event>),
    ) -> Self {
        let split = (!config.resumes()).then_some(Split {
            batch_size: config.batch_size,
            accumulation: config.gradient_accumulation_steps,
        });
        Self {
            config,
            notes,
            stdin: None,
            events,
            sender,
            requests: Requests::default(),
            asked: false,
            leaving: false,
            split,
            saved: None,
            crash: None,
            ignored: None,
        }
    }

    /// Returns the exit code of the last child.
    ///
    /// # Errors
    /// No child can be started, or the last one died and there is nothing left to try.
    pub fn run(&mut self) -> Result<u8> {
        self.put_stdin_aside()?;
        let mut restart = None;
        loop {
            self.notes.clear();
            let status = self.child(restart.as_ref())?;
            match self.verdict(status)? {
                Verdict::Exit(code) => return Ok(code),
                Verdict::Memory { what, names_step } => {
                    self.crash = None;
                    restart = Some(self.smaller(what, names_step)?);
                }
                Verdict::Crash { what } => restart = Some(self.after_crash(what)?),
            }
        }
    }

    /// Reads standard input to its end if a text of the run, or of the one that it resumes, comes from there.
    fn put_stdin_aside(&mut self) -> Result<()> {
        if !resumed_texts(&self.config).wants_stdin()? {
            return Ok(());
        }
        let mut tell = telling("reading standard input", self.config.quiet);
        let events = &self.events;
        self.stdin = Some(Spool::of_stdin(&mut |done, all| {
            tell(done, all)?;
            match events.try_recv() {
                Ok(_) => Err(Error::Stopped),
                Err(_) => Ok(()),
            }
        })?);
        Ok(())
    }

    /// Runs a child to its end; `None` if it does not end although it has to.
    fn child(&mut self, restart: Option<&Restart>) -> Result<Option<ExitStatus>> {
        let mut child = self
            .command(restart)?
            .spawn()
            .map_err(|cause| cannot_start(&cause))?;
        let mut stdin = child.stdin.take();
        let sender = self.sender.clone();
        std::thread::Builder::new()
            .name("aios-child-wait".into())
            .spawn(move || {
                // A parent that left without its child is not there to hear of it.
                let _ = sender.send(Event::Ended(child.wait()));
            })
            .map_err(|cause| cannot_start(&cause))?;
        loop {
            let event = match self.leaving {
                false => self
                    .events
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                true => self.events.recv_timeout(LEAVING),
            };
            match event {
                Ok(Event::Asked(at, sent)) => self.pass_on(at, sent, &mut stdin),
                Ok(Event::Ended(status)) => {
                    return status.map(Some).map_err(|cause| {
                        Error::failed(format!("lost sight of the training process: {cause}"))
                    });
                }
                Err(_) => return Ok(None),
            }
        }
    }

    fn command(&self, restart: Option<&Restart>) -> Result<Command> {
        let mut command = Command::new(program().map_err(|cause| cannot_start(&cause))?);
        command
            .args(std::env::args_os().skip(1))
            .env(SUPERVISED, self.notes.path())
            .env_remove(RESTART)
            .env_remove(STDIN)
            .stdin(Stdio::piped());
        if let Some((name, value)) = &self.ignored {
            command.env(name, value);
        }
        if let Some(spool) = &self.stdin {
            command.env(STDIN, spool.path());
        }
        if let Some(restart) = restart {
            let text = serde_json::to_string(restart)
                .map_err(|cause| Error::failed(format!("cannot write {RESTART}: {cause}")))?;
            command.env(RESTART, text);
        }
        Ok(command)
    }

    fn pass_on(&mut self, at: Instant, sent: Sent, stdin: &mut Option<ChildStdin>) {
        let request = match sent {
            Sent::Plainly => Some(self.requests.next(at)),
            Sent::ThoughIgnored => None,
        };
        let message = match request {
            None => line::STOP_IF_IDLE,
            Some(Request::Same) => return,
            Some(Request::Stop) => {
                self.asked = true;
                line::STOP
            }
            Some(Request::Quit) => {
                self.leaving = true;
                line::QUIT
            }
        };
        if let Some(stdin) = stdin {
            // A child that does not read any more has ended: that is the next event.
            let _ = stdin.write_all(&[message]);
        }
    }

    fn verdict(&self, status: Option<ExitStatus>) -> Result<Verdict> {
        let Some(status) = status.filter(|_| !self.leaving) else {
            return Ok(Verdict::Exit(EXIT_INTERRUPTED as u8));
        };
        let memory = match (self.notes.outcome(), Death::of(status)) {
            (Some(outcome), _) if outcome.code == EXIT_OUT_OF_MEMORY => Verdict::Memory {
                what: outcome.failure.unwrap_or_default(),
                names_step: true,
            },
            // What crashed after that was only its clean-up.
            (Some(outcome), _) => return Ok(Verdict::Exit(outcome.code)),
            (None, Death::Code(code)) => return Ok(Verdict::Exit(code)),
            (None, Death::Interrupted) => return Ok(Verdict::Exit(EXIT_INTERRUPTED as u8)),
            (None, Death::Memory(words)) => Verdict::Memory {
                what: format!("the training process {words}"),
                names_step: false,
            },
            (None, Death::Crash(words)) => Verdict::Crash {
                what: format!("the training process {words}"),
            },
            (None, Death::Other(words)) => {
                return Err(Error::failed(format!(
                    "the training process {words}; {}",
                    self.what_is_left()
                )));
            }
        };
        match memory {
            Verdict::Memory { what, .. } | Verdict::Crash { what } if self.asked => {
                Err(Error::failed(format!(
                    "{} while it was stopping; {}",
                    what.trim_end_matches(','),
                    self.what_is_left()
                )))
            }
            memory => Ok(memory),
        }
    }

    /// The child to start after one that crashed, with half the micro-batch in case it was for lack of memory. A crash
    /// that comes again whatever the micro-batch is none, and trying on would get nowhere.
    fn after_crash(&mut self, what: String) -> Result<Restart> {
        let status = self.notes.status();
        let crash = Crash {
            step: status.as_ref().map_or(0, |status| status.step),
            saved: status
                .as_ref()
                .and_then(|status| status.saved_step)
                .or(self.saved),
            what,
        };
        let smaller = match &status {
            Some(status) => status.next(),
            None => self.split.and_then(Split::halved),
        }
        .is_some();
        let again = |before: &Crash| {
            let same = (&before.what, before.step) == (&crash.what, crash.step);
            same || (!smaller && before.saved == crash.saved)
        };
        if self.crash.as_ref().is_some_and(again) {
            let place = place(self.notes.status().as_ref());
            return Err(Error::failed(format!(
                "{} {place}, the second crash with no save in between: that is a fault, of this program or of a driver, and not \
                 lack of memory; please report it with the output under AIOS_BACKTRACE=1; {}",
                crash.what,
                self.what_is_left()
            )));
        }
        let what = crash.what.clone();
        self.crash = Some(crash);
        self.smaller(
            format!("{what}, as a driver may that runs out of memory,"),
            false,
        )
    }

    /// The child to start after one that had too little memory, or that crashed; says so.
    fn smaller(&mut self, what: String, names_step: bool) -> Result<Restart> {
        let status = self.notes.status();
        if let Some(status) = &status {
            self.split = Some(status.split());
            self.saved = status.saved_step.or(self.saved);
        }
        let what = match names_step {
            true => what,
            false => format!("{what} {}", place(status.as_ref())),
        };
        let Some(split) = self.split else {
            return Err(Error::failed(format!("{what}; {}", self.what_is_left())));
        };
        let predicted = match &status {
            Some(status) => status.next(),
            None => split.halved(),
        };
        // After a crash, once more as it was: whatever crashed may not do so again.
        let same = self.crash.is_some().then_some(split);
        let Some(next) = predicted.or(same) else {
            return Err(Error::failed(format!(
                "{what} with --batch-size {}, and no smaller one would take less: {}; {}",
                split.batch_size,
                self.ways_out(),
                self.what_is_left()
            )));
        };
        self.split = Some(next);
        let began_at = status.as_ref().map_or(0, |status| status.began_at);
        let step = status.as_ref().map_or(0, |status| status.step);
        let from = self.saved.unwrap_or(began_at);
        let goes_on = match from {
            0 => "starting again at step 0, since nothing was saved yet,".to_string(),
            from => format!("going on from the checkpoint of step {from}"),
        };
        let how = match next == split {
            true if predicted.is_none() => "once more as it was".to_string(),
            true => "with the loss in smaller slices".to_string(),
            false => format!(
                "with --batch-size {} and --gradient-accumulation-steps {} instead of {} and {}, which gives the same result",
                next.batch_size, next.accumulation, split.batch_size, split.accumulation
            ),
        };
        warn(&format!(
            "{what}: {goes_on} {how}; {} computed again",
            match step.saturating_sub(from) {
                0 => "no step is".to_string(),
                1 => "1 step is".to_string(),
                steps => format!("{steps} steps are"),
            }
        ));
        Ok(Restart {
            batch_size: next.batch_size,
            gradient_accumulation_steps: next.accumulation,
            from: split.batch_size,
            step,
            reason: what,
            saved_step: self.saved,
        })
    }

    fn ways_out(&self) -> String {
        let mut ways = vec!["lower --max-seq-len"];
        if !self.config.gradient_checkpointing {
            ways.push("turn on --gradient-checkpointing");
        }
        if !self.config.use_8bit_optimizer {
            ways.push("turn on --use-8bit-optimizer");
        }
        format!(
            "{}, or begin a run of {}",
            ways.join(", "),
            self.config.smaller_model()
        )
    }

    fn what_is_left(&self) -> String {
        let saved = self.notes.status().and_then(|status| status.saved_step);
        let bundle = self.config.bundle_path();
        match saved.or(self.saved) {
            Some(step) => format!(
                "the checkpoint of step {step} in {} is intact, and --resume goes on from it",
                bundle.display()
            ),
            None => "this run has saved nothing yet".to_string(),
        }
    }
}

/// The texts of the run: where the flags do not say, those of the run that it resumes.
fn resumed_texts(config: &TrainConfig) -> TrainConfig {
    let mut config = config.clone();
    let place = config.bundle_path();
    let saved = config.resumes().then(|| Bundle::newest_config(&place));
    // A bundle that is damaged is for the child to speak of.
    let saved = saved
        .flatten()
        .and_then(|text| TrainConfig::from_toml(&text, &place).ok());
    if let Some(saved) = saved {
        config.dataset_file = config.dataset_file.or(saved.dataset_file);
        config.eval_file = config.eval_file.or(saved.eval_file);
    }
    config
}

/// Where it happened.
fn place(status: Option<&Status>) -> String {
    match status {
        Some(status) if status.step > status.began_at => format!("in step {}", status.step),
        _ => "before its first step".to_string(),
    }
}

/// This program, even if its file was replaced or removed since it was started.
fn program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    match path.exists() || cfg!(not(target_os = "linux")) {
        true => Ok(path),
        false => Ok("/proc/self/exe".into()),
    }
}

fn cannot_start(cause: &io::Error) -> Error {
    Error::failed(format!(
        "cannot start the training process: {cause}; --no-supervise trains in this one"
    ))
}

fn warn(text: &str) {
    let mut stderr = io::stderr().lock();
    // Below what is left of a progress bar. A closed stderr is no reason to stop training.
    let line_break = if stderr.is_terminal() { "\n" } else { "" };
    let _ = writeln!(stderr, "{line_break}warning: {text}");
}

#[cfg(test)]
mod tests {
    use super::super::notes::Notebook;
    #[cfg(unix)]
    use super::super::notes::Outcome;
    use super::*;

    fn parent() -> (Parent, Notebook) {
        let config = TrainConfig {
            batch_size: 4,
            gradient_checkpointing: false,
            ..TrainConfig::default()
        };
        let notes = Notes::create().unwrap();
        let notebook = Notebook::open(notes.path().to_path_buf()).unwrap();
        let parent = Parent::new(config, notes, channel());
        (parent, notebook)
    }

    fn status(parent: &Parent, step: u64, saved_step: Option<u64>) -> Status {
        Status {
            step,
            saved_step,
            ..Status::beginning(&parent.config, 0)
        }
    }

    /// A child's note: each child begins a file of its own.
    fn note(parent: &Parent, status: &Status) {
        let notebook = Notebook::open(parent.notes.path().to_path_buf()).unwrap();
        notebook.status(status).unwrap();
    }

    fn killed(parent: &mut Parent) -> Result<Restart> {
        let restart = parent.smaller("the training process was killed,".into(), false)?;
        parent.notes.clear();
        Ok(restart)
    }

    #[cfg(unix)]
    fn signal_9() -> ExitStatus {
        std::os::unix::process::ExitStatusExt::from_raw(9)
    }

    #[test]
    fn each_child_has_a_smaller_batch_until_one_sequence_is_too_much() {
        let (mut parent, notebook) = parent();
        notebook.status(&status(&parent, 12, Some(10))).unwrap();
        let first = killed(&mut parent).unwrap();
        assert_eq!((first.from, first.batch_size), (4, 2));
        assert_eq!((first.step, first.saved_step), (12, Some(10)));
        assert!(first.reason.contains("in step 12"), "{}", first.reason);
        // The second child dies before it says anything: what the first one saved still counts.
        let second = killed(&mut parent).unwrap();
        assert_eq!(second.batch_size, 1);
        assert_eq!(second.gradient_accumulation_steps, 4);
        assert_eq!(second.saved_step, Some(10));
        let error = killed(&mut parent).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let text = error.to_string();
        for words in [
            "--batch-size 1",
            "--max-seq-len",
            "--gradient-checkpointing",
            "--use-8bit-optimizer",
            "--hidden-size",
            "checkpoint of step 10",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    /// What the child predicted is taken: sizes that would take no less are passed over.
    #[test]
    fn the_next_child_has_the_batch_that_the_one_before_named() {
        let (mut parent, _notebook) = parent();
        let named = |parent: &Parent, next| Status {
            next_batch_size: Some(next),
            ..status(parent, 3, None)
        };
        note(&parent, &named(&parent, 1));
        let next = killed(&mut parent).unwrap();
        assert_eq!((next.batch_size, next.gradient_accumulation_steps), (1, 4));
        note(&parent, &named(&parent, 0));
        let error = killed(&mut parent).unwrap_err().to_string();
        assert!(error.contains("no smaller one would take less"), "{error}");
    }

    #[test]
    fn a_run_that_saved_nothing_does_not_resume() {
        let (mut parent, notebook) = parent();
        notebook.status(&status(&parent, 3, None)).unwrap();
        assert_eq!(killed(&mut parent).unwrap().saved_step, None);
    }

    /// Only the child knows the batch of a saved run.
    #[test]
    fn a_child_that_dies_before_it_read_the_saved_run_is_not_started_again() {
        let (mut parent, _notebook) = parent();
        parent.split = None;
        let error = killed(&mut parent).unwrap_err().to_string();
        assert!(error.contains("before its first step"), "{error}");
    }

    fn crashed(parent: &mut Parent, what: &str) -> Result<Restart> {
        let restart = parent.after_crash(format!("the training process crashed ({what})"));
        parent.notes.clear();
        restart
    }

    #[test]
    fn the_same_crash_in_the_same_step_is_reported_and_no_lack_of_memory() {
        let (mut parent, _notebook) = parent();
        note(&parent, &status(&parent, 12, Some(10)));
        assert_eq!(crashed(&mut parent, "SIGSEGV").unwrap().batch_size, 2);
        note(&parent, &status(&parent, 12, Some(10)));
        let error = crashed(&mut parent, "SIGSEGV").unwrap_err().to_string();
        for words in [
            "in step 12",
            "SIGSEGV",
            "not lack of memory",
            "report it",
            "step 10",
        ] {
            assert!(error.contains(words), "{words}: {error}");
        }
        assert!(!error.contains("--max-seq-len"), "{error}");
    }

    #[test]
    fn another_crash_is_tried_with_less() {
        let (mut parent, _notebook) = parent();
        for (step, what, batch_size) in [(12, "SIGSEGV", 2), (13, "SIGSEGV", 1)] {
            let split = parent.split.unwrap();
            let now = Status {
                batch_size: split.batch_size,
                gradient_accumulation_steps: split.accumulation,
                ..status(&parent, step, Some(10))
            };
            note(&parent, &now);
            assert_eq!(crashed(&mut parent, what).unwrap().batch_size, batch_size);
        }
    }

    #[test]
    fn one_sequence_that_crashes_is_tried_once_more_as_long_as_nothing_new_is_saved() {
        let (mut parent, _notebook) = parent();
        let one = |parent: &Parent, step, saved| Status {
            batch_size: 1,
            ..status(parent, step, saved)
        };
        for saved in [10, 20] {
            note(&parent, &one(&parent, saved + 2, Some(saved)));
            let restart = crashed(&mut parent, "SIGBUS").unwrap();
            assert_eq!((restart.from, restart.batch_size), (1, 1));
        }
        note(&parent, &one(&parent, 23, Some(20)));
        assert!(crashed(&mut parent, "SIGBUS").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_failed_device_is_lack_of_memory_in_the_childs_words() {
        let (parent, notebook) = parent();
        notebook
            .outcome(&Outcome::out_of_memory("the device failed in step 3"))
            .unwrap();
        // Whether it then exits or its driver's clean-up crashes.
        for raw in [i32::from(EXIT_OUT_OF_MEMORY) << 8, 11] {
            let status = std::os::unix::process::ExitStatusExt::from_raw(raw);
            match parent.verdict(Some(status)).unwrap() {
                Verdict::Memory { what, names_step } => {
                    assert_eq!(what, "the device failed in step 3");
                    assert!(names_step);
                }
                Verdict::Exit(_) | Verdict::Crash { .. } => panic!("no lack of memory"),
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_crash_after_the_end_changes_nothing() {
        let (parent, notebook) = parent();
        notebook.outcome(&Outcome::code(0)).unwrap();
        let verdict = parent.verdict(Some(signal_9())).unwrap();
        assert!(matches!(verdict, Verdict::Exit(0)));
    }

    #[cfg(unix)]
    #[test]
    fn a_child_killed_while_it_stops_stays_dead() {
        let (mut parent, _notebook) = parent();
        parent.asked = true;
        let error = parent.verdict(Some(signal_9())).err().unwrap();
        assert!(
            error.to_string().contains("while it was stopping"),
            "{error}"
        );
        parent.leaving = true;
        let verdict = parent.verdict(Some(signal_9())).unwrap();
        assert!(matches!(verdict, Verdict::Exit(130)));
    }
}
