//! Tables of several models, the best first.

use std::fmt::Write;
use std::path::Path;

use crate::loss::file_loss::FileLoss;
use crate::report::Report;
use crate::tasks::Category;

/// Returns a table of the accuracies, in percent, of models that were asked the same questions.
pub fn by_accuracy(mut models: Vec<(&Path, Report)>) -> String {
    models.sort_by(|(_, a), (_, b)| b.average().accuracy().total_cmp(&a.average().accuracy()));
    let has =
        |category: &Category| models.iter().any(|(_, report)| report.category_tally(*category).is_some());
    // Each category with the width of its column.
    let categories: Vec<(Category, usize)> = Category::ALL
        .into_iter()
        .filter(has)
        .map(|category| (category, category.to_string().len().max("100.00".len())))
        .collect();
    let mut table = format!("{:>7} {:>7}", "average", "± error");
    for (category, width) in &categories {
        let _ = write!(table, "  {category:>width$}");
    }
    table += "  model\n";
    for (model, report) in models {
        let all = report.average();
        let _ = write!(table, "{:>7.2} {:>7.2}", all.accuracy() * 100.0, all.error * 100.0);
        for (category, width) in &categories {
            let accuracy = report.category_tally(*category).map_or(f64::NAN, |tally| tally.accuracy());
            let _ = write!(table, "  {:>width$.2}", accuracy * 100.0);
        }
        let _ = writeln!(table, "  {}", model.display());
    }
    table
}

/// Returns a table of the losses of models on the same data.
pub fn by_loss(mut models: Vec<(&Path, FileLoss)>) -> String {
    models.sort_by(|(_, a), (_, b)| a.loss.mean().total_cmp(&b.loss.mean()));
    let mut table = format!("{:>8} {:>11} {:>10} {:>9}  model\n", "loss", "perplexity", "tokens", "examples");
    for (model, loss) in models {
        let _ = writeln!(
            table,
            "{:>8.4} {:>11.4} {:>10} {:>9}  {}",
            loss.loss.mean(),
            loss.perplexity(),
            loss.loss.tokens,
            loss.examples,
            model.display()
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use common::model::Loss;

    use super::*;
    use crate::scored::Scored;
    use crate::tasks::TASKS;

    #[test]
    fn the_best_model_is_first() {
        let report = |right: usize| {
            let scored = |subject: &str, answers: Vec<usize>| Scored {
                subject: subject.into(),
                logprobs: vec![vec![-0.1, -3.0, -3.0, -3.0]; answers.len()],
                answers,
            };
            let answers = (0..4).map(|index| usize::from(index >= right)).collect();
            Report::new(TASKS[0], &[scored("astronomy", answers), scored("virology", vec![0])])
        };
        let table = by_accuracy(vec![
            (Path::new("a"), report(1)),
            (Path::new("b"), report(3)),
            (Path::new("c"), report(1)),
        ]);
        assert_eq!(
            table,
            "\
average ± error    STEM   Other  model
  80.00   22.36   75.00  100.00  b
  40.00   22.36   25.00  100.00  a
  40.00   22.36   25.00  100.00  c
"
        );
    }

    #[test]
    fn the_least_loss_is_first() {
        let loss = |sum: f64| FileLoss { loss: Loss { sum, tokens: 10 }, examples: 2 };
        let table = by_loss(vec![(Path::new("a"), loss(20.0)), (Path::new("b"), loss(10.0))]);
        let last: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["2.0000", "7.3891", "10", "2", "a"]);
    }
}
