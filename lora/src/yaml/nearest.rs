//! The key that a misspelt one was meant to be.

/// The known name with the fewest edits from `word`, if they are few enough to be a slip.
pub fn nearest<'a>(word: &str, known: &'a [String]) -> Option<&'a str> {
    let (edits, best) = known.iter().map(|name| (edits(word, name), name)).min()?;
    (edits <= 1 + word.len() / 4).then_some(best)
}

/// Insertions, deletions and replacements between two words (Levenshtein 1966).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = ["learning_rate", "lora_rank", "seed"].map(String::from);
        assert_eq!(nearest("learning_rat", &known), Some("learning_rate"));
        assert_eq!(nearest("loar_rank", &known), Some("lora_rank"));
        assert_eq!(nearest("per_device", &known), None);
        assert_eq!((edits("kitten", "sitting"), edits("", "ab")), (3, 2));
    }
}
