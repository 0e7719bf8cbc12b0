//! Folders that the program fills, and the room there is.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// No more files are counted: a shared cache may hold millions.
const MOST_FILES: u64 = 100_000;

/// A folder.
#[derive(Debug, Serialize)]
pub struct Place {
    /// What it is for.
    pub purpose: &'static str,
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Whether it is there; it is made when it is wanted.
    pub exists: bool,
    /// Files in it, and their bytes; of a folder with more than a hundred thousand, of these.
    pub files: u64,
    pub bytes: u64,
    /// Free bytes of its disk, where the system says.
    pub free_bytes: Option<u64>,
}

/// JSON has no others than those in UTF-8.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// The folders.
pub fn look() -> Vec<Place> {
    let mut places = vec![
        place("tokens of texts", aios_data::cache_folder()),
        place("models of the Hub", aios_hf::cache_folder()),
    ];
    #[cfg(feature = "cuda")]
    places.extend(aios_device::kernel_folder().map(|folder| place("compiled kernels", folder)));
    // Its content is the user's: only the room counts.
    if let Ok(here) = std::env::current_dir() {
        places.push(Place {
            purpose: "this folder",
            free_bytes: free(&here),
            path: here,
            exists: true,
            files: 0,
            bytes: 0,
        });
    }
    places
}

fn place(purpose: &'static str, path: PathBuf) -> Place {
    let mut place = Place {
        purpose,
        exists: path.is_dir(),
        files: 0,
        bytes: 0,
        free_bytes: free(&path),
        path,
    };
    let mut folders = vec![place.path.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            // Links are not followed: the Hub's cache has one to each file.
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) if found.is_file() => {
                    place.files += 1;
                    place.bytes += found.len();
                }
                _ => {}
            }
        }
        if place.files >= MOST_FILES {
            break;
        }
    }
    place
}

/// Of the disk that a folder is on, or will be.
fn free(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    fs4::available_space(there).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_folders_are_counted() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/b/c"), "12345").unwrap();
        std::fs::write(root.path().join("d"), "1").unwrap();
        let there = place("x", root.path().to_path_buf());
        assert_eq!((there.exists, there.files, there.bytes), (true, 2, 6));
        let missing = place("x", root.path().join("no/such"));
        assert_eq!((missing.exists, missing.files), (false, 0));
        assert_eq!(missing.free_bytes.is_some(), there.free_bytes.is_some());
    }
}
