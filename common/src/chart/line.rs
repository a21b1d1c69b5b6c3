//! Values over steps, one line each.

use std::ops::Range;
use std::path::Path;

use plotters::prelude::{ChartBuilder, Circle, Color, LineSeries, PathElement, SeriesLabelPosition};
use plotters::style::RGBColor;

use super::canvas::{self, AXIS, BACKGROUND, Canvas, GRID, problem, text};
use crate::Result;

/// The height of a chart in pixels.
const HEIGHT: u32 = 800;
/// Most points of a line that are each marked.
const MARKED: usize = 40;

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// The name of the line in the legend.
    pub label: String,
    /// The points as x and y; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// The colour as red, green and blue.
    pub colour: [u8; 3],
    /// The width of the line in pixels.
    pub width: u32,
}

/// A chart of lines.
#[derive(Debug, Clone)]
pub struct LineChart {
    /// The text above the chart.
    pub title: String,
    /// The text under the horizontal axis.
    pub x_label: String,
    /// The text beside the vertical axis.
    pub y_label: String,
    /// The lines, of which later ones are drawn over earlier ones.
    pub lines: Vec<Line>,
}

impl LineChart {
    /// Writes a PNG file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        canvas::save(path, HEIGHT, |canvas| self.draw(canvas))
    }

    /// The corner for the legend: the upper one where the lines fall, the lower one where they rise.
    fn legend(&self) -> SeriesLabelPosition {
        let rises = |line: &Line| match (line.points.first(), line.points.last()) {
            (Some((_, first)), Some((_, last))) => last > first,
            _ => false,
        };
        match self.lines.iter().any(rises) {
            true => SeriesLabelPosition::LowerRight,
            false => SeriesLabelPosition::UpperRight,
        }
    }

    fn draw(&self, canvas: &Canvas) -> Result<()> {
        let points = || {
            let all = self.lines.iter().flat_map(|line| &line.points);
            all.copied().filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        let xs = range(points().map(|(x, _)| x), 0.0);
        let ys = range(points().map(|(_, y)| y), 0.06);
        let digits = digits(&ys);
        let mut chart = ChartBuilder::on(canvas)
            .caption(&self.title, text(34))
            .margin(24)
            .x_label_area_size(64)
            .y_label_area_size(96)
            .build_cartesian_2d(xs, ys)
            .map_err(problem)?;
        chart
            .configure_mesh()
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .axis_desc_style(text(26))
            .label_style(text(22))
            .axis_style(AXIS)
            .bold_line_style(GRID)
            .light_line_style(BACKGROUND)
            .x_labels(12)
            .y_labels(10)
            .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x:.0}") } else { String::new() })
            .y_label_formatter(&|y| format!("{y:.digits$}"))
            .draw()
            .map_err(problem)?;
        for line in &self.lines {
            let [red, green, blue] = line.colour;
            let colour = RGBColor(red, green, blue);
            let style = colour.stroke_width(line.width);
            let points = line.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
            chart
                .draw_series(LineSeries::new(points.clone(), style))
                .map_err(problem)?
                .label(&line.label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 28, y)], style));
            if line.points.len() <= MARKED {
                let dots = points.map(|point| Circle::new(point, line.width + 2, colour.filled()));
                chart.draw_series(dots).map_err(problem)?;
            }
        }
        chart
            .configure_series_labels()
            .position(self.legend())
            .margin(16)
            .legend_area_size(40)
            .background_style(BACKGROUND.mix(0.9))
            .border_style(GRID)
            .label_font(text(24))
            .draw()
            .map_err(problem)
    }
}

/// The range that an axis shows: that of all values, with `share` of its extent added on either side.
fn range(values: impl Iterator<Item = f64>, share: f64) -> Range<f64> {
    let (low, high) = values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let extent = high - low;
    // One value alone, or values that no f64 lies between, still need an axis.
    if extent <= low.abs().max(high.abs()) * 1e-9 {
        let around = (low.abs() * 0.05).max(0.5);
        return low - around..high + around;
    }
    low - share * extent..high + share * extent
}

/// The number of decimals that labels of an axis need to differ.
fn digits(range: &Range<f64>) -> usize {
    let step = (range.end - range.start) / 10.0;
    (-step.log10().floor()).clamp(0.0, 12.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::canvas::tests::pixels;

    const BLUE: [u8; 3] = [31, 119, 180];

    fn chart(points: &[(f64, f64)]) -> LineChart {
        let line = Line { label: "loss".into(), points: points.to_vec(), colour: BLUE, width: 3 };
        LineChart { title: "t".into(), x_label: "step".into(), y_label: "loss".into(), lines: vec![line] }
    }

    #[test]
    fn dark_on_light_with_a_line_that_follows_the_values() {
        let points: Vec<(f64, f64)> = (0..100).map(|x| (f64::from(x), 5.0 / (1.0 + f64::from(x)))).collect();
        let drawn = pixels(HEIGHT, |canvas| chart(&points).draw(canvas));
        let light = drawn.iter().filter(|pixel| pixel.iter().all(|&value| value > 220)).count();
        assert!(light > drawn.len() * 9 / 10, "{light} of {} pixels are light", drawn.len());
        let dark = drawn.iter().filter(|pixel| pixel.iter().all(|&value| value < 90)).count();
        assert!(dark > 500, "text and axes are dark: {dark} pixels");
        let width = canvas::WIDTH as usize;
        let rows = |columns: Range<usize>| {
            let blue = drawn.iter().enumerate().filter(|(_, pixel)| **pixel == BLUE);
            let inside = blue.filter(|(i, _)| columns.contains(&(i % width))).map(|(i, _)| i / width);
            inside.fold((usize::MAX, 0), |(low, high), row| (low.min(row), high.max(row)))
        };
        // High at the left, low at the right; the legend is further right.
        assert!(
            rows(120..140).0 < 150 && rows(800..900).0 > 550,
            "{:?} {:?}",
            rows(120..140),
            rows(800..900)
        );
    }

    #[test]
    fn any_values_can_be_drawn() {
        for points in [
            vec![],
            vec![(1.0, 2.0)],
            vec![(1.0, 2.0), (2.0, 2.0)],
            vec![(1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, 1.0)],
            vec![(1.0, 1e-300), (2.0, 1e300)],
            vec![(1.0, 1e-12), (1e9, 2e-12)],
        ] {
            pixels(HEIGHT, |canvas| chart(&points).draw(canvas));
        }
    }

    #[test]
    fn labels_have_as_many_decimals_as_they_need() {
        assert_eq!(digits(&(0.0..100.0)), 0);
        assert_eq!(digits(&(0.0..5.0)), 1);
        assert_eq!(digits(&(1.0..1.02)), 3);
        assert_eq!(range([3.0].into_iter(), 0.1), 2.5..3.5);
    }
}
