//! The legend below a chart: in columns as wide as its labels need, so that none is cut.

use kuva::render::{
    color::Color,
    render::{Primitive, Scene, TextAnchor},
};

use super::{
    Series, Style, escaped,
    lines::{color, dash},
    text_width,
};

/// Size of its letters.
const LETTERS: u32 = 12;
/// From one line to the next.
const LINE: f64 = 19.0;
/// Length of the line that shows a curve's colour and dashes.
const SAMPLE: f64 = 24.0;
/// Between that line and its label.
const GAP: f64 = 6.0;
/// Between two columns.
const BETWEEN: f64 = 18.0;
/// Below its last line.
const BELOW: f64 = 8.0;
/// On the left and on the right.
const MARGIN: f64 = 12.0;

/// A line of the legend.
pub(super) struct Entry<'a> {
    pub(super) label: String,
    pub(super) color: &'a str,
    pub(super) dashes: &'a str,
    pub(super) width: f64,
}

/// An entry with its place in the legend.
struct Placed<'a> {
    entry: Entry<'a>,
    lines: Vec<String>,
    x: f64,
    y: f64,
}

/// The entries with their places in a plot of some width.
pub(super) struct Legend<'a> {
    placed: Vec<Placed<'a>>,
    height: f64,
}

impl<'a> Legend<'a> {
    /// Lays out `entries` below a plot that is `width` wide: in columns, or one after the other where that takes fewer
    /// rows. A label that is wider than the plot takes further lines.
    pub(super) fn new(entries: Vec<Entry<'a>>, width: f64) -> Self {
        let room = width - 2.0 * MARGIN;
        let wide = |entry: &Entry<'_>| (SAMPLE + GAP + text_width(&entry.label, LETTERS)).min(room);
        let widths: Vec<f64> = entries.iter().map(wide).collect();
        let widest = vec![widths.iter().copied().fold(0.0, f64::max); widths.len()];
        let [columns, flow] = [&widest, &widths].map(|widths| rows(widths, room));
        let count = |rows: &[usize]| rows.last().map_or(0, |row| row + 1);
        let (rows, widths) = if count(&flow) < count(&columns) { (flow, widths) } else { (columns, widest) };
        let mut placed: Vec<Placed<'a>> = Vec::new();
        let (mut x, mut y, mut bottom) = (MARGIN, LINE / 2.0, 0.0);
        for (index, (entry, width)) in entries.into_iter().zip(widths).enumerate() {
            if index > 0 && rows[index] > rows[index - 1] {
                (x, y) = (MARGIN, bottom + LINE / 2.0);
            }
            let lines = broken(&entry.label, room - SAMPLE - GAP);
            bottom = f64::max(bottom, y + (lines.len() as f64 - 0.5) * LINE);
            placed.push(Placed { entry, lines, x, y });
            x += BETWEEN + width;
        }
        let height = if placed.is_empty() { 0.0 } else { bottom + BELOW };
        Self { placed, height }
    }

    /// The height it needs.
    pub(super) fn height(&self) -> f64 {
        self.height
    }

    /// Adds it to `scene` from `top` on, in letters of the colour `ink`.
    pub(super) fn draw(&self, scene: &mut Scene, top: f64, ink: &str) {
        for Placed { entry, lines, x, y } in &self.placed {
            scene.add(Primitive::Line {
                x1: *x,
                y1: top + y,
                x2: x + SAMPLE,
                y2: top + y,
                stroke: Color::from(entry.color),
                stroke_width: entry.width,
                stroke_dasharray: Some(entry.dashes.to_owned()).filter(|dashes| !dashes.is_empty()),
            });
            for (index, line) in lines.iter().enumerate() {
                scene.add(Primitive::Text {
                    x: x + SAMPLE + GAP,
                    y: top + y + 4.0 + index as f64 * LINE,
                    content: escaped(line),
                    size: LETTERS,
                    anchor: TextAnchor::Start,
                    rotate: None,
                    bold: false,
                    color: Some(Color::from(ink)),
                });
            }
        }
    }
}

/// A short line in the colour and the dashes of the measured curves of this number, as SVG: what stands beside a name.
#[must_use]
pub fn swatch(number: usize) -> String {
    let series = Series { label: String::new(), points: Vec::new(), color: number, style: Style::Measured };
    format!(
        "<svg viewBox=\"0 0 24 8\" width=\"24\" height=\"8\" aria-hidden=\"true\"><line x1=\"0\" y1=\"4\" x2=\"24\" \
         y2=\"4\" stroke=\"{}\" stroke-width=\"3\" stroke-dasharray=\"{}\"/></svg>",
        color(&series),
        dash(&series)
    )
}

/// The row of each of entries that are so wide, as many to a row as have room.
fn rows(widths: &[f64], room: f64) -> Vec<usize> {
    let (mut row, mut end) = (0, 0.0);
    let place = |width: &f64| {
        if end > 0.0 && end + BETWEEN + width > room {
            (row, end) = (row + 1, *width);
        } else {
            end += width + if end > 0.0 { BETWEEN } else { 0.0 };
        }
        row
    };
    widths.iter().map(place).collect()
}

/// The text in lines of at most `room`, broken between words; a longer word has a line of its own.
fn broken(text: &str, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line} {word}"), LETTERS) <= room => line.extend([" ", word]),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: f64 = 480.0;

    fn legend(labels: &[&str]) -> Legend<'static> {
        let entry = |label: &&str| Entry { label: (*label).to_owned(), color: "#000000", dashes: "", width: 2.0 };
        Legend::new(labels.iter().map(entry).collect(), WIDTH)
    }

    /// The numbers of different places across and down.
    fn places(legend: &Legend<'_>) -> (usize, usize) {
        let distinct = |place: fn(&Placed<'_>) -> f64| {
            let mut places: Vec<f64> = legend.placed.iter().map(place).collect();
            places.sort_by(f64::total_cmp);
            places.dedup();
            places.len()
        };
        (distinct(|placed| placed.x), distinct(|placed| placed.y))
    }

    #[test]
    fn short_labels_share_rows_and_longer_ones_stand_in_columns() {
        assert_eq!(places(&legend(&["A", "B", "C", "D", "32 others"])), (5, 1));
        assert_eq!(places(&legend(&["A", "B", "C", "D", "E", "F", "G", "H", "32 others"])).1, 2);
        let rates = legend(&["learning rate 0.0001", "learning rate 0.001", "learning rate 0.01"]);
        assert_eq!(places(&rates), (2, 2));
        assert!(legend(&[]).height().abs() < f64::EPSILON);
    }

    #[test]
    fn a_label_that_is_wider_than_the_plot_goes_on_in_further_lines_and_none_leaves_the_plot() {
        let words = "1.2 learning rate 0.1, 1.5 base, 1.6 convergence of the first run of all, 1.7 network";
        let long = legend(&[words, "B"]);
        assert_eq!((long.placed[0].lines.join(" ").as_str(), long.placed[0].lines.len()), (words, 2));
        assert!((long.placed[1].y - long.placed[0].y - 2.0 * LINE).abs() < 1e-9);
        for labels in [&[words, "B"][..], &["A", "mlp", "learning rate 0.01"], &["WWWWWWWWWWWWWWWWWWWWWWWW"; 7]] {
            let legend = legend(labels);
            for Placed { lines, x, y, .. } in &legend.placed {
                let widest = lines.iter().map(|line| text_width(line, LETTERS)).fold(0.0, f64::max);
                assert!(x + SAMPLE + GAP + widest <= WIDTH - MARGIN, "{lines:?}");
                assert!(y + (lines.len() - 1) as f64 * LINE + 4.0 <= legend.height(), "{lines:?}");
            }
        }
    }
}
