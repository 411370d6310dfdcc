//! Checks the lengths that a Parquet file declares before its reader trusts them: an impossible length would make the reader
//! allocate more memory than there is, or loop almost forever. Only the framing is read, in Thrift's compact protocol.

use ::parquet::file::reader::ChunkReader;
use bytes::Bytes;

/// A page may decompress to this many bytes whatever its compressed size …
const USUAL_PAGE: u64 = 16 << 20;

/// … and to this many times its compressed size, the most that gzip can reach.
const MOST_UNFOLDED: u64 = 1100;

/// Most values in a page: writers begin a new page after at most a few hundred thousand.
const MOST_VALUES: i64 = 1 << 24;

/// Structures nested deeper than this are refused; the format needs five.
const MAXIMUM_DEPTH: usize = 24;

/// Bytes read for the header of a page, at first and at most: statistics may hold long values.
const HEADER_WINDOWS: [u64; 2] = [1 << 14, 1 << 24];

/// Bytes at the end of a file: the length of its metadata and the magic number.
const TAIL: u64 = 8;

type Checked<T> = Result<T, String>;

/// Walks through the metadata in the footer of a file.
pub(super) fn footer<R: ChunkReader>(source: &R) -> Checked<()> {
    let length = source.len();
    let Some(end) = length.checked_sub(TAIL) else { return Ok(()) };
    let tail = part(source, end, TAIL)?;
    let Some(size) = tail.first_chunk::<4>().map(|bytes| u64::from(u32::from_le_bytes(*bytes))) else { return Ok(()) };
    // A wrong magic number or length is reported by the reader itself.
    let Some(start) = end.checked_sub(size) else { return Ok(()) };
    if tail.ends_with(b"PAR1") {
        Walk::new(&part(source, start, size)?).structure(0, &mut |_, _| ())?;
    }
    Ok(())
}

/// Walks through the headers of the pages in the bytes of a column chunk.
pub(super) fn pages<R: ChunkReader>(source: &R, (start, length): (u64, u64)) -> Checked<()> {
    let end = start.checked_add(length).filter(|end| *end <= source.len());
    let Some(end) = end else { return Err("a column lies beyond the end of the file".into()) };
    let mut at = start;
    while at < end {
        let header = header(source, at, end)?;
        let rest = end - at - header.bytes;
        let sizes = [header.compressed, header.uncompressed].map(|size| u64::try_from(size).ok());
        let [Some(compressed), Some(uncompressed)] = sizes else { return Err("a page has no valid size".into()) };
        if compressed > rest {
            return Err("a page is longer than its column".into());
        }
        if uncompressed > USUAL_PAGE.max(compressed.saturating_mul(MOST_UNFOLDED)) {
            return Err(format!("a page of {compressed} bytes claims to decompress to {uncompressed}"));
        }
        // A value of a dictionary takes at least one byte.
        let most = if header.is_dictionary { MOST_VALUES.min(uncompressed as i64) } else { MOST_VALUES };
        if !(0..=most).contains(&header.values) {
            return Err(format!("a page claims to hold {} values", header.values));
        }
        at += header.bytes + compressed;
    }
    Ok(())
}

#[derive(Default)]
struct Header {
    /// Length of the header itself, in bytes.
    bytes: u64,
    uncompressed: i64,
    compressed: i64,
    values: i64,
    is_dictionary: bool,
}

fn header<R: ChunkReader>(source: &R, at: u64, end: u64) -> Checked<Header> {
    let mut failed = String::new();
    for window in HEADER_WINDOWS {
        let bytes = part(source, at, window.min(end - at))?;
        let mut header = Header { uncompressed: -1, compressed: -1, ..Header::default() };
        let mut walk = Walk { is_header: true, ..Walk::new(&bytes) };
        let walked = walk.structure(0, &mut |path, value| match path {
            [2] => header.uncompressed = value,
            [3] => header.compressed = value,
            // The headers of data pages, dictionary pages and data pages of version 2 begin with the number of values.
            [5 | 7 | 8, 1] => {
                header.values = value;
                header.is_dictionary = path[0] == 7;
            }
            _ => {}
        });
        match walked {
            Ok(()) => {
                header.bytes = walk.at as u64;
                return Ok(header);
            }
            Err(error) => failed = error,
        }
        if window >= end - at {
            break;
        }
    }
    Err(failed)
}

fn part<R: ChunkReader>(source: &R, start: u64, length: u64) -> Checked<Bytes> {
    source.get_bytes(start, length as usize).map_err(|error| error.to_string())
}

/// A position in bytes of the compact protocol.
struct Walk<'b> {
    bytes: &'b [u8],
    at: usize,
    path: Vec<i16>,
    /// Whether this is a page header, whose fields the reader identifies by number alone, whatever their types.
    is_header: bool,
}

/// Whether a field of a page header has the type that the format prescribes; unknown fields may have any type.
fn fits(path: &[i16], kind: u8) -> bool {
    match path {
        [1..=4] | [5 | 7 | 8, 1 | 2] | [5, 3 | 4] | [8, 3..=6] => kind == 5,
        [5..=8] | [5, 5] | [8, 8] => kind == 12,
        [7, 3] | [8, 7] => matches!(kind, 1 | 2),
        [5, 5, 1 | 2 | 5 | 6] | [8, 8, 1 | 2 | 5 | 6] => kind == 8,
        [5, 5, 3 | 4] | [8, 8, 3 | 4] => kind == 6,
        [5, 5, 7 | 8] | [8, 8, 7 | 8] => matches!(kind, 1 | 2),
        _ => true,
    }
}

impl<'b> Walk<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        Walk { bytes, at: 0, path: Vec::new(), is_header: false }
    }

    fn byte(&mut self) -> Checked<u8> {
        let byte = self.bytes.get(self.at).copied().ok_or("its metadata end too early")?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Checked<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("its metadata hold a number that does not end".into())
    }

    fn number(&mut self) -> Checked<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// Checks a count of items that take at least one byte each.
    fn count(&mut self, count: u64) -> Checked<usize> {
        let rest = self.bytes.len() - self.at;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= rest)
            .ok_or_else(|| "its metadata hold a length beyond their end".into())
    }

    /// Reads a structure to its end. `see` receives every integer in it (not those in lists) with its path of field numbers.
    fn structure(&mut self, depth: usize, see: &mut dyn FnMut(&[i16], i64)) -> Checked<()> {
        if depth > MAXIMUM_DEPTH {
            return Err("its metadata are nested too deep".into());
        }
        let mut field = 0i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            field = match head >> 4 {
                0 => self.number()? as i16,
                step => field.wrapping_add(i16::from(step)),
            };
            self.path.push(field);
            if self.is_header && !fits(&self.path, head & 0x0F) {
                return Err("the header of a page holds a value of the wrong type".into());
            }
            self.value(head & 0x0F, depth, true, see)?;
            self.path.pop();
        }
    }

    fn value(&mut self, kind: u8, depth: usize, is_field: bool, see: &mut dyn FnMut(&[i16], i64)) -> Checked<()> {
        match kind {
            // The type of a boolean field is its value.
            1 | 2 => {}
            3 => _ = self.byte()?,
            4..=6 => {
                let number = self.number()?;
                if is_field {
                    see(&self.path, number);
                }
            }
            7 => {
                self.count(8)?;
                self.at += 8;
            }
            8 => {
                let length = self.varint()?;
                self.at += self.count(length)?;
            }
            9 | 10 => {
                let head = self.byte()?;
                let long = head >> 4 == 0x0F;
                let count = if long { self.varint()? } else { u64::from(head >> 4) };
                self.elements(count, &[head & 0x0F], depth)?;
            }
            11 => {
                let count = self.varint()?;
                if count > 0 {
                    let kinds = self.byte()?;
                    self.elements(count, &[kinds >> 4, kinds & 0x0F], depth)?;
                }
            }
            12 => self.structure(depth + 1, see)?,
            _ => return Err("its metadata hold a value of unknown type".into()),
        }
        Ok(())
    }

    fn elements(&mut self, count: u64, kinds: &[u8], depth: usize) -> Checked<()> {
        if depth > MAXIMUM_DEPTH {
            return Err("its metadata are nested too deep".into());
        }
        // When the reader skips a list of booleans it loops over the count without reading any bytes: a few bytes could keep it
        // busy for a long time. The format has no such list here.
        if count > 0 && kinds.iter().any(|kind| matches!(kind, 1 | 2)) {
            return Err("its metadata hold a list that the format does not have".into());
        }
        for _ in 0..self.count(count)? {
            for kind in kinds {
                self.value(*kind, depth + 1, false, &mut |_, _| ())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page header with type, sizes, and a header of a kind (7 for a dictionary, 5 for data) that claims a number of values.
    fn page(uncompressed: u32, compressed: u32, kind: u8, values: u32, data: usize) -> Bytes {
        let number = |bytes: &mut Vec<u8>, value: u32| {
            let mut value = u64::from(value) << 1;
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
        };
        let mut bytes = vec![0x15];
        number(&mut bytes, if kind == 7 { 2 } else { 0 });
        for size in [uncompressed, compressed] {
            bytes.push(0x15);
            number(&mut bytes, size);
        }
        bytes.extend([(kind - 3) << 4 | 0x0C, 0x15]);
        number(&mut bytes, values);
        bytes.extend([0, 0]);
        bytes.resize(bytes.len() + data, 0);
        bytes.into()
    }

    fn checked(bytes: &Bytes) -> Checked<()> {
        pages(bytes, (0, bytes.len() as u64))
    }

    #[test]
    fn honest_pages_pass() {
        let two = [page(50, 40, 7, 12, 40), page(9, 9, 5, 100_000, 9)].concat();
        assert_eq!(checked(&two.into()), Ok(()));
        assert_eq!(checked(&Bytes::new()), Ok(()));
    }

    /// Found by fuzzing: each of these made the reader allocate gigabytes, or loop for seconds.
    #[test]
    fn pages_that_claim_what_cannot_be_are_refused() {
        let cases = [
            page(50, 40, 7, 1 << 30, 40),
            page(50, 40, 5, 1 << 30, 40),
            page(i32::MAX as u32, 40, 5, 10, 40),
            page(50, 41, 5, 10, 40),
            // A list of two billion empty strings.
            vec![0x15, 0, 0x99, 0xF8, 0x80, 0x80, 0x80, 0x80, 0x08, 0, 0].into(),
            // A string longer than the address space.
            vec![0x98, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F].into(),
            // A list of two billion booleans.
            vec![0x15, 0, 0x99, 0xF1, 0x80, 0x80, 0x80, 0x80, 0x08, 0, 0].into(),
            // A page header that is a string.
            vec![0x15, 0, 0x15, 0, 0x15, 0, 0x28, 1, b'x', 0].into(),
            // Nested structures.
            vec![0x9C; 200].into(),
            // Nested lists.
            vec![0x99; 200].into(),
        ];
        let said: Vec<String> = cases.iter().map(|bytes| checked(bytes).expect_err("it cannot be")).collect();
        insta::assert_snapshot!(said.join("\n"));
        let footer_of = |metadata: &[u8]| {
            let size = (metadata.len() as u32).to_le_bytes();
            footer(&Bytes::from([b"PAR1", metadata, &size, b"PAR1"].concat()))
        };
        assert_eq!(footer_of(&[0x15, 2, 0]), Ok(()));
        assert!(footer_of(&[0x29, 0xFC, 0x80, 0x80, 0x80, 0x80, 0x08, 0, 0]).is_err());
    }
}
