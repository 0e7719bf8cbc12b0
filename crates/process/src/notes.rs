//! What a child leaves for its parent to read, and what the parent tells the next child.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::EXIT_OUT_OF_MEMORY;
use crate::split::Split;
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};
use aios_metrics::{Event, OomBackoff};

/// Begins the name of the folder of notes, by which a child knows that it is one.
const PREFIX: &str = "aios-train-";

/// The file that a parent holds locked for as long as it lives.
const OWNER: &str = "owner";

/// A folder without that file is left alone for so long: its parent may be about to make it.
const NEW: Duration = Duration::from_secs(60);

const STATUS: &str = "status.json";
const OUTCOME: &str = "outcome.json";

/// Every note is filled up with blanks to this length, so that one write replaces another whole.
const LENGTH: usize = 256;

/// Where a child is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The step in progress; before the first and after a save, the last one that is done.
    pub step: u64,
    /// Sequences in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in a step.
    pub gradient_accumulation_steps: usize,
    /// The step this process began at: that of the checkpoint it resumed, else 0.
    pub began_at: u64,
    /// Step of the newest checkpoint that this process saved.
    pub saved_step: Option<u64>,
    /// Sequences in a micro-batch of the process that takes up the run if this one dies, by what it
    /// is predicted to take; 0 if nothing is predicted to take less, `None` if that is not known.
    pub next_batch_size: Option<usize>,
}

impl Status {
    /// Before the first step.
    pub fn beginning(config: &TrainConfig, began_at: u64) -> Self {
        Self {
            step: began_at,
            batch_size: config.batch_size,
            gradient_accumulation_steps: config.gradient_accumulation_steps,
            began_at,
            saved_step: None,
            next_batch_size: None,
        }
    }

    /// How its steps are divided.
    pub fn split(&self) -> Split {
        Split {
            batch_size: self.batch_size,
            accumulation: self.gradient_accumulation_steps,
        }
    }

    /// How those of the process after it are to be.
    pub fn next(&self) -> Option<Split> {
        let split = self.split();
        match self.next_batch_size {
            None => split.halved(),
            Some(0) => None,
            Some(batch_size) => Some(split.in_batches_of(batch_size)),
        }
    }
}

/// How a child is about to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its exit code.
    pub code: u8,
    /// What the device said, if it failed.
    pub failure: Option<String>,
}

impl Outcome {
    /// It ends of its own accord.
    pub fn code(code: u8) -> Self {
        Self {
            code,
            failure: None,
        }
    }

    /// Its device failed.
    pub fn out_of_memory(cause: &str) -> Self {
        Self {
            code: EXIT_OUT_OF_MEMORY,
            failure: Some(cause.to_string()),
        }
    }
}

/// What a child has to do otherwise than the one that died before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Sequences in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in a step.
    pub gradient_accumulation_steps: usize,
    /// Micro-batch size that did not fit.
    pub from: usize,
    /// The step in which memory ran out.
    pub step: u64,
    /// What happened, in words.
    pub reason: String,
    /// The run's own newest checkpoint, to go on from. Without one, the run begins as its flags say: what else there is
    /// in the bundle may be another run's.
    pub saved_step: Option<u64>,
}

impl Restart {
    /// How its steps are divided, whatever the flags and the bundle say.
    pub fn split(&self) -> Split {
        Split {
            batch_size: self.batch_size,
            accumulation: self.gradient_accumulation_steps,
        }
    }

    /// Go on with what the run has saved, if it has.
    pub fn apply(&self, config: &mut TrainConfig) {
        if self.saved_step.is_some() {
            config.resume = true;
            config.student_init = None;
            // What the run saved has the rise that it began with.
            config.rewarm_steps = None;
        }
    }

    /// Whether the checkpoint found, of step `found`, is the run's own.
    ///
    /// # Errors
    /// It is an older one, perhaps another run's: that of this run was damaged since.
    pub fn check(&self, bundle: &Path, found: u64) -> Result<()> {
        match self.saved_step {
            Some(saved) if found < saved => Err(Error::failed(format!(
                "the checkpoint of step {saved} that this run saved in {} cannot be opened any more, only one of step \
                 {found}: if that is the one to go on from, start again with --resume",
                bundle.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Its line in the metrics file.
    pub fn event(&self) -> Event {
        Event::OomBackoff(OomBackoff {
            from: self.from as u64,
            to: self.batch_size as u64,
            accumulation: self.gradient_accumulation_steps as u64,
            step: self.step,
            reason: self.reason.clone(),
        })
    }
}

/// The folder that a parent makes for its children's notes; removed when dropped.
#[derive(Debug)]
pub struct Notes {
    // Before the folder: what is open cannot be removed everywhere.
    _owner: File,
    dir: TempDir,
}

impl Notes {
    pub fn create() -> Result<Self> {
        let place = std::env::temp_dir();
        sweep(&place);
        let cannot = |cause| Error::io(&place, "create a folder in", cause);
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&place)
            .map_err(cannot)?;
        let owner = File::create_new(dir.path().join(OWNER)).map_err(cannot)?;
        // Where nothing can be locked, the folder is only swept when it has gone stale.
        let _ = owner.try_lock();
        Ok(Self { _owner: owner, dir })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Removes what an earlier child wrote.
    pub fn clear(&self) {
        clear(self.path());
    }

    pub fn status(&self) -> Option<Status> {
        read(&self.path().join(STATUS))
    }

    pub fn outcome(&self) -> Option<Outcome> {
        read(&self.path().join(OUTCOME))
    }
}

/// The same folder as a child sees it.
#[derive(Debug, Clone)]
pub struct Notebook {
    dir: PathBuf,
    /// Open once there is a status: it is written each step.
    status: Arc<Mutex<Option<File>>>,
}

impl Notebook {
    /// `None` for a folder that no parent made, as where the variable was set by hand.
    pub fn open(dir: PathBuf) -> Option<Self> {
        let name = dir.file_name()?.to_str()?;
        (name.starts_with(PREFIX) && dir.is_dir()).then(|| Self {
            dir,
            status: Arc::default(),
        })
    }

    pub fn status(&self, status: &Status) -> Result<()> {
        let path = self.dir.join(STATUS);
        let text = text(&path, status)?;
        let mut open = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match open.take() {
            Some(file) => Ok(file),
            // Not truncated: after a failed write the last whole status is still there.
            None => File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path),
        }
        .and_then(|mut file| write(&mut file, &text).map(|()| *open = Some(file)));
        written.map_err(|cause| Error::io(&path, "write", cause))
    }

    pub fn outcome(&self, outcome: &Outcome) -> Result<()> {
        let path = self.dir.join(OUTCOME);
        let text = text(&path, outcome)?;
        File::create(&path)
            .and_then(|mut file| write(&mut file, &text))
            .map_err(|cause| Error::io(&path, "write", cause))
    }

    /// Removes the folder in the place of a parent that is gone.
    pub fn remove(&self) {
        clear(&self.dir);
        let _ = fs::remove_file(self.dir.join(OWNER));
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Files that are not there are what is wanted.
fn clear(dir: &Path) {
    for name in [STATUS, OUTCOME] {
        let _ = fs::remove_file(dir.join(name));
    }
}

/// Removes the folders of parents that were killed together with their children. What cannot be removed stays, as
/// another user's does: it only takes a little space.
fn sweep(place: &Path) {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    for entry in entries {
        let of_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let folder = fs::symlink_metadata(entry.path()).is_ok_and(|found| is_own_folder(&found));
        if of_ours && folder && is_abandoned(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// In a folder for everybody's temporary files others may have laid anything.
fn is_own_folder(found: &fs::Metadata) -> bool {
    #[cfg(unix)]
    // SAFETY: asks the system for a number.
    let own = std::os::unix::fs::MetadataExt::uid(found) == unsafe { libc::geteuid() };
    #[cfg(not(unix))]
    let own = true;
    own && found.is_dir()
}

fn is_abandoned(dir: &Path) -> bool {
    match File::options().write(true).open(dir.join(OWNER)) {
        Ok(owner) => owner.try_lock().is_ok(),
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            let made = fs::metadata(dir).and_then(|found| found.modified());
            made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > NEW))
        }
        Err(_) => false,
    }
}

fn text(path: &Path, note: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec(note)
        .map_err(|cause| Error::failed(format!("cannot write {}: {cause}", path.display())))?;
    text.resize(text.len().max(LENGTH), b' ');
    Ok(text)
}

/// One small write in place is whole however the process dies: the note has to outlive the process, not the system. A
/// rename would be as safe and make some file systems flush, which takes longer than a small step.
fn write(file: &mut File, text: &[u8]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(text)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restart(saved_step: Option<u64>) -> Restart {
        Restart {
            batch_size: 2,
            gradient_accumulation_steps: 4,
            from: 4,
            step: 12,
            reason: "killed".into(),
            saved_step,
        }
    }

    fn config() -> TrainConfig {
        TrainConfig {
            batch_size: 4,
            gradient_accumulation_steps: 2,
            student_init: Some("teacher".into()),
            ..TrainConfig::default()
        }
    }

    #[test]
    fn notes_are_read_as_written_until_cleared() {
        let notes = Notes::create().unwrap();
        assert_eq!((notes.status(), notes.outcome()), (None, None));
        let notebook = Notebook::open(notes.path().to_path_buf()).unwrap();
        let mut status = Status::beginning(&config(), 3);
        for step in [99999, 5] {
            status.step = step;
            notebook.status(&status).unwrap();
        }
        let outcome = Outcome::out_of_memory("no memory");
        notebook.outcome(&outcome).unwrap();
        assert_eq!(notes.status(), Some(status));
        assert_eq!(notes.outcome(), Some(outcome));
        notes.clear();
        assert_eq!((notes.status(), notes.outcome()), (None, None));
    }

    #[test]
    fn a_torn_note_counts_as_none() {
        let notes = Notes::create().unwrap();
        fs::write(notes.path().join(STATUS), "{\"step\":").unwrap();
        assert_eq!(notes.status(), None);
    }

    #[test]
    fn a_child_whose_parent_is_gone_leaves_nothing() {
        let notes = Notes::create().unwrap();
        let notebook = Notebook::open(notes.path().to_path_buf()).unwrap();
        notebook.outcome(&Outcome::code(0)).unwrap();
        notebook.remove();
        assert!(!notes.path().exists());
    }

    #[test]
    fn what_killed_processes_left_is_swept_and_what_is_in_use_is_not() {
        let place = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let dir = place.path().join(name);
            fs::create_dir(&dir).unwrap();
            dir
        };
        let [dead, alive] = ["aios-train-dead", "aios-train-alive"].map(folder);
        let [new, others] = ["aios-train-new", "others"].map(folder);
        fs::write(dead.join(OWNER), "").unwrap();
        let owner = File::create(alive.join(OWNER)).unwrap();
        owner.lock().unwrap();
        sweep(place.path());
        assert!(!dead.exists());
        assert!(alive.exists() && new.exists() && others.exists());
    }

    #[test]
    fn a_folder_of_the_users_is_no_notebook() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Notebook::open(dir.path().to_path_buf()).is_none());
        assert!(Notebook::open(dir.path().join("aios-train-gone")).is_none());
    }

    #[test]
    fn a_run_that_saved_is_resumed() {
        let mut changed = config();
        restart(Some(10)).apply(&mut changed);
        let split = Split {
            batch_size: 2,
            accumulation: 4,
        };
        assert_eq!(restart(Some(10)).split(), split);
        // What was asked for stays, to be saved.
        assert_eq!(Split::of(&changed), Split::of(&config()));
        assert!(changed.resume);
        assert_eq!(changed.student_init, None);
        changed.dataset_file = Some("text.txt".into());
        changed.validate().unwrap();
    }

    #[test]
    fn a_run_that_saved_nothing_begins_as_before() {
        let mut changed = config();
        restart(None).apply(&mut changed);
        assert!(!changed.resume);
        assert_eq!(changed.student_init, config().student_init);
    }

    #[test]
    fn an_older_checkpoint_than_the_runs_own_is_refused() {
        let check = |saved, found| restart(saved).check(Path::new("brain"), found);
        check(Some(10), 10).unwrap();
        // It died after the save and before it could say so.
        check(Some(10), 20).unwrap();
        check(None, 0).unwrap();
        let error = check(Some(10), 9).unwrap_err().to_string();
        assert!(
            error.contains("step 10") && error.contains("--resume"),
            "{error}"
        );
    }
}
