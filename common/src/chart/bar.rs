//! A bar for each of many things, one below the other, in groups.

use std::ops::Range;
use std::path::Path;

use plotters::prelude::{Color, PathElement, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{RGBColor, ShapeStyle, TextStyle};

use super::canvas::{self, AXIS, Canvas, GRID, WIDTH, problem, text};
use crate::Result;

/// Heights in pixels: above the first group, of a group's name, of a bar, below the last group.
const TOP: i32 = 116;
const GROUP: i32 = 42;
const BAR: i32 = 24;
const BOTTOM: i32 = 64;
/// Space beside the chart, and for a number at the end of a bar.
const MARGIN: i32 = 24;
const NUMBER: i32 = 64;
/// The colours of the groups, in turn.
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(44, 140, 60), RGBColor(196, 98, 16), RGBColor(128, 90, 170)];

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// The text to the left of the bar.
    pub label: String,
    /// The value that the bar shows; a value that is not finite has no bar.
    pub value: f64,
    /// The length of the whisker on either side of the bar's end, as a value; 0 draws none.
    pub error: f64,
}

/// Bars of one colour below a name.
#[derive(Debug, Clone)]
pub struct BarGroup {
    /// The text above the bars of the group.
    pub label: String,
    /// The bars, from top to bottom.
    pub bars: Vec<Bar>,
}

/// A chart of horizontal bars.
#[derive(Debug, Clone)]
pub struct BarChart {
    /// The text above the chart.
    pub title: String,
    /// The text under the horizontal axis.
    pub x_label: String,
    /// The range of values that the horizontal axis shows.
    pub range: Range<f64>,
    /// A value to compare with, and its name.
    pub reference: Option<(String, f64)>,
    /// The groups, from top to bottom.
    pub groups: Vec<BarGroup>,
}

impl BarChart {
    /// Writes a PNG file, whole or not at all, whose height follows from the number of bars.
    pub fn save(&self, path: &Path) -> Result<()> {
        canvas::save(path, self.height(), |canvas| self.draw(canvas))
    }

    fn height(&self) -> u32 {
        let groups = self.groups.iter().map(|group| GROUP + BAR * group.bars.len() as i32);
        (TOP + groups.sum::<i32>() + BOTTOM) as u32
    }

    fn draw(&self, canvas: &Canvas) -> Result<()> {
        let plot = Plot::new(self, canvas)?;
        plot.text(&self.title, (WIDTH as i32 / 2, MARGIN), &text(30), CENTRED_BELOW)?;
        plot.axis(&self.x_label)?;
        let mut y = TOP;
        for (group, colour) in self.groups.iter().zip(COLOURS.iter().cycle()) {
            plot.text(&group.label, (MARGIN, y + GROUP - 10), &text(22).color(colour), RIGHT_ABOVE)?;
            y += GROUP;
            for bar in &group.bars {
                plot.bar(bar, y, colour)?;
                y += BAR;
            }
        }
        if let Some((name, value)) = &self.reference {
            let x = plot.x(*value);
            plot.line((x, TOP - 8), (x, plot.bottom), AXIS.stroke_width(2))?;
            plot.text(name, (x, TOP - 12), &text(LABEL), CENTRED_ABOVE)?;
        }
        plot.line((plot.left, TOP - 8), (plot.left, plot.bottom), AXIS.into())
    }
}

/// Height in pixels of the labels of bars and axes.
const LABEL: u32 = 18;

/// Where a text stands, relative to its position.
type Anchor = (HPos, VPos);
const CENTRED_BELOW: Anchor = (HPos::Center, VPos::Top);
const CENTRED_ABOVE: Anchor = (HPos::Center, VPos::Bottom);
const RIGHT_ABOVE: Anchor = (HPos::Left, VPos::Bottom);
const RIGHT: Anchor = (HPos::Left, VPos::Center);
const LEFT: Anchor = (HPos::Right, VPos::Center);

/// The area of the bars on a canvas, in pixels.
struct Plot<'a, 'b> {
    canvas: &'a Canvas<'b>,
    range: Range<f64>,
    left: i32,
    right: i32,
    bottom: i32,
}

impl<'a, 'b> Plot<'a, 'b> {
    /// Leaves as much space on the left as the longest label of a bar needs.
    fn new(chart: &BarChart, canvas: &'a Canvas<'b>) -> Result<Self> {
        let mut widest = 0;
        for bar in chart.groups.iter().flat_map(|group| &group.bars) {
            let (width, _) = canvas.estimate_text_size(&bar.label, &text(LABEL)).map_err(problem)?;
            widest = widest.max(width as i32);
        }
        Ok(Self {
            canvas,
            range: chart.range.clone(),
            left: (widest + MARGIN + 12).min(WIDTH as i32 / 2),
            right: WIDTH as i32 - MARGIN - NUMBER,
            bottom: chart.height() as i32 - BOTTOM,
        })
    }

    /// The horizontal position of a value; values outside of the range are drawn at its ends.
    fn x(&self, value: f64) -> i32 {
        let share = ((value - self.range.start) / (self.range.end - self.range.start)).clamp(0.0, 1.0);
        self.left + (share * f64::from(self.right - self.left)) as i32
    }

    fn text(&self, words: &str, at: (i32, i32), style: &TextStyle, (h, v): Anchor) -> Result<()> {
        let text = Text::new(words.to_owned(), at, style.pos(Pos::new(h, v)));
        self.canvas.draw(&text).map_err(problem)
    }

    fn line(&self, from: (i32, i32), to: (i32, i32), style: ShapeStyle) -> Result<()> {
        self.canvas.draw(&PathElement::new([from, to], style)).map_err(problem)
    }

    /// Draws the horizontal axis with its label and ten vertical lines.
    fn axis(&self, label: &str) -> Result<()> {
        self.text(label, ((self.left + self.right) / 2, self.bottom + 34), &text(20), CENTRED_BELOW)?;
        for tick in 0..=10 {
            let value = self.range.start + (self.range.end - self.range.start) * f64::from(tick) / 10.0;
            let x = self.x(value);
            self.line((x, TOP - 8), (x, self.bottom), GRID.into())?;
            self.text(&format!("{value:.0}"), (x, self.bottom + 8), &text(LABEL), CENTRED_BELOW)?;
        }
        Ok(())
    }

    /// Draws a bar whose upper edge is at `y`: its label, the bar, its whisker and its value.
    fn bar(&self, bar: &Bar, y: i32, colour: &RGBColor) -> Result<()> {
        let middle = y + BAR / 2;
        self.text(&bar.label, (self.left - 10, middle), &text(LABEL), LEFT)?;
        if !bar.value.is_finite() {
            return Ok(());
        }
        let mut end = self.x(bar.value);
        let body = Rectangle::new([(self.left, y + 4), (end, y + BAR - 4)], colour.filled());
        self.canvas.draw(&body).map_err(problem)?;
        if bar.error.is_finite() && bar.error > 0.0 {
            end = self.x(bar.value + bar.error);
            self.line((self.x(bar.value - bar.error), middle), (end, middle), AXIS.stroke_width(2))?;
        }
        self.text(&format!("{:.1}", bar.value), (end + 8, middle), &text(LABEL), RIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::canvas::tests::pixels;

    fn chart(groups: &[&[f64]]) -> BarChart {
        let bar = |&value: &f64| Bar { label: "high school physics".into(), value, error: 1.0 };
        let group =
            |values: &&[f64]| BarGroup { label: "STEM".into(), bars: values.iter().map(bar).collect() };
        BarChart {
            title: "t".into(),
            x_label: "percent".into(),
            range: 0.0..100.0,
            reference: Some(("chance".into(), 25.0)),
            groups: groups.iter().map(group).collect(),
        }
    }

    /// Pixels of every colour of groups.
    fn areas(groups: &[&[f64]]) -> Vec<usize> {
        let chart = chart(groups);
        let drawn = pixels(chart.height(), |canvas| chart.draw(canvas));
        let area = |colour: &RGBColor| drawn.iter().filter(|p| **p == [colour.0, colour.1, colour.2]).count();
        COLOURS.iter().map(area).collect()
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let found = areas(&[&[50.0, 50.0], &[100.0], &[10.0]]);
        let ratio = |a: usize, b: usize| found[a] as f64 / found[b] as f64;
        assert!((ratio(0, 1) - 1.0).abs() < 0.05, "{found:?}");
        assert!((ratio(1, 2) - 10.0).abs() < 1.0, "{found:?}");
        assert!(found[3] == 0, "{found:?}");
    }

    #[test]
    fn a_chart_is_as_high_as_it_needs() {
        let few = chart(&[&[1.0; 3]]).height();
        assert_eq!(chart(&[&[1.0; 60]]).height() - few, 57 * BAR as u32);
    }

    #[test]
    fn any_values_can_be_drawn() {
        for values in [&[][..], &[f64::NAN], &[f64::INFINITY], &[-5.0, 200.0], &[0.0; 70]] {
            areas(&[values]);
        }
        areas(&[]);
    }
}
