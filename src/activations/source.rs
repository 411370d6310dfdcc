//! Sources of token rows, and which rows remain when duplicates are dropped.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use super::ActivationsError;
use crate::dataset::{Encoding, Example, Tokenizer};
use crate::progress::Silent;

/// Rows of token ids that can be read piece by piece, as often as needed.
pub(super) trait Source: Sync {
    fn rows(&self) -> usize;
    fn encodings(&self, range: Range<usize>) -> Result<Cow<'_, [Encoding]>, ActivationsError>;
    /// SHA-256 that changes whenever a row does.
    fn sha256(&self) -> String;
    /// Message with the number of rows truncated so far, if any.
    fn cut(&self) -> Option<String>;
}

/// Rows that are already tokenized.
pub(super) struct Encoded<'a>(pub &'a [Encoding]);

impl Source for Encoded<'_> {
    fn rows(&self) -> usize {
        self.0.len()
    }

    fn encodings(&self, range: Range<usize>) -> Result<Cow<'_, [Encoding]>, ActivationsError> {
        Ok(Cow::Borrowed(&self.0[range]))
    }

    fn sha256(&self) -> String {
        let mut hasher = Sha256::new();
        self.0.iter().for_each(|row| hash(&mut hasher, row));
        hexadecimal(&hasher.finalize())
    }

    fn cut(&self) -> Option<String> {
        None
    }
}

/// Texts that are tokenized when they are read.
pub(super) struct Texts<'a> {
    examples: &'a [Example],
    tokenizer: &'a Tokenizer,
    /// Number of truncated rows in each piece, by its first row.
    cut: Mutex<BTreeMap<usize, usize>>,
}

impl<'a> Texts<'a> {
    pub fn new(examples: &'a [Example], tokenizer: &'a Tokenizer) -> Self {
        Self { examples, tokenizer, cut: Mutex::default() }
    }

    fn pieces(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, usize>> {
        self.cut.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Source for Texts<'_> {
    fn rows(&self) -> usize {
        self.examples.len()
    }

    fn encodings(&self, range: Range<usize>) -> Result<Cow<'_, [Encoding]>, ActivationsError> {
        let first = range.start;
        let (encodings, cut) = self.tokenizer.encode_counting(&self.examples[range], &Silent)?;
        self.pieces().insert(first, cut);
        Ok(Cow::Owned(encodings))
    }

    fn cut(&self) -> Option<String> {
        let cut: usize = self.pieces().values().sum();
        (cut > 0).then(|| self.tokenizer.cut_in_words(cut, self.rows()))
    }

    fn sha256(&self) -> String {
        let mut hasher = Sha256::new();
        let mut part = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        part(self.tokenizer.sha256());
        part(&self.tokenizer.maximum_length().to_string());
        for example in self.examples {
            part(&example.text);
            match &example.pair {
                Some(pair) => part(pair),
                None => part(""),
            }
        }
        hexadecimal(&hasher.finalize())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(hasher: &mut Sha256, row: &Encoding) {
    hasher.update((row.ids.len() as u64).to_le_bytes());
    for value in row.ids.iter().chain(&row.type_ids) {
        hasher.update(value.to_le_bytes());
    }
}

/// Remembers rows by 128 bits of their hash, enough for any realistic number of rows.
#[derive(Default)]
pub(super) struct Seen(HashSet<[u8; 16]>);

impl Seen {
    /// Whether the row was not seen before.
    pub(super) fn is_new(&mut self, row: &Encoding) -> bool {
        let mut hasher = Sha256::new();
        hash(&mut hasher, row);
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize()[..16]);
        self.0.insert(key)
    }
}
