//! What a report says, before it is HTML or Markdown.

use std::collections::BTreeSet;

use crate::{
    error::ReportError,
    plot::{Confusion, LineChart, Pictures, Plot},
};

/// Ends the best value of a column: a page and Markdown set such a cell in bold instead.
pub(crate) const BEST: &str = " *";

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

/// The figures of a report with their names, in their order, those in details included.
///
/// # Errors
/// When a name is not of lower-case letters, digits and hyphens, or occurs twice.
pub fn figures(document: &Document) -> Result<Vec<(&str, &dyn Plot)>, ReportError> {
    let mut found = Vec::new();
    collect(&document.lead, &mut found);
    for section in &document.sections {
        collect(&section.blocks, &mut found);
    }
    let mut names = BTreeSet::new();
    for (name, _) in &found {
        let refuse = |message: &str| ReportError::Plot { plot: (*name).to_owned(), message: message.to_owned() };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            return Err(refuse("expected a name of lower-case letters, digits and hyphens"));
        }
        if !names.insert(*name) {
            return Err(refuse("two figures of the report have this name"));
        }
    }
    Ok(found)
}

fn collect<'a>(blocks: &'a [Block], found: &mut Vec<(&'a str, &'a dyn Plot)>) {
    for block in blocks {
        match block {
            Block::Chart(figure) => found.push((&figure.name, &figure.plot)),
            Block::Confusion(figure) => found.push((&figure.name, &figure.plot)),
            Block::Pictures(figure) => found.push((&figure.name, &figure.plot)),
            Block::Details(_, inner) => collect(inner, found),
            Block::Heading(_) | Block::Paragraph(_) | Block::List(_) | Block::Code(_) | Block::Table(_) => {}
        }
    }
}

/// What a name made of `text` may hold: lower-case letters and digits, and a hyphen for everything between them.
pub(crate) fn file_name(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_made_of_letters_digits_and_hyphens() {
        assert_eq!(file_name("1.7 CNN, all of it!"), "1-7-cnn-all-of-it");
    }
}
