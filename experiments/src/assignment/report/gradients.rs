//! 1.6: the gradients of the first steps.

use kindling_record::{GradientRecord, read_steps};

use crate::{
    Block, Group, ReportError, Run, Sample, Section, TableBlock,
    reproduction::{
        Question, Reproduction,
        figures::{NONE, NOT_RUN, divergence},
        prose::joined,
        trend::{Trend, cells, trend, window},
    },
    run_report::gradient_charts,
};

/// The networks, as the question's rows are called.
const NETWORKS: [&str; 4] = ["mlp", "mlp-deep", "mlp-wide", "cnn"];

/// A network's gradients, run by run and step by step.
struct Network {
    name: &'static str,
    runs: Vec<Vec<GradientRecord>>,
}

/// A statistic of the gradients with its name.
type Statistic = (&'static str, fn(&GradientRecord) -> f64);

const STATISTICS: [Statistic; 3] =
    [("signed mean", |one| one.mean), ("mean of absolute values", |one| one.mean_abs), ("norm", |one| one.norm)];

pub(crate) fn section(reproduction: &Reproduction) -> Result<Section, ReportError> {
    let mut networks = Vec::new();
    let mut groups = Vec::new();
    for name in NETWORKS {
        let rows = reproduction.runs(Question::Gradients, name);
        let runs = rows.iter().map(gradients).collect::<Result<Vec<_>, _>>()?;
        networks.push(Network { name, runs: runs.into_iter().filter(|run| run.len() > 1).collect() });
        groups.push(Group { label: name.to_owned(), runs: rows.to_vec(), ..Group::default() });
    }
    let mut blocks = vec![
        Block::Paragraph(
            "The gradients of all trainable parameters in the first 100 steps at a learning rate of 0.1: their mean \
             with signs, the mean of their absolute values, and their norm, of the whole network and of each layer. \
             The runs see these batches alone. The reference has a picture and no numbers for this question, so there \
             is nothing to compare."
                .to_owned(),
        ),
        Block::Table(table(reproduction, &networks)),
        reproduction.reading(&reading(&networks)),
    ];
    blocks.extend(gradient_charts(&groups, "gradients")?);
    let measured = networks.iter().filter(|network| !network.runs.is_empty());
    blocks.extend(measured.map(|network| {
        Block::Details(format!("Layers of `{}`", network.name), vec![Block::Table(layers_table(network))])
    }));
    Ok(Section { name: "gradients".to_owned(), title: "1.6 Gradients of the first steps".to_owned(), blocks })
}

/// The gradients that a run kept.
fn gradients(run: &Run) -> Result<Vec<GradientRecord>, ReportError> {
    let path = run.directory.steps();
    if !path.exists() {
        return Ok(Vec::new());
    }
    Ok(read_steps(&path)?.into_iter().filter_map(|step| step.gradient).collect())
}

fn table(reproduction: &Reproduction, networks: &[Network]) -> TableBlock {
    let mut rows = Vec::new();
    for network in networks {
        let runs = reproduction.runs(Question::Gradients, network.name);
        for (index, (name, figure)) in STATISTICS.iter().enumerate() {
            let trend = trend(&network.runs, |gradient| Some(figure(gradient)));
            let missing = || {
                let kept = if runs.is_empty() { NOT_RUN } else { "no gradients kept" };
                let why = divergence(runs).unwrap_or_else(|| kept.to_owned());
                [why, NONE.to_owned(), NONE.to_owned()]
            };
            let cells = trend.map_or_else(missing, |trend| cells(&trend, index == 0));
            rows.push([network.name.to_owned(), (*name).to_owned()].into_iter().chain(cells).collect());
        }
    }
    let steps: Vec<String> = networks
        .iter()
        .filter(|network| !network.runs.is_empty())
        .map(|network| window(&network.runs).to_string())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let over = if steps.is_empty() { String::new() } else { format!(" of {} steps", joined(&steps)) };
    TableBlock {
        caption: format!(
            "Gradients of the whole network at the beginning and at the end: means over windows{over}; mean ± \
             standard deviation over the n runs."
        ),
        header: ["network", "gradients", "first steps", "last steps", "last / first"].map(str::to_owned).to_vec(),
        right: vec![2, 3, 4],
        rows,
    }
}

fn layers_table(network: &Network) -> TableBlock {
    let first = network.runs.iter().flatten().next();
    let layers = first.map(|gradient| gradient.layers.as_slice()).unwrap_or_default();
    let rows = layers.iter().filter_map(|layer| {
        let of_layer = |gradient: &GradientRecord, figure: fn(&kindling_record::LayerGradient) -> f64| {
            gradient.layers.iter().find(|one| one.layer == layer.layer).map(figure)
        };
        let signed = trend(&network.runs, |gradient| of_layer(gradient, |one| one.mean))?;
        let absolute = trend(&network.runs, |gradient| of_layer(gradient, |one| one.mean_abs))?;
        let norm = trend(&network.runs, |gradient| of_layer(gradient, |one| one.norm))?;
        let [mean_first, mean_last, _] = cells(&signed, true);
        let [absolute_first, absolute_last, absolute_ratio] = cells(&absolute, false);
        let [norm_first, norm_last, norm_ratio] = cells(&norm, false);
        Some(vec![
            format!("`{}`", layer.layer),
            crate::grouped(layer.parameters),
            mean_first,
            mean_last,
            absolute_first,
            absolute_last,
            absolute_ratio,
            norm_first,
            norm_last,
            norm_ratio,
        ])
    });
    let header = [
        "layer",
        "parameters",
        "signed mean, first",
        "last",
        "mean of absolute values, first",
        "last",
        "last / first",
        "norm, first",
        "last",
        "last / first",
    ];
    TableBlock {
        caption: format!(
            "Layers of `{}`, weights and biases together: means over the first and the last {} steps.",
            network.name,
            window(&network.runs)
        ),
        header: header.map(str::to_owned).to_vec(),
        right: (1..=9).collect(),
        rows: rows.collect(),
    }
}

/// Whether the gradients fall.
fn reading(networks: &[Network]) -> String {
    let measured: Vec<(&Network, Trend)> = networks
        .iter()
        .filter_map(|network| Some((network, trend(&network.runs, |gradient| Some(gradient.mean_abs))?)))
        .collect();
    if measured.is_empty() {
        return format!("Do they fall? No network's gradients were kept: {NOT_RUN}.");
    }
    let falling: Vec<String> = measured
        .iter()
        .filter(|(_, trend)| trend.fell == trend.first.n)
        .map(|(network, _)| format!("`{}`", network.name))
        .collect();
    let mut sentences = vec![match falling.as_slice() {
        [] => "Do they fall? In no network does the mean of their absolute values fall in every run".to_owned(),
        _ => format!(
            "Do they fall? The mean of their absolute values falls in every run of {} of {} networks ({})",
            falling.len(),
            measured.len(),
            joined(&falling)
        ),
    }];
    for (network, absolute) in &measured {
        let change = |trend: &Trend| {
            let verb = match trend.fell {
                fell if fell == trend.first.n => "falls".to_owned(),
                0 => "does not fall".to_owned(),
                fell => format!("falls in {fell} of {} runs", trend.first.n),
            };
            let ratio = trend.ratio.map_or_else(|| NONE.to_owned(), |ratio| ratio.fixed(2));
            format!("{verb}: it ends at {ratio} times its beginning")
        };
        let norm = trend(&network.runs, |gradient| Some(gradient.norm));
        let norm = norm.map_or_else(String::new, |norm| format!("; the norm {}", change(&norm)));
        sentences.push(format!(
            "`{}`: the mean of absolute values {}{norm}; {}",
            network.name,
            change(absolute),
            cancelling(&network.runs)
        ));
    }
    format!("{}.", sentences.join(". "))
}

/// How large the signed mean is beside that of absolute values: 1 where all gradients have the same sign.
fn cancelling(runs: &[Vec<GradientRecord>]) -> String {
    let shares = runs.iter().flatten().filter(|gradient| gradient.mean_abs > 0.0);
    let share = Sample::of(shares.map(|gradient| gradient.mean.abs() / gradient.mean_abs));
    let share = share.map_or_else(|| NONE.to_owned(), |share| format!("{:.4}", share.mean));
    format!("the signed mean is {share} of it in size, in the mean over all steps")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        reproduction::fixtures::{reproduction, row, trained},
        run_report::fixtures::steps,
    };

    /// A run whose gradients have these mean absolute values, step by step.
    fn with(place: &std::path::Path, absolute: &[f64]) -> Reproduction {
        let run = trained(place, "a", &[0.5], &json!({ "config": { "gradient_steps": absolute.len() } }));
        let lines = absolute.iter().map(|absolute| {
            let layer = json!({ "layer": "fc1", "parameters": 2, "mean": 0.0, "mean_abs": absolute, "norm": 1.0 });
            let mean = -absolute / 4.0;
            json!({ "gradient": { "mean": mean, "mean_abs": absolute, "norm": 2.0, "layers": [layer] } })
        });
        steps(&run, &lines.collect::<Vec<Value>>());
        reproduction(vec![row(Question::Gradients, "mlp", vec![run])])
    }

    fn said(reproduction: &Reproduction) -> String {
        let blocks = section(reproduction).unwrap().blocks;
        let Some(Block::Paragraph(text)) = blocks.get(2) else { panic!("{blocks:?}") };
        text.clone()
    }

    #[test]
    fn whether_gradients_fall_depends_on_the_first_steps_and_the_last() {
        let place = tempfile::tempdir().unwrap();
        let falling: Vec<f64> = (0..100).map(|step| if step < 50 { 0.5 } else { 0.125 }).collect();
        let text = said(&with(place.path(), &falling));
        assert!(text.contains("falls in every run of 1 of 1 networks (`mlp`)"), "{text}");
        assert!(
            text.contains("the mean of absolute values falls: it ends at 0.25 (n = 1) times its beginning"),
            "{text}"
        );
        assert!(text.contains("the norm does not fall: it ends at 1.00 (n = 1)"), "{text}");
        assert!(text.contains("the signed mean is 0.2500 of it in size"), "{text}");
        let rising: Vec<f64> = falling.iter().rev().copied().collect();
        let place = tempfile::tempdir().unwrap();
        let text = said(&with(place.path(), &rising));
        assert!(text.contains("In no network does the mean") && text.contains("ends at 4.00 (n = 1)"), "{text}");
    }

    #[test]
    fn tables_hold_both_windows_of_the_network_and_of_its_layers() {
        let place = tempfile::tempdir().unwrap();
        // Windows of ten steps each would overlap: these have two.
        let blocks = section(&with(place.path(), &[0.5, 0.25, 0.0625, 0.125])).unwrap().blocks;
        let Some(Block::Table(table)) = blocks.get(1) else { panic!("{blocks:?}") };
        assert_eq!(
            table.rows[1],
            ["mlp", "mean of absolute values", "3.750e-1 (n = 1)", "9.375e-2 (n = 1)", "0.25 (n = 1)"]
        );
        assert_eq!(table.rows[0][4], NONE);
        assert_eq!(table.rows[3][2], NOT_RUN);
        assert!(table.caption.contains("windows of 2 steps"), "{}", table.caption);
        let Some(Block::Details(_, inner)) = blocks.last() else { panic!("{blocks:?}") };
        let [Block::Table(layers)] = &inner[..] else { panic!("{inner:?}") };
        assert_eq!(
            (layers.rows.len(), layers.rows[0][0].as_str(), layers.rows[0][6].as_str()),
            (1, "`fc1`", "0.25 (n = 1)")
        );
    }

    #[test]
    fn networks_that_were_not_run_are_said_to_be_missing() {
        assert!(said(&reproduction(Vec::new())).contains(NOT_RUN));
    }
}
