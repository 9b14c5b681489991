//! A report on disk: a page, the same in Markdown, and its figures.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use kindling_record::replace_file;

use crate::{
    document::{Document, figures},
    error::ReportError,
    html::html,
    markdown::markdown_document,
};

/// Writes `report.html`, `report.md` and `figures/<name>.svg` and `.png` into `directory`.
///
/// Everything is drawn before the first file is replaced, and each file is replaced as a whole. Figures of the report
/// that was there before, as far as its `report.md` names them and the new one does not, are removed; nothing else is.
///
/// # Errors
/// When two figures have the same name, one cannot be drawn, or a file cannot be written.
pub fn write(document: &Document, directory: &Path) -> Result<(), ReportError> {
    let page = html(document)?;
    let text = markdown_document(document);
    let mut drawn = Vec::new();
    for (name, plot) in figures(document)? {
        drawn.push((format!("{name}.svg"), plot.svg().into_bytes()));
        drawn.push((format!("{name}.png"), plot.png()?));
    }
    let folder = directory.join("figures");
    fs::create_dir_all(&folder).map_err(failure(&folder))?;
    let before = fs::read_to_string(directory.join("report.md")).unwrap_or_default();
    for (name, content) in &drawn {
        replace_file(&folder.join(name), content)?;
    }
    replace_file(&directory.join("report.md"), text.as_bytes())?;
    replace_file(&directory.join("report.html"), page.as_bytes())?;
    let kept: BTreeSet<&str> = drawn.iter().map(|(name, _)| name.as_str()).collect();
    remove_stale(&folder, &before, &kept)
}

/// Removes the figures that the report `before` shows, but for those `kept`.
fn remove_stale(folder: &Path, before: &str, kept: &BTreeSet<&str>) -> Result<(), ReportError> {
    for entry in fs::read_dir(folder).map_err(failure(folder))? {
        let entry = entry.map_err(failure(folder))?;
        let path = entry.path();
        let (Some(name), Some(stem)) = (path.file_name().and_then(|n| n.to_str()), path.file_stem()) else { continue };
        let is_figure = path.extension().is_some_and(|ending| ending == "svg" || ending == "png");
        let was_shown = before.contains(&format!("](figures/{}.svg)", stem.to_string_lossy()));
        let is_file = entry.file_type().map_err(failure(&path))?.is_file();
        if is_figure && is_file && was_shown && !kept.contains(name) {
            fs::remove_file(&path).map_err(failure(&path))?;
        }
    }
    Ok(())
}

fn failure(path: &Path) -> impl FnOnce(io::Error) -> ReportError + use<> {
    let path: PathBuf = path.to_path_buf();
    move |source| ReportError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Axis, Block, Figure, LineChart, Point, Section, Series, Style};

    fn chart(name: &str) -> Block {
        let points = vec![Point { x: 1.0, y: 0.5, std: None }, Point { x: 2.0, y: 0.4, std: None }];
        let plot = LineChart {
            x: Axis { label: "epoch".to_owned(), ..Axis::default() },
            y: Axis { label: "loss (nats)".to_owned(), ..Axis::default() },
            series: vec![Series { label: "mlp".to_owned(), points, color: 0, style: Style::Measured }],
        };
        Block::Chart(Figure { name: name.to_owned(), caption: name.to_owned(), plot })
    }

    fn report(blocks: Vec<Block>) -> Document {
        let section = Section { name: "curves".to_owned(), title: "Curves".to_owned(), blocks };
        Document { title: "Runs".to_owned(), lead: Vec::new(), sections: vec![section] }
    }

    #[test]
    fn a_report_is_a_page_a_text_and_its_figures() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("reports/first");
        let inner = Block::Details("More".to_owned(), vec![chart("inner")]);
        write(&report(vec![chart("outer"), inner]), &directory).unwrap();
        for name in ["report.html", "report.md", "figures/outer.svg", "figures/inner.svg"] {
            assert!(!fs::read_to_string(directory.join(name)).unwrap().is_empty(), "{name}");
        }
        for name in ["figures/outer.png", "figures/inner.png"] {
            assert!(fs::read(directory.join(name)).unwrap().starts_with(b"\x89PNG"), "{name}");
        }
    }

    #[test]
    fn figures_of_an_older_report_go_and_everything_else_stays() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path();
        write(&report(vec![chart("old"), chart("both")]), directory).unwrap();
        for foreign in ["notes.txt", "figures/mine.png", "figures/old.txt"] {
            fs::write(directory.join(foreign), "mine").unwrap();
        }
        write(&report(vec![chart("both"), chart("new")]), directory).unwrap();
        let is_there = |name: &str| directory.join(name).exists();
        assert!(!is_there("figures/old.svg") && !is_there("figures/old.png"));
        for name in ["figures/both.svg", "figures/new.png", "notes.txt", "figures/mine.png", "figures/old.txt"] {
            assert!(is_there(name), "{name}");
        }
    }

    #[test]
    fn figures_whose_names_are_the_same_or_no_names_of_files_are_refused_before_anything_is_written() {
        let place = tempfile::tempdir().unwrap();
        for blocks in [vec![chart("a"), chart("a")], vec![chart("../a")], vec![chart("")]] {
            assert!(matches!(write(&report(blocks), place.path()), Err(ReportError::Plot { .. })));
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
