//! Shortens a conversation to a number of tokens as LLaMA-Factory's `infer_seqlen` does.

/// How many tokens of a prompt and of its answer are kept within `cutoff` tokens.
///
/// Both keep their beginnings. An answer shorter than half the cutoff is kept whole, as far as
/// the cutoff allows, and the prompt takes what is left; a prompt shorter than half is kept whole
/// and the answer takes what is left; otherwise they share in proportion.
pub fn kept_lengths(prompt: usize, answer: usize, cutoff: usize) -> (usize, usize) {
    let most_of_answer = if answer.saturating_mul(2) < cutoff {
        cutoff
    } else if prompt.saturating_mul(2) < cutoff {
        cutoff - prompt
    } else {
        // LLaMA-Factory multiplies by the quotient in floating point.
        (cutoff as f64 * (answer as f64 / (prompt + answer).max(1) as f64)) as usize
    };
    let answer = answer.min(most_of_answer);
    (prompt.min(cutoff.saturating_sub(answer)), answer)
}

#[cfg(test)]
mod tests {
    use super::kept_lengths;

    #[test]
    fn what_fits_is_kept() {
        assert_eq!(kept_lengths(30, 20, 100), (30, 20));
        assert_eq!(kept_lengths(50, 50, 100), (50, 50));
        assert_eq!(kept_lengths(0, 0, 0), (0, 0));
    }

    #[test]
    fn the_longer_side_gives_way() {
        assert_eq!(kept_lengths(500, 20, 100), (80, 20), "a short answer is whole");
        assert_eq!(kept_lengths(20, 500, 100), (20, 80), "a short prompt is whole");
        assert_eq!(kept_lengths(300, 100, 100), (75, 25), "two long sides share");
    }

    proptest::proptest! {
        #[test]
        fn never_more_than_there_is_nor_than_allowed(
            prompt in 0usize..5000, answer in 0usize..5000, cutoff in 0usize..5000
        ) {
            let (p, a) = kept_lengths(prompt, answer, cutoff);
            proptest::prop_assert!(p <= prompt && a <= answer && p + a <= cutoff);
            if prompt + answer <= cutoff {
                proptest::prop_assert_eq!((p, a), (prompt, answer));
            }
        }
    }
}
