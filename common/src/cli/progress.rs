//! Progress: a bar with rate and remaining time on a terminal, a plain line every few seconds elsewhere,
//! nothing under `--quiet`.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Size;
use super::escape::one_line;
use super::stderr::BARS;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Seconds between plain lines where stderr is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// Most lines below a bar, and most names in a plain line.
const MOST_LINES: usize = 8;
const MOST_NAMES: usize = 2;

/// The unit in which progress is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as KiB, MiB, GiB.
    Bytes,
    /// Things that are counted one by one, with their plural name.
    Items(&'static str),
}

/// A subtask of the work that is under way, such as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subtask {
    /// The name that is shown for the subtask, such as that of a file.
    pub name: String,
    /// Units of the subtask that are done.
    pub done: u64,
    /// Units of the subtask altogether.
    pub total: u64,
}

/// Progress towards a total. Dropping it removes the bar.
pub struct Progress {
    bar: ProgressBar,
    /// Below the bar, one for each subtask.
    lines: Mutex<Vec<ProgressBar>>,
    plain: Option<Mutex<Plain>>,
    unit: Unit,
}

struct Plain {
    begun: Instant,
    begun_at: u64,
    shown: Instant,
    title: String,
}

impl Progress {
    /// Begins with `total` units to do; `None` where the number is not known.
    pub fn new(title: impl Into<Cow<'static, str>>, total: impl Into<Option<u64>>, unit: Unit) -> Self {
        let (title, total) = (one_line(title.into()), total.into());
        if super::is_quiet() {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
            return Self { bar, lines: Mutex::default(), plain: None, unit };
        }
        if !std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
            let now = Instant::now();
            let plain = Plain { begun: now, begun_at: 0, shown: now, title };
            return Self { bar, lines: Mutex::default(), plain: Some(Mutex::new(plain)), unit };
        }
        let template = match (unit, total) {
            (Unit::Bytes, Some(_)) => "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
            (Unit::Bytes, None) => "{prefix} {bytes} {bytes_per_sec} {msg}",
            (Unit::Items(_), Some(_)) => "{prefix} {wide_bar} {pos}/{len} {per_sec} {eta} {msg}",
            (Unit::Items(_), None) => "{prefix} {pos} {per_sec} {msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = BARS.add(ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()));
        bar.set_style(style);
        bar.set_prefix(title);
        Self { bar, lines: Mutex::default(), plain: None, unit }
    }

    /// Continues work of which `position` units were done before; those do not count for the rate.
    pub fn resume_from(&self, position: u64) {
        self.bar.set_position(position);
        self.bar.reset_eta();
        if let Some(Ok(mut plain)) = self.plain.as_ref().map(Mutex::lock) {
            plain.begun_at = position;
        }
    }

    /// Counts `count` more units as done.
    pub fn add(&self, count: u64) {
        self.bar.inc(count);
        self.plain_line();
    }

    /// Sets how many units are done.
    pub fn set(&self, position: u64) {
        self.bar.set_position(position);
        self.plain_line();
    }

    /// Changes the number of units altogether.
    pub fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// Shows `message` beside the figures.
    pub fn message(&self, message: impl Into<Cow<'static, str>>) {
        self.bar.set_message(one_line(message.into()));
    }

    /// Shows the subtasks that are under way: one line for each on a terminal, the first names elsewhere.
    pub fn subtasks(&self, subtasks: &[Subtask]) {
        if self.plain.is_some() {
            return self.message(names(subtasks));
        }
        let Ok(mut lines) = self.lines.lock() else { return };
        if self.bar.is_hidden() {
            return;
        }
        let texts = self.subtask_lines(subtasks);
        while lines.len() < texts.len() {
            let line = BARS.insert_after(lines.last().unwrap_or(&self.bar), ProgressBar::new_spinner());
            line.set_style(
                ProgressStyle::with_template("  {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            lines.push(line);
        }
        for superfluous in lines.drain(texts.len()..) {
            superfluous.finish_and_clear();
            BARS.remove(&superfluous);
        }
        for (line, text) in lines.iter().zip(texts) {
            line.set_message(text);
        }
    }

    fn subtask_lines(&self, subtasks: &[Subtask]) -> Vec<String> {
        let line = |subtask: &Subtask| {
            format!(
                "{:>10} of {:>10}  {}",
                self.amount(subtask.done),
                self.amount(subtask.total),
                one_line(&subtask.name)
            )
        };
        let shown = if subtasks.len() > MOST_LINES { MOST_LINES - 1 } else { subtasks.len() };
        let more = (subtasks.len() > shown).then(|| format!("and {} more", subtasks.len() - shown));
        subtasks[..shown].iter().map(line).chain(more).collect()
    }

    fn plain_line(&self) {
        let Some(plain) = &self.plain else { return };
        let Ok(mut plain) = plain.try_lock() else { return };
        if plain.shown.elapsed() < PLAIN_INTERVAL {
            return;
        }
        plain.shown = Instant::now();
        let (done, total) = (self.bar.position(), self.bar.length());
        let seconds = plain.begun.elapsed().as_secs_f64();
        let rate = done.saturating_sub(plain.begun_at) as f64 / seconds;
        let of_total = total.map_or(String::new(), |total| format!("/{}", self.amount(total)));
        let left = match total {
            Some(total) if rate > 0.0 => format!(", {:.0} s left", total.saturating_sub(done) as f64 / rate),
            _ => String::new(),
        };
        let rate = match self.unit {
            Unit::Bytes => format!(", {}/s", Size(rate as u64)),
            Unit::Items(name) => format!(" {name}, {rate:.1}/s"),
        };
        let message = self.bar.message();
        let done = self.amount(done);
        super::note(format_args!("{} {done}{of_total}{rate}{left} {message}", plain.title));
    }

    fn amount(&self, count: u64) -> String {
        match self.unit {
            Unit::Bytes => Size(count).to_string(),
            Unit::Items(_) => count.to_string(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.subtasks(&[]);
        self.bar.finish_and_clear();
    }
}

/// The names of the first subtasks, and how many more there are.
fn names(subtasks: &[Subtask]) -> String {
    let shown: Vec<&str> = subtasks.iter().take(MOST_NAMES).map(|subtask| subtask.name.as_str()).collect();
    match subtasks.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subtasks(count: u64) -> Vec<Subtask> {
        (0..count).map(|i| Subtask { name: format!("file-{i}"), done: i << 20, total: 3 << 30 }).collect()
    }

    #[test]
    fn parts_have_a_line_each_while_there_is_room() {
        let progress = Progress::new("fetch", 1, Unit::Bytes);
        assert_eq!(progress.subtask_lines(&subtasks(2))[1], "  1.00 MiB of   3.00 GiB  file-1");
        assert_eq!(progress.subtask_lines(&subtasks(8)).len(), 8);
        let crowded = progress.subtask_lines(&subtasks(20));
        assert_eq!((crowded.len(), crowded[7].as_str()), (8, "and 13 more"));
    }

    #[test]
    fn a_plain_line_names_the_first() {
        assert_eq!(names(&subtasks(0)), "");
        assert_eq!(names(&subtasks(2)), "file-0, file-1");
        assert_eq!(names(&subtasks(5)), "file-0, file-1 and 3 more");
    }
}
