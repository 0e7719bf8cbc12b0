//! Compressions of pages. None makes room for more than a page can hold.

use std::io::Read;

use parquet::basic::Compression;

/// A page of up to this size may be made of next to nothing; beyond it, it has at least a thousandth.
const SMALL_BYTES: usize = 16 << 20;
const MOST_TIMES: usize = 1000;
/// Largest page.
const PAGE_BYTES: usize = 256 << 20;

/// The `size` bytes that `bytes` hold.
///
/// # Errors
/// If they are damaged, or the compression is not one that is read.
pub(super) fn decompressed(
    compression: Compression,
    bytes: &[u8],
    size: usize,
) -> Result<Vec<u8>, String> {
    check_size(size, bytes.len())?;
    let out = match compression {
        Compression::UNCOMPRESSED => bytes.to_vec(),
        Compression::SNAPPY => snappy(bytes, size)?,
        Compression::GZIP(_) => read(flate2::read::MultiGzDecoder::new(bytes), size)?,
        Compression::BROTLI(_) => read(brotli_decompressor::Decompressor::new(bytes, 4096), size)?,
        Compression::ZSTD(_) => read(zstd::Decoder::with_buffer(bytes).map_err(damaged)?, size)?,
        Compression::LZ4_RAW => lz4_block(bytes, size)?,
        Compression::LZ4 => lz4(bytes, size)?,
        other => {
            return Err(format!(
                "its compression {other} is not supported; write it with zstd"
            ));
        }
    };
    match out.len() == size {
        true => Ok(out),
        false => Err(format!(
            "a page of {size} bytes has {}: it is damaged",
            out.len()
        )),
    }
}

/// Whether a page may be so large, made of so many bytes.
pub(super) fn check_size(size: usize, of: usize) -> Result<(), String> {
    let most = SMALL_BYTES.saturating_add(of.saturating_mul(MOST_TIMES));
    match size <= most.min(PAGE_BYTES) {
        true => Ok(()),
        false => Err(format!(
            "a page says that its {of} bytes hold {size}, which is too much; write it with smaller pages"
        )),
    }
}

fn damaged(error: impl ToString) -> String {
    format!("a page cannot be decompressed: {}", error.to_string())
}

/// No more than a byte beyond `size`, whatever there is.
fn read(decoder: impl Read, size: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let most = size as u64 + 1;
    decoder.take(most).read_to_end(&mut out).map_err(damaged)?;
    Ok(out)
}

fn snappy(bytes: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let length = snap::raw::decompress_len(bytes).map_err(damaged)?;
    if length != size {
        return Err(damaged(format!(
            "it holds {length} bytes instead of {size}"
        )));
    }
    let mut out = vec![0; size];
    snap::raw::Decoder::new()
        .decompress(bytes, &mut out)
        .map_err(damaged)?;
    Ok(out)
}

fn lz4_block(bytes: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let mut out = vec![0; size];
    let length = lz4_flex::block::decompress_into(bytes, &mut out).map_err(damaged)?;
    out.truncate(length);
    Ok(out)
}

/// What was called LZ4 before the format said what that is: Hadoop's blocks, else a frame, else a block.
fn lz4(bytes: &[u8], size: usize) -> Result<Vec<u8>, String> {
    if let Some(out) = hadoop(bytes, size) {
        return Ok(out);
    }
    let frame = read(lz4_flex::frame::FrameDecoder::new(bytes), size);
    match frame {
        Ok(out) if out.len() == size => Ok(out),
        _ => lz4_block(bytes, size),
    }
}

/// Blocks, each behind its two lengths; nothing if that is not what there is.
fn hadoop(mut bytes: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (lengths, rest) = bytes.split_first_chunk::<8>()?;
        let (length, block) = lengths.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let block = u32::from_be_bytes(block.try_into().ok()?) as usize;
        if length > size - out.len() {
            return None;
        }
        out.extend(lz4_block(rest.get(..block)?, length).ok()?);
        bytes = &rest[block..];
    }
    (out.len() == size).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn every_compression_gives_the_bytes_back_and_no_more_than_a_page() {
        let text = b"a page of text ".repeat(50);
        let gzip = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(&text).unwrap();
            encoder.finish().unwrap()
        };
        let block = lz4_flex::block::compress(&text);
        let lengths = [text.len() as u32, block.len() as u32].map(u32::to_be_bytes);
        let hadoop = [lengths.concat(), block.clone()].concat();
        let frame = {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(&text).unwrap();
            encoder.finish().unwrap()
        };
        let cases = [
            (Compression::UNCOMPRESSED, text.clone()),
            (
                Compression::SNAPPY,
                snap::raw::Encoder::new().compress_vec(&text).unwrap(),
            ),
            (Compression::GZIP(Default::default()), gzip),
            (
                Compression::ZSTD(Default::default()),
                zstd::encode_all(&text[..], 1).unwrap(),
            ),
            (Compression::LZ4_RAW, block.clone()),
            (Compression::LZ4, hadoop),
            (Compression::LZ4, frame),
            (Compression::LZ4, block),
        ];
        for (compression, bytes) in cases {
            let name = format!("{compression}");
            let page = decompressed(compression, &bytes, text.len());
            assert_eq!(page.as_ref(), Ok(&text), "{name}");
            for size in [0, text.len() - 1, text.len() + 1] {
                assert!(decompressed(compression, &bytes, size).is_err(), "{name}");
            }
            if compression != Compression::UNCOMPRESSED {
                assert!(decompressed(compression, &bytes[..bytes.len() / 2], text.len()).is_err());
            }
        }
    }

    #[test]
    fn a_page_cannot_say_to_be_out_of_all_proportion() {
        assert!(check_size(SMALL_BYTES, 10).is_ok());
        for (size, of) in [(SMALL_BYTES + 20_000, 10), (PAGE_BYTES + 1, PAGE_BYTES)] {
            assert!(check_size(size, of).unwrap_err().contains("too much"));
        }
    }
}
