//! The table of the attention kernels' tiles, `shaders/flash_attention_tiles.txt`.

use crate::gpu::source::Entry;
use std::sync::LazyLock;

const TABLE: &str = include_str!("../../../../shaders/flash_attention_tiles.txt");

/// How a CUDA kernel divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CudaTile {
    /// Rows of a piece of work.
    pub own: usize,
    /// Rows of the tiles that it goes through.
    pub other: usize,
    pub threads: usize,
    /// Thread blocks that the registers of a multiprocessor have to allow.
    pub blocks: usize,
    /// Shared memory: rows, and bytes besides.
    pub rows: usize,
    pub more: usize,
}

impl CudaTile {
    /// The first line of the table for a kernel that fits the GPU; `None` if none does.
    pub fn of(
        entry: Entry,
        tensor_cores: bool,
        head_dim: usize,
        fits: impl Fn(&Self) -> bool,
    ) -> Option<Self> {
        let entry = entry.name().trim_start_matches("flash_attention_");
        let path = match tensor_cores {
            true => "tensor",
            false => "plain",
        };
        let lines = TABLE.lines().filter_map(|line| {
            let line = line.strip_prefix(entry)?.trim_start();
            numbers::<7>(line.strip_prefix(path)?)
        });
        let mut tiles = lines.filter(|[largest, ..]| head_dim <= *largest).map(
            |[_, own, other, threads, blocks, rows, more]| Self {
                own,
                other,
                threads,
                blocks,
                rows,
                more,
            },
        );
        tiles.find(fits)
    }
}

/// How a WGSL kernel divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WgslTile {
    /// Of the largest head.
    pub head_dim: usize,
    pub threads: usize,
    pub rows_per_thread: usize,
    pub columns_per_thread: usize,
    /// Whether the own rows are in workgroup memory.
    pub staged: bool,
}

impl WgslTile {
    /// The fastest first.
    pub fn all() -> &'static [Self] {
        static ALL: LazyLock<Vec<WgslTile>> = LazyLock::new(|| {
            let lines = TABLE.lines().filter_map(|line| line.strip_prefix("wgsl"));
            let tiles =
                lines
                    .filter_map(numbers)
                    .map(|[head_dim, threads, rows, columns, staged]| WgslTile {
                        head_dim,
                        threads,
                        rows_per_thread: rows,
                        columns_per_thread: columns,
                        staged: staged != 0,
                    });
            tiles.collect()
        });
        &ALL
    }
}

/// All numbers of a line, if there are `N`.
fn numbers<const N: usize>(line: &str) -> Option<[usize; N]> {
    let numbers = line.split_whitespace().map(|word| word.parse().ok());
    numbers.collect::<Option<Vec<_>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_read() {
        let lines = TABLE
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (wgsl, cuda): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with("wgsl"));
        assert_eq!(WgslTile::all().len(), wgsl.len());
        for line in cuda {
            let [entry, path, numbers_of @ ..] = &line.split_whitespace().collect::<Vec<_>>()[..]
            else {
                panic!("{line}");
            };
            let entry = Entry::ALL
                .into_iter()
                .find(|e| e.name() == format!("flash_attention_{entry}"));
            let entry = entry.unwrap();
            let [head_dim, own, other, ..] = numbers::<7>(&numbers_of.join(" ")).unwrap();
            let this = |tile: &CudaTile| (tile.own, tile.other) == (own, other);
            assert!(CudaTile::of(entry, *path == "tensor", head_dim, this).is_some());
        }
    }
}
