//! Texts as rows for a language model: one text per row, or texts joined and cut into blocks of equal length.

use std::ops::Range;

use rayon::prelude::*;

use super::error::quoted;
use super::{DatasetError, Documents, Encoding, Example, Tokenizer};
use crate::progress::{Event, Observer};

/// Number of texts between two progress reports.
const CHUNK: usize = 2048;

/// Rows of token ids, and which of their tokens are to be predicted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextRows {
    /// Token ids of every row.
    pub encodings: Vec<Encoding>,
    /// For every row and token whether it counts, that is, whether it is to be predicted from the tokens before it in its row.
    /// The first token of a row never counts; every row has at least one token that does.
    pub counted: Vec<Vec<bool>>,
}

/// A token id, and whether the token is to be predicted.
type Token = (u32, bool);

impl TextRows {
    fn push(&mut self, tokens: &[Token]) {
        let counted: Vec<bool> = tokens.iter().enumerate().map(|(place, token)| place > 0 && token.1).collect();
        if counted.contains(&true) {
            let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
            self.encodings.push(Encoding { type_ids: vec![0; ids.len()], ids });
            self.counted.push(counted);
        }
    }
}

impl Tokenizer {
    /// Encodes texts as rows for a language model.
    ///
    /// A text becomes the tokens that the tokenizer gives for it, special tokens included, and the end-of-text token.
    /// Without `packing` a row is one text, cut off after [`Tokenizer::maximum_length`] tokens. With `packing` all texts
    /// are joined in order and cut into rows of the maximum length; only the last may be shorter.
    ///
    /// Every token counts except the first of a row; where only a part of a text is learnt, only the tokens that overlap that
    /// part and the end-of-text token count. Rows in which no token counts are left out.
    ///
    /// # Errors
    /// A text that the tokenizer cannot process; no end-of-text token; no token that counts in any row; cancellation.
    pub fn encode_texts(
        &self,
        documents: &Documents,
        packing: bool,
        observer: &dyn Observer,
    ) -> Result<TextRows, DatasetError> {
        let examples = &documents.examples;
        let missing = || DatasetError::NoEndToken { path: self.path().with_file_name("tokenizer_config.json") };
        let end = self.end_id().ok_or_else(missing)?;
        let total = Some(examples.len() as u64);
        observer.observe(Event::Begin { stage: "tokenizing", total, done: 0, unit: "texts" });
        let longest = self.maximum_length();
        let enough = (!packing).then_some(longest);
        let (mut rows, mut stream, mut cut) = (TextRows::default(), Vec::new(), 0);
        for (number, chunk) in examples.chunks(CHUNK).enumerate() {
            observer.check()?;
            let learnt =
                |at: usize| documents.learnt.as_ref().and_then(|learnt| learnt.get(number * CHUNK + at).cloned());
            let texts: Vec<Vec<Token>> = chunk
                .par_iter()
                .enumerate()
                .map(|(at, example)| self.text(example, learnt(at), end, enough, observer))
                .collect::<Result<_, _>>()?;
            for text in &texts {
                match packing {
                    true => stream.extend_from_slice(text),
                    false => rows.push(&text[..text.len().min(longest)]),
                }
                cut += usize::from(text.len() > longest);
            }
            // Full rows will not change any more.
            let full = stream.len() - stream.len() % longest;
            stream.drain(..full).as_slice().chunks(longest).for_each(|block| rows.push(block));
            observer.observe(Event::Advance { done: (number * CHUNK + chunk.len()) as u64, detail: "" });
        }
        rows.push(&stream);
        observer.observe(Event::End);
        if rows.encodings.is_empty() {
            return Err(DatasetError::NothingLearnt { documents: examples.len(), maximum_length: longest });
        }
        if !packing {
            tell_losses(observer, examples.len(), cut, examples.len() - rows.encodings.len(), longest);
        }
        Ok(rows)
    }

    /// Tokens of one text, with the end-of-text token.
    fn text(
        &self,
        example: &Example,
        learnt: Option<Range<usize>>,
        end: u32,
        enough: Option<usize>,
        observer: &dyn Observer,
    ) -> Result<Vec<Token>, DatasetError> {
        let counts = |place: Option<(usize, usize)>| match (&learnt, place) {
            (None, _) => true,
            (Some(learnt), Some((from, to))) => from < learnt.end && to > learnt.start,
            (Some(_), None) => false,
        };
        let mut tokens: Vec<Token> = self
            .tokens_in_place(example, enough, observer)?
            .into_iter()
            .map(|(id, place)| (id, counts(place)))
            .collect();
        if tokens.is_empty() {
            return Err(DatasetError::Tokenization {
                line: example.line,
                path: self.path().into(),
                reason: format!("makes no token of {}", quoted(&example.text)),
            });
        }
        match tokens.last_mut() {
            // Some tokenizers add the end-of-text token themselves.
            Some(last) if last.0 == end => last.1 = true,
            _ => tokens.push((end, true)),
        }
        Ok(tokens)
    }
}

fn tell_losses(observer: &dyn Observer, texts: usize, cut: usize, lost: usize, longest: usize) {
    if cut > 0 {
        observer
            .observe(Event::Notice(&format!("{cut} of {texts} texts are longer than {longest} tokens and were cut")));
    }
    if lost > 0 {
        let why = format!("{lost} of {texts} texts are left out: within {longest} tokens they have none to learn");
        observer.observe(Event::Warning(&why));
    }
}
