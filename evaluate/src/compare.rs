//! Whether two reports of the same questions differ by more than chance.

use std::fmt::Write;
use std::path::Path;

use common::{Context, Result, bail, error, files};
use serde_json::Value;

use crate::report::{MOST_BYTES, Report};

/// Numbers of questions that both, one or neither of two reports answered right.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pairs {
    both: u64,
    only_first: u64,
    only_second: u64,
    neither: u64,
}

/// Compares two reports question by question. Returns a table of how many questions each answered right, with
/// the p-value of McNemar's exact test (McNemar 1947).
pub fn compare(first: &Path, second: &Path) -> Result<String> {
    let (a, b) = (read(first)?, read(second)?);
    if a["recipe"]["prompt_sha256"] != b["recipe"]["prompt_sha256"] {
        return Err(error!("{} and {} are of other prompts", first.display(), second.display())
            .hint("compare runs with the same --style, --shots, --subjects and --limit"));
    }
    let report = |value: &Value, path: &Path| {
        Report::from_json(value).ok_or_else(|| error!(Malformed, "{} has no predictions", path.display()))
    };
    let pairs = pairs(&report(&a, first)?, &report(&b, second)?)?;
    Ok(table(&pairs, first, second))
}

fn read(path: &Path) -> Result<Value> {
    files::read_json(path, MOST_BYTES).hint("--compare takes two reports that evaluate wrote")
}

fn pairs(first: &Report, second: &Report) -> Result<Pairs> {
    let mut pairs = Pairs::default();
    for (a, b) in first.subjects().iter().zip(second.subjects()) {
        if a.subject != b.subject || a.answers != b.answers {
            bail!(Mismatch, "{} and {} are other questions", a.subject, b.subject);
        }
        for (a, b) in a.correct().zip(b.correct()) {
            *match (a, b) {
                (true, true) => &mut pairs.both,
                (true, false) => &mut pairs.only_first,
                (false, true) => &mut pairs.only_second,
                (false, false) => &mut pairs.neither,
            } += 1;
        }
    }
    Ok(pairs)
}

fn table(pairs: &Pairs, first: &Path, second: &Path) -> String {
    let n = pairs.both + pairs.only_first + pairs.only_second + pairs.neither;
    let percent = |count: u64| count as f64 / n.max(1) as f64 * 100.0;
    let mut table = String::new();
    let _ = writeln!(table, "{:>8.2}  {}", percent(pairs.both + pairs.only_first), first.display());
    let _ = writeln!(table, "{:>8.2}  {}", percent(pairs.both + pairs.only_second), second.display());
    let difference = percent(pairs.only_second) - percent(pairs.only_first);
    let _ = writeln!(table, "{difference:>+8.2}  difference over {n} questions");
    let _ = writeln!(table, "{:>8}  right in the first only", pairs.only_first);
    let _ = writeln!(table, "{:>8}  right in the second only", pairs.only_second);
    let p = mcnemar(pairs.only_first, pairs.only_second);
    let _ = writeln!(table, "{p:>8.4}  p-value of McNemar's exact test");
    table
}

/// Returns the probability that a fair coin falls at least as unevenly as `a` to `b`.
fn mcnemar(a: u64, b: u64) -> f64 {
    let n = a + b;
    // Binomial coefficients grow beyond any number; their logarithms do not.
    let mut log_chance = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_chance.exp();
    for k in 1..=a.min(b) {
        log_chance += ((n - k + 1) as f64 / k as f64).ln();
        tail += log_chance.exp();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exact_test() {
        // scipy.stats.binomtest(min(a, b), a + b).pvalue
        for (a, b, expected) in
            [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (10, 2, 0.03857421875), (1200, 1100, 0.0389)]
        {
            assert!((mcnemar(a, b) - expected).abs() < 5e-4, "{a} {b}: {}", mcnemar(a, b));
            assert_eq!(mcnemar(a, b), mcnemar(b, a));
        }
    }

    #[test]
    fn reports_are_compared_question_by_question() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, predictions: &str, prompts: &str| {
            let subject = json!({"predictions": predictions, "answers": "ABCD"});
            let report =
                json!({"recipe": {"task": "mmlu", "prompt_sha256": prompts}, "subjects": {"x": subject}});
            let path = directory.path().join(name);
            fs_err::write(&path, report.to_string()).unwrap();
            path
        };
        let (a, b) = (write("a", "ABAA", "p"), write("b", "AACD", "p"));
        let table = compare(&a, &b).unwrap();
        assert!(table.contains("  +25.00  difference over 4 questions"), "{table}");
        assert!(
            table.contains("       1  right in the first only\n       2  right in the second only"),
            "{table}"
        );
        assert!(table.contains("  1.0000  p-value"), "{table}");
        let other = write("c", "AACD", "q");
        assert!(compare(&a, &other).unwrap_err().to_string().contains("other prompts"));
    }
}
