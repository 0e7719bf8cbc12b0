//! What every target needs: a place for the files that are read, and an eye on the memory that it takes.

use std::fs;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use aios_base::meter::{self, ProcessHeap};
use tempfile::TempDir;

#[global_allocator]
static HEAP: ProcessHeap = ProcessHeap;

/// What any reader may take besides, for its buffers and tables.
const ROOM_BYTES: u64 = 32 << 20;
/// How many times the length of the file it may take.
const MOST_TIMES: u64 = 1000;

/// Runs `read`, which reads `input`.
///
/// # Panics
/// If that takes memory out of proportion.
pub fn in_proportion(input: &[u8], read: impl FnOnce()) {
    meter::reset_peak();
    let before = meter::live_bytes();
    read();
    let taken = meter::peak_bytes() - before;
    let most = ROOM_BYTES + MOST_TIMES * input.len() as u64;
    assert!(
        taken <= most,
        "{taken} bytes of memory for a file of {}",
        input.len()
    );
}

/// A folder of this process, which whoever runs it removes (`scripts/fuzz`).
pub fn folder() -> &'static Path {
    static FOLDER: LazyLock<TempDir> =
        LazyLock::new(|| tempfile::tempdir().expect("a folder for temporary files"));
    FOLDER.path()
}

/// Puts a file of these bytes into the folder, in place of the one that was there.
pub fn file(name: &str, parts: &[&[u8]]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, parts.concat()).expect("room for a file");
    path
}

/// The first byte, which chooses how the rest is read.
pub fn choice(input: &[u8]) -> Option<(u8, &[u8])> {
    input.split_first().map(|(&choice, rest)| (choice, rest))
}

/// What a few of the choices, for it is slow, put before `rest`: so many of a byte that it lies across the end of the first
/// buffer that a reader fills.
pub fn filler(choice: u8, byte: u8, rest: &[u8]) -> Vec<u8> {
    const BUFFER_BYTES: usize = 64 << 10;
    match choice {
        0xF0.. => vec![byte; BUFFER_BYTES.saturating_sub(rest.len() / 2)],
        _ => Vec::new(),
    }
}

/// Lets libraries panic where the reader turns that into an error. A panic in code of this project is a fault anyhow.
pub fn pass_over_contained_panics() {
    let end = take_hook();
    set_hook(Box::new(move |info| {
        if !is_of_a_library(info) {
            end(info);
        }
    }));
}

fn is_of_a_library(info: &PanicHookInfo) -> bool {
    info.location()
        .is_some_and(|place| place.file().contains("/registry/src/"))
}
