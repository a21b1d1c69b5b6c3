//! Log-probabilities of tokens.

use crate::{Result, bail};

/// Returns the natural logarithms of the probabilities of `tokens` after a text with the given
/// `logits` `[V]`: a log-softmax over the whole vocabulary, computed in f64.
///
/// Fails for a token beyond the logits, and where a result would not be finite.
pub fn logprobs(logits: &[f32], tokens: &[u32]) -> Result<Vec<f32>> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    let logprob = |&token: &u32| {
        let Some(&logit) = logits.get(token as usize) else {
            bail!(Mismatch, "token {token} of the tokenizer is beyond the model's {} logits", logits.len());
        };
        match (f64::from(logit - largest) - sum.ln()) as f32 {
            logprob if logprob.is_finite() => Ok(logprob),
            _ => bail!(Malformed, "the model's logits are not finite"),
        }
    };
    tokens.iter().map(logprob).collect()
}

/// Returns the `most` likeliest tokens after a text with the given `logits` `[V]`, the likeliest first. Of equals
/// the smaller id comes first.
pub fn likeliest(logits: &[f32], most: usize) -> Vec<u32> {
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    if most < tokens.len() {
        tokens.select_nth_unstable_by(most, by_logit);
        tokens.truncate(most);
    }
    tokens.sort_unstable_by(by_logit);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_normal_over_the_vocabulary() {
        let logits = [1.0, 3.0, -200.0, 2.5];
        let sum: f64 = logits.iter().map(|&logit: &f32| f64::from(logit).exp()).sum();
        for (token, found) in logprobs(&logits, &[3, 0, 1]).unwrap().into_iter().zip([2.5, 1.0, 3.0]) {
            assert!((f64::from(token) - (found - sum.ln())).abs() < 1e-6, "{token} {found}");
        }
    }

    #[test]
    fn the_likeliest_come_first() {
        let logits = [1.0, 3.0, -200.0, 3.0, 2.5];
        assert_eq!(likeliest(&logits, 3), [1, 3, 4]);
        assert_eq!(likeliest(&logits, 9), [1, 3, 4, 0, 2]);
        assert!(likeliest(&logits, 0).is_empty());
    }

    #[test]
    fn what_has_no_logprob_is_an_error() {
        assert!(logprobs(&[1.0, 2.0], &[2]).unwrap_err().to_string().contains("token 2"));
        assert!(logprobs(&[f32::NAN, 2.0], &[1]).is_err());
        assert!(logprobs(&[f32::NEG_INFINITY, 2.0], &[0]).is_err());
    }
}
