//! Makes the tokens of a corpus: one thread reads, several tokenize, and the caller's writes in the order of the text.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::cache::{HEADER_BYTES, Header, ignored, vocabulary};
use crate::chat_rows::{ChatRows, Record};
use crate::corpus::CorpusFile;
use crate::documents::{End, Piece, Reading, no_text, read_documents};
use crate::records::LeftOut;
use crate::text::Meter;
use crate::tokenizer::Tokenizer;
use aios_base::background::{Watch, library_failed, receive, spawn, watched};
use aios_base::config::{CorpusOptions, TextDocuments};
use aios_base::error::{Error, Result, shown};
use aios_base::fault::contained;
use aios_base::micro_batch::IGNORE;

/// Text that is tokenized at a time by a thread.
const BATCH_BYTES: usize = 256 << 10;
/// The same in pieces, for text in tiny documents.
const BATCH_PIECES: usize = 4096;

/// Of labels and ends.
const COPIED_AT_ONCE: usize = 1 << 20;

/// What is tokenized together.
enum Work {
    Text(Batch),
    Chats(Vec<Record>),
}

/// Pieces of documents.
#[derive(Default)]
struct Batch {
    text: String,
    /// For each piece, its end in `text` and what stands behind it.
    pieces: Vec<(usize, Behind)>,
}

/// What stands behind a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// More of the document.
    More,
    /// An end of text, and with it the end of the document.
    EndOfText,
    /// The end of the document.
    Nothing,
}

/// What became of a batch.
#[derive(Default)]
struct Tokens {
    data: Vec<u8>,
    /// Of rows, as long as `data`.
    labels: Vec<u8>,
    /// Where documents end, in tokens.
    ends: Vec<u64>,
    bytes: u64,
    /// Conversations that are none.
    left_out: LeftOut,
}

/// What is to be tokenized, and where its tokens are waited for.
type Job = (Work, SyncSender<Result<Tokens>>);

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
    // The largest number of two bytes stands for a label that does not count.
    let width = match vocabulary(options, tokenizer) {
        0..=0xFFFF => 2,
        _ => 4,
    };
    let names_control_tokens =
        options.text_documents == TextDocuments::Whole || options.chat.is_some();
    let tokenizer = match names_control_tokens {
        true => {
            let (tokenizer, name) = (tokenizer.clone(), tokenizer.name().to_string());
            let load = move || tokenizer.with_control_tokens();
            &watched(&format!("tokenizer {name}"), watch, || (0, 0), load)?
        }
        false => tokenizer,
    };
    let chats = match &options.chat {
        Some(chat) => Some(Arc::new(ChatRows::new(chat, options, tokenizer.clone())?)),
        None => None,
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
        let worker = Worker {
            tokenizer: tokenizer.clone(),
            chats: chats.clone(),
            width,
        };
        let waiting = Arc::clone(&waiting);
        spawn("aios-tokenize", move || worker.run(&waiting))?;
    }
    // In the order of the text, and so long that nobody has to wait while one batch takes longer than the others.
    let (order, results) = sync_channel(4 * workers);
    let (done, outcome) = sync_channel(1);
    let reader = Reader {
        options: options.clone(),
        tokenizer: tokenizer.clone(),
        meter: Arc::clone(&meter),
        width,
        jobs,
        order,
        batch: Batch::default(),
        rows: Tokens::default(),
        records: Vec::new(),
        record_bytes: 0,
        holds: None,
        owed: false,
    };
    spawn("aios-read", move || {
        let _ = done.send(reader.read(&files));
    })?;
    let mut out = Out::new(part, width)?;
    let mut left_out = LeftOut::default();
    while let Some(result) = receive(&results, watch, progress)? {
        let tokens = receive(&result, watch, progress)?;
        let mut tokens = tokens.ok_or_else(no_word)??;
        left_out.add(std::mem::take(&mut tokens.left_out));
        out.write_batch(&tokens)?;
        let (done, all) = progress();
        watch(done, all)?;
    }
    left_out.add(receive(&outcome, watch, progress)?.ok_or_else(no_word)??);
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
    tokenizer: Tokenizer,
    meter: Arc<Meter>,
    width: usize,
    jobs: SyncSender<Job>,
    order: SyncSender<Receiver<Result<Tokens>>>,
    batch: Batch,
    rows: Tokens,
    records: Vec<Record>,
    record_bytes: usize,
    /// What the corpus is made of, and the first file that said so.
    holds: Option<(Holds, String)>,
    /// A file of text has ended, and behind it something stands if more follows.
    owed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Text,
    Rows,
}

impl Reader {
    fn read(mut self, files: &[CorpusFile]) -> Result<LeftOut> {
        let mut left_out = LeftOut::default();
        let (options, meter) = (self.options.clone(), Arc::clone(&self.meter));
        let tokenizer = self.tokenizer.clone();
        let most = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let reading = Reading {
            options: &options,
            meter: &meter,
            splits: &|text, at| tokenizer.splits_at(text, at),
            vocabulary: options.vocabulary.unwrap_or(most),
        };
        for file in files {
            let mut sink = |piece: Piece| self.take(file, piece);
            let read = || read_documents(file, &reading, &mut left_out, &mut sink);
            contained(read).map_err(|panic| library_failed(&file.name, &panic))??;
        }
        if self.owed {
            self.behind(Behind::Nothing)?;
        }
        self.send()?;
        self.send_rows()?;
        self.send_records()?;
        Ok(left_out)
    }

    fn take(&mut self, file: &CorpusFile, piece: Piece) -> Result<()> {
        match piece {
            Piece::Text(text, end) => {
                self.hold(Holds::Text, file)?;
                self.text(text, end)
            }
            Piece::Row { ids, labels } => {
                self.hold(Holds::Rows, file)?;
                self.row(ids, labels)
            }
            Piece::Record { json, place } => {
                self.hold(Holds::Rows, file)?;
                self.record(json, place)
            }
        }
    }

    /// A corpus is of one kind, since rows are not cut like a text.
    fn hold(&mut self, holds: Holds, file: &CorpusFile) -> Result<()> {
        let (before, first) = self.holds.get_or_insert_with(|| (holds, file.name.clone()));
        if *before == holds {
            return Ok(());
        }
        let names = [&*first, &*file.name];
        let [rows, text] = match holds {
            Holds::Text => names,
            Holds::Rows => [names[1], names[0]],
        };
        Err(Error::failed(format!(
            "{rows} holds rows of tokens and {text} text: give the one or the other"
        )))
    }

    fn text(&mut self, text: &str, end: End) -> Result<()> {
        if std::mem::take(&mut self.owed) {
            self.behind(Behind::EndOfText)?;
        }
        self.batch.text.push_str(text);
        self.owed = end == End::OfFile;
        self.behind(match end {
            End::No | End::OfFile => Behind::More,
            End::Yes => Behind::EndOfText,
        })
    }

    /// Ends a piece.
    fn behind(&mut self, behind: Behind) -> Result<()> {
        let batch = &mut self.batch;
        batch.pieces.push((batch.text.len(), behind));
        match batch.text.len() >= BATCH_BYTES || batch.pieces.len() >= BATCH_PIECES {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn row(&mut self, ids: &[u32], labels: &[i32]) -> Result<()> {
        let (rows, width) = (&mut self.rows, self.width);
        rows.add_row(ids, labels, width);
        // Only for what is said of a byte.
        rows.bytes += self.tokenizer.decode(ids).map_or(0, |text| text.len()) as u64;
        match rows.data.len() >= BATCH_BYTES {
            true => self.send_rows(),
            false => Ok(()),
        }
    }

    /// Hands the batch over, when there is room for it.
    fn send(&mut self) -> Result<()> {
        let (sender, receiver) = sync_channel(1);
        let job = (Work::Text(std::mem::take(&mut self.batch)), sender);
        let sent = self.order.send(receiver).is_ok() && self.jobs.send(job).is_ok();
        heard(sent)
    }

    fn record(&mut self, json: &str, place: &str) -> Result<()> {
        self.record_bytes += json.len();
        self.records.push(Record {
            json: json.to_string(),
            place: place.to_string(),
        });
        match self.record_bytes >= BATCH_BYTES || self.records.len() >= BATCH_PIECES {
            true => self.send_records(),
            false => Ok(()),
        }
    }

    /// The same for conversations.
    fn send_records(&mut self) -> Result<()> {
        let (sender, receiver) = sync_channel(1);
        self.record_bytes = 0;
        let job = (Work::Chats(std::mem::take(&mut self.records)), sender);
        let sent = self.order.send(receiver).is_ok() && self.jobs.send(job).is_ok();
        heard(sent)
    }

    /// The same for rows, of which nothing is to be made.
    fn send_rows(&mut self) -> Result<()> {
        let (sender, receiver) = sync_channel(1);
        let rows = std::mem::take(&mut self.rows);
        let sent = sender.send(Ok(rows)).is_ok() && self.order.send(receiver).is_ok();
        heard(sent)
    }
}

/// If not, nobody waits for it any more, and this error is not heard either.
fn heard(sent: bool) -> Result<()> {
    sent.then_some(()).ok_or(Error::Stopped)
}

impl Tokens {
    fn add_row(&mut self, ids: &[u32], labels: &[i32], width: usize) {
        for id in ids {
            self.data.extend_from_slice(&id.to_le_bytes()[..width]);
        }
        for &label in labels {
            let label = match label {
                IGNORE => ignored(width),
                label => label as u32,
            };
            self.labels.extend_from_slice(&label.to_le_bytes()[..width]);
        }
        self.ends.push((self.data.len() / width) as u64);
    }
}

/// A thread that tokenizes.
struct Worker {
    tokenizer: Tokenizer,
    /// Where the corpus is of conversations.
    chats: Option<Arc<ChatRows>>,
    width: usize,
}

impl Worker {
    /// What it does until there is nothing left.
    fn run(&self, waiting: &Mutex<Receiver<Job>>) {
        loop {
            let next = waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv();
            let Ok((work, sender)) = next else {
                return;
            };
            let _ = sender.send(match work {
                Work::Text(batch) => tokenize(&self.tokenizer, &batch, self.width),
                Work::Chats(records) => self.rows(&records),
            });
        }
    }

    fn rows(&self, records: &[Record]) -> Result<Tokens> {
        let mut tokens = Tokens::default();
        let Some(chats) = &self.chats else {
            return Ok(tokens);
        };
        for record in records {
            let row = contained(|| chats.row(record, &mut tokens.left_out));
            let row = row.map_err(|panic| library_failed(&record.place, &panic))??;
            if let Some((row, bytes)) = row {
                tokens.bytes += bytes as u64;
                tokens.add_row(&row.ids, &row.labels, self.width);
            }
        }
        Ok(tokens)
    }
}

fn tokenize(tokenizer: &Tokenizer, batch: &Batch, width: usize) -> Result<Tokens> {
    let mut tokens = Tokens {
        data: Vec::with_capacity(batch.text.len() / 2),
        bytes: batch.text.len() as u64,
        ..Tokens::default()
    };
    let mut start = 0;
    for &(end, behind) in &batch.pieces {
        let mut ids = match start < end {
            true => tokenizer.encode(&batch.text[start..end])?,
            false => Vec::new(),
        };
        if behind == Behind::EndOfText {
            ids.push(tokenizer.end_of_text());
        }
        for id in ids {
            tokens.data.extend_from_slice(&id.to_le_bytes()[..width]);
        }
        if behind != Behind::More {
            tokens.ends.push((tokens.data.len() / width) as u64);
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
    /// What will follow the tokens, in files that are gone with this.
    labels: BufWriter<File>,
    ends: BufWriter<File>,
}

impl<'a> Out<'a> {
    fn new(part: &'a mut NamedTempFile, width: usize) -> Result<Self> {
        let path = part.path().to_path_buf();
        let beside = || {
            let folder = path.parent().unwrap_or(std::path::Path::new("."));
            let file = tempfile::tempfile_in(folder).map_err(|error| write_error(&path, &error));
            file.map(BufWriter::new)
        };
        let (labels, ends) = (beside()?, beside()?);
        let mut out = Self {
            path,
            file: BufWriter::new(part.as_file_mut()),
            hash: Sha256::new(),
            header: Header {
                width,
                rows: false,
                tokens: 0,
                documents: 0,
                bytes: 0,
                left_out: 0,
                hash: [0; 32],
                rest: [0; 32],
            },
            labels,
            ends,
        };
        out.write(&[0; HEADER_BYTES])?;
        Ok(out)
    }

    fn write_batch(&mut self, tokens: &Tokens) -> Result<()> {
        self.hash.update(&tokens.data);
        let before = self.header.tokens as u64;
        self.header.tokens += tokens.data.len() / self.header.width;
        self.header.bytes += tokens.bytes;
        self.header.documents += tokens.ends.len();
        self.header.rows |= !tokens.labels.is_empty();
        self.write(&tokens.data)?;
        let ends = tokens.ends.iter();
        let ends: Vec<u8> = ends.flat_map(|end| (before + end).to_le_bytes()).collect();
        let written = self.labels.write_all(&tokens.labels);
        let written = written.and_then(|()| self.ends.write_all(&ends));
        written.map_err(|error| write_error(&self.path, &error))
    }

    fn finish(mut self, total: u64, watch: &mut Watch) -> Result<()> {
        self.header.hash = std::mem::take(&mut self.hash).finalize().into();
        self.append_rest(total, watch)?;
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

    /// Copies labels and ends behind the tokens.
    fn append_rest(&mut self, total: u64, watch: &mut Watch) -> Result<()> {
        let fail = |path: &PathBuf, error| write_error(path, &error);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPIED_AT_ONCE];
        for rest in [&mut self.labels, &mut self.ends] {
            let begun = rest.seek(SeekFrom::Start(0));
            begun.map_err(|error| fail(&self.path, error))?;
            loop {
                let read = rest.get_mut().read(&mut buffer);
                let read = read.map_err(|error| fail(&self.path, error))?;
                if read == 0 {
                    break;
                }
                hash.update(&buffer[..read]);
                let written = self.file.write_all(&buffer[..read]);
                written.map_err(|error| fail(&self.path, error))?;
                watch(total, total)?;
            }
        }
        self.header.rest = hash.finalize().into();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| write_error(&self.path, &error))
    }
}

fn write_error(path: &std::path::Path, error: &std::io::Error) -> Error {
    Error::failed(format!(
        "cannot write token cache {}: {error}; make room there or set {} to another folder",
        shown(path),
        aios_base::cache::VARIABLE
    ))
}
