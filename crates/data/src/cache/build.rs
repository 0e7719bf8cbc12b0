//! Makes the tokens of a corpus: one thread reads, several tokenize, and the caller's writes in the order of the text.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::Watch;
use crate::background::{library_failed, receive, spawn, watched};
use crate::cache::{DIRECTORY_VARIABLE, HEADER_BYTES, Header};
use crate::corpus::CorpusFile;
use crate::documents::read_documents;
use crate::records::LeftOut;
use crate::text::Meter;
use crate::tokenizer::Tokenizer;
use aios_base::config::CorpusOptions;
use aios_base::error::{Error, Result, shown};
use aios_base::fault::contained;

/// Text that is tokenized at a time by a thread.
const BATCH_BYTES: usize = 256 << 10;
/// The same in pieces, for text in tiny documents.
const BATCH_PIECES: usize = 4096;

/// Pieces of documents that are tokenized together.
#[derive(Default)]
struct Batch {
    text: String,
    /// For each piece, its end in `text` and whether it ends a document.
    pieces: Vec<(usize, bool)>,
}

/// What became of a batch.
struct Tokens {
    data: Vec<u8>,
    documents: usize,
    bytes: u64,
}

/// A batch, and where its tokens are waited for.
type Job = (Batch, SyncSender<Result<Tokens>>);

/// Tokenizes the files into `part`, which then is a whole cache file.
///
/// # Errors
/// If a file cannot be read or tokenized, all of it is without text, or the disk is full; or what `watch` gives, at once.
pub(super) fn build(
    files: Vec<CorpusFile>,
    options: &CorpusOptions,
    tokenizer: &Tokenizer,
    part: &mut NamedTempFile,
    watch: &mut Watch,
) -> Result<()> {
    let width = if tokenizer.vocab_size() > 1 << 16 {
        4
    } else {
        2
    };
    let total = files.iter().map(|file| file.size).sum();
    let meter = Arc::new(Meter::default());
    let progress = || (meter.read().min(total), total);
    // However it ends, nobody reads on.
    let _stop = StopWhenDropped(&meter);
    let workers = rayon::current_num_threads();
    let (jobs, waiting) = sync_channel(workers);
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..workers {
        let (tokenizer, waiting) = (tokenizer.clone(), Arc::clone(&waiting));
        spawn("aios-tokenize", move || work(&tokenizer, &waiting, width))?;
    }
    // In the order of the text, and so long that nobody has to wait while one batch takes longer than the others.
    let (order, results) = sync_channel(4 * workers);
    let (done, outcome) = sync_channel(1);
    let reader = Reader {
        options: options.clone(),
        meter: Arc::clone(&meter),
        jobs,
        order,
    };
    spawn("aios-read", move || {
        let _ = done.send(reader.read(&files));
    })?;
    let mut out = Out::new(part, width)?;
    while let Some(result) = receive(&results, watch, progress)? {
        let tokens = receive(&result, watch, progress)?;
        out.write_batch(&tokens.ok_or_else(no_word)??)?;
        let (done, all) = progress();
        watch(done, all)?;
    }
    let left_out = receive(&outcome, watch, progress)?.ok_or_else(no_word)??;
    watch(total, total)?;
    if out.header.documents == 0 {
        return Err(no_text(options, &left_out));
    }
    if left_out.count > 0 {
        tracing::warn!("dataset {}: {}", options.name(), left_out.in_words());
    }
    out.header.left_out = left_out.count;
    out.finish(total, watch)
}

struct StopWhenDropped<'a>(&'a Meter);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn no_word() -> Error {
    Error::failed("internal error: a thread that reads the dataset is gone; please report it")
}

/// The thread that reads.
struct Reader {
    options: CorpusOptions,
    meter: Arc<Meter>,
    jobs: SyncSender<Job>,
    order: SyncSender<Receiver<Result<Tokens>>>,
}

impl Reader {
    fn read(self, files: &[CorpusFile]) -> Result<LeftOut> {
        let mut left_out = LeftOut::default();
        let mut batch = Batch::default();
        for file in files {
            let mut sink = |piece: &str, ends| {
                batch.text.push_str(piece);
                batch.pieces.push((batch.text.len(), ends));
                match batch.text.len() >= BATCH_BYTES || batch.pieces.len() >= BATCH_PIECES {
                    true => self.send(&mut batch),
                    false => Ok(()),
                }
            };
            let read =
                || read_documents(file, &self.options, &self.meter, &mut left_out, &mut sink);
            contained(read).map_err(|panic| library_failed(&file.name, &panic))??;
        }
        self.send(&mut batch)?;
        Ok(left_out)
    }

    /// Hands the batch over, when there is room for it.
    fn send(&self, batch: &mut Batch) -> Result<()> {
        let (sender, receiver) = sync_channel(1);
        let job = (std::mem::take(batch), sender);
        let sent = self.order.send(receiver).is_ok() && self.jobs.send(job).is_ok();
        // Then nobody waits for it any more, and this error is not heard either.
        sent.then_some(()).ok_or(Error::Stopped)
    }
}

/// What a thread that tokenizes does until there is nothing left.
fn work(tokenizer: &Tokenizer, waiting: &Mutex<Receiver<Job>>, width: usize) {
    loop {
        let next = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok((batch, sender)) = next else {
            return;
        };
        let _ = sender.send(tokenize(tokenizer, &batch, width));
    }
}

fn tokenize(tokenizer: &Tokenizer, batch: &Batch, width: usize) -> Result<Tokens> {
    let mut tokens = Tokens {
        data: Vec::with_capacity(batch.text.len() / 2),
        documents: 0,
        bytes: batch.text.len() as u64,
    };
    let mut start = 0;
    for &(end, ends_document) in &batch.pieces {
        let mut ids = tokenizer.encode(&batch.text[start..end])?;
        if ends_document {
            ids.push(tokenizer.end_of_text());
            tokens.documents += 1;
        }
        for id in ids {
            tokens.data.extend_from_slice(&id.to_le_bytes()[..width]);
        }
        start = end;
    }
    Ok(tokens)
}

/// The file that is written.
struct Out<'a> {
    path: PathBuf,
    file: BufWriter<&'a mut File>,
    hash: Sha256,
    header: Header,
}

impl<'a> Out<'a> {
    fn new(part: &'a mut NamedTempFile, width: usize) -> Result<Self> {
        let mut out = Self {
            path: part.path().to_path_buf(),
            file: BufWriter::new(part.as_file_mut()),
            hash: Sha256::new(),
            header: Header {
                width,
                tokens: 0,
                documents: 0,
                bytes: 0,
                left_out: 0,
                hash: [0; 32],
            },
        };
        out.write(&[0; HEADER_BYTES])?;
        Ok(out)
    }

    fn write_batch(&mut self, tokens: &Tokens) -> Result<()> {
        self.hash.update(&tokens.data);
        self.header.tokens += tokens.data.len() / self.header.width;
        self.header.bytes += tokens.bytes;
        self.header.documents += tokens.documents;
        self.write(&tokens.data)
    }

    fn finish(mut self, total: u64, watch: &mut Watch) -> Result<()> {
        self.header.hash = self.hash.clone().finalize().into();
        let start = self.file.seek(SeekFrom::Start(0));
        start.map_err(|error| write_error(&self.path, &error))?;
        self.write(&self.header.encode())?;
        let file = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().try_clone());
        let file = file.map_err(|error| write_error(&self.path, &error))?;
        let path = self.path.clone();
        // A disk may take its time over gigabytes.
        watched(
            &shown(&self.path),
            watch,
            || (total, total),
            move || file.sync_all().map_err(|error| write_error(&path, &error)),
        )
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| write_error(&self.path, &error))
    }
}

fn write_error(path: &std::path::Path, error: &std::io::Error) -> Error {
    Error::failed(format!(
        "cannot write token cache {}: {error}; make room there or set {DIRECTORY_VARIABLE} to another folder",
        shown(path)
    ))
}

fn no_text(options: &CorpusOptions, left_out: &LeftOut) -> Error {
    let name = options.name();
    Error::failed(if left_out.count > 0 {
        format!(
            "dataset {name} holds no good record: {}",
            left_out.in_words()
        )
    } else if options.ascii_only {
        format!("dataset {name} holds no text once --ascii-only has dropped what is not ASCII")
    } else if options.is_stdin() {
        format!("{name} is empty: pipe the text in, also where a run is resumed that read it")
    } else {
        format!("dataset {name} is empty: it holds no text")
    })
}
