//! Tables of groups with a column for each metric.

use kindling_record::MetricRecord;

use crate::{
    differences::Key,
    document::{BEST, TableBlock},
    groups::{runs_text, with_repeats},
    metrics::{best, sample_text, titled},
    run::{Group, Run},
    statistics::Sample,
    table::NONE,
};

/// A table that is made column by column: a row for each group.
pub(crate) struct Columns<'a> {
    groups: &'a [Group],
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    /// How many columns of text stand before the numbers.
    texts: usize,
}

impl<'a> Columns<'a> {
    /// With the groups' labels, their values of the keys in `different`, and the number of their runs.
    pub(crate) fn new(groups: &'a [Group], different: &[Key]) -> Self {
        let header = std::iter::once("configuration".to_owned());
        let header: Vec<String> = header.chain(different.iter().map(|key| format!("`{}`", key.path))).collect();
        let rows = groups.iter().enumerate().map(|(index, group)| {
            let values = different.iter().map(|key| key.values[index].clone().unwrap_or_else(|| NONE.to_owned()));
            std::iter::once(group.marked_label()).chain(values).collect()
        });
        let mut columns = Self { groups, texts: header.len(), header, rows: rows.collect() };
        columns.text("runs", runs_text);
        columns
    }

    pub(crate) fn text(&mut self, title: &str, cell: impl Fn(&Group) -> String) {
        self.header.push(title.to_owned());
        for (row, group) in self.rows.iter_mut().zip(self.groups) {
            row.push(cell(group));
        }
    }

    /// Means and standard deviations of a metric, the best of them marked; nothing where no group has any.
    pub(crate) fn metric(&mut self, title: &str, metric: &MetricRecord, value: impl Fn(&Run) -> Option<f64>) {
        let samples: Vec<Option<Sample>> = self.groups.iter().map(|group| group.sample(&value)).collect();
        if samples.iter().all(Option::is_none) {
            return;
        }
        self.header.push(titled(title, metric));
        let best = best(metric, &samples);
        for (index, (row, sample)) in self.rows.iter_mut().zip(&samples).enumerate() {
            let mark = if best.contains(&index) { BEST } else { "" };
            row.push(sample.as_ref().map_or_else(
                || NONE.to_owned(),
                |sample| {
                    let text = sample_text(metric, sample);
                    with_count(text, sample.n, self.groups[index].runs.len()) + mark
                },
            ));
        }
    }

    /// Takes out the columns of `titles` that have the same for all groups, and says in a sentence what that is.
    pub(crate) fn common(&mut self, titles: &[&str]) -> Option<String> {
        let mut common = Vec::new();
        for title in titles {
            let Some(column) = self.header.iter().position(|one| one == title) else { continue };
            let [first, others @ ..] = &self.rows[..] else { continue };
            if others.is_empty() || others.iter().any(|row| row[column] != first[column]) {
                continue;
            }
            common.push(format!("{title} {}", first[column]));
            self.header.remove(column);
            for row in &mut self.rows {
                row.remove(column);
            }
        }
        (!common.is_empty()).then(|| format!("The same for all: {}.", common.join(", ")))
    }

    pub(crate) fn table(self, caption: &str) -> TableBlock {
        let right = (self.texts..self.header.len()).collect();
        let best = if self.groups.len() > 1 { " The best mean of a column is marked." } else { "" };
        let caption = with_repeats(&format!("{caption}{best}"), self.groups);
        TableBlock { caption, header: self.header, right, rows: self.rows }
    }
}

/// The text, and of how many of `runs` runs it is where it is not of all.
pub(crate) fn with_count(text: String, n: usize, runs: usize) -> String {
    if n == runs { text } else { format!("{text} (n = {n})") }
}
