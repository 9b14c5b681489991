//! A report as GitHub's Markdown, with its figures in files beside it.

use crate::{
    document::{BEST, Block, Document, TableBlock},
    html::{inline as html_inline, pieces, plain},
    table::markdown,
};

/// The report in Markdown. Figures are links to `figures/<name>.svg`.
#[must_use]
pub fn markdown_document(document: &Document) -> String {
    let mut parts = vec![format!("# {}", inline(&document.title))];
    parts.extend(document.lead.iter().map(block));
    for section in &document.sections {
        parts.push(format!("## {}", inline(&section.title)));
        parts.extend(section.blocks.iter().map(block));
    }
    parts.join("\n\n") + "\n"
}

fn block(block: &Block) -> String {
    match block {
        Block::Heading(text) => format!("### {}", inline(text)),
        Block::Paragraph(text) => paragraph(text),
        Block::List(items) => items.iter().map(|item| format!("- {}", inline(item))).collect::<Vec<_>>().join("\n"),
        Block::Code(text) => code(text),
        Block::Table(one) => table(one),
        Block::Chart(one) => figure(&one.name, &one.caption),
        Block::Confusion(one) => figure(&one.name, &one.caption),
        Block::Pictures(one) => figure(&one.name, &one.caption),
        Block::Details(title, inner) => {
            let summary = html_inline(title).into_string();
            let inner: Vec<String> = inner.iter().map(self::block).collect();
            format!("<details>\n<summary>{summary}</summary>\n\n{}\n\n</details>", inner.join("\n\n"))
        }
    }
}

fn figure(name: &str, caption: &str) -> String {
    let alternative = escaped(&plain(caption).replace('\n', " "));
    format!("![{alternative}](figures/{name}.svg)\n\n*{}*", inline(caption))
}

fn table(table: &TableBlock) -> String {
    // `markdown` takes care of bars in cells alone.
    let header: Vec<String> = table.header.iter().map(|name| inline(name).replace('|', "\\|")).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let cell =
        |cell: &String| cell.strip_suffix(BEST).map_or_else(|| inline(cell), |best| format!("**{}**", inline(best)));
    let rows = table.rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>());
    let grid = markdown(&header, &table.right, rows);
    if table.caption.is_empty() { grid } else { format!("{}\n\n{grid}", paragraph(&table.caption)) }
}

/// A block of code, in a fence longer than any within it.
fn code(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}\n{}\n{fence}", text.trim_end_matches('\n'))
}

fn paragraph(text: &str) -> String {
    let text = inline(text);
    // These would begin a heading, a quotation or a list.
    if text.starts_with(['#', '>', '+', '-']) { format!("\\{text}") } else { text }
}

/// A line of text: what Markdown would take for marks is escaped, but for code between backticks.
fn inline(text: &str) -> String {
    let line = text.replace('\n', " ");
    pieces(&line)
        .into_iter()
        .map(|(is_code, piece)| if is_code { format!("`{piece}`") } else { escaped(piece) })
        .collect()
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if "\\*[]<`".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Axis, Figure, LineChart, Section};

    fn nothing() -> LineChart {
        LineChart { x: Axis::default(), y: Axis::default(), series: Vec::new() }
    }

    #[test]
    fn a_report_is_one_page_of_githubs_markdown() {
        let table = TableBlock {
            caption: "Accuracies".to_owned(),
            header: vec!["model".to_owned(), "|mean|".to_owned()],
            right: vec![1],
            rows: vec![vec!["a|b".to_owned(), "0.5 *".to_owned()]],
        };
        let figure = Figure { name: "loss".to_owned(), caption: "Loss [nats] of `mlp`".to_owned(), plot: nothing() };
        let document = Document {
            title: "Runs".to_owned(),
            lead: vec![Block::Paragraph("Made with `kindling report *`; 2 * 3 < 7".to_owned())],
            sections: vec![Section {
                name: "one".to_owned(),
                title: "One".to_owned(),
                blocks: vec![
                    Block::List(vec!["a".to_owned(), "b".to_owned()]),
                    Block::Table(table),
                    Block::Details("More <`x`>".to_owned(), vec![Block::Code("{}\n".to_owned()), Block::Chart(figure)]),
                ],
            }],
        };
        let expected = r"# Runs

Made with `kindling report *`; 2 \* 3 \< 7

## One

- a
- b

Accuracies

| model | \|mean\| |
| --- | --: |
| a\|b | **0.5** |

<details>
<summary>More &lt;<code>x</code>&gt;</summary>

```
{}
```

![Loss \[nats\] of mlp](figures/loss.svg)

*Loss \[nats\] of `mlp`*

</details>
";
        assert_eq!(markdown_document(&document), expected);
    }

    #[test]
    fn a_fence_is_longer_than_those_in_it() {
        assert_eq!(code("```\nx\n```"), "````\n```\nx\n```\n````");
    }

    #[test]
    fn text_that_looks_like_a_list_or_a_heading_stays_text() {
        assert_eq!(paragraph("-0.5 is the mean"), "\\-0.5 is the mean");
        assert_eq!(paragraph("# of runs"), "\\# of runs");
    }
}
