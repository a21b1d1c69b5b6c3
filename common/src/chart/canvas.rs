//! The canvas of every chart: size, colours, font, and the PNG file.

use std::path::Path;
use std::sync::LazyLock;

use plotters::coord::Shift;
use plotters::prelude::{BitMapBackend, Color, DrawingArea, FontStyle, IntoDrawingArea, IntoFont, TextStyle};
use plotters::style::{RGBColor, register_font};

use crate::{Error, Result, error};

/// Width of every chart in pixels.
pub(super) const WIDTH: u32 = 1280;
pub(super) const BACKGROUND: RGBColor = RGBColor(255, 255, 255);
pub(super) const TEXT: RGBColor = RGBColor(32, 33, 36);
pub(super) const AXIS: RGBColor = RGBColor(95, 99, 104);
pub(super) const GRID: RGBColor = RGBColor(232, 234, 237);

/// The name under which plotters knows the font.
const FONT: &str = "Ubuntu Light";

static FONT_IS_READABLE: LazyLock<bool> =
    LazyLock::new(|| register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).is_ok());

pub(super) type Canvas<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// The style of a text of a height in pixels.
pub(super) fn text(height: u32) -> TextStyle<'static> {
    (FONT, height).into_font().color(&TEXT.mix(1.0))
}

/// The error of a chart that plotters cannot draw.
pub(super) fn problem(error: impl std::fmt::Display) -> Error {
    error!(Bug, "cannot draw: {error}")
}

/// Draws a PNG file, `height` pixels high, whole or not at all.
pub(super) fn save(path: &Path, height: u32, draw: impl FnOnce(&Canvas) -> Result<()>) -> Result<()> {
    if !*FONT_IS_READABLE {
        return Err(problem("the built-in font is not readable"));
    }
    let file = crate::cli::temporary(path, ".png")?;
    let canvas = BitMapBackend::new(file.path(), (WIDTH, height)).into_drawing_area();
    let drawn = canvas.fill(&BACKGROUND).map_err(problem).and_then(|()| draw(&canvas));
    let drawn = drawn.and_then(|()| canvas.present().map_err(problem));
    if drawn.is_err() {
        // Dropping a canvas that could not be written tries again and panics.
        std::mem::forget(canvas);
        return drawn.map_err(|error| error.context(path.display()));
    }
    drop(canvas);
    file.persist(path).map_err(|failed| Error::from(failed.error).context(path.display()))?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Draws without a file and returns the pixels, three bytes each.
    pub(crate) fn pixels(height: u32, draw: impl FnOnce(&Canvas) -> Result<()>) -> Vec<[u8; 3]> {
        assert!(*FONT_IS_READABLE);
        let mut bytes = vec![0; WIDTH as usize * height as usize * 3];
        let canvas = BitMapBackend::with_buffer(&mut bytes, (WIDTH, height)).into_drawing_area();
        canvas.fill(&BACKGROUND).unwrap();
        draw(&canvas).unwrap();
        canvas.present().unwrap();
        drop(canvas);
        bytes.chunks_exact(3).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chart.png");
        assert!(save(&path, 100, |_| Err(error!(Bug, "no"))).unwrap_err().to_string().contains("chart.png"));
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0);
        save(&path, 100, |_| Ok(())).unwrap();
        assert!(fs_err::read(&path).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
        assert!(save(&folder.path().join("no/chart.png"), 100, |_| Ok(())).is_err());
    }
}
