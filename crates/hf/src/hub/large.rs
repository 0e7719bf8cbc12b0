//! Large files: straight to the disk, gone on with where they broke off, and compared with their hash.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header;
use sha2::{Digest, Sha256};

use aios_base::error::Result;

use super::request::{Answer, ended_early, hex, is_sha256, not_the_hubs, value};
use super::{Hub, Progress, Trouble};

/// How often in a row a download may break off without a byte more.
const TRIES: u32 = 5;
/// Between two looks at whether another process is done with the same file.
const WAITING: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 1 << 20;

/// The beginning of a file, so far.
struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: Sha256,
}

impl Hub {
    /// Puts a file of a commit into the cache. What a broken connection leaves is gone on with, now or the next time.
    pub(super) fn fetch_large(
        &self,
        id: &str,
        commit: &str,
        name: &str,
        progress: &Progress,
    ) -> Result<Result<(), Trouble>> {
        let mut tries = 0;
        loop {
            let before = progress.done.load(Ordering::Relaxed);
            let trouble = match self.try_large(id, commit, name, progress)? {
                Ok(etag) => return self.name(id, commit, name, &etag).map(|_| Ok(())),
                Err(trouble) => trouble,
            };
            tries = match progress.done.load(Ordering::Relaxed) > before {
                true => 1,
                false => tries + 1,
            };
            let given_up = progress.given_up.load(Ordering::Relaxed);
            if given_up || tries >= TRIES || !trouble.may_pass() {
                return Ok(Err(trouble));
            }
            std::thread::sleep(self.pause * tries);
        }
    }

    /// The same once; gives the name of the file's content.
    fn try_large(
        &self,
        id: &str,
        commit: &str,
        name: &str,
        progress: &Progress,
    ) -> Result<Result<String, Trouble>> {
        let url = self.file_url(id, commit, name);
        let asked = self.request(url.clone(), 0);
        let asked = asked.and_then(|answer| Ok((answer.identity(self)?.0, answer)));
        let (etag, answer) = match asked {
            Ok(asked) => asked,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let kept = |cause: io::Error| self.cannot_keep(&cause);
        let _lock = self.lock(id, &etag, progress).map_err(kept)?;
        let blob = self.blob(id, &etag);
        if blob.is_file() {
            let bytes = blob.metadata().map_or(0, |found| found.len());
            progress.done.fetch_add(bytes, Ordering::Relaxed);
            return Ok(Ok(etag));
        }
        let mut part = Part::open(blob.with_file_name(format!("{etag}.incomplete")), progress)
            .map_err(kept)?;
        let got = self.go_on(&url, answer, &mut part, progress);
        if let Err(trouble) = got.map_err(kept)? {
            // Not counted a second time when it is gone on with.
            progress.done.fetch_sub(part.bytes, Ordering::Relaxed);
            return Ok(Err(trouble));
        }
        if is_sha256(&etag) && hex(&part.hash.clone().finalize()) != etag {
            progress.done.fetch_sub(part.bytes, Ordering::Relaxed);
            drop(part.file);
            fs::remove_file(&part.path).map_err(kept)?;
            return Ok(Err(not_the_hubs()));
        }
        part.file.sync_all().map_err(kept)?;
        drop(part.file);
        aios_base::files::rename(&part.path, &blob).map_err(kept)?;
        Ok(Ok(etag))
    }

    /// Gets what `part` lacks. `answer` is of the whole file.
    fn go_on(
        &self,
        url: &str,
        answer: Answer,
        part: &mut Part,
        progress: &Progress,
    ) -> io::Result<Result<(), Trouble>> {
        let length = answer.response.body().content_length();
        if length.is_some_and(|length| part.bytes > length) {
            part.clear(progress)?;
        }
        if length == Some(part.bytes) {
            return Ok(Ok(()));
        }
        let mut answer = answer;
        if part.bytes > 0 {
            answer = match self.request(url.to_string(), part.bytes) {
                Ok(answer) => answer,
                Err(trouble) => return Ok(Err(trouble)),
            };
            if !begins_at(&answer, part.bytes) {
                part.clear(progress)?;
            }
        }
        let mut body = answer.response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if progress.given_up.load(Ordering::Relaxed) {
                return Ok(Err(Trouble::Failed("it was given up".to_string())));
            }
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => part.add(&buffer[..read], progress)?,
                Err(cause) => return Ok(Err(Trouble::Broken(cause.to_string()))),
            }
            if length.is_some_and(|length| part.bytes > length) {
                part.clear(progress)?;
                return Ok(Err(not_the_hubs()));
            }
        }
        Ok(match length {
            Some(length) if length != part.bytes => Err(ended_early(part.bytes, length)),
            _ => Ok(()),
        })
    }

    /// Waits for other processes that download the same file. Where the system has no locks there is none.
    fn lock(&self, id: &str, etag: &str, progress: &Progress) -> io::Result<File> {
        let repository = self.repository(id);
        let name = repository.file_name().unwrap_or_default();
        let folder = self.cache.join(".locks").join(name);
        fs::create_dir_all(&folder)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let file = options.open(folder.join(format!("{etag}.lock")))?;
        while let Err(TryLockError::WouldBlock) = file.try_lock() {
            if progress.given_up.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(WAITING);
        }
        Ok(file)
    }
}

/// Whether an answer is the rest of a file, from byte `from` on.
fn begins_at(answer: &Answer, from: u64) -> bool {
    let range = value(answer.response.headers(), header::CONTENT_RANGE.as_str());
    let begins = |range: String| range.starts_with(&format!("bytes {from}-"));
    answer.response.status().as_u16() == 206 && range.is_some_and(begins)
}

impl Part {
    /// What is there already counts as done.
    fn open(path: PathBuf, progress: &Progress) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = options.open(&path)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => {
                    hash.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
        progress.done.fetch_add(bytes, Ordering::Relaxed);
        Ok(Self {
            path,
            file,
            bytes,
            hash,
        })
    }

    fn add(&mut self, bytes: &[u8], progress: &Progress) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        progress
            .done
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn clear(&mut self, progress: &Progress) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        progress.done.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
        self.hash = Sha256::new();
        Ok(())
    }
}
