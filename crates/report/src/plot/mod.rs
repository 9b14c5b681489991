//! Plots: curves, confusion matrices, sheets of images; as SVG, PNG, and in a terminal.

mod confusion;
mod legend;
mod lines;
mod pictures;

use std::sync::Arc;

use kuva::{Theme, TickFormat, backend::svg::SvgBackend, render::render::Scene};

pub use self::legend::swatch;
use crate::ReportError;

/// Something that can be drawn.
pub trait Plot {
    /// A standalone SVG: dark ink on white, so that it reads anywhere and in print.
    fn svg(&self) -> String;

    /// An SVG for a page of its own colours: nothing behind it, axes and text in the page's `currentColor`, the grid in
    /// its `--grid`, as wide as the page lets it be.
    fn inline_svg(&self) -> String;

    /// The same as [`svg`](Self::svg) as a PNG, 960 pixels wide.
    ///
    /// # Errors
    /// When it cannot be drawn.
    fn png(&self) -> Result<Vec<u8>, ReportError>;
}

/// Curves over a common axis.
#[derive(Clone, Debug)]
pub struct LineChart {
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The curves, in the order of the legend.
    pub series: Vec<Series>,
}

/// An axis with its scale.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    /// Quantity and unit, such as `test loss (nats)`.
    pub label: String,
    /// Whether it is logarithmic; points that are not above zero are then left out.
    pub logarithmic: bool,
    /// Its ends where the data should not decide them: what lies outside is cut off.
    pub range: Option<(f64, f64)>,
}

/// A curve. Points are joined by straight lines; nothing is smoothed.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the legend calls it.
    pub label: String,
    /// Points that are not finite break the curve.
    pub points: Vec<Point>,
    /// Curves with the same one have the same colour: a measured one and its reference.
    pub color: usize,
    /// What it looks like.
    pub style: Style,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// On the horizontal axis.
    pub x: f64,
    /// On the vertical axis.
    pub y: f64,
    /// Half the height of the band around the curve here: a standard deviation.
    pub std: Option<f64>,
}

/// What a curve looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Measured here: a full line, with a band where it has deviations.
    Measured,
    /// From elsewhere, to compare with: a broken line.
    Reference,
    /// One of too many to tell apart: a thin grey line; all of them have one entry in the legend.
    Context,
    /// A vertical line at the first point's x: something that happened there.
    Mark,
}

/// Counts of images by target and predicted class.
#[derive(Clone, Debug)]
pub struct Confusion {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// `counts[target][predicted]`.
    pub counts: Vec<Vec<usize>>,
}

/// Images with a caption under each.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// How many stand beside one another.
    pub columns: usize,
    /// The images.
    pub pictures: Vec<Picture>,
}

/// An image, grey or in colour.
#[derive(Clone, Debug)]
pub struct Picture {
    /// What stands under it.
    pub caption: String,
    /// Pixels in a column and in a row.
    pub size: [usize; 2],
    /// How many channels it has: red, green and blue where it has three or more, else the first is shown as grey.
    pub channels: usize,
    /// Channel by channel, each row by row, `[channels, height, width]`; 0 is black.
    pub pixels: Vec<u8>,
}

/// Width of a sheet of images, in its own units.
const WIDTH: f64 = 720.0;
/// Pixels in a row of a PNG.
const PNG_WIDTH: f64 = 960.0;

/// Colours that read on white and on black, and for those who see fewer of them: Okabe and Ito's, a little darker where
/// theirs are pale (<https://jfly.uni-koeln.de/color/>).
const COLORS: [&str; 10] =
    ["#0072b2", "#d55e00", "#009e73", "#b0579a", "#a8820a", "#3a8fc4", "#7f7f7f", "#8c5a3c", "#7b61c9", "#5f9b2e"];

/// Which ink a plot is drawn in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ink {
    /// Dark on white.
    Paper,
    /// The colours of the page around it.
    Page,
    /// Those that a terminal has, dark or light.
    Terminal,
}

impl Ink {
    fn theme(self) -> Theme {
        let (background, text, grid) = match self {
            Self::Paper => ("white", "#1a1a1a", "#d9d9d9"),
            Self::Page => ("none", "currentColor", "var(--grid)"),
            Self::Terminal => ("none", "#8a8a8a", "#5a5a5a"),
        };
        Theme {
            background: background.into(),
            axis_color: text.into(),
            tick_color: text.into(),
            text_color: text.into(),
            grid_color: grid.into(),
            legend_bg: "none".into(),
            legend_border: grid.into(),
            ..Theme::light()
        }
    }
}

/// The scene as SVG: sized by what is around it, and with names of its own where several are on one page.
fn svg(scene: &Scene) -> String {
    let text = SvgBackend::new().render_scene(scene);
    let size = format!("width=\"{}\" height=\"{}\"", scene.width, scene.height);
    let view = format!("viewBox=\"0 0 {} {}\" width=\"100%\"", scene.width, scene.height);
    renamed(&text.replacen(&size, &view, 1))
}

/// The same with the scene's clip paths named by their content: kuva counts them, and a program that draws twice, or
/// in another order, would write other files.
fn renamed(svg: &str) -> String {
    let mut parts = svg.split("kuva-clip-");
    let mut text = parts.next().unwrap_or_default().to_owned();
    let rest: Vec<&str> = parts.collect();
    let without_number = |part: &str| part.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
    // FNV-1a, which is the same everywhere.
    let hash = rest
        .iter()
        .flat_map(|part| without_number(part).into_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let name = format!("{hash:016x}");
    for part in rest {
        text += "clip-";
        text += &name;
        text += &without_number(part);
    }
    text
}

fn png(plot: &str, scene: &Scene) -> Result<Vec<u8>, ReportError> {
    let failed = |message| ReportError::Plot { plot: plot.to_owned(), message };
    kuva::PngBackend::new().with_scale((PNG_WIDTH / scene.width) as f32).render_scene(scene).map_err(failed)
}

/// Kuva takes what stands between dollars for mathematics.
fn escaped(text: &str) -> String {
    text.replace('$', "\\$")
}

/// At most as wide a text is in DejaVu Sans, the widest of the fonts that plots ask for, in letters of this size.
fn text_width(text: &str, size: u32) -> f64 {
    let em = |letter: char| match letter {
        'i' | 'j' | 'l' | 'I' | 'f' | 't' | '.' | ',' | ':' | ' ' | '-' | '(' | ')' | '\'' | '|' => 0.42,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 1.0,
        'A'..='Z' | '+' | '=' | '<' | '>' | '±' | '_' => 0.84,
        letter if letter.is_ascii() => 0.66,
        _ => 1.0,
    };
    f64::from(size) * text.chars().map(em).sum::<f64>()
}

/// The ticks of a logarithmic axis, in as few letters as kuva leaves room for.
fn short_ticks() -> TickFormat {
    TickFormat::Custom(Arc::new(short))
}

/// A tick of a logarithmic axis, in as few letters as kuva leaves room for.
fn short(tick: f64) -> String {
    if (0.09..1e5).contains(&tick) { ((tick * 1e3).round() / 1e3).to_string() } else { format!("{tick:.0e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_of_a_logarithmic_axis_is_short() {
        assert_eq!([2e-3, 0.1, 0.5, 20.0, 1e6].map(short), ["2e-3", "0.1", "0.5", "20", "1e6"]);
    }
}
