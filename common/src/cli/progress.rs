//! How far the work is: a bar with rate and ETA on a terminal, a plain line every few seconds
//! elsewhere, nothing under `--quiet`.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Seconds between plain lines where stderr is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Runs `print` with the bars out of its way.
pub(super) fn above_bars(print: impl FnOnce()) {
    BARS.suspend(print);
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as KiB, MiB, GiB.
    Bytes,
    /// Anything else, with its plural name.
    Items(&'static str),
}

/// Progress towards a total. Dropping it removes the bar.
pub struct Progress {
    bar: ProgressBar,
    plain: Option<Mutex<Plain>>,
    unit: Unit,
}

struct Plain {
    begun: Instant,
    shown: Instant,
    title: String,
}

impl Progress {
    /// Begins with `total` units to do.
    pub fn new(title: impl Into<Cow<'static, str>>, total: u64, unit: Unit) -> Self {
        let title = title.into();
        if super::is_quiet() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
            return Self { bar, plain: None, unit };
        }
        if !std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
            let now = Instant::now();
            let plain = Plain { begun: now, shown: now, title: title.into_owned() };
            return Self { bar, plain: Some(Mutex::new(plain)), unit };
        }
        let template = match unit {
            Unit::Bytes => "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
            Unit::Items(_) => "{prefix} {wide_bar} {pos}/{len} {per_sec} {eta} {msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = BARS.add(ProgressBar::new(total));
        bar.set_style(style);
        bar.set_prefix(title);
        Self { bar, plain: None, unit }
    }

    /// Counts `count` more as done.
    pub fn add(&self, count: u64) {
        self.bar.inc(count);
        self.plain_line();
    }

    /// Sets what is done.
    pub fn set(&self, position: u64) {
        self.bar.set_position(position);
        self.plain_line();
    }

    /// Changes the total.
    pub fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// Shows `message` beside the figures.
    pub fn message(&self, message: impl Into<Cow<'static, str>>) {
        self.bar.set_message(message);
    }

    fn plain_line(&self) {
        let Some(plain) = &self.plain else { return };
        let Ok(mut plain) = plain.try_lock() else { return };
        if plain.shown.elapsed() < PLAIN_INTERVAL {
            return;
        }
        plain.shown = Instant::now();
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let seconds = plain.begun.elapsed().as_secs_f64();
        let rate = done as f64 / seconds;
        let left = if done == 0 { 0.0 } else { total.saturating_sub(done) as f64 / rate };
        let (done, total, rate) = match self.unit {
            Unit::Bytes => (
                indicatif::BinaryBytes(done).to_string(),
                indicatif::BinaryBytes(total).to_string(),
                format!("{}/s", indicatif::BinaryBytes(rate as u64)),
            ),
            Unit::Items(name) => (done.to_string(), format!("{total} {name}"), format!("{rate:.1}/s")),
        };
        let message = self.bar.message();
        super::note(format_args!("{} {done}/{total}, {rate}, {left:.0} s left {message}", plain.title));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
