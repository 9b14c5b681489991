//! The curves and configs of the runs that are ticked.

use std::{
    iter,
    sync::{Mutex, PoisonError},
};

use kindling_report::{
    Against, Block, Figure, Group, ReportError, Series, Split, Style, colored_chart, configurations, evaluated_splits,
    fragment, metrics, step_chart, swatch,
};
use maud::{Markup, PreEscaped, html};

use super::{
    Part,
    library::{Library, Stamp, Watched, seed},
    link,
    steps::Steps,
};
use crate::Request;

/// So many runs can be compared at once: more curves cannot be told apart.
const MOST: usize = 20;

/// The runs that are ticked, each with the colour that it keeps while it is.
pub(super) struct Ticks<'a> {
    runs: Vec<(&'a Watched, usize)>,
}

impl<'a> Ticks<'a> {
    /// Those that the request names by `tick=ID`; their colours are the numbers in `colors`, or their order.
    pub(super) fn of(request: &Request, runs: &'a [Watched]) -> Self {
        let colors: Vec<usize> = request
            .value("colors")
            .map(|colors| colors.split(',').filter_map(|color| color.parse().ok()).collect())
            .unwrap_or_default();
        let ids = request.query.iter().filter(|(name, _)| name == "tick").map(|(_, id)| id);
        let mut ticked: Vec<(&Watched, usize)> = Vec::new();
        for (index, id) in ids.enumerate().take(MOST) {
            let is_new = ticked.iter().all(|(run, _)| run.id != *id);
            let run = runs.iter().find(|run| run.id == *id && run.record.is_ok());
            ticked.extend(run.filter(|_| is_new).map(|run| (run, colors.get(index).copied().unwrap_or(index) % MOST)));
        }
        Self { runs: ticked }
    }

    /// The colour of the run, if it is ticked.
    pub(super) fn color(&self, id: &str) -> Option<usize> {
        self.runs.iter().find(|(run, _)| run.id == id).map(|&(_, color)| color)
    }

    fn groups(&self) -> Vec<Group> {
        self.runs.iter().filter_map(|(run, _)| run.group()).collect()
    }

    fn colors(&self) -> Vec<usize> {
        self.runs.iter().map(|&(_, color)| color).collect()
    }

    /// What curves and configs are made of: other states have other ones.
    fn state(&self) -> Vec<(&str, usize, Option<Stamp>)> {
        self.runs.iter().map(|&(run, color)| (run.id.as_str(), color, run.stamp)).collect()
    }
}

/// The parts of the page of all runs that show those ticked.
pub(super) fn parts<'a>(ticks: &'a Ticks<'a>, library: &Library) -> Vec<Part<'a>> {
    let curves = || {
        let groups = ticks.groups();
        let splits = iter::once(Split::Train).chain(evaluated_splits(&groups));
        shown(epoch_charts(&groups, &ticks.colors(), &splits.map(|split| vec![split]).collect::<Vec<_>>()))
    };
    vec![
        Part::of("ticked", &heading(ticks)),
        Part::from("curves", ticks.state(), curves),
        step_part(&ticks.runs, library),
        Part::from("configs", ticks.state(), || configs(ticks)),
    ]
}

fn heading(ticks: &Ticks<'_>) -> Markup {
    html! {
        h2 { "Compare" }
        @if ticks.runs.is_empty() {
            p.note { "Tick runs in the table to see their curves and what their configs differ in." }
        } @else {
            ul.ticked {
                @for (run, color) in &ticks.runs {
                    li data-key=(run.id) { (PreEscaped(swatch(*color))) " " a href=(link(&run.id)) { (run.id) } }
                }
            }
            p { button type="button" data-action="clear" { "Untick all" } }
        }
    }
}

/// The charts of each metric over the epochs, one for each of `sheets`; none where no epoch is done.
pub(super) fn epoch_charts(
    groups: &[Group],
    colors: &[usize],
    sheets: &[Vec<Split>],
) -> Result<Vec<Block>, ReportError> {
    let colors: Vec<Option<usize>> = colors.iter().copied().map(Some).collect();
    let mut blocks = Vec::new();
    for metric in metrics(groups) {
        for splits in sheets {
            let plot = colored_chart(groups, &colors, &metric.name, splits, Against::Epoch)?;
            let of: Vec<&str> = splits.iter().map(|split| split.as_str()).collect();
            let caption = format!("{} {} after each epoch.", of.join(" and "), metric.name);
            let name = format!("{}-{}", blocks.len() + 1, of.join("-"));
            if !plot.series.is_empty() {
                blocks.push(Block::Chart(Figure { name, caption: capital(&caption), plot }));
            }
        }
    }
    Ok(blocks)
}

/// The loss of each batch of these runs: curves that move as their step logs grow.
pub(super) fn step_part<'a>(runs: &[(&'a Watched, usize)], library: &Library) -> Part<'a> {
    let logs: Vec<_> = runs.iter().map(|&(run, color)| (run, color, library.steps(run))).collect();
    let version = |steps: &Mutex<Steps>| steps.lock().unwrap_or_else(PoisonError::into_inner).version;
    let state: Vec<_> = logs.iter().map(|(run, color, steps)| (&run.id, *color, version(steps))).collect();
    Part::from("steps", state, move || {
        let groups: Vec<Group> = logs.iter().filter_map(|(run, ..)| run.group()).collect();
        let (mut series, mut remarks) = (Vec::new(), Vec::new());
        for (run, color, steps) in &logs {
            let steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
            if steps.damaged > 0 {
                let text =
                    format!("Lines of the step log of `{}` that are damaged and left out: {}.", run.id, steps.damaged);
                remarks.push(Block::Paragraph(text));
            }
            if !steps.losses.is_empty() {
                let (label, points) = (run.id.clone(), steps.losses.clone());
                series.push(Series { label, points, color: *color, style: Style::Measured });
            }
        }
        if series.is_empty() {
            return fragment(&remarks);
        }
        let mut caption = "Training loss of each batch, before its update.".to_owned();
        let mut plot = step_chart(series, &groups);
        if let Some(range) = without_explosions(&plot.series) {
            plot.y.range = Some(range);
            caption += " Losses of more than a hundred times the first are cut off.";
        }
        let chart = Figure { name: "steps".to_owned(), caption, plot };
        let chart = fragment(&[Block::Chart(chart)]);
        html! { div.grid { (PreEscaped(chart)) } (PreEscaped(fragment(&remarks))) }.into_string()
    })
}

/// The range to show where losses grow so far beyond the first ones that nothing else could be seen.
fn without_explosions(series: &[Series]) -> Option<(f64, f64)> {
    let losses = || series.iter().flat_map(|one| &one.points).map(|point| point.y).filter(|loss| *loss > 0.0);
    let first = series.iter().filter_map(|one| one.points.first()).map(|point| point.y).fold(0.0, f64::max);
    let top = 100.0 * first;
    let lowest = losses().fold(f64::INFINITY, f64::min);
    (lowest < top && losses().any(|loss| loss > top)).then_some((lowest, top))
}

/// What the configs of the ticked runs differ in.
fn configs(ticks: &Ticks<'_>) -> String {
    let groups = ticks.groups();
    if groups.len() < 2 {
        return String::new();
    }
    let mut blocks = vec![Block::Heading("Configs".to_owned())];
    blocks.extend(configurations(&groups));
    let seeds = groups.iter().flat_map(|group| &group.runs).map(|run| seed(&run.record).map(|seed| (run, seed)));
    let seeds: Vec<_> = seeds.flatten().collect();
    if seeds.iter().any(|(_, seed)| *seed != seeds[0].1) {
        let seeds: Vec<String> = seeds.iter().map(|(run, seed)| format!("`{}` {seed}", run.record.id)).collect();
        blocks.insert(1, Block::Paragraph(format!("Seeds: {}.", seeds.join(", "))));
    }
    fragment(&blocks)
}

/// The blocks as HTML, or what kept them from being made.
pub(super) fn shown(blocks: Result<Vec<Block>, ReportError>) -> String {
    match blocks {
        Ok(blocks) if blocks.is_empty() => String::new(),
        Ok(blocks) => fragment(&blocks),
        Err(error) => html! { p.message.error { (error) } }.into_string(),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
