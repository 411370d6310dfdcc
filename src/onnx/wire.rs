//! The protobuf wire format: a reader over borrowed bytes that knows absolute offsets, and a writer for the few
//! messages that edits append. Nothing is copied; every length is checked against the bytes that are there.

use std::ops::Range;

/// Why bytes are not a protobuf message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {what}")]
pub struct WireError {
    /// Absolute offset in the buffer.
    pub offset: usize,
    /// What was found at that offset.
    pub what: &'static str,
}

/// One field of a message.
#[derive(Debug, Clone)]
pub struct Field {
    /// The field number of the schema.
    pub number: u32,
    /// Content of the field.
    pub value: Value,
}

/// The content of a field by wire type.
#[derive(Debug, Clone)]
pub enum Value {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: absolute range of the payload in the buffer.
    Bytes(Range<usize>),
    /// Wire type 5.
    Fixed32(u32),
}

/// Reader of the fields of the message in `range` of `buffer`.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    buffer: &'a [u8],
    position: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// A reader of the message that fills `range` of `buffer`.
    pub fn new(buffer: &'a [u8], range: Range<usize>) -> Self {
        let end = range.end.min(buffer.len());
        Reader { buffer, position: range.start.min(end), end }
    }

    fn error<T>(&self, offset: usize, what: &'static str) -> Result<T, WireError> {
        Err(WireError { offset, what })
    }

    /// Absolute offset of the next field.
    pub fn position(&self) -> usize {
        self.position
    }

    fn is_at_end(&self) -> bool {
        self.position >= self.end
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let start = self.position;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.position >= self.end {
                return self.error(start, "the message ends inside a number");
            }
            let byte = self.buffer[self.position];
            self.position += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        self.error(start, "a number is longer than ten bytes")
    }

    fn take(&mut self, length: usize, what: &'static str) -> Result<Range<usize>, WireError> {
        if length > self.end - self.position {
            return self.error(self.position, what);
        }
        let range = self.position..self.position + length;
        self.position += length;
        Ok(range)
    }

    /// The next field, or `None` at the end of the message.
    pub fn next_field(&mut self) -> Result<Option<Field>, WireError> {
        if self.is_at_end() {
            return Ok(None);
        }
        let start = self.position;
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).unwrap_or(0);
        if number == 0 {
            return self.error(start, "a field has no valid number");
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                let range = self.take(8, "the message ends inside a 64-bit value")?;
                Value::Fixed64(u64::from_le_bytes(array(&self.buffer[range])))
            }
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                Value::Bytes(self.take(length, "a field is longer than the message around it")?)
            }
            5 => {
                let range = self.take(4, "the message ends inside a 32-bit value")?;
                Value::Fixed32(u32::from_le_bytes(array(&self.buffer[range])))
            }
            _ => return self.error(start, "a field has an unknown wire type"),
        };
        Ok(Some(Field { number, value }))
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

/// The varints packed into `range` of `buffer`, or the single one of an unpacked field.
pub fn varints(buffer: &[u8], value: &Value, out: &mut Vec<u64>) -> Result<(), WireError> {
    match value {
        Value::Varint(v) => out.push(*v),
        Value::Bytes(range) => {
            let mut reader = Reader::new(buffer, range.clone());
            while !reader.is_at_end() {
                out.push(reader.varint()?);
            }
        }
        Value::Fixed64(v) => out.push(*v),
        Value::Fixed32(v) => out.push(u64::from(*v)),
    }
    Ok(())
}

/// Writes protobuf messages.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// The encoded message.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Number of bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Key and length of a length-delimited field; its `length` bytes are written elsewhere.
    pub fn header(&mut self, number: u32, length: usize) -> &mut Self {
        self.raw_varint(u64::from(number) << 3 | 2);
        self.raw_varint(length as u64);
        self
    }

    /// Appends bytes that are already encoded.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// An integer field (wire type 0). Negative numbers take ten bytes, as the format requires.
    pub fn int(&mut self, number: u32, value: i64) -> &mut Self {
        self.raw_varint(u64::from(number) << 3);
        self.raw_varint(value as u64);
        self
    }

    /// A 32-bit float field.
    pub fn float(&mut self, number: u32, value: f32) -> &mut Self {
        self.raw_varint(u64::from(number) << 3 | 5);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A length-delimited field: string, bytes or message.
    pub fn bytes(&mut self, number: u32, value: &[u8]) -> &mut Self {
        self.header(number, value.len()).raw(value)
    }

    /// A string field.
    pub fn string(&mut self, number: u32, value: &str) -> &mut Self {
        self.bytes(number, value.as_bytes())
    }

    /// A nested message.
    pub fn message(&mut self, number: u32, build: impl FnOnce(&mut Writer)) -> &mut Self {
        let mut inner = Writer::new();
        build(&mut inner);
        self.bytes(number, &inner.bytes)
    }
}
