//! Texts that are written as lengths and what differs from the text before, as plain ones.

/// Texts one after the other, each behind its length, as `PLAIN` has them.
///
/// `bytes` are the values of a page: `prefixes` if each begins with a part of the one before. There are at most `count`, and
/// no more than `most` bytes of them.
///
/// # Errors
/// What is wrong with it.
pub(super) fn plain(
    bytes: &[u8],
    prefixes: bool,
    count: usize,
    most: usize,
) -> Result<Vec<u8>, &'static str> {
    let mut rest = bytes;
    let prefix_lengths = match prefixes {
        true => numbers(&mut rest, count)?,
        false => Vec::new(),
    };
    let lengths = numbers(&mut rest, count)?;
    if prefixes && prefix_lengths.len() != lengths.len() {
        return Err("its texts have other numbers of beginnings than of ends");
    }
    let mut out = Vec::new();
    // Where the text before begins.
    let mut before = 0;
    for (at, &length) in lengths.iter().enumerate() {
        let prefix = prefix_lengths.get(at).copied().unwrap_or(0);
        let (prefix, length) = (size(prefix)?, size(length)?);
        if prefix > out.len() - before || length > rest.len() {
            return Err("a text is longer than what there is of it");
        }
        if out.len() + 4 + prefix + length > most {
            return Err("its texts are too long; write it with smaller pages");
        }
        let start = out.len() + 4;
        out.extend(((prefix + length) as u32).to_le_bytes());
        out.extend_from_within(before..before + prefix);
        out.extend_from_slice(&rest[..length]);
        (before, rest) = (start, &rest[length..]);
    }
    Ok(out)
}

fn size(number: i64) -> Result<usize, &'static str> {
    u32::try_from(number)
        .map(|size| size as usize)
        .map_err(|_| "a text has a length below 0")
}

const FLAWED: &str = "lengths of its texts are damaged";
/// Blocks that writers make have some hundred numbers.
const MOST_IN_BLOCK: u64 = 1 << 16;

/// Numbers in `DELTA_BINARY_PACKED`, of at most `most`; `bytes` is what follows them.
fn numbers(bytes: &mut &[u8], most: usize) -> Result<Vec<i64>, &'static str> {
    let in_block = unsigned(bytes)?;
    let parts = unsigned(bytes)?;
    let count = unsigned(bytes)?;
    let mut number = signed(bytes)?;
    let fits = in_block <= MOST_IN_BLOCK && parts > 0 && in_block.is_multiple_of(parts);
    let in_part = if fits { in_block / parts } else { 0 };
    if in_part == 0 || !in_part.is_multiple_of(8) || count > most as u64 {
        return Err(FLAWED);
    }
    let count = count as usize;
    let mut numbers = Vec::new();
    if count > 0 {
        numbers.push(number);
    }
    while numbers.len() < count {
        let least = signed(bytes)?;
        let widths = take(bytes, parts)?;
        for &width in widths {
            // What lies behind the last number is left out or filled up.
            if numbers.len() == count {
                break;
            }
            if width > 64 {
                return Err(FLAWED);
            }
            let packed = take(bytes, in_part / 8 * u64::from(width))?;
            for at in 0..(in_part as usize).min(count - numbers.len()) {
                let difference =
                    least.wrapping_add(unpacked(packed, at, usize::from(width)) as i64);
                number = number.wrapping_add(difference);
                numbers.push(number);
            }
        }
    }
    Ok(numbers)
}

/// The number at a place among those of `width` bits each.
fn unpacked(packed: &[u8], at: usize, width: usize) -> u64 {
    let mut number = 0;
    for bit in 0..width {
        let from = at * width + bit;
        let set = packed[from / 8] >> (from % 8) & 1;
        number |= u64::from(set) << bit;
    }
    number
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], &'static str> {
    let length = usize::try_from(length).map_err(|_| FLAWED)?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or(FLAWED)?;
    *bytes = rest;
    Ok(taken)
}

fn unsigned(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(FLAWED)
}

fn signed(bytes: &mut &[u8]) -> Result<i64, &'static str> {
    let number = unsigned(bytes)?;
    Ok((number >> 1) as i64 ^ -((number & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_formats_description() {
        // 7, 5, 3, 1, 2, 3, 4, 5 as the format's documentation packs them, in a block of 128 with 4 parts.
        let packed = [
            0x80,
            0x01,
            4,
            8,
            14,
            3,
            2,
            0,
            0,
            0,
            0b1100_0000,
            0b0011_1111,
            0,
            0,
            0,
            0,
            0,
            0,
            42,
        ];
        let mut bytes = &packed[..];
        assert_eq!(numbers(&mut bytes, 8), Ok(vec![7, 5, 3, 1, 2, 3, 4, 5]));
        assert_eq!(bytes, [42]);
        assert_eq!(numbers(&mut &packed[..], 7), Err(FLAWED));
        for end in 0..packed.len() - 1 {
            assert_eq!(numbers(&mut &packed[..end], 8), Err(FLAWED), "{end}");
        }
    }

    #[test]
    fn texts_that_grow_out_of_each_other_stay_within_the_bound() {
        // Three texts, whose prefixes have 0, 2 and 3 bytes and whose ends 2, 1 and 1.
        let lengths = |first: u8, least: u8, packed: u8| {
            let mut bytes = vec![0x80, 0x01, 4, 3, first, least, 1, 0, 0, 0];
            bytes.extend([packed, 0, 0, 0]);
            bytes
        };
        let bytes = [lengths(0, 2, 0b01), lengths(4, 1, 0b10), b"abcd".to_vec()].concat();
        let texts = plain(&bytes, true, 3, 100).unwrap();
        assert_eq!(texts, b"\x02\0\0\0ab\x03\0\0\0abc\x04\0\0\0abcd");
        assert!(plain(&bytes, true, 3, texts.len() - 1).is_err());
        assert!(plain(&bytes[..bytes.len() - 1], true, 3, 100).is_err());
    }
}
