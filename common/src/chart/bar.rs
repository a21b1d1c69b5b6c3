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
        let label = text(18);
        let labels = self.groups.iter().flat_map(|group| &group.bars).map(|bar| &bar.label);
        let mut left = 0;
        for name in labels {
            left = left.max(canvas.estimate_text_size(name, &label).map_err(problem)?.0 as i32);
        }
        let left = (left + MARGIN + 12).min(WIDTH as i32 / 2);
        let right = WIDTH as i32 - MARGIN - NUMBER;
        let bottom = self.height() as i32 - BOTTOM;
        let extent = self.range.end - self.range.start;
        let x = |value: f64| {
            let share = ((value - self.range.start) / extent).clamp(0.0, 1.0);
            left + (share * f64::from(right - left)) as i32
        };
        let write = |words: String, at: (i32, i32), style: &TextStyle, h, v| {
            canvas.draw(&Text::new(words, at, style.pos(Pos::new(h, v)))).map_err(problem)
        };
        let line =
            |from, to, style: ShapeStyle| canvas.draw(&PathElement::new([from, to], style)).map_err(problem);
        write(self.title.clone(), (WIDTH as i32 / 2, MARGIN), &text(30), HPos::Center, VPos::Top)?;
        write(self.x_label.clone(), ((left + right) / 2, bottom + 34), &text(20), HPos::Center, VPos::Top)?;
        for tick in 0..=10 {
            let value = self.range.start + extent * f64::from(tick) / 10.0;
            line((x(value), TOP - 8), (x(value), bottom), GRID.into())?;
            write(format!("{value:.0}"), (x(value), bottom + 8), &label, HPos::Center, VPos::Top)?;
        }
        let mut y = TOP;
        for (group, colour) in self.groups.iter().zip(COLOURS.iter().cycle()) {
            write(
                group.label.clone(),
                (MARGIN, y + GROUP - 10),
                &text(22).color(colour),
                HPos::Left,
                VPos::Bottom,
            )?;
            y += GROUP;
            for bar in &group.bars {
                let middle = y + BAR / 2;
                write(bar.label.clone(), (left - 10, middle), &label, HPos::Right, VPos::Center)?;
                if bar.value.is_finite() {
                    let end = x(bar.value);
                    let body = Rectangle::new([(left, y + 4), (end, y + BAR - 4)], colour.filled());
                    canvas.draw(&body).map_err(problem)?;
                    let mut label_start = end;
                    if bar.error.is_finite() && bar.error > 0.0 {
                        label_start = x(bar.value + bar.error);
                        line(
                            (x(bar.value - bar.error), middle),
                            (label_start, middle),
                            AXIS.stroke_width(2),
                        )?;
                    }
                    write(
                        format!("{:.1}", bar.value),
                        (label_start + 8, middle),
                        &label,
                        HPos::Left,
                        VPos::Center,
                    )?;
                }
                y += BAR;
            }
        }
        if let Some((name, value)) = &self.reference {
            line((x(*value), TOP - 8), (x(*value), bottom), AXIS.stroke_width(2))?;
            write(name.clone(), (x(*value), TOP - 12), &label, HPos::Center, VPos::Bottom)?;
        }
        line((left, TOP - 8), (left, bottom), AXIS.into())
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
