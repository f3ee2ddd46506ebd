//! Charts as SVG inside the page.
//!
//! They are drawn small, so that their letters can be read on a telephone, and in stand-in colours
//! that are then replaced by the page's own: in the dark a chart is as legible as in the light.

use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::figures::{fixed, whole};

const WIDTH: u32 = 360;
const HEIGHT: u32 = 208;
const INK: RGBColor = RGBColor(1, 1, 1);
const MUTED: RGBColor = RGBColor(1, 1, 2);
const RULE: RGBColor = RGBColor(1, 1, 3);
/// What is kept, trained on, measured.
pub(super) const FIRST: RGBColor = RGBColor(1, 1, 4);
/// What is dropped, held out.
pub(super) const SECOND: RGBColor = RGBColor(1, 1, 5);
/// Stand-ins as the backend writes them, and what the page calls them.
const COLOURS: [(&str, &str); 5] = [
    ("\"#010101\"", "\"currentColor\""),
    ("\"#010102\"", "\"var(--muted)\""),
    ("\"#010103\"", "\"var(--rule)\""),
    ("\"#010104\"", "\"var(--first)\""),
    ("\"#010105\"", "\"var(--second)\""),
];
const FONT: &str = "sans-serif";
/// What plotters does not divide out again when it writes a size into SVG.
const LABEL: f64 = 11.0 * 1.24;
/// What stands beside a figure in a chart's width.
const LABEL_CHARACTERS: usize = 40;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// A row of a chart of intervals. Of its label as much is shown as there is room for.
pub(super) struct Interval {
    pub(super) label: String,
    pub(super) value: f64,
    /// Half of its 95 % interval.
    pub(super) margin: Option<f64>,
    /// The figure in words.
    pub(super) text: String,
}

/// A polyline with its colour; `dots` marks every point.
pub(super) struct Line {
    pub(super) points: Vec<(f64, f64)>,
    pub(super) colour: RGBColor,
    pub(super) dots: bool,
}

/// Bars beside one another: a range on the x axis, and a height for each colour.
pub(super) struct Bar {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) heights: Vec<(u64, RGBColor)>,
}

/// Draws, and makes what was drawn a part of the page. `label` is what a screen reader says.
fn svg(label: &str, height: u32, draw: impl for<'a> FnOnce(&Area<'a>) -> Drawn<'a>) -> String {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw(&area)
            .and_then(|()| area.present())
            .expect("a chart that is written into a string meets no error of input or output");
    }
    for (stand_in, colour) in COLOURS {
        text = text.replace(stand_in, colour);
    }
    let text = text.replace(" font-family=\"sans-serif\"", "");
    let body = text.split_once(">\n").map_or("", |(_, body)| body);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n{body}",
        escaped(label)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

/// A range with room for what is drawn; plotters cannot bear an empty one.
fn padded(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return None;
    }
    let room = ((high - low) * 0.06)
        .max(high.abs().max(low.abs()) * 1e-3)
        .max(1e-6);
    Some((low - room, high + room))
}

/// Numbers of an axis with no more places than tell them apart.
fn axis_number(number: f64, range: f64) -> String {
    let places = (1.0 - range.log10()).ceil().clamp(0.0, 6.0) as usize;
    fixed(number, places)
}

fn small(colour: RGBColor) -> TextStyle<'static> {
    (FONT, LABEL).into_font().color(&colour)
}

/// Only whole numbers are written on an axis of counts.
fn axis_count(number: f64) -> String {
    match number.fract().abs() < 1e-9 && number >= 0.0 {
        true => whole(number as u64),
        false => String::new(),
    }
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// One axis: its range, and how its numbers are written.
struct Axis<'a> {
    range: (f64, f64),
    /// `None` leaves the axis out.
    number: Option<&'a dyn Fn(f64) -> String>,
}

impl Axis<'_> {
    fn number(&self, value: f64) -> String {
        self.number.map_or_else(String::new, |number| number(value))
    }
}

/// Draws on axes, of which the lower is described by `what`.
fn on_axes<'b>(
    area: &Area<'b>,
    x: &Axis<'_>,
    y: &Axis<'_>,
    what: &str,
    draw: impl FnOnce(&mut Chart<'_, 'b>) -> Drawn<'b>,
) -> Drawn<'b> {
    let mut chart = ChartBuilder::on(area)
        .margin(4)
        .margin_right(10)
        .x_label_area_size(40)
        .y_label_area_size(if y.number.is_some() { 40 } else { 0 })
        .build_cartesian_2d(x.range.0..x.range.1, y.range.0..y.range.1)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh()
        .bold_line_style(RULE)
        .light_line_style(TRANSPARENT)
        .axis_style(RULE)
        .label_style(small(MUTED))
        .x_labels(6)
        .y_labels(5)
        .x_desc(what);
    if y.number.is_none() {
        mesh.disable_y_mesh().disable_y_axis();
    }
    mesh.x_label_formatter(&|value: &f64| x.number(*value))
        .y_label_formatter(&|value: &f64| y.number(*value))
        .draw()?;
    draw(&mut chart)
}

/// Lines over steps; `None` where there is no point.
pub(super) fn lines(label: &str, lines: &[Line], what: &str) -> Option<String> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (_, last) = padded(points().map(|point| point.0))?;
    let y = padded(points().map(|point| point.1))?;
    let draw = |area: &Area<'_>| {
        let series = |chart: &mut Chart<'_, '_>| {
            for line in lines {
                let shown = || {
                    let finite = line.points.iter().filter(|point| point.1.is_finite());
                    finite.copied()
                };
                chart.draw_series(LineSeries::new(shown(), line.colour.stroke_width(2)))?;
                if line.dots {
                    let dots = shown().map(|point| Circle::new(point, 3, line.colour.filled()));
                    chart.draw_series(dots)?;
                }
            }
            Ok(())
        };
        let number = |value| axis_number(value, y.1 - y.0);
        let x = Axis {
            range: (0.0, last),
            number: Some(&axis_count),
        };
        let y = Axis {
            range: y,
            number: Some(&number),
        };
        on_axes(area, &x, &y, what, series)
    };
    Some(svg(label, HEIGHT, draw))
}

/// Bars that count; `None` where there is none.
pub(super) fn bars(label: &str, bars: &[Bar], what: &str) -> Option<String> {
    let (first, last) = (bars.first()?, bars.last()?);
    let heights = bars.iter().flat_map(|bar| &bar.heights);
    let most = heights.map(|(height, _)| *height).max()?.max(1) as f64;
    let x = (first.from, last.to);
    let draw = |area: &Area<'_>| {
        let series = |chart: &mut Chart<'_, '_>| {
            for bar in bars {
                let gap = 0.08 * (bar.to - bar.from);
                let width = (bar.to - bar.from - 2.0 * gap) / bar.heights.len().max(1) as f64;
                let mut left = bar.from + gap;
                for (height, colour) in &bar.heights {
                    if *height > 0 {
                        let corners = [(left, 0.0), (left + width, *height as f64)];
                        chart.draw_series([Rectangle::new(corners, colour.filled())])?;
                    }
                    left += width;
                }
            }
            Ok(())
        };
        let number = |value| axis_number(value, x.1 - x.0);
        let x = Axis {
            range: x,
            number: Some(&number),
        };
        let y = Axis {
            range: (0.0, most * 1.06),
            number: Some(&axis_count),
        };
        on_axes(area, &x, &y, what, series)
    };
    Some(svg(label, HEIGHT, draw))
}

/// Estimates with their 95 % intervals, one under the other, against a line at `reference`.
pub(super) fn intervals(
    label: &str,
    rows: &[Interval],
    reference: Option<f64>,
    what: &str,
) -> Option<String> {
    const ROW: u32 = 40;
    let ends = rows.iter().flat_map(|row| {
        let margin = row.margin.unwrap_or(0.0);
        [row.value - margin, row.value + margin]
    });
    let x = padded(ends.chain(reference))?;
    let count = rows.len() as f64;
    let draw = |area: &Area<'_>| {
        let series = |chart: &mut Chart<'_, '_>| {
            let from = |h, v| Pos::new(h, v);
            for (n, row) in rows.iter().enumerate() {
                let top = count - n as f64;
                let y = top - 0.7;
                let left = small(INK).pos(from(HPos::Left, VPos::Center));
                let right = small(INK).pos(from(HPos::Right, VPos::Center));
                let label: String = row.label.chars().take(LABEL_CHARACTERS).collect();
                let texts = [((x.0, label), left), ((x.1, row.text.clone()), right)];
                for ((at, text), style) in texts {
                    let text = Text::new(text, (at, top - 0.3), style);
                    chart.draw_series([text])?;
                }
                if let Some(reference) = reference {
                    // Broken, so that it crosses no text.
                    let line = vec![(reference, y - 0.28), (reference, y + 0.22)];
                    chart.draw_series([PathElement::new(line, MUTED.stroke_width(1))])?;
                }
                if !row.value.is_finite() {
                    continue;
                }
                if let Some(margin) = row.margin {
                    let (low, high) = (row.value - margin, row.value + margin);
                    let bar = vec![(low, y), (high, y)];
                    let cap = |at: f64| vec![(at, y - 0.09), (at, y + 0.09)];
                    for path in [bar, cap(low), cap(high)] {
                        chart.draw_series([PathElement::new(path, FIRST.stroke_width(2))])?;
                    }
                }
                chart.draw_series([Circle::new((row.value, y), 4, FIRST.filled())])?;
            }
            Ok(())
        };
        let number = |value| axis_number(value, x.1 - x.0);
        let x = Axis {
            range: x,
            number: Some(&number),
        };
        let y = Axis {
            range: (0.0, count),
            number: None,
        };
        on_axes(area, &x, &y, what, series)
    };
    Some(svg(label, ROW * rows.len() as u32 + 48, draw))
}

/// Counts of whole numbers, put together in some 20 bars of one round width. The last bar takes
/// everything beyond the first 98 % as well, and is told by the second value: where it begins, if
/// it takes more than its own width.
pub(super) fn counted(counts: &[(u64, u64)], colour: RGBColor) -> (Vec<Bar>, Option<u64>) {
    let all: u64 = counts.iter().map(|(_, times)| times).sum();
    let mut seen = 0;
    let most = counts.iter().find(|(_, times)| {
        seen += times;
        seen as f64 >= 0.98 * all as f64
    });
    let most = most.map_or(0, |(value, _)| *value);
    let widths = (0..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    let width = widths
        .take(40)
        .find(|width| most / width < 24)
        .unwrap_or(u64::MAX);
    let last = most / width;
    let mut bars: Vec<Bar> = (0..=last)
        .map(|n| Bar {
            from: (n * width) as f64,
            to: ((n + 1) * width) as f64,
            heights: vec![(0, colour)],
        })
        .collect();
    let mut beyond = None;
    for (value, times) in counts {
        let at = (value / width).min(last);
        bars[at as usize].heights[0].0 += times;
        if value / width > last {
            beyond = Some(last * width);
        }
    }
    (bars, beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(value: f64, margin: Option<f64>) -> Interval {
        Interval {
            label: "<b>&\"".into(),
            value,
            margin,
            text: String::new(),
        }
    }

    #[test]
    fn odd_numbers_draw_nothing_wrong() {
        for value in [0.0, -1e300, 1e-300, 5.0, f64::NAN, f64::INFINITY] {
            for margin in [None, Some(0.0), Some(f64::INFINITY)] {
                if let Some(svg) = intervals("i", &[interval(value, margin)], None, "x") {
                    assert!(!svg.contains("NaN") && !svg.contains("<b>"), "{svg}");
                }
            }
            let line = Line {
                points: vec![(1.0, value), (2.0, 3.0)],
                colour: FIRST,
                dots: true,
            };
            lines("l", &[line], "x").unwrap();
        }
        assert_eq!(lines("l", &[], "x"), None);
        assert_eq!(bars("b", &[], "x"), None);
    }

    #[test]
    fn colours_are_the_pages_own() {
        let svg = intervals("i", &[interval(1.0, Some(0.5))], Some(0.0), "x").unwrap();
        assert!(svg.contains("var(--first)") && svg.contains("currentColor"));
        assert!(!svg.contains("\"#"), "{svg}");
    }

    #[test]
    fn a_long_tail_is_one_bar() {
        let mut counts: Vec<(u64, u64)> = (1..=60).map(|words| (words, 100)).collect();
        counts.push((4000, 2));
        let (bars, beyond) = counted(&counts, FIRST);
        assert_eq!(bars.len(), 12);
        assert_eq!(bars[0].heights[0].0, 400);
        assert_eq!(beyond, Some(55));
        let all: u64 = bars.iter().map(|bar| bar.heights[0].0).sum();
        assert_eq!(all, 6002);
        assert_eq!(counted(&[(7, 3)], FIRST).0.len(), 8);
    }
}
