//! Confusion matrices.

use kuva::render::{
    color::Color,
    render::{Primitive, Scene, TextAnchor},
};

use super::{Confusion, Ink, Plot, escaped, png, svg, text_width};
use crate::ReportError;

/// Side of all cells together, where they need no more.
const SIDE: f64 = 440.0;
/// Cells are at least so large where they hold numbers.
const CELL: f64 = 30.0;
/// The cells of more classes hold no numbers, and their axes no names: nobody could read them.
const NAMED: usize = 40;
/// Size of the letters of names.
const NAMES: u32 = 12;
/// Room for the name of an axis.
const AXIS: f64 = 32.0;
/// Cosine and sine of the 35 degrees by which the names of columns rise.
const RISE: (f64, f64) = (0.819, 0.574);
/// Ink within the cells, which are light on every page.
const CELL_INK: &str = "#1a1a1a";

impl Plot for Confusion {
    fn svg(&self) -> String {
        svg(&self.scene(Ink::Paper))
    }

    fn inline_svg(&self) -> String {
        svg(&self.scene(Ink::Page))
    }

    fn png(&self) -> Result<Vec<u8>, ReportError> {
        png("confusion matrix", &self.scene(Ink::Paper))
    }
}

impl Confusion {
    fn scene(&self, ink: Ink) -> Scene {
        let theme = ink.theme();
        let classes = self.classes.len().max(1);
        let is_named = classes <= NAMED;
        let names: &[String] = if is_named { &self.classes } else { &[] };
        let cell = if is_named { (SIDE / classes as f64).max(CELL) } else { 2.0 * SIDE / classes as f64 };
        let side = cell * classes as f64;
        let widths: Vec<f64> = names.iter().map(|name| text_width(name, NAMES)).collect();
        let widest = widths.iter().copied().fold(0.0, f64::max);
        // As much room as the names need, none of which is cut.
        let (left, top) = (AXIS + widest + 8.0, AXIS + widest * RISE.1 + 12.0);
        let ends = widths.iter().enumerate().map(|(index, width)| (index as f64 + 0.5) * cell + width * RISE.0);
        let right = ends.fold(side, f64::max);
        let mut scene = Scene::new((left + right + 12.0).ceil(), (top + side + 12.0).ceil());
        scene.background_color = Some(theme.background.clone());
        scene.text_color = Some(theme.text_color.clone());
        scene.font_family = Some("DejaVu Sans, Verdana, Arial, sans-serif".to_owned());
        let mut write =
            |x: f64, y: f64, text: &str, size: u32, anchor: TextAnchor, rotate: Option<f64>, color: &str| {
                scene.add(Primitive::Text {
                    x,
                    y,
                    content: escaped(text),
                    size,
                    anchor,
                    rotate,
                    bold: false,
                    color: Some(Color::from(color)),
                });
            };
        let ink = theme.text_color.as_str();
        let order = if is_named { "" } else { ", in the order of the labels" };
        let [predicted, target] = ["predicted", "true"].map(|which| format!("{which} class{order}"));
        let axis = if is_named { 14 } else { 24 };
        write(left + side / 2.0, 4.0 + f64::from(axis), &predicted, axis, TextAnchor::Middle, None, ink);
        write(4.0 + f64::from(axis), top + side / 2.0, &target, axis, TextAnchor::Middle, Some(-90.0), ink);
        for (index, name) in names.iter().enumerate() {
            let middle = (index as f64 + 0.5) * cell;
            write(left + middle - 4.0, top - 8.0, name, NAMES, TextAnchor::Start, Some(-35.0), ink);
            write(left - 8.0, top + middle + 4.0, name, NAMES, TextAnchor::End, None, ink);
        }
        if !is_named {
            scene.add(square((left, top), side, shade(0.0, true), None));
        }
        for (target, counts) in self.counts.iter().enumerate() {
            let whole = counts.iter().sum::<usize>().max(1) as f64;
            // Of many classes most cells are empty.
            let is_drawn = |&(_, count): &(usize, &usize)| is_named || *count > 0;
            for (predicted, &count) in counts.iter().enumerate().filter(is_drawn) {
                let (x, y) = (left + predicted as f64 * cell, top + target as f64 * cell);
                let edge = is_named.then_some("#ffffff");
                scene.add(square((x, y), cell, shade(count as f64 / whole, target == predicted), edge));
                if !is_named {
                    continue;
                }
                scene.add(Primitive::Text {
                    x: x + cell / 2.0,
                    y: y + cell / 2.0 + 4.5,
                    content: count.to_string(),
                    size: if cell > 36.0 { 13 } else { 9 },
                    anchor: TextAnchor::Middle,
                    rotate: None,
                    bold: false,
                    color: Some(Color::from(CELL_INK)),
                });
            }
        }
        scene
    }
}

fn square((x, y): (f64, f64), side: f64, fill: String, edge: Option<&str>) -> Primitive {
    Primitive::Rect {
        x,
        y,
        width: side,
        height: side,
        fill: Color::from(fill),
        stroke: edge.map(Color::from),
        stroke_width: edge.map(|_| 1.0),
        opacity: None,
    }
}

/// The colour of a cell with a share of its row: from almost white to blue on the diagonal, to orange beside it. Mistakes
/// are few: the square root makes them visible.
fn shade(share: f64, is_correct: bool) -> String {
    let strength = share.clamp(0.0, 1.0).sqrt();
    let (from, to) = if is_correct {
        ([244.0, 247.0, 250.0], [120.0, 178.0, 222.0])
    } else {
        ([244.0, 247.0, 250.0], [240.0, 150.0, 90.0])
    };
    let part = |index: usize| -> f64 { from[index] + (to[index] - from[index]) * strength };
    format!("#{:02x}{:02x}{:02x}", part(0) as u8, part(1) as u8, part(2) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_and_both_axes_are_there() {
        let matrix = Confusion {
            classes: vec!["shirt".to_owned(), "a < b".to_owned()],
            counts: vec![vec![901, 99], vec![7, 993]],
        };
        let drawn = matrix.svg();
        for wanted in ["901", "99", ">7<", "993", "true class", "predicted class", "a &lt; b"] {
            assert!(drawn.contains(wanted), "{wanted}");
        }
        assert!(matrix.inline_svg().contains("currentColor"));
        assert!(matrix.png().unwrap().starts_with(b"\x89PNG"));
    }

    #[test]
    fn a_matrix_of_many_classes_has_a_cell_for_each_count_and_neither_numbers_nor_names() {
        let classes = (0..100).map(|label| format!("class-{label}")).collect();
        let counts = (0..100).map(|target| (0..100).map(|other| usize::from(other == target) * 7).collect()).collect();
        let drawn = Confusion { classes, counts }.svg();
        assert!(!drawn.contains("class-1") && !drawn.contains(">7<"), "{drawn}");
        assert!(drawn.contains("true class, in the order of the labels"));
        // The cells, what is behind them, and what is behind the sheet.
        assert_eq!(drawn.matches("<rect").count(), 102);
    }

    #[test]
    fn a_class_without_images_and_no_class_at_all_are_drawn() {
        let empty = Confusion { classes: vec!["a".to_owned()], counts: vec![vec![0]] };
        assert!(empty.svg().contains("</svg>"));
        assert!(Confusion { classes: Vec::new(), counts: Vec::new() }.svg().contains("</svg>"));
    }
}
