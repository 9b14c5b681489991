//! 1.6: whether the gradients fall from the first steps to the last. The reference has a picture and no numbers.

use kindling_record::{GradientRecord, LayerGradient, read_steps};
use kindling_report::{ReportError, Run, Sample, TableBlock, grouped};

use super::{
    measured::{NONE, NOT_RUN, Reproduction, divergence},
    reference::Question,
    tables::table,
};

/// Steps at either end that are compared.
const WINDOW: usize = 10;

/// A network with its runs, and the gradients that those kept, step by step.
pub(crate) struct Network<'a> {
    pub(crate) name: &'static str,
    runs: &'a [Run],
    pub(crate) gradients: Vec<Vec<GradientRecord>>,
}

/// The networks of 1.6.
pub(crate) fn networks(reproduction: &Reproduction) -> Result<Vec<Network<'_>>, ReportError> {
    let of = |&name: &&'static str| {
        let runs = reproduction.runs(Question::Gradients, name);
        let gradients = runs.iter().map(kept).collect::<Result<Vec<_>, _>>()?;
        Ok(Network { name, runs, gradients: gradients.into_iter().filter(|run| run.len() > 1).collect() })
    };
    Question::Gradients.rows().iter().map(of).collect()
}

fn kept(run: &Run) -> Result<Vec<GradientRecord>, ReportError> {
    let path = run.directory.steps();
    let steps = if path.exists() { read_steps(&path)? } else { Vec::new() };
    Ok(steps.into_iter().filter_map(|step| step.gradient).collect())
}

/// A statistic at the beginning and at the end of each run: means over windows of steps that do not overlap.
fn ends(runs: &[Vec<GradientRecord>], statistic: impl Fn(&GradientRecord) -> Option<f64>) -> Vec<[f64; 2]> {
    let of = |run: &Vec<GradientRecord>| {
        let values: Vec<f64> = run.iter().filter_map(&statistic).collect();
        let window = WINDOW.min(values.len() / 2);
        let mean = |values: &[f64]| Sample::of(values.iter().copied()).map(|sample| sample.mean);
        Some([mean(&values[..window])?, mean(&values[values.len() - window..])?])
    };
    runs.iter().filter_map(of).collect()
}

/// Both ends of a statistic, and what stands in the other cells of [`COLUMNS`]: the end as a multiple of the beginning,
/// and how many runs fell. A signed mean is near zero and has either sign: its multiples say nothing.
fn cells(ends: &[[f64; 2]], is_signed: bool) -> Vec<String> {
    let end = |index: usize| match Sample::of(ends.iter().map(|ends| ends[index])) {
        Some(Sample { mean, std: Some(std), n }) => format!("{mean:.3e} ± {std:.1e} (n = {n})"),
        Some(Sample { mean, std: None, n }) => format!("{mean:.3e} (n = {n})"),
        None => NONE.to_owned(),
    };
    let ratio = Sample::of(ends.iter().filter(|[first, _]| *first > 0.0).map(|[first, last]| last / first));
    let ratio = ratio.map_or_else(|| NONE.to_owned(), |ratio| ratio.fixed(2));
    let fell = ends.iter().filter(|[first, last]| last < first).count();
    let mut cells = vec![end(0), end(1)];
    if !is_signed {
        cells.extend([ratio, format!("{fell} of {}", ends.len())]);
    }
    cells
}

const COLUMNS: &str = "parameters | signed mean, first | last | mean of absolute values, first | last | last / first \
                       | runs that fall | norm, first | last | last / first | runs that fall";

/// The gradients of the whole networks at both ends.
pub(crate) fn networks_table(networks: &[Network<'_>]) -> TableBlock {
    let rows = networks.iter().map(|network| {
        let of = |statistic: fn(&GradientRecord) -> f64| ends(&network.gradients, |one| Some(statistic(one)));
        let mut row = vec![network.name.to_owned()];
        if network.gradients.is_empty() {
            let why = if network.runs.is_empty() { NOT_RUN } else { "no gradients kept" };
            row.push(divergence(network.runs).unwrap_or_else(|| why.to_owned()));
            row.resize(COLUMNS.split(" | ").count() + 1, NONE.to_owned());
            return row;
        }
        row.push(network.runs.first().map_or_else(String::new, |run| grouped(run.record.parameters)));
        row.extend(cells(&of(|one| one.mean), true));
        row.extend(cells(&of(|one| one.mean_abs), false));
        row.extend(cells(&of(|one| one.norm), false));
        row
    });
    let caption = "Gradients of all trainable parameters in the first 100 steps at a learning rate of 0.1: means over \
                   the first and the last 10 steps; mean ± standard deviation over the n runs. The reference has \
                   nothing to compare.";
    table(caption, &format!("network | {COLUMNS}"), [1, 0], rows)
}

/// The same of each layer of a network.
pub(crate) fn layers_table(network: &Network<'_>) -> TableBlock {
    let first = network.gradients.iter().flatten().next();
    let layers = first.map(|gradient| gradient.layers.as_slice()).unwrap_or_default();
    let rows = layers.iter().map(|layer| {
        let of = |statistic: fn(&LayerGradient) -> f64| {
            let in_layer = |one: &GradientRecord| one.layers.iter().find(|one| one.layer == layer.layer).map(statistic);
            ends(&network.gradients, in_layer)
        };
        let mut row = vec![format!("`{}`", layer.layer), grouped(layer.parameters)];
        row.extend(cells(&of(|one| one.mean), true));
        row.extend(cells(&of(|one| one.mean_abs), false));
        row.extend(cells(&of(|one| one.norm), false));
        row
    });
    let caption = format!("Layers of `{}`, weights and biases together, over the same steps.", network.name);
    table(caption, &format!("layer | {COLUMNS}"), [1, 0], rows)
}

/// In which networks the gradients fall.
pub(crate) fn falling(networks: &[Network<'_>]) -> Option<String> {
    let measured = || networks.iter().filter(|network| !network.gradients.is_empty());
    let falls = |network: &&Network<'_>| {
        let ends = ends(&network.gradients, |gradient| Some(gradient.mean_abs));
        ends.iter().all(|[first, last]| last < first)
    };
    let fallen: Vec<&str> = measured().filter(falls).map(|network| network.name).collect();
    let listed = if fallen.is_empty() { String::new() } else { format!(" ({})", fallen.join(", ")) };
    let (of, all) = (fallen.len(), measured().count());
    (all > 0).then(|| format!("The mean of absolute values falls in every run of {of} of {all} networks{listed}."))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::fixtures::{gradient, reproduction, row, steps, trained},
        *,
    };

    /// Runs of `mlp` whose gradients have these mean absolute values, step by step.
    fn with(place: &std::path::Path, runs: &[&[f64]]) -> Reproduction {
        let runs = runs.iter().enumerate().map(|(seed, absolute)| {
            let run = trained(place, &format!("a-{seed}"), &[0.5], &json!({}));
            let lines: Vec<Value> = absolute.iter().map(|&absolute| gradient(-absolute / 4.0, absolute, 2.0)).collect();
            steps(&run, &lines);
            run
        });
        reproduction(vec![row(Question::Gradients, "mlp", runs.collect())])
    }

    #[test]
    fn whether_gradients_fall_depends_on_the_first_ten_steps_and_the_last() {
        let place = tempfile::tempdir().unwrap();
        let half = |first: f64, last: f64| [[first; 50], [last; 50]].concat();
        let both = with(place.path(), &[&half(0.5, 0.25), &half(0.125, 0.5)]);
        let mut networks = networks(&both).unwrap();
        let row = &networks_table(&networks).rows[0];
        assert_eq!(row[6..8], ["2.25 ± 2.47 (n = 2)", "1 of 2"]);
        assert_eq!(row[10..], ["1.00 ± 0.00 (n = 2)", "0 of 2"]);
        assert_eq!(falling(&networks).unwrap(), "The mean of absolute values falls in every run of 0 of 1 networks.");
        networks[0].gradients.pop();
        let text = "The mean of absolute values falls in every run of 1 of 1 networks (mlp).";
        assert_eq!((falling(&networks).unwrap().as_str(), falling(&[])), (text, None));
    }

    #[test]
    fn tables_hold_both_windows_of_the_network_and_of_its_layers() {
        let place = tempfile::tempdir().unwrap();
        // Windows of ten steps each would overlap: these have two.
        let made = with(place.path(), &[&[0.5, 0.25, 0.0625, 0.125]]);
        let networks = networks(&made).unwrap();
        let rows = networks_table(&networks).rows;
        let expected = ["3.750e-1 (n = 1)", "9.375e-2 (n = 1)", "0.25 (n = 1)", "1 of 1"];
        assert_eq!(
            (&rows[0][..2], &rows[0][4..8]),
            (&["mlp", "669,706"].map(str::to_owned)[..], &expected.map(str::to_owned)[..])
        );
        assert_eq!(rows[1][..3], ["mlp-deep", NOT_RUN, NONE]);
        let layers = layers_table(&networks[0]).rows;
        assert_eq!(
            (layers.len(), layers[0][0].as_str(), &layers[0][4..8]),
            (1, "`fc1`", &expected.map(str::to_owned)[..])
        );
        let single = tempfile::tempdir().unwrap();
        let single = with(single.path(), &[&[1.0]]);
        assert_eq!(networks_table(&super::networks(&single).unwrap()).rows[0][1], "no gradients kept");
    }
}
