//! A report as one page that needs nothing else: no scripts, no fonts, no network.

use std::collections::BTreeSet;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    document::{BEST, Block, Document, Figure, Section, TableBlock, figures},
    error::ReportError,
    plot::Plot,
};

/// The style of reports.
const STYLE: &str = include_str!("report.css");

/// The style of pages that one can use: that of reports, and what buttons, bars and tiles add.
pub const PAGE_STYLE: &str = concat!(include_str!("report.css"), include_str!("page.css"));

/// A module of JavaScript for such pages: a canvas to draw on.
pub const DRAWING: &str = include_str!("drawing.js");

/// The page may use its own styles and pictures, and load nothing, whatever a run's name or label holds.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// The report as one HTML file, with its figures in it, for screens in light and dark and for paper.
///
/// # Errors
/// When two sections or two figures have the same name: links could not tell them apart.
pub fn html(document: &Document) -> Result<String, ReportError> {
    figures(document)?;
    let mut names = BTreeSet::new();
    if let Some(section) = document.sections.iter().find(|section| !names.insert(&section.name)) {
        return Err(ReportError::Plot {
            plot: "the table of contents".to_owned(),
            message: format!("two sections of the report are called `{}`", section.name),
        });
    }
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (plain(&document.title)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { h1 { (inline(&document.title)) } }
                @if !document.sections.is_empty() { (contents(&document.sections)) }
                main {
                    (blocks(&document.lead))
                    @for one in &document.sections {
                        section id=(one.name) {
                            h2 { (inline(&one.title)) }
                            (blocks(&one.blocks))
                        }
                    }
                }
            }
        }
    };
    Ok(page.into_string())
}

/// The blocks as HTML for a page that has the report's styles: plots in the page's colours, and no scripts.
#[must_use]
pub fn fragment(blocks: &[Block]) -> String {
    self::blocks(blocks).into_string()
}

fn contents(sections: &[Section]) -> Markup {
    html! {
        nav aria-label="Contents" {
            ol {
                @for section in sections {
                    li { a href={ "#" (section.name) } { (inline(&section.title)) } }
                }
            }
        }
    }
}

/// The blocks one below the other, but charts and matrices that follow one another side by side.
fn blocks(blocks: &[Block]) -> Markup {
    html! {
        @for alike in blocks.chunk_by(are_beside) {
            @match alike {
                [one] => (block(one)),
                several => div class="grid" {
                    @for one in several { (block(one)) }
                },
            }
        }
    }
}

fn are_beside(first: &Block, second: &Block) -> bool {
    matches!((first, second), (Block::Chart(_), Block::Chart(_)) | (Block::Confusion(_), Block::Confusion(_)))
}

fn block(block: &Block) -> Markup {
    match block {
        Block::Heading(text) => html! { h3 { (inline(text)) } },
        Block::Paragraph(text) => html! { p { (inline(text)) } },
        Block::List(items) => html! {
            ul {
                @for item in items { li { (inline(item)) } }
            }
        },
        Block::Code(text) => html! { pre tabindex="0" { code { (text) } } },
        Block::Table(one) => table(one),
        Block::Chart(one) => figure(one, "chart", 44),
        Block::Confusion(one) => figure(one, "confusion", 44),
        Block::Pictures(one) => {
            let beside = one.plot.columns.min(one.plot.pictures.len()).max(1);
            figure(one, "pictures", beside * 8)
        }
        Block::Details(title, inner) => html! {
            details {
                summary { (inline(title)) }
                (blocks(inner))
            }
        },
    }
}

/// A figure at most `width` rem wide. A screen reader has its caption for it.
fn figure<P: Plot>(figure: &Figure<P>, kind: &str, width: usize) -> Markup {
    let class = format!("plot {kind}");
    let style = format!("max-width: {width}rem");
    html! {
        figure id={ "figure-" (figure.name) } {
            div class=(class) role="img" aria-label=(plain(&figure.caption)) style=(style) {
                (PreEscaped(figure.plot.inline_svg()))
            }
            figcaption { (inline(&figure.caption)) }
        }
    }
}

fn table(table: &TableBlock) -> Markup {
    let number = |column: usize| table.right.contains(&column).then_some("number");
    html! {
        figure class="table" {
            @if !table.caption.is_empty() { figcaption { (inline(&table.caption)) } }
            div class="scroll" role="region" tabindex="0" aria-label=(plain(&table.caption)) {
                table {
                    thead {
                        tr {
                            @for (column, name) in table.header.iter().enumerate() {
                                th class=[number(column)] scope="col" { (inline(name)) }
                            }
                        }
                    }
                    tbody {
                        @for row in &table.rows {
                            tr {
                                @for (column, cell) in row.iter().enumerate() {
                                    @if column == 0 {
                                        th class=[number(column)] scope="row" { (inline(cell)) }
                                    } @else if let Some(best) = cell.strip_suffix(BEST) {
                                        td class=[number(column)] { strong { (inline(best)) } }
                                    } @else {
                                        td class=[number(column)] { (inline(cell)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Text with its code between backticks as code.
pub(crate) fn inline(text: &str) -> Markup {
    html! {
        @for (is_code, piece) in pieces(text) {
            @if is_code { code { (piece) } } @else { (piece) }
        }
    }
}

/// Text without the backticks around its code.
pub(crate) fn plain(text: &str) -> String {
    pieces(text).into_iter().map(|(_, piece)| piece).collect()
}

/// Text in pieces, each with whether it stood between backticks. A backtick without a partner stands for itself.
pub(crate) fn pieces(text: &str) -> Vec<(bool, &str)> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('`') {
        let Some((code, behind)) = after.split_once('`') else { break };
        pieces.extend([(false, before), (true, code)]);
        rest = behind;
    }
    pieces.push((false, rest));
    pieces.retain(|(_, piece)| !piece.is_empty());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Axis, LineChart, Picture, Pictures, Point, Series, Style};

    fn report() -> Document {
        let chart = LineChart {
            x: Axis { label: "epoch".to_owned(), ..Axis::default() },
            y: Axis { label: "test loss (nats)".to_owned(), ..Axis::default() },
            series: vec![Series {
                label: "mlp & <b>".to_owned(),
                points: vec![Point { x: 1.0, y: 0.5, std: Some(0.1) }, Point { x: 2.0, y: 0.4, std: Some(0.1) }],
                color: 0,
                style: Style::Measured,
            }],
        };
        let pictures = Pictures {
            columns: 2,
            pictures: vec![Picture {
                caption: "Coat".to_owned(),
                size: [2, 2],
                channels: 1,
                pixels: vec![0, 80, 160, 255],
            }],
        };
        let table = TableBlock {
            caption: "What `mlp` came to".to_owned(),
            header: vec!["model".to_owned(), "loss".to_owned()],
            right: vec![1],
            rows: vec![vec!["mlp".to_owned(), "0.5".to_owned()]],
        };
        Document {
            title: "A < B & \"C\"".to_owned(),
            lead: vec![Block::Paragraph("<script>alert('1')</script> and `a < b`".to_owned())],
            sections: vec![
                Section {
                    name: "curves".to_owned(),
                    title: "Curves".to_owned(),
                    blocks: vec![
                        Block::Chart(Figure {
                            name: "loss".to_owned(),
                            caption: "Loss of `mlp`".to_owned(),
                            plot: chart,
                        }),
                        Block::Table(table),
                    ],
                },
                Section {
                    name: "more".to_owned(),
                    title: "More".to_owned(),
                    blocks: vec![Block::Details(
                        "Pictures".to_owned(),
                        vec![Block::Pictures(Figure {
                            name: "coats".to_owned(),
                            caption: "Coats".to_owned(),
                            plot: pictures,
                        })],
                    )],
                },
            ],
        }
    }

    #[test]
    fn a_page_loads_nothing_from_anywhere() {
        let page = html(&report()).unwrap().to_lowercase();
        for loads in ["<script", "@import", "url(http", "src=", "<link", "<iframe", "<object", "srcset"] {
            assert!(!page.contains(loads), "{loads}");
        }
        // Links go to places in the page, pictures are in it.
        for target in page.split("href=").skip(1) {
            assert!(target.starts_with("\"#") || target.starts_with("\"data:"), "{}", &target[..target.len().min(60)]);
        }
    }

    #[test]
    fn text_is_escaped_and_code_is_code() {
        let page = html(&report()).unwrap();
        assert!(page.contains("<title>A &lt; B &amp; &quot;C&quot;</title>"));
        assert!(page.contains("&lt;script&gt;alert('1')&lt;/script&gt; and <code>a &lt; b</code>"));
        assert!(!page.contains("<b>"));
    }

    #[test]
    fn the_contents_link_to_every_section() {
        let report = report();
        let page = html(&report).unwrap();
        for section in &report.sections {
            assert!(page.contains(&format!("href=\"#{}\"", section.name)), "{}", section.name);
            assert!(page.contains(&format!("<section id=\"{}\"", section.name)), "{}", section.name);
        }
    }

    #[test]
    fn charts_that_follow_one_another_stand_side_by_side() {
        let mut report = report();
        let mut second = report.sections[0].blocks[0].clone();
        assert!(!html(&report).unwrap().contains("class=\"grid\""));
        if let Block::Chart(figure) = &mut second {
            figure.name = "accuracy".to_owned();
        }
        report.sections[0].blocks.insert(1, second);
        let page = html(&report).unwrap();
        let grid = page.split("<div class=\"grid\">").nth(1).unwrap();
        assert_eq!(grid.split("class=\"table\"").next().unwrap().matches("<figcaption>").count(), 2);
    }

    #[test]
    fn the_best_value_of_a_column_is_set_in_bold() {
        let mut report = report();
        if let Block::Table(table) = &mut report.sections[0].blocks[1] {
            table.rows[0][1] = format!("0.4{BEST}");
        }
        assert!(html(&report).unwrap().contains("<td class=\"number\"><strong>0.4</strong></td>"));
    }

    #[test]
    fn figures_have_a_name_for_those_who_cannot_see_them_and_numbers_stand_to_the_right() {
        let page = html(&report()).unwrap();
        assert!(page.contains("class=\"plot chart\" role=\"img\" aria-label=\"Loss of mlp\""));
        assert!(page.contains("<figcaption>Loss of <code>mlp</code></figcaption>"));
        assert!(page.contains("<th scope=\"row\">mlp</th><td class=\"number\">0.5</td>"), "{page}");
    }

    #[test]
    fn two_sections_or_figures_of_one_name_are_refused() {
        let mut report = report();
        report.sections[1].name = "curves".to_owned();
        assert!(html(&report).unwrap_err().to_string().contains("`curves`"));
        report.sections[1].name = "more".to_owned();
        let again = report.sections[0].blocks[0].clone();
        report.sections[1].blocks.push(again);
        assert!(html(&report).unwrap_err().to_string().contains("loss"));
    }

    #[test]
    fn a_lone_backtick_stands_for_itself() {
        assert_eq!(pieces("a `b` c"), [(false, "a "), (true, "b"), (false, " c")]);
        assert_eq!(pieces("5` wide"), [(false, "5` wide")]);
        assert_eq!(plain("`a` and `b"), "a and `b");
    }
}
