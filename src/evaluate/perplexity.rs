//! How well a language model predicts: the loss over the tokens that count, through ONNX Runtime.

use rayon::prelude::*;

use super::EvaluateError;
use crate::dataset::{Batch, Encoding};
use crate::task::TokenLoss;

/// The loss of a batch: the logits at a token, `[rows, tokens, vocabulary]`, predict the one after it. Summed in float64.
pub(super) fn batch_loss(
    encodings: &[Encoding],
    counted: &[Vec<bool>],
    batch: &Batch,
    shape: &[usize],
    logits: &[f32],
) -> Result<TokenLoss, EvaluateError> {
    let (count, length) = (batch.rows.len(), batch.length);
    let vocabulary = match *shape {
        [a, b, vocabulary] if (a, b) == (count, length) && vocabulary > 0 => vocabulary,
        _ => return Err(EvaluateError::TokenShape { found: shape.to_vec(), rows: count, length }),
    };
    let losses: Vec<Result<TokenLoss, EvaluateError>> = batch
        .rows
        .par_iter()
        .zip(logits.par_chunks(length * vocabulary))
        .map(|(&row, logits)| row_loss(row, &encodings[row].ids, &counted[row], logits, vocabulary))
        .collect();
    // Of several rows that fail, the first is reported, whichever thread was faster.
    let losses = losses.into_iter().collect::<Result<Vec<_>, _>>()?;
    let sum = losses.iter().map(|loss| loss.sum).sum();
    Ok(TokenLoss { sum, tokens: losses.iter().map(|loss| loss.tokens).sum() })
}

/// The loss of one row; `logits` is `[tokens, vocabulary]`, padding included.
fn row_loss(
    row: usize,
    ids: &[u32],
    counted: &[bool],
    logits: &[f32],
    vocabulary: usize,
) -> Result<TokenLoss, EvaluateError> {
    let mut loss = TokenLoss::default();
    let predicted = ids.iter().zip(counted).skip(1);
    for (logits, (&id, _)) in logits.chunks_exact(vocabulary).zip(predicted).filter(|(_, (_, counts))| **counts) {
        let Some(&own) = logits.get(id as usize) else { return Err(EvaluateError::Token { row, id, vocabulary }) };
        if let Some(&value) = logits.iter().find(|value| !value.is_finite()) {
            return Err(EvaluateError::NotFinite { row, value });
        }
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        loss.sum += largest + sum.ln() - f64::from(own);
        loss.tokens += 1;
    }
    Ok(loss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Padding, pad};

    fn rows() -> (Vec<Encoding>, Vec<Vec<bool>>) {
        let encoding = |ids: &[u32]| Encoding { ids: ids.to_vec(), type_ids: vec![0; ids.len()] };
        (vec![encoding(&[0, 1, 2]), encoding(&[2, 0])], vec![vec![false, true, false], vec![false, true]])
    }

    #[test]
    fn logits_predict_the_token_after_them_and_only_what_counts_is_summed() {
        let (encodings, counted) = rows();
        let batch = pad(&encodings, &[0, 1], Padding::default());
        let mut logits = vec![0.0; 2 * 3 * 3];
        logits[1] = 2.0; // row 0, token 0 predicts token 1 of id 1
        logits[9] = 1.0; // row 1, token 0 predicts token 1 of id 0
        let loss = batch_loss(&encodings, &counted, &batch, &[2, 3, 3], &logits).unwrap();
        let expected = ((2f64.exp() + 2.0).ln() - 2.0) + ((1f64.exp() + 2.0).ln() - 1.0);
        assert_eq!(loss.tokens, 2);
        assert!((loss.sum - expected).abs() < 1e-12, "{} {expected}", loss.sum);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (encodings, counted) = rows();
        let batch = pad(&encodings, &[0, 1], Padding::default());
        let error = |shape: &[usize], value: f32| {
            let logits = vec![value; shape.iter().product()];
            batch_loss(&encodings, &counted, &batch, shape, &logits).unwrap_err().to_string()
        };
        assert!(error(&[2, 2], 0.0).contains("language-model head"));
        assert!(error(&[2, 3, 1], 0.0).contains("outside the 1 tokens"));
        assert!(error(&[2, 3, 3], f32::NAN).contains("row 0"));
    }
}
