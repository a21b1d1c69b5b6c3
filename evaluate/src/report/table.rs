//! A report as a table, for people and for programs that read LLaMA-Factory's evaluator.

use std::fmt::Write;

use super::Report;
use crate::tasks::Category;

impl Report {
    /// Returns the accuracies in percent, by subject and by category, then the lines that LLaMA-Factory's
    /// evaluator prints.
    pub fn table(&self) -> String {
        let names = self.subjects.iter().map(|subject| subject.subject.len());
        let width = names.max().unwrap_or(0).max("subject".len()) + 2;
        let mut table = format!("{:width$} {:>6} {:>9} {:>7}\n", "subject", "n", "accuracy", "± error");
        let mut summary = String::new();
        for category in Category::ALL {
            let subjects = self.of_category(category);
            let Some(group) = self.category_tally(category) else { continue };
            let _ = writeln!(table, "{category}");
            for (subject, tally) in subjects {
                let (name, accuracy, error) =
                    (&subject.subject, tally.accuracy() * 100.0, tally.error * 100.0);
                let _ =
                    writeln!(table, "  {name:<0$} {1:>6} {accuracy:>9.2} {error:>7.2}", width - 2, tally.n);
            }
            let _ = writeln!(summary, "{category:>15}: {:.2}", group.accuracy() * 100.0);
        }
        let all = self.average();
        let _ = writeln!(table, "\n{:>15}: {:.2}", "Average", all.accuracy() * 100.0);
        table += &summary;
        let _ = writeln!(table, "{:>15}: {:.2}", "Macro average", self.macro_average() * 100.0);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;

    #[test]
    fn the_table_is_grouped_and_ends_with_llama_factorys_lines() {
        assert_eq!(
            report().table(),
            "\
subject            n  accuracy ± error
STEM
  astronomy        4     75.00   25.00
Other
  tern_island      2     50.00   50.00
  virology         6     16.67   16.67

        Average: 41.67
           STEM: 75.00
          Other: 25.00
  Macro average: 47.22
"
        );
    }
}
