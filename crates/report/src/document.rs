//! What a report says, before it is HTML or Markdown.

use crate::plot::{Confusion, LineChart, Pictures};

/// A report.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// Its title.
    pub title: String,
    /// What stands before the first section.
    pub lead: Vec<Block>,
    /// The sections, in order.
    pub sections: Vec<Section>,
}

/// A part of a report with a heading.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// What links and file names call it: lower-case letters, digits and hyphens.
    pub name: String,
    /// Its heading.
    pub title: String,
    /// What it says.
    pub blocks: Vec<Block>,
}

/// A piece of a report. Text is plain but for code between backticks.
#[derive(Clone, Debug)]
pub enum Block {
    /// A heading within a section.
    Heading(String),
    /// Running text.
    Paragraph(String),
    /// Lines of equal rank.
    List(Vec<String>),
    /// Commands or files, as they are.
    Code(String),
    /// A table.
    Table(TableBlock),
    /// Curves.
    Chart(Figure<LineChart>),
    /// A confusion matrix.
    Confusion(Figure<Confusion>),
    /// Images with a line under each.
    Pictures(Figure<Pictures>),
    /// What only some want to see: shown when asked for.
    Details(String, Vec<Block>),
}

/// A table with a line that says what it shows.
#[derive(Clone, Debug, Default)]
pub struct TableBlock {
    /// What it shows, and how its numbers were obtained.
    pub caption: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// Columns of numbers, which are set to the right.
    pub right: Vec<usize>,
    /// The cells, row by row; one that ends in ` *` is the best of its column, and set in bold on a page.
    pub rows: Vec<Vec<String>>,
}

/// A picture with a line that says what it shows.
#[derive(Clone, Debug)]
pub struct Figure<P> {
    /// Its file's name without an ending: lower-case letters, digits and hyphens, unique in the document.
    pub name: String,
    /// What it shows, and how its numbers were obtained.
    pub caption: String,
    /// The picture.
    pub plot: P,
}
