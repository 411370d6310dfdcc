//! Rows to learn from.

use super::error::TrainError;
use crate::dataset::Encoding;
use crate::files::sha256;
use crate::task::Targets;

/// Rows and the targets of each.
#[derive(Debug, Clone, Copy)]
pub struct LabelledRows<'a> {
    /// Tokens of every row.
    pub encodings: &'a [Encoding],
    /// The targets, one per row.
    pub targets: &'a Targets,
}

impl LabelledRows<'_> {
    /// SHA-256 over tokens and targets, in hex.
    pub(super) fn sha256(&self) -> String {
        let mut bytes = Vec::new();
        for encoding in self.encodings {
            bytes.extend((encoding.len() as u64).to_le_bytes());
            bytes.extend(encoding.ids.iter().chain(&encoding.type_ids).flat_map(|id| id.to_le_bytes()));
        }
        bytes.extend(self.targets.bytes());
        sha256(&bytes)
    }

    /// Refuses empty data, and targets that do not match the rows. `what` names the data in errors.
    pub(super) fn check(&self, what: &'static str) -> Result<(), TrainError> {
        let (rows, targets) = (self.encodings.len(), self.targets.len());
        if rows == 0 {
            return Err(TrainError::NoRows { what });
        }
        if let Targets::TokenClasses(classes) = self.targets {
            let other = |(row, encoding): (usize, &Encoding)| classes.get(row).map(Vec::len) != Some(encoding.len());
            if let Some(row) = self.encodings.iter().enumerate().position(other) {
                return Err(TrainError::Tokens { what, row, found: "has classes for other tokens than it has".into() });
            }
        }
        let Targets::Tokens(counted) = self.targets else {
            return if rows == targets { Ok(()) } else { Err(TrainError::Labels { what, rows, labels: targets }) };
        };
        // Every row has a flag for each of its tokens, and one is set besides that of the first token.
        for (row, encoding) in self.encodings.iter().enumerate() {
            let wrong = |found: &str| Err(TrainError::Tokens { what, row, found: found.into() });
            match counted.get(row) {
                None => return wrong("does not say which tokens count"),
                Some(counted) if counted.len() != encoding.len() => return wrong("counts other tokens than it has"),
                Some(counted) if !counted.iter().skip(1).any(|&counts| counts) => {
                    return wrong("has no token that counts");
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}
