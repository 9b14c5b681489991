//! The gradients of the first steps, where runs were asked to keep them.

use kindling_record::{GradientRecord, StepRecord, read_steps};

use crate::{
    curves::over_steps,
    document::{Block, Figure, file_name},
    error::ReportError,
    groups::counted,
    plot::{Axis, LineChart, Series, Style},
    ranking::prominent,
    run::{Group, Run, key},
};

/// The gradients that a group of runs kept.
#[derive(Clone, Debug)]
pub struct KeptGradients {
    /// What legends call the group.
    pub label: String,
    /// Its colour; without one it is grey, and its layers are not shown.
    pub color: Option<usize>,
    /// The steps of each of its runs that have gradients.
    pub steps: Vec<Vec<StepRecord>>,
}

/// A statistic of all gradients, with what it is called and how its axis is drawn.
struct Statistic {
    name: &'static str,
    label: &'static str,
    caption: &'static str,
    logarithmic: bool,
    value: fn(&GradientRecord) -> f64,
}

const STATISTICS: [Statistic; 3] = [
    Statistic {
        name: "mean",
        label: "mean gradient",
        caption: "The mean of all gradients, with their signs",
        logarithmic: false,
        value: |gradient| gradient.mean,
    },
    Statistic {
        name: "absolute",
        label: "mean absolute gradient",
        caption: "The mean of the absolute values of all gradients",
        logarithmic: true,
        value: |gradient| gradient.mean_abs,
    },
    Statistic {
        name: "norm",
        label: "norm of the gradients",
        caption: "The norm of all gradients, taken as one vector",
        logarithmic: true,
        value: |gradient| gradient.norm,
    },
];

/// Curves of the gradients of those groups that have them: of the whole network over all groups, and of the layers of
/// each group that charts show in colour; the names of the figures start with `prefix`. Nothing where no run has
/// gradients.
///
/// # Errors
/// When a step log cannot be read.
pub fn gradient_charts(groups: &[Group], prefix: &str) -> Result<Vec<Block>, ReportError> {
    let prominent = prominent(groups);
    let mut measured = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let mut steps = group.runs.iter().map(steps_with_gradients).collect::<Result<Vec<_>, _>>()?;
        steps.retain(|steps| !steps.is_empty());
        if !steps.is_empty() {
            let color = prominent.iter().position(|&one| one == index);
            measured.push(KeptGradients { label: group.marked_label(), color, steps });
        }
    }
    Ok(gradient_blocks(&measured, prefix))
}

/// The same of gradients that were read already.
#[must_use]
pub fn gradient_blocks(measured: &[KeptGradients], prefix: &str) -> Vec<Block> {
    if measured.is_empty() {
        return Vec::new();
    }
    let mut blocks = vec![Block::Paragraph(format!(
        "Gradients are those of the loss before each step, before any clipping; curves are means and bands standard \
         deviations over the runs ({}). Those of a layer are of its weights and biases together.",
        counted(measured.iter().map(|group| group.steps.len()))
    ))];
    for statistic in &STATISTICS {
        let series = measured.iter().map(|KeptGradients { label, color, steps }| {
            let one = curve(label, color.unwrap_or(0), steps, |gradient| Some((statistic.value)(gradient)));
            Series { style: if color.is_some() { Style::Measured } else { Style::Context }, ..one }
        });
        blocks.push(Block::Chart(Figure {
            name: file_name(&format!("{prefix} gradient {}", statistic.name)),
            caption: format!("{}.", statistic.caption),
            plot: LineChart {
                x: axis("training step", false),
                y: axis(statistic.label, statistic.logarithmic),
                series: series.collect(),
            },
        }));
    }
    for (index, KeptGradients { label, color, steps }) in measured.iter().enumerate() {
        if color.is_none() {
            continue;
        }
        let series = layers(steps).into_iter().enumerate().map(|(color, layer)| {
            curve(&layer, color, steps, |gradient| {
                gradient.layers.iter().find(|one| one.layer == layer).map(|one| one.mean_abs)
            })
        });
        blocks.push(Block::Chart(Figure {
            name: file_name(&format!("{prefix} gradient layers {}", index + 1)),
            caption: format!("{label}: the mean of the absolute values of each layer's gradients."),
            plot: LineChart {
                x: axis("training step", false),
                y: axis("mean absolute gradient", true),
                series: series.collect(),
            },
        }));
    }
    blocks
}

/// The steps of a run whose gradients were kept.
fn steps_with_gradients(run: &Run) -> Result<Vec<StepRecord>, ReportError> {
    let config = run.record.config.get("training");
    // A config that has the key without a number asked for none; one of another program may have asked.
    let was_asked = config.is_none_or(|_| key(&run.record, "training.gradient_steps").is_some());
    let path = run.directory.steps();
    if !was_asked || !path.exists() {
        return Ok(Vec::new());
    }
    let mut steps = read_steps(&path)?;
    steps.retain(|step| step.gradient.is_some());
    Ok(steps)
}

/// The layers' names in the network's order.
fn layers(steps: &[Vec<StepRecord>]) -> Vec<String> {
    let first = steps.iter().flatten().find_map(|step| step.gradient.as_ref());
    first.map_or_else(Vec::new, |gradient| gradient.layers.iter().map(|layer| layer.layer.clone()).collect())
}

fn curve(
    label: &str,
    color: usize,
    steps: &[Vec<StepRecord>],
    value: impl Fn(&GradientRecord) -> Option<f64>,
) -> Series {
    let points = over_steps(steps, |step| value(step.gradient.as_ref()?));
    Series { label: label.to_owned(), points, color, style: Style::Measured }
}

fn axis(label: &str, logarithmic: bool) -> Axis {
    Axis { label: label.to_owned(), logarithmic, range: None }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        group,
        run_report::fixtures::{run, steps},
    };

    fn gradient(mean_abs: f64) -> Value {
        let layer =
            |name: &str| json!({ "layer": name, "parameters": 2, "mean": 0.0, "mean_abs": mean_abs, "norm": 1.0 });
        let layers = [layer("fc1"), layer("fc2")];
        json!({ "gradient": { "mean": -0.5, "mean_abs": mean_abs, "norm": 2.0, "layers": layers } })
    }

    #[test]
    fn gradients_are_drawn_for_the_whole_network_and_for_each_layer() {
        let place = tempfile::tempdir().unwrap();
        let runs = vec![
            run(place.path(), "mlp-1", json!({ "config": { "training": { "gradient_steps": 2 } } })),
            run(place.path(), "mlp-2", json!({ "config": { "training": { "gradient_steps": 2, "seed": 2 } } })),
        ];
        // The third step's gradients were not asked for.
        steps(&runs[0], &[gradient(1.0), gradient(0.5), json!({})]);
        steps(&runs[1], &[gradient(3.0), gradient(0.5), json!({})]);
        let blocks = gradient_charts(&group(runs), "all").unwrap();
        let charts: Vec<_> = blocks
            .iter()
            .filter_map(|block| match block {
                Block::Chart(figure) => Some(figure),
                _ => None,
            })
            .collect();
        let names: Vec<&str> = charts.iter().map(|chart| chart.name.as_str()).collect();
        assert_eq!(names, ["all-gradient-mean", "all-gradient-absolute", "all-gradient-norm", "all-gradient-layers-1"]);
        let absolute = &charts[1].plot.series[0].points;
        assert_eq!(absolute.iter().map(|point| (point.x, point.y)).collect::<Vec<_>>(), [(1.0, 2.0), (2.0, 0.5)]);
        assert_eq!(absolute[0].std, Some(std::f64::consts::SQRT_2));
        assert!(matches!(&blocks[0], Block::Paragraph(text) if text.contains("n = 2")));
        assert!(charts[1].plot.y.logarithmic && !charts[0].plot.y.logarithmic);
        let layers: Vec<&str> = charts[3].plot.series.iter().map(|series| series.label.as_str()).collect();
        assert_eq!(layers, ["fc1", "fc2"]);
    }

    #[test]
    fn runs_without_gradients_give_no_charts() {
        let place = tempfile::tempdir().unwrap();
        let run = run(place.path(), "mlp-1", json!({}));
        // Not read: the config asked for no gradients.
        std::fs::write(run.directory.steps(), "no steps").unwrap();
        assert!(gradient_charts(&group(vec![run]), "all").unwrap().is_empty());
    }
}
