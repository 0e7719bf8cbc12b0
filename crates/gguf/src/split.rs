//! Names of the parts of a split file: `NAME-00001-of-00003.gguf`.

use std::path::{Path, PathBuf};

/// Where the parts of a file are, of which one is here; their names are counted from 1.
pub(crate) struct Parts {
    folder: PathBuf,
    stem: String,
    pub(crate) count: u64,
}

impl Parts {
    /// By the name of one of them, which says which it is.
    pub(crate) fn of(path: &Path) -> Option<(Self, u64)> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let parts = Self {
            folder: path.parent().unwrap_or(Path::new("")).to_path_buf(),
            stem: stem.to_string(),
            count: five_digits(count)?,
        };
        Some((parts, five_digits(number)?))
    }

    pub(crate) fn name(&self, number: u64) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }

    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.folder.join(self.name(number))
    }
}

/// Whether a file's name is not that of a later part of a split one.
pub fn is_first_part(path: &Path) -> bool {
    Parts::of(path).is_none_or(|(_, number)| number <= 1)
}

fn five_digits(text: &str) -> Option<u64> {
    let is_number = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_those_of_the_file() {
        let (parts, number) = Parts::of(Path::new("a/b-of-c-00002-of-00003.gguf")).unwrap();
        assert_eq!((number, parts.count), (2, 3));
        assert_eq!(
            parts.path(1),
            Path::new("a").join("b-of-c-00001-of-00003.gguf")
        );
        for name in [
            "a.gguf",
            "a-1-of-3.gguf",
            "a-00001-of-00003.bin",
            "00001-of-00003.gguf",
        ] {
            assert!(Parts::of(Path::new(name)).is_none(), "{name}");
        }
    }
}
