//! What the server has done so far, as Prometheus reads it.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that is read by other threads.
#[derive(Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    /// Adds to the number.
    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    /// Replaces the number.
    pub(crate) fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The numbers of a server.
#[derive(Default)]
pub(crate) struct Metrics {
    /// Answers that are being written.
    pub running: Number,
    /// Answers that wait for others to end.
    pub waiting: Number,
    /// Answers that were written to their end.
    pub completed: Number,
    /// Answers whose client hung up.
    pub abandoned: Number,
    /// Answers that could not be computed.
    pub failed: Number,
    /// Requests that were refused because too many waited.
    pub refused: Number,
    /// Passes through a model.
    pub passes: Number,
    /// Tokens of prompts.
    pub prompt_tokens: Number,
    /// Tokens of prompts that were known from the text before them.
    pub known_tokens: Number,
    /// Tokens of answers.
    pub answer_tokens: Number,
}

impl Metrics {
    /// Returns the numbers in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let rows = [
            ("answers_running", "gauge", "Answers that are being written", &self.running),
            ("answers_waiting", "gauge", "Answers that wait for others to end", &self.waiting),
            ("answers_completed_total", "counter", "Answers that were written to their end", &self.completed),
            ("answers_abandoned_total", "counter", "Answers whose client hung up", &self.abandoned),
            ("answers_failed_total", "counter", "Answers that could not be computed", &self.failed),
            (
                "requests_refused_total",
                "counter",
                "Requests that were refused with status 429",
                &self.refused,
            ),
            (
                "passes_total",
                "counter",
                "Passes through a model, each with tokens of one answer or more",
                &self.passes,
            ),
            ("prompt_tokens_total", "counter", "Tokens of prompts", &self.prompt_tokens),
            (
                "prompt_tokens_known_total",
                "counter",
                "Tokens of prompts that were not computed again",
                &self.known_tokens,
            ),
            ("answer_tokens_total", "counter", "Tokens of answers", &self.answer_tokens),
        ];
        let mut text = String::new();
        for (name, kind, help, number) in rows {
            let value = number.get();
            // Writing to a String does not fail.
            let _ = write!(
                text,
                "# HELP qlora_{name} {help}.\n# TYPE qlora_{name} {kind}\nqlora_{name} {value}\n"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.running.set(2);
        metrics.answer_tokens.add(3);
        metrics.answer_tokens.add(4);
        let text = metrics.text();
        assert!(text.starts_with("# HELP qlora_answers_running Answers that are being written.\n# TYPE "));
        assert!(text.contains("gauge\nqlora_answers_running 2\n"), "{text}");
        assert!(text.ends_with("\nqlora_answer_tokens_total 7\n"), "{text}");
    }
}
