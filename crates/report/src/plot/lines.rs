//! Curves, by kuva's line plots.

use kuva::{
    TerminalBackend, TickFormat,
    plot::{LinePlot, LineStyle, MarkerShape, ScatterPlot, annotations::ReferenceLine},
    render::{
        layout::Layout,
        plots::Plot as Kuva,
        render::{Scene, render_multiple},
    },
};

use super::{
    Axis, COLORS, Ink, LineChart, Plot, Point, Series, Style, escaped,
    legend::{Entry, Legend},
    png, short_ticks, svg,
};
use crate::{ReportError, metrics::number};

/// Width and height of the axes with their labels. Two or three stand side by side on a wide page, and the letters are
/// still large enough on a phone.
const SIZE: (f64, f64) = (480.0, 300.0);
/// The same for a terminal, where letters have a size of their own.
const TERMINAL_SIZE: (f64, f64) = (720.0, 350.0);
/// Up to so many points a curve shows each of them.
const MARKED: usize = 60;
/// More points than this are thinned: of each of half as many stretches of the axis the lowest and the highest stay.
const MOST: usize = 1200;
/// Dashes of the measured curves, so that they can be told apart without colour.
const DASHES: [&str; 4] = ["", "9 3", "9 3 2 3", "4 3"];
/// Dashes of references.
const REFERENCE: &str = "1.5 3";
/// Colour of curves that are too many to tell apart.
const CONTEXT: &str = "#9a9fa4";

impl Plot for LineChart {
    fn svg(&self) -> String {
        svg(&self.scene(Ink::Paper))
    }

    fn inline_svg(&self) -> String {
        svg(&self.scene(Ink::Page))
    }

    fn png(&self) -> Result<Vec<u8>, ReportError> {
        png(&self.y.label, &self.scene(Ink::Paper))
    }
}

impl LineChart {
    /// The curves in characters, `columns` wide and `rows` high with a line for each curve below; in grey unless
    /// `colored`. Bands are left out.
    #[must_use]
    pub fn terminal(&self, columns: u16, rows: u16, colored: bool) -> String {
        let scene = self.scene(Ink::Terminal);
        let drawn = TerminalBackend::new(usize::from(columns), usize::from(rows)).render_scene(&scene);
        let lines: Vec<&str> =
            drawn.lines().map(str::trim_end).filter(|line| !without_colors(line).trim().is_empty()).collect();
        let legend = self.legend().into_iter().map(|(series, label)| {
            let [red, green, blue] = rgb(color(series));
            let sign = match series.style {
                Style::Measured | Style::Context => "━━",
                Style::Reference => "┄┄",
                Style::Mark => "┃",
            };
            format!("  \u{1b}[38;2;{red};{green};{blue}m{sign}\u{1b}[0m {label}")
        });
        let legend: Vec<String> = legend.collect();
        let text = format!("{}\n{}\n{}", self.y.label, lines.join("\n"), legend.join("\n"));
        if colored { text } else { without_colors(&text) }
    }

    /// The curves that the legend shows with their labels, and one entry for all that are too many to tell apart.
    fn legend(&self) -> Vec<(&Series, String)> {
        let (context, own): (Vec<&Series>, Vec<&Series>) =
            self.series.iter().partition(|series| series.style == Style::Context);
        let mut legend: Vec<_> = own.into_iter().map(|series| (series, series.label.clone())).collect();
        legend.extend(context.first().map(|first| (*first, format!("{} others", context.len()))));
        legend
    }

    fn scene(&self, ink: Ink) -> Scene {
        let mut plots: Vec<Kuva> = Vec::new();
        // What stands out is drawn last, over the others.
        let context = self.series.iter().filter(|series| series.style == Style::Context);
        let own = self.series.iter().filter(|series| !matches!(series.style, Style::Context | Style::Mark));
        for series in context.chain(own) {
            for piece in pieces(series, &self.x, &self.y) {
                plots.extend(draw(series, &piece, &self.x, ink));
            }
        }
        let is_empty = plots.is_empty();
        if is_empty {
            // Kuva needs something to lay out.
            plots.push(ScatterPlot::new().with_data([(0.0, 0.0), (1.0, 1.0)]).with_size(0.0).with_color("none").into());
        }
        let (width, height) = if ink == Ink::Terminal { TERMINAL_SIZE } else { SIZE };
        let mut layout = Layout::auto_from_plots(&plots)
            .with_width(width)
            .with_height(height)
            .with_theme(ink.theme())
            .with_x_label(escaped(&self.x.label))
            .with_y_label(if ink == Ink::Terminal { String::new() } else { escaped(&self.y.label) })
            .with_label_size(13)
            .with_tick_size(12)
            .with_body_size(12);
        layout = self.ranges(layout);
        if self.x.label.starts_with("epoch") || self.x.label.contains("step") {
            layout = layout.with_x_tick_format(TickFormat::Integer).with_x_tick_step(self.whole_step());
        }
        for series in self.series.iter().filter(|series| series.style == Style::Mark) {
            if let Some(point) = series.points.first().filter(|point| point.x.is_finite()) {
                let line = ReferenceLine::vertical(point.x).with_color(color(series)).with_dasharray("2 2");
                layout = layout.with_reference_line(line);
            }
        }
        if is_empty {
            let note = kuva::plot::annotations::TextAnnotation::new("no data", 0.5, 0.5);
            layout = layout.with_annotation(note);
        }
        let mut scene = render_multiple(plots, layout);
        if ink != Ink::Terminal {
            let entry =
                |(series, label)| Entry { label, color: color(series), dashes: dash(series), width: width_of(series) };
            let legend = Legend::new(self.legend().into_iter().map(entry).collect(), scene.width);
            let top = scene.height;
            scene.height += legend.height();
            legend.draw(&mut scene, top, &ink.theme().text_color);
        }
        scene
    }

    /// The distance of ticks on an axis of whole numbers, of which there are at most ten.
    fn whole_step(&self) -> f64 {
        let points = self.series.iter().flat_map(|series| &series.points).map(|point| point.x);
        let last = points.filter(|x| x.is_finite()).fold(1.0, f64::max);
        let decade = 10_f64.powf((last / 10.0).log10().floor().max(0.0));
        [1.0, 2.0, 5.0, 10.0]
            .map(|step| step * decade)
            .into_iter()
            .find(|step| last / step <= 10.0)
            .unwrap_or(decade * 10.0)
    }

    /// Axes that no data can break: as long as anything, and as wide as asked for.
    fn ranges(&self, mut layout: Layout) -> Layout {
        let points = || {
            let series = self.series.iter().filter(|series| series.style != Style::Mark);
            series.flat_map(|series| series.points.iter().filter(|point| is_drawable(point, &self.x, &self.y)))
        };
        if self.x.logarithmic {
            layout = layout.with_log_x().with_x_tick_format(short_ticks());
        }
        if self.y.logarithmic {
            layout = layout.with_log_y().with_y_tick_format(short_ticks());
        }
        let ends = |axis: &Axis, figures: &mut dyn Iterator<Item = f64>| {
            if let Some(range) = axis.range {
                return Some(range);
            }
            let (low, high) =
                figures.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
            // A single value has no extent to draw on.
            (low <= high && high - low <= 1e-9 * high.abs().max(low.abs())).then(|| {
                let margin = if high == 0.0 { 1.0 } else { 0.5 * high.abs() };
                (high - margin, high + margin)
            })
        };
        if let Some((low, high)) = ends(&self.x, &mut points().map(|point| point.x)) {
            layout = layout.with_x_axis_min(low).with_x_axis_max(high);
        }
        if let Some((low, high)) = ends(&self.y, &mut points().map(|point| point.y)) {
            layout = layout.with_y_axis_min(low).with_y_axis_max(high);
        }
        layout
    }
}

fn is_drawable(point: &Point, x: &Axis, y: &Axis) -> bool {
    // Beyond this kuva's own sums overflow.
    let fits =
        |value: f64, axis: &Axis| value.is_finite() && value.abs() < 1e100 && !(axis.logarithmic && value <= 1e-100);
    let inside = |value: f64, axis: &Axis| axis.range.is_none_or(|(low, high)| (low..=high).contains(&value));
    fits(point.x, x) && fits(point.y, y) && inside(point.x, x) && inside(point.y, y)
}

/// The stretches of a curve without a gap, thinned where there are more points than anyone can see.
fn pieces(series: &Series, x: &Axis, y: &Axis) -> Vec<Vec<Point>> {
    let pieces = series.points.split(|point| !is_drawable(point, x, y)).filter(|piece| !piece.is_empty());
    pieces.map(thinned).collect()
}

/// The lowest and the highest point of every stretch: extremes stay, and nothing is averaged.
fn thinned(points: &[Point]) -> Vec<Point> {
    if points.len() <= MOST {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MOST / 2);
    let mut kept = Vec::with_capacity(MOST);
    for stretch in points.chunks(stretch) {
        let by_height = |a: &&Point, b: &&Point| a.y.total_cmp(&b.y);
        let (Some(low), Some(high)) = (stretch.iter().min_by(by_height), stretch.iter().max_by(by_height)) else {
            continue;
        };
        let (first, second) = if low.x <= high.x { (low, high) } else { (high, low) };
        kept.push(*first);
        if second != first {
            kept.push(*second);
        }
    }
    kept
}

fn draw(series: &Series, points: &[Point], x: &Axis, ink: Ink) -> Vec<Kuva> {
    let data: Vec<(f64, f64)> = points.iter().map(|point| (point.x, point.y)).collect();
    let is_reference = series.style == Style::Reference;
    let mut line = LinePlot::new()
        .with_data(data.clone())
        .with_color(color(series))
        .with_stroke_width(width_of(series))
        .with_line_style(LineStyle::Custom(dash(series).to_owned()));
    let is_context = series.style == Style::Context;
    let has_std = points.iter().any(|point| point.std.is_some());
    let has_band = has_std && points.len() > 1 && ink != Ink::Terminal && !is_context;
    if has_band {
        let end = |sign: f64| points.iter().map(move |point| point.y + sign * point.std.unwrap_or(0.0));
        line = line.with_band(end(-1.0), end(1.0));
    }
    if dash(series).is_empty() {
        line = line.with_line_style(LineStyle::Solid);
    }
    let mut plots = vec![line.into()];
    if points.len() == 1 || (series.points.len() <= MARKED && ink != Ink::Terminal && !is_context) {
        let mut marks = ScatterPlot::new().with_data(data).with_color(color(series)).with_marker(marker(series));
        if ink == Ink::Page {
            // What a browser shows beside the pointer.
            marks = marks.with_tooltip_labels(points.iter().map(|point| readout(series, point, x)));
        }
        plots.push(marks.with_size(if is_reference { 2.5 } else { 3.0 }).into());
    }
    plots
}

/// A point in numbers: `train: epoch 3, 0.4523 ± 0.0012`.
fn readout(series: &Series, point: &Point, x: &Axis) -> String {
    let std = point.std.map_or_else(String::new, |std| format!(" ± {}", number(std)));
    format!("{}: {} {}, {}{std}", series.label, x.label, point.x, number(point.y))
}

pub(super) fn color(series: &Series) -> &'static str {
    if series.style == Style::Context { CONTEXT } else { COLORS[series.color % COLORS.len()] }
}

fn width_of(series: &Series) -> f64 {
    match series.style {
        Style::Reference => 1.4,
        Style::Context => 0.8,
        Style::Measured | Style::Mark => 2.0,
    }
}

pub(super) fn dash(series: &Series) -> &'static str {
    match series.style {
        // Colours that come again have other dashes.
        Style::Measured => DASHES[(series.color + series.color / COLORS.len()) % DASHES.len()],
        Style::Reference => REFERENCE,
        Style::Context => "",
        Style::Mark => "2 2",
    }
}

fn marker(series: &Series) -> MarkerShape {
    match series.color % 4 {
        0 => MarkerShape::Circle,
        1 => MarkerShape::Square,
        2 => MarkerShape::Triangle,
        _ => MarkerShape::Diamond,
    }
}

fn rgb(color: &str) -> [u8; 3] {
    let part = |at: usize| u8::from_str_radix(color.get(at..at + 2).unwrap_or("80"), 16).unwrap_or(128);
    [part(1), part(3), part(5)]
}

/// The text without the sequences that colour it.
fn without_colors(text: &str) -> String {
    let mut plain = String::new();
    for (index, part) in text.split("\u{1b}[").enumerate() {
        plain.push_str(if index == 0 { part } else { part.split_once('m').map_or("", |(_, rest)| rest) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point(x: f64, y: f64) -> Point {
        Point { x, y, std: Some(0.1) }
    }

    fn chart(points: Vec<Point>) -> LineChart {
        let series = Series { label: "a < b & $c".to_owned(), points, color: 0, style: Style::Measured };
        LineChart {
            x: Axis { label: "epoch".to_owned(), ..Axis::default() },
            y: Axis { label: "test loss (nats)".to_owned(), ..Axis::default() },
            series: vec![series],
        }
    }

    #[test]
    fn a_chart_has_its_labels_and_units_and_escapes_them() {
        let drawn = chart(vec![point(1.0, 0.5), point(2.0, 0.4)]).svg();
        for wanted in [">epoch<", "test loss (nats)", "a &lt; b &amp; $c", "viewBox", "white"] {
            assert!(drawn.contains(wanted), "{wanted}: {drawn}");
        }
        let inline = chart(vec![point(1.0, 0.5), point(2.0, 0.4)]).inline_svg();
        assert!(inline.contains("currentColor") && inline.contains("var(--grid)") && !inline.contains("white"));
        // A page has its points in numbers as well.
        assert!(inline.contains("<title>a &lt; b &amp; $c: epoch 2, 0.4000 ± 0.1000</title>"), "{inline}");
        assert!(!drawn.contains("<title>"));
    }

    #[test]
    fn ticks_of_a_logarithmic_axis_are_short() {
        let mut chart = chart(vec![point(1.0, 0.0013), point(2.0, 0.0019)]);
        chart.y.logarithmic = true;
        let drawn = chart.svg();
        let ticks: Vec<_> = drawn.split("</text>").filter_map(|text| text.rsplit('>').next()).collect();
        assert!(ticks.contains(&"1e-3") && !drawn.contains(">0.00"), "{ticks:?}");
    }

    #[test]
    fn what_is_not_finite_breaks_the_curve() {
        let x = Axis::default();
        let found = |points: Vec<Point>| pieces(&chart(points).series[0], &x, &x).len();
        assert_eq!(found(vec![point(1.0, 1.0), point(2.0, f64::NAN), point(3.0, 1.0)]), 2);
        assert_eq!(found(vec![point(1.0, f64::INFINITY), point(2.0, 1.0), point(3.0, 1.0)]), 1);
        assert_eq!(found(vec![point(1.0, f64::NAN)]), 0);
    }

    #[test]
    fn thinning_keeps_the_extremes() {
        let mut points: Vec<Point> = (0..10_000).map(|x| point(f64::from(x), (f64::from(x) * 0.1).sin())).collect();
        points[5_003].y = 9.0;
        points[7_001].y = -9.0;
        let kept = thinned(&points);
        assert!(kept.len() <= MOST && kept.contains(&points[5_003]) && kept.contains(&points[7_001]));
        assert!(kept.windows(2).all(|pair| pair[0].x <= pair[1].x));
        assert!(chart(points).svg().len() < 400_000);
    }

    #[test]
    fn charts_on_one_page_share_no_name_and_drawing_twice_gives_the_same_file() {
        let first = chart(vec![point(1.0, 0.5), point(2.0, 0.4)]);
        let second = chart(vec![point(1.0, 0.5), point(2.0, 0.3)]);
        let name = |drawn: &str| drawn.split("id=\"").nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned);
        assert!(name(&first.inline_svg()).is_some());
        assert_ne!(name(&first.inline_svg()), name(&second.inline_svg()));
        assert_eq!(first.svg(), first.svg());
    }

    #[test]
    fn a_terminal_gets_every_curve_named_and_no_colour_unless_asked() {
        let plain = chart(vec![point(1.0, 0.5), point(2.0, 0.4)]).terminal(80, 20, false);
        assert!(plain.contains("━━ a < b & $c") && !plain.contains('\u{1b}'), "{plain}");
        assert!(plain.lines().all(|line| line.chars().count() <= 80));
        assert!(chart(vec![point(1.0, 0.5)]).terminal(160, 20, true).contains('\u{1b}'));
    }

    #[test]
    fn a_png_is_one_of_its_width() {
        let png = chart(vec![point(1.0, 0.5), point(2.0, 0.4)]).png().unwrap();
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
        assert_eq!(u32::from_be_bytes(png[16..20].try_into().unwrap()), 960);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_points_are_too_odd_to_draw(
            points in prop::collection::vec((any::<f64>(), any::<f64>(), prop::option::of(any::<f64>())), 0..20),
            scale in prop::sample::select(vec![(false, false), (true, false), (false, true)]),
        ) {
            let points = points.into_iter().map(|(x, y, std)| Point { x, y, std }).collect();
            let mut chart = chart(points);
            (chart.x.logarithmic, chart.y.logarithmic) = scale;
            prop_assert!(chart.svg().ends_with("</svg>") || chart.svg().ends_with("</svg>\n"));
        }

        #[test]
        fn a_single_value_has_room(value in prop::sample::select(vec![0.0, 1.0, -3.0, 1e-12, 1e12]), n in 1_usize..4) {
            let points: Vec<Point> = (0..n).map(|_| point(value, value)).collect();
            prop_assert!(chart(points).svg().contains("</svg>"));
        }
    }
}
