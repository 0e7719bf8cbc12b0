//! Files of rank 0 for ranks that do not see its disk.

use aios_base::error::{Error, Result};
use aios_distributed::World;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

/// Bytes sent at once.
const PIECE: u64 = 16 << 20;

/// A file below the folder that is sent.
#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    path: PathBuf,
    bytes: u64,
}

/// Rank 0's folder as `to` below a temporary folder of each rank that wants it; all ranks have to call this. The folder goes
/// when what is returned does.
///
/// # Errors
/// A file that cannot be read or written, or a rank that is lost.
pub fn folder(
    world: &World,
    from: Option<&Path>,
    to: &Path,
    wanted: bool,
) -> Result<Option<TempDir>> {
    let own = from.map(entries).transpose()?.unwrap_or_default();
    let entries = world.share(&own)?;
    let place = match wanted {
        true => Some(temporary()?),
        false => None,
    };
    for entry in &entries {
        check(&entry.path)?;
        let source = from.map(|from| from.join(&entry.path));
        let target = place
            .as_ref()
            .map(|place| place.path().join(to).join(&entry.path));
        file(world, entry, source.as_deref(), target.as_deref())?;
    }
    Ok(place)
}

fn temporary() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("aios-copy-").tempdir();
    folder.map_err(|cause| Error::io(std::env::temp_dir(), "write to", cause))
}

/// What another rank names must not lead out of the folder.
fn check(path: &Path) -> Result<()> {
    match path
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        true => Ok(()),
        false => Err(Error::failed(format!(
            "rank 0 sends a file named {}, which leads elsewhere",
            path.display()
        ))),
    }
}

/// All files below a folder, in a fixed order.
fn entries(root: &Path) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let read = |cause| Error::io(&path, "read", cause);
        for entry in std::fs::read_dir(&path).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = folder.join(entry.file_name());
            // Of what a link leads to.
            let about = std::fs::metadata(entry.path()).map_err(read)?;
            match about.is_dir() {
                true => folders.push(name),
                false => found.push(Entry {
                    path: name,
                    bytes: about.len(),
                }),
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn file(world: &World, entry: &Entry, from: Option<&Path>, to: Option<&Path>) -> Result<()> {
    let open = |path: &Path| File::open(path).map_err(|cause| Error::io(path, "read", cause));
    let mut source = from.map(open).transpose()?;
    let mut target = to.map(create).transpose()?;
    let mut left = entry.bytes;
    while left > 0 {
        let mut piece = vec![0; left.min(PIECE) as usize];
        if let (Some(source), Some(path)) = (&mut source, from) {
            let read = source.read_exact(&mut piece);
            read.map_err(|cause| Error::io(path, "read", cause))?;
        }
        let piece = world.broadcast(piece, 0).wait()?;
        if let (Some(target), Some(path)) = (&mut target, to) {
            let written = target.write_all(&piece);
            written.map_err(|cause| Error::io(path, "write", cause))?;
        }
        left -= piece.len() as u64;
    }
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let file = folder.and_then(|()| File::create(path));
    file.map_err(|cause| Error::io(path, "write", cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_want_it_have_the_folder_as_it_is() {
        let from = tempfile::tempdir().unwrap();
        let big: Vec<u8> = (0..PIECE + 7).map(|i| i as u8).collect();
        std::fs::create_dir(from.path().join("inner")).unwrap();
        for (name, bytes) in [("a", &big[..]), ("inner/b", b"text"), ("empty", b"")] {
            std::fs::write(from.path().join(name), bytes).unwrap();
        }
        let worlds = World::threads(3).unwrap();
        std::thread::scope(|scope| {
            for world in worlds {
                let (from, big) = (from.path(), &big);
                scope.spawn(move || {
                    let own = world.is_first().then_some(from);
                    let wanted = world.rank() == 2;
                    let copy = folder(&world, own, Path::new("x/y"), wanted).unwrap();
                    assert_eq!(copy.is_some(), wanted);
                    let Some(copy) = copy else { return };
                    let read =
                        |name: &str| std::fs::read(copy.path().join("x/y").join(name)).unwrap();
                    assert!(read("a") == *big);
                    assert_eq!(read("inner/b"), b"text");
                    assert_eq!(read("empty"), b"");
                });
            }
        });
    }

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused() {
        for path in ["../a", "/etc/passwd", "a/../../b"] {
            assert!(check(Path::new(path)).is_err(), "{path}");
        }
        check(Path::new("a/b")).unwrap();
    }
}
