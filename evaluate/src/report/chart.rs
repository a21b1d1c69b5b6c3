//! A report as a chart.

use common::chart::{Bar, BarChart, BarGroup};

use super::{Outcome, Report, Tally};
use crate::tasks::Category;

impl Report {
    /// Returns the accuracies as a chart of the model called `name`.
    pub fn chart(&self, name: &str) -> BarChart {
        let bar = |(subject, tally): (&Outcome, Tally)| Bar {
            label: subject.subject.replace('_', " "),
            value: tally.accuracy() * 100.0,
            error: tally.error * 100.0,
        };
        let group = |category: Category| {
            let accuracy = self.category_tally(category)?.accuracy() * 100.0;
            let bars = self.of_category(category).into_iter().map(bar).collect();
            Some(BarGroup { label: format!("{category} {accuracy:.1}"), bars })
        };
        let all = self.average();
        BarChart {
            title: format!(
                "{name}: {} {:.1} ± {:.1}, {} questions",
                self.task,
                all.accuracy() * 100.0,
                all.error * 100.0,
                all.n
            ),
            x_label: "accuracy in percent".into(),
            range: 0.0..100.0,
            reference: Some(("chance".into(), self.task.chance())),
            groups: Category::ALL.into_iter().filter_map(group).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;
    use crate::scored::Scored;
    use crate::tasks::TASKS;
    use crate::tasks::tests::TEN_CHOICES;

    #[test]
    fn the_chart_has_a_bar_for_each_subject() {
        let chart = report().chart("m");
        let group = |index: usize| {
            let group = &chart.groups[index];
            (group.label.as_str(), group.bars.iter().map(|bar| bar.value.round()).collect::<Vec<_>>())
        };
        assert_eq!(group(0), ("STEM 75.0", vec![75.0]));
        assert_eq!(group(1), ("Other 25.0", vec![50.0, 17.0]));
        assert!(chart.title.starts_with("m: MMLU 41.7"), "{}", chart.title);
    }

    #[test]
    fn chance_follows_from_the_number_of_choices() {
        let chance = |task, logprobs: Vec<f32>| {
            let answers = vec![logprobs.len() - 1];
            let scored = [Scored { subject: "physics".into(), logprobs: vec![logprobs], answers }];
            let report = Report::new(task, &scored);
            assert_eq!(report.average().correct, 1);
            report.chart("m").reference
        };
        assert_eq!(chance(TASKS[0], vec![-3.0, -3.0, -3.0, -1.0]), Some(("chance".into(), 25.0)));
        let ten = [vec![-3.0; 9], vec![-1.0]].concat();
        assert_eq!(chance((&TEN_CHOICES).into(), ten), Some(("chance".into(), 10.0)));
    }
}
