//! The terminal that progress bars are drawn on. Where it is gone, nothing is drawn and nothing fails;
//! indicatif by itself would panic.

use std::fmt;
use std::io;
use std::sync::LazyLock;

use console::Term;
use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};

/// All progress bars of the process.
pub(super) static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(draw_target()));

/// Runs `print` while the bars are hidden, so that they do not mix with what it prints.
pub(super) fn above_bars(print: impl FnOnce()) {
    BARS.suspend(print);
}

/// Draws bars on stderr, ignoring errors.
fn draw_target() -> ProgressDrawTarget {
    ProgressDrawTarget::term_like_with_hz(Box::new(Stderr(Term::buffered_stderr())), 20)
}

struct Stderr(Term);

impl fmt::Debug for Stderr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stderr")
    }
}

impl TermLike for Stderr {
    fn width(&self) -> u16 {
        self.0.size().1
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        ignore(self.0.move_cursor_up(n))
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        ignore(self.0.move_cursor_down(n))
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        ignore(self.0.move_cursor_right(n))
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        ignore(self.0.move_cursor_left(n))
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        ignore(self.0.write_line(text))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        ignore(self.0.write_str(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        ignore(self.0.clear_line())
    }

    fn flush(&self) -> io::Result<()> {
        ignore(self.0.flush())
    }
}

fn ignore(_: io::Result<()>) -> io::Result<()> {
    Ok(())
}
