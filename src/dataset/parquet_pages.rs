//! Checks decompressed pages before they are decoded: delta-encoded lengths begin with a count that the reader allocates for.

use ::parquet::basic::Encoding;
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result};

/// A reader of pages that rejects those whose counts exceed the number of their values.
pub(super) struct CheckedPages {
    pub pages: Box<dyn PageReader>,
    /// Whether values may be null: a page then begins with the levels that tell which are.
    pub has_nulls: bool,
    /// Most values that the rest of a column of lists may have: one row may hold all of them. `None` for other columns.
    pub values_of_lists: Option<u64>,
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            check(page, self.has_nulls, self.values_of_lists.is_some())?;
            if let Some(left) = &mut self.values_of_lists {
                let Some(rest) = left.checked_sub(page.num_values().into()) else {
                    return broken("a column of lists has far more values than its file could hold");
                };
                *left = rest;
            }
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

fn broken<T>(reason: &str) -> Result<T> {
    Err(ParquetError::General(reason.into()))
}

fn check(page: &Page, has_nulls: bool, has_lists: bool) -> Result<()> {
    let lists = match page.encoding() {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        // Lengths of the prefix shared with the previous text, then of the rest.
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return Ok(()),
    };
    let Some(values) = page.buffer().get(levels(page, has_nulls, has_lists)..) else {
        return broken("a page is shorter than its levels");
    };
    let mut at = 0;
    for _ in 0..lists {
        at = differences(values, at, u64::from(page.num_values()))?;
    }
    Ok(())
}

/// Number of bytes before the values: where lists begin, and which values are null. Without lists a level is one bit.
fn levels(page: &Page, has_nulls: bool, has_lists: bool) -> usize {
    match page {
        Page::DataPage { buf, def_level_encoding, rep_level_encoding, num_values, .. } => {
            let part = |start: usize, encoding: &Encoding| match encoding {
                Encoding::RLE => {
                    let length = buf.get(start..).and_then(|rest| rest.first_chunk::<4>());
                    length.map_or(0, |length| (u32::from_le_bytes(*length) as usize).saturating_add(length.len()))
                }
                _ => (*num_values as usize).div_ceil(8),
            };
            let repeats = if has_lists { part(0, rep_level_encoding) } else { 0 };
            let nulls = if has_nulls { part(repeats, def_level_encoding) } else { 0 };
            repeats.saturating_add(nulls)
        }
        Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
            (*def_levels_byte_len as usize).saturating_add(*rep_levels_byte_len as usize)
        }
        Page::DictionaryPage { .. } => 0,
    }
}

/// Walks over delta-encoded integers from offset `at`, and returns the offset at which they end. The layout is that of the
/// encoding `DELTA_BINARY_PACKED` in the format's specification.
fn differences(bytes: &[u8], mut at: usize, most: u64) -> Result<usize> {
    let block = varint(bytes, &mut at)?;
    let parts = varint(bytes, &mut at)?;
    let count = varint(bytes, &mut at)?;
    varint(bytes, &mut at)?;
    if count > most {
        return broken("a page claims to hold more lengths than values");
    }
    if parts == 0 || block == 0 || parts > bytes.len() as u64 {
        return broken("a page has no valid blocks");
    }
    let each = block / parts;
    let mut rest = count.saturating_sub(1);
    while rest > 0 {
        varint(bytes, &mut at)?;
        let Some(widths) = bytes.get(at..).and_then(|bytes| bytes.get(..parts as usize)) else {
            return broken("a page ends inside of a block");
        };
        at += parts as usize;
        for width in widths {
            // After the last value, widths may be anything.
            if rest == 0 {
                break;
            }
            rest = rest.saturating_sub(each);
            let packed = u64::from(*width).saturating_mul(each) / 8;
            at = at.saturating_add(usize::try_from(packed).unwrap_or(usize::MAX));
        }
        if each == 0 || at > bytes.len() {
            return broken("a page ends inside of a block");
        }
    }
    Ok(at)
}

fn varint(bytes: &[u8], at: &mut usize) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let Some(byte) = bytes.get(*at) else { return broken("a page ends inside of a number") };
        *at += 1;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    broken("a page holds a number that does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` values in blocks of 128 with four parts each: the first value is 0, the parts have width 0.
    fn list(count: u8, blocks: usize) -> Vec<u8> {
        let mut bytes = vec![0x80, 0x01, 4, count, 0];
        bytes.extend([0, 0, 0, 0, 0].repeat(blocks));
        bytes
    }

    #[test]
    fn lists_of_lengths_end_where_the_format_says() {
        assert_eq!(differences(&list(1, 0), 0, 1).unwrap(), 5);
        assert_eq!(differences(&list(100, 1), 0, 100).unwrap(), 10);
        let mut packed = list(100, 1);
        // Three bits for the first 32 differences, four for the next; the last part is not needed.
        packed[6..10].copy_from_slice(&[3, 4, 0, 77]);
        packed[3] = 66;
        packed.resize(10 + 12 + 16 + 3, 0);
        assert_eq!(differences(&packed, 0, 66).unwrap(), 10 + 12 + 16);
    }

    /// Found by fuzzing: the reader allocates as many lengths as the page claims to hold.
    #[test]
    fn lists_of_lengths_that_claim_what_cannot_be_are_refused() {
        let said = [
            differences(&list(100, 1), 0, 99),
            differences(&[0x80, 0x01, 4, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0], 0, 10),
            differences(&list(100, 0), 0, 100),
            differences(&[0x80, 0x01, 0, 9, 0], 0, 10),
            differences(&[0xFF; 30], 0, 10),
            differences(&[0x80], 0, 10),
        ];
        let said: Vec<String> = said.into_iter().map(|result| result.unwrap_err().to_string()).collect();
        insta::assert_snapshot!(said.join("\n"));
    }
}
