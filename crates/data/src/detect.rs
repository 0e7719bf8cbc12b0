//! What a file is by its content, whatever it is called.

use crate::corpus::Compression;

/// How much of the beginning is looked at.
pub(super) const HEAD_BYTES: usize = 64 * 1024;

/// How the characters of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    /// Two bytes a unit, the low one first.
    Utf16Le,
    Utf16Be,
}

/// A format that holds no text as it stands: what it is called, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub name: &'static str,
    pub way_out: &'static str,
}

const TABLE: &str = "convert it to JSON lines or CSV, for example with pandas in Python";
const PARQUET: &str = "give it as it is, not compressed, and without --text-format";
const ARCHIVE: &str = "unpack it and give the folder";
const PACKED: &str = "decompress it, or compress it with gzip or zstd instead";
const DOCUMENT: &str = "save it as plain text first";
const NUMBERS: &str = "it holds no text";

/// What files of these formats begin with. Letters that a text could begin with are only taken together with a byte that
/// no text has.
const FOREIGN: [(&[u8], &str, &str); 51] = [
    (b"PAR1\x15", "a Parquet file", PARQUET),
    (b"PARE", "an encrypted Parquet file", TABLE),
    (b"ARROW1\0", "an Arrow file", TABLE),
    (b"\xFF\xFF\xFF\xFF", "an Arrow stream", TABLE),
    (b"FEA1\0", "a Feather file", TABLE),
    (b"Obj\x01", "an Avro file", TABLE),
    (b"SQLite format 3\0", "an SQLite database", TABLE),
    (b"\x89HDF\r\n", "an HDF5 file", TABLE),
    (b"\x93NUMPY", "a NumPy array", NUMBERS),
    (b"MMIDIDX\0", "an index of Megatron tokens", NUMBERS),
    (b"aiostok", "a token cache of this program", NUMBERS),
    (b"GGUF", "a GGUF model", NUMBERS),
    (b"\x80\x02", "a Python pickle", TABLE),
    (b"\x80\x03", "a Python pickle", TABLE),
    (b"\x80\x04", "a Python pickle", TABLE),
    (b"\x80\x05", "a Python pickle", TABLE),
    (b"(dp0\n", "a Python pickle", TABLE),
    (b"(lp0\n", "a Python pickle", TABLE),
    (b"ccopy_reg\n_reconstructor\n", "a Python pickle", TABLE),
    (
        b"PK\x03\x04",
        "a zip archive or an office document",
        ARCHIVE,
    ),
    (b"PK\x05\x06", "an empty zip archive", ARCHIVE),
    (b"7z\xBC\xAF\x27\x1C", "a 7-Zip archive", ARCHIVE),
    (b"Rar!\x1A\x07", "a RAR archive", ARCHIVE),
    (b"!<arch>\n", "an ar archive", ARCHIVE),
    (b"MSCF\0", "a cabinet archive", ARCHIVE),
    (b"\xFD7zXZ\0", "compressed by xz", PACKED),
    (b"BZh", "compressed by bzip2", PACKED),
    (b"\x04\x22\x4D\x18", "compressed by LZ4", PACKED),
    (b"\x02\x21\x4C\x18", "compressed by LZ4", PACKED),
    (b"LZIP\x01", "compressed by lzip", PACKED),
    (b"\x5D\0\0", "compressed by LZMA", PACKED),
    (b"\x89LZO\0", "compressed by LZO", PACKED),
    (b"\x1F\x9D", "compressed by compress", PACKED),
    (b"\xFF\x06\0\0sNaPpY", "compressed by Snappy", PACKED),
    (b"%PDF-", "a PDF document", DOCUMENT),
    (b"{\\rtf", "an RTF document", DOCUMENT),
    (b"\xD0\xCF\x11\xE0", "an office document", DOCUMENT),
    (b"AT&TFORM", "a DjVu document", DOCUMENT),
    (b"\x89PNG", "a PNG picture", NUMBERS),
    (b"\xFF\xD8\xFF", "a JPEG picture", NUMBERS),
    (b"GIF87a", "a GIF picture", NUMBERS),
    (b"GIF89a", "a GIF picture", NUMBERS),
    (b"RIFF", "a RIFF sound or picture", NUMBERS),
    (b"ID3\x03", "an MP3 sound", NUMBERS),
    (b"ID3\x04", "an MP3 sound", NUMBERS),
    (b"OggS\0", "an Ogg sound", NUMBERS),
    (b"fLaC\0", "a FLAC sound", NUMBERS),
    (b"\x7FELF", "a program", NUMBERS),
    (b"\xCF\xFA\xED\xFE", "a program", NUMBERS),
    (b"\0asm", "a program", NUMBERS),
    (b"\xCA\xFE\xBA\xBE", "a program", NUMBERS),
];

/// Compression of a file that begins with `head`.
pub(super) fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1F, 0x8B, 8, ..] => Compression::Gzip,
        [0x28, 0xB5, 0x2F, 0xFD, ..] => Compression::Zstd,
        // A frame to be skipped, with which parallel compressors begin.
        [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// What a file that begins with `head` is instead of text.
pub(super) fn foreign(head: &[u8]) -> Option<Foreign> {
    if let Some(&(_, name, way_out)) = FOREIGN
        .iter()
        .find(|(magic, name, _)| head.starts_with(magic) && is_confirmed(name, head))
    {
        return Some(Foreign { name, way_out });
    }
    let named = |name, way_out| Some(Foreign { name, way_out });
    if compression(head) != Compression::None {
        return named("compressed twice", "decompress it once");
    }
    if head.get(257..262) == Some(b"ustar") {
        return named("a tar archive", ARCHIVE);
    }
    if head.starts_with(b"ORC") && head.contains(&0) {
        return named("an ORC file", TABLE);
    }
    if head.get(4..8) == Some(b"ftyp") {
        return named("a video", NUMBERS);
    }
    if is_safetensors(head) {
        return named("a safetensors file", NUMBERS);
    }
    if head.starts_with(b"version https://git-lfs.github.com/spec/") && head.len() < 1024 {
        return named(
            "the Git LFS pointer to a file",
            "fetch the file by `git lfs pull`",
        );
    }
    if head.starts_with(&[0xFF, 0xFE, 0, 0]) || head.starts_with(&[0, 0, 0xFE, 0xFF]) {
        return named("UTF-32 text", "convert it to UTF-8, for example with iconv");
    }
    None
}

/// Whether more than letters that a text could begin with speak for the format.
fn is_confirmed(name: &str, head: &[u8]) -> bool {
    match name {
        "an encrypted Parquet file" | "a GGUF model" | "a RIFF sound or picture" => {
            head.contains(&0)
        }
        "a GIF picture" | "a DjVu document" => head.contains(&0),
        "compressed by bzip2" => head.get(4..10) == Some(b"1AY&SY") || head.get(4) == Some(&0x17),
        _ => true,
    }
}

/// The length of a JSON header, then that header.
fn is_safetensors(head: &[u8]) -> bool {
    head.split_first_chunk().is_some_and(|(length, rest)| {
        (2..1 << 30).contains(&u64::from_le_bytes(*length)) && rest.starts_with(b"{")
    })
}

/// How the text that begins with `head` is written; `whole` if that is all of it.
pub(super) fn encoding(head: &[u8], whole: bool) -> Encoding {
    match head {
        [0xFF, 0xFE, ..] => Encoding::Utf16Le,
        [0xFE, 0xFF, ..] => Encoding::Utf16Be,
        _ => without_mark(head, whole).unwrap_or(Encoding::Utf8),
    }
}

/// UTF-16 without a byte order mark, as far as that can be told: UTF-8 text has no NUL, and in UTF-16 every blank, line
/// break and Latin letter has one.
fn without_mark(head: &[u8], whole: bool) -> Option<Encoding> {
    let nuls = head.iter().filter(|&&byte| byte == 0).count();
    if nuls == 0 || (whole && !head.len().is_multiple_of(2)) {
        return None;
    }
    // Text with a few NULs in it is damaged UTF-8.
    let others: Vec<u8> = head.iter().copied().filter(|&byte| byte != 0).collect();
    let is_utf8 = match std::str::from_utf8(&others) {
        Ok(_) => true,
        Err(error) => !whole && error.error_len().is_none(),
    };
    // The high bytes of other scripts are control characters.
    let is_text = is_utf8 && !others.iter().any(|byte| matches!(byte, 1..=8 | 14..=26));
    if is_text && nuls * 4 < head.len() {
        return None;
    }
    let readings = [
        (Encoding::Utf16Le, u16::from_le_bytes as fn([u8; 2]) -> u16),
        (Encoding::Utf16Be, u16::from_be_bytes),
    ];
    let readings = readings.map(|(encoding, unit)| (likeness(head, whole, unit), encoding));
    let best = readings.into_iter().max_by_key(|(likeness, _)| *likeness)?;
    (best.0 > 0).then_some(best.1)
}

/// How many characters speak for this reading; 0 if one speaks against it or there is neither blank nor line break.
fn likeness(head: &[u8], whole: bool, unit: fn([u8; 2]) -> u16) -> usize {
    let (pairs, _) = head.as_chunks();
    let units: Vec<u16> = pairs.iter().map(|&pair| unit(pair)).collect();
    let mut likely = 0;
    let mut blanks = 0;
    let mut decoded = char::decode_utf16(units.iter().copied()).peekable();
    while let Some(character) = decoded.next() {
        match character {
            Ok(' ' | '\n' | '\r' | '\t' | '\u{3000}') => blanks += 1,
            Ok(' '..='~') => likely += 1,
            Ok('\0'..' ' | '\u{7F}'..='\u{9F}' | '\u{E000}'..='\u{F8FF}') => return 0,
            Ok('\u{FFFE}' | '\u{FFFF}') => return 0,
            Ok(_) => {}
            // The head may end within a character.
            Err(_) if !whole && decoded.peek().is_none() => {}
            Err(_) => return 0,
        }
    }
    match blanks {
        0 => 0,
        blanks => likely + blanks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str) -> [Vec<u8>; 2] {
        [u16::to_le_bytes, u16::to_be_bytes]
            .map(|bytes| text.encode_utf16().flat_map(bytes).collect())
    }

    #[test]
    fn formats_are_told_by_what_they_begin_with() {
        let tensors = [&20_u64.to_le_bytes()[..], b"{\"a\":{}}            "].concat();
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let cases: [(&[u8], &str); 9] = [
            (b"PAR1\x15\0\x15", "Parquet"),
            (b"PK\x03\x04\x14\0", "zip"),
            (b"BZh91AY&SY\0", "bzip2"),
            (b"\xFD7zXZ\0\0", "xz"),
            (b"%PDF-1.7\n", "PDF"),
            (b"\x80\x04\x95\0", "pickle"),
            (&tensors, "safetensors"),
            (&tar, "tar"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid",
                "Git LFS",
            ),
        ];
        for (head, name) in cases {
            let found = foreign(head).unwrap_or_else(|| panic!("{name}"));
            assert!(found.name.contains(name), "{found:?}");
        }
    }

    #[test]
    fn text_is_not_taken_for_a_format() {
        for text in [
            "",
            "PARE the apple",
            "GGUF is a format of files.",
            "BZh is no word",
            "RIFF RAFF",
            "ORC and elf",
            "(defun x)",
            "GIF89a is older than PNG",
            "{ \"a\": 1 }",
        ] {
            assert_eq!(foreign(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn utf16_is_told_without_a_mark_too() {
        for text in [
            "Hello world\n",
            "naïve café\r\nline",
            "日本語の本\u{3000}です\nもう一行\n",
            "Привет, мир\n",
            "a crab 🦀 walks\n",
        ] {
            let [le, be] = utf16(text);
            assert_eq!(encoding(&le, true), Encoding::Utf16Le, "{text}");
            assert_eq!(encoding(&be, true), Encoding::Utf16Be, "{text}");
            let [le, be] = utf16(&format!("\u{FEFF}{text}"));
            assert_eq!(encoding(&le, true), Encoding::Utf16Le, "{text}");
            assert_eq!(encoding(&be, true), Encoding::Utf16Be, "{text}");
            assert_eq!(encoding(text.as_bytes(), true), Encoding::Utf8, "{text}");
        }
    }

    #[test]
    fn damaged_text_and_numbers_are_not_utf16() {
        let numbers: Vec<u8> = (0..4000_u32).flat_map(u32::to_le_bytes).collect();
        let binary = [b'a', 0, 159, 146, 150].repeat(100);
        let cases: [&[u8]; 5] = [
            b"text\0\n",
            b"abcd\0\n",
            b"some text, then a NUL \0 and more of it\n",
            &numbers,
            &binary,
        ];
        for bytes in cases {
            assert_eq!(encoding(bytes, true), Encoding::Utf8, "{bytes:?}");
        }
    }

    #[test]
    fn compression_is_told_by_its_first_bytes() {
        let zstd = zstd::encode_all(&b"x"[..], 1).unwrap();
        assert_eq!(compression(&zstd), Compression::Zstd);
        assert_eq!(compression(b"\x1F\x8B\x08\0"), Compression::Gzip);
        assert_eq!(compression(b"text"), Compression::None);
    }
}
