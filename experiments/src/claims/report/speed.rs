//! Accuracy against the time since the program's start, beside PyTorch's.

use kindling_record::RunRecord;
use kindling_report::{Axis, Block, LineChart, NONE, Point, Run, Sample, Series, Style, TableBlock};

use super::{
    super::{ClaimRecord, PeerEpoch, PeerRecord},
    cell, figure,
};

/// How far below the target the other accuracies are whose times are compared.
const BELOW: [f64; 3] = [0.0, 0.01, 0.02];
/// How far below the target the second chart begins.
const NEAR: f64 = 0.03;

/// Seconds since the program's start and what was measured then, after each epoch of one seed.
type Curve = Vec<(f64, f64)>;

/// Curves and times of Kindling and of each program that trained the same; nothing where no epoch is finished.
pub(super) fn blocks(record: &ClaimRecord, runs: &[Run]) -> Vec<Block> {
    let ours: Vec<Curve> = runs.iter().map(|run| timed(&run.record)).filter(|curve| !curve.is_empty()).collect();
    if ours.is_empty() {
        return Vec::new();
    }
    let finished = record.seeds.iter().filter(|seed| seed.test_accuracy.is_some());
    let tested = finished.map(|seed| [seed.test_accuracy, seed.test_loss, seed.wall_seconds]).collect();
    let mut sides = vec![Side { label: "Kindling".to_owned(), curves: ours, tested }];
    sides.extend(
        peers(record).into_iter().map(|(label, peers)| Side {
            label,
            curves: peers
                .iter()
                .map(|peer| peer.epochs.iter().map(|one| (one.seconds, one.valid_accuracy)).collect())
                .collect(),
            tested: peers
                .iter()
                .map(|peer| [Some(peer.test_accuracy), Some(peer.test_loss), Some(peer.wall_seconds)])
                .collect(),
        }),
    );
    let mut caption =
        "Accuracy on the validation split after each epoch against the time since the program's start, with \
                       reading the data and evaluation: means and, as bands, standard deviations over the seeds."
            .to_owned();
    if runs.iter().any(|run| run.record.parts.len() > 1) {
        caption += " Of a run that was resumed, only the last start counts.";
    }
    if sides.len() > 1 {
        caption += " PyTorch trains the same network by the same config on the same machine.";
    }
    let whole = plot(record, &sides);
    let end = end(record.target_accuracy, &whole).map(|plot| {
        figure("time-accuracy-end", format!("The same near the target of {}.", percent(record.target_accuracy)), plot)
    });
    let blocks = [figure("time-accuracy", caption, whole)].into_iter().chain(end);
    blocks.chain([Block::Table(times(record, &sides))]).collect()
}

/// The upper end of the chart, where the target is; nothing where no curve gets there.
fn end(target: f64, whole: &LineChart) -> Option<LineChart> {
    let measured = whole.series.iter().filter(|one| one.style == Style::Measured).flat_map(|one| &one.points);
    let heights = measured.map(|point| point.y + point.std.unwrap_or_default()).filter(|y| y.is_finite());
    let (low, highest) = (target - NEAR, heights.fold(f64::NEG_INFINITY, f64::max));
    (highest > low).then(|| {
        let range = Some((low, f64::max(highest, target) + 0.1 * NEAR));
        LineChart { y: Axis { range, ..whole.y.clone() }, ..whole.clone() }
    })
}

/// A program that trained the claim's config.
struct Side {
    label: String,
    curves: Vec<Curve>,
    /// Test accuracy, test loss and wall seconds of each seed that was tested.
    tested: Vec<[Option<f64>; 3]>,
}

/// The peers' records by the program and the threads that they had, each with its name.
pub(super) fn peers(record: &ClaimRecord) -> Vec<(String, Vec<&PeerRecord>)> {
    let mut groups: Vec<(String, Vec<&PeerRecord>)> = Vec::new();
    for peer in &record.pytorch {
        let label =
            format!("PyTorch {}, {} thread{}", peer.torch, peer.threads, if peer.threads == 1 { "" } else { "s" });
        match groups.iter_mut().find(|(known, _)| *known == label) {
            Some((_, peers)) => peers.push(peer),
            None => groups.push((label, vec![peer])),
        }
    }
    groups
}

/// What `value` finds in the peers' epochs, against the epochs.
pub(super) fn over_epochs(peers: &[&PeerRecord], value: fn(&PeerEpoch) -> f64) -> Vec<Point> {
    let of = |peer: &&PeerRecord| peer.epochs.iter().map(|one| (one.epoch as f64, value(one))).collect();
    band(&peers.iter().map(of).collect::<Vec<_>>())
}

/// The validation accuracies of a run. An epoch's training and evaluation are measured; what the run took to start lies
/// before the first, and writing checkpoints is spread over all.
fn timed(run: &RunRecord) -> Curve {
    let timings = &run.timings;
    let mut seconds = timings.start_up_seconds + timings.compilation_seconds;
    let checkpoint = timings.checkpoint_seconds / run.epochs.len().max(1) as f64;
    let after = run.epochs.iter().map(|epoch| {
        seconds += epoch.seconds + epoch.evaluation_seconds + checkpoint;
        Some((seconds, epoch.get("valid/accuracy")?))
    });
    after.collect::<Vec<_>>().into_iter().flatten().collect()
}

/// Mean and standard deviation over the curves, point by point. A curve that ends early counts as far as it goes: the
/// horizontal distances are averaged, since the mean of places would go back where a slow curve ends.
fn band(curves: &[Curve]) -> Vec<Point> {
    let longest = curves.iter().map(Vec::len).max().unwrap_or_default();
    let mut x = 0.0;
    let at = |index: usize| {
        let there = || curves.iter().filter_map(move |curve| Some((curve, curve.get(index)?)));
        let before = |curve: &Curve| index.checked_sub(1).map_or(0.0, |before| curve[before].0);
        x += Sample::of(there().map(|(curve, here)| here.0 - before(curve)))?.mean;
        let y = Sample::of(there().map(|(_, here)| here.1))?;
        Some(Point { x, y: y.mean, std: y.std })
    };
    (0..longest).map_while(at).collect()
}

fn plot(record: &ClaimRecord, sides: &[Side]) -> LineChart {
    let target = record.target_accuracy;
    let series = |(color, side): (usize, &Side)| {
        let label = format!("{} (n = {})", side.label, side.curves.len());
        Series { label, points: band(&side.curves), color, style: Style::Measured }
    };
    let mut series: Vec<Series> = sides.iter().enumerate().map(series).collect();
    let last = series.iter().flat_map(|one| &one.points).map(|point| point.x).fold(0.0, f64::max);
    series.push(Series {
        label: format!("claimed of the test split: {}", percent(target)),
        points: [0.0, last].map(|x| Point { x, y: target, std: None }).to_vec(),
        color: 6,
        style: Style::Reference,
    });
    let axis = |label: &str| Axis { label: label.to_owned(), ..Axis::default() };
    LineChart { x: axis("time since the program's start (s)"), y: axis("valid accuracy (fraction)"), series }
}

/// The sides' tests, and how long they take to accuracies near the target.
fn times(record: &ClaimRecord, sides: &[Side]) -> TableBlock {
    let accuracies = BELOW.map(|below| record.target_accuracy - below);
    let mut header = ["program", "seeds tested", "test accuracy (%)", "test loss (nats)", "wall time (s)"]
        .map(str::to_owned)
        .to_vec();
    header.extend(accuracies.iter().map(|&accuracy| format!("to valid {} (s)", percent(accuracy))));
    let rows = sides.iter().map(|side| {
        let tests = |which: usize, scale, decimals| {
            cell(Sample::of(side.tested.iter().filter_map(|test| test[which])), scale, decimals)
        };
        let reached = |&accuracy: &f64| {
            let first = |curve: &Curve| curve.iter().find(|(_, here)| *here >= accuracy).map(|(seconds, _)| *seconds);
            let seconds: Vec<f64> = side.curves.iter().filter_map(first).collect();
            let (n, all) = (seconds.len(), side.curves.len());
            match n {
                0 => NONE.to_owned(),
                n if n == all => cell(Sample::of(seconds), 1.0, 1),
                n => format!("{} ({n} of {all})", cell(Sample::of(seconds), 1.0, 1)),
            }
        };
        let tested =
            [side.label.clone(), side.tested.len().to_string(), tests(0, 100.0, 2), tests(1, 1.0, 4), tests(2, 1.0, 1)];
        tested.into_iter().chain(accuracies.iter().map(reached)).collect()
    });
    TableBlock {
        caption:
            "Test metrics, and the time from the program's start to the first epoch after which the validation accuracy is \
                  at least so high: mean ± standard deviation, with the number of seeds where not all reach it."
                .to_owned(),
        right: (1..header.len()).collect(),
        rows: rows.collect(),
        header,
    }
}

/// A fraction in percent, with no more decimals than it has.
fn percent(fraction: f64) -> String {
    format!("{} %", (fraction * 1e4).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{claim, peer, run},
        *,
    };

    #[test]
    fn a_band_is_mean_and_standard_deviation_of_the_curves_that_get_so_far() {
        assert!(band(&[]).is_empty() && band(&[Vec::new()]).is_empty());
        let points = band(&[vec![(1.0, 0.5), (2.0, 0.75), (3.0, 0.8)], vec![(3.0, 0.7), (6.0, 0.75)], Vec::new()]);
        // statistics.stdev([0.5, 0.7]) in Python; the last point is 1 s behind the mean of those before it.
        let expected = [(2.0, 0.6, Some(0.141_421_356_237_309_5)), (4.0, 0.75, Some(0.0)), (5.0, 0.8, None)];
        assert_eq!(points.len(), expected.len());
        for (point, (x, y, std)) in points.iter().zip(expected) {
            let is_near = |a: f64, b: f64| (a - b).abs() < 1e-12;
            assert!(is_near(point.x, x) && is_near(point.y, y), "{point:?}");
            assert_eq!(point.std.is_some(), std.is_some());
            assert!(is_near(point.std.unwrap_or_default(), std.unwrap_or_default()), "{point:?}");
        }
    }

    #[test]
    fn our_time_has_the_start_the_evaluation_and_the_checkpoints() {
        let place = tempfile::tempdir().unwrap();
        let curve = timed(&run(place.path(), 1, &[0.5, 0.75]).record);
        assert_eq!(curve, [(12.5, 0.5), (24.0, 0.75)]);
    }

    #[test]
    fn the_table_has_the_time_to_the_target_of_those_that_reach_it() {
        let place = tempfile::tempdir().unwrap();
        let runs = [run(place.path(), 1, &[0.5, 0.74]), run(place.path(), 2, &[0.735, 0.735])];
        let mut record = claim(&[Some(0.75), None]);
        record.pytorch = vec![peer(1, &[(20.0, 0.5), (40.0, 0.7)]), peer(2, &[(22.0, 0.72), (44.0, 0.74)])];
        let blocks = blocks(&record, &runs);
        let [Block::Chart(whole), Block::Chart(_), Block::Table(table)] = &blocks[..] else { panic!("{blocks:?}") };
        let labels: Vec<&str> = whole.plot.series.iter().map(|one| one.label.as_str()).collect();
        let peers = "PyTorch 2.9.0, 2 threads";
        let target = "claimed of the test split: 74 %";
        assert_eq!(labels, ["Kindling (n = 2)", "PyTorch 2.9.0, 2 threads (n = 2)", target]);
        assert_eq!(table.header[5..], ["to valid 74 % (s)", "to valid 73 % (s)", "to valid 72 % (s)"]);
        let ours = ["Kindling", "1", "75.00", "0.2500", "25.0", "24.0 (1 of 2)", "18.2 ± 8.1", "18.2 ± 8.1"];
        let theirs = [
            peers,
            "2",
            "50.00 ± 0.00",
            "0.5000 ± 0.0000",
            "50.0 ± 0.0",
            "44.0 (1 of 2)",
            "44.0 (1 of 2)",
            "22.0 (1 of 2)",
        ];
        assert_eq!(table.rows, [ours, theirs]);
    }

    #[test]
    fn without_a_curve_near_the_target_there_is_no_second_chart() {
        let place = tempfile::tempdir().unwrap();
        let far = [run(place.path(), 1, &[0.5, 0.6])];
        assert!(matches!(&blocks(&claim(&[None]), &far)[..], [Block::Chart(_), Block::Table(_)]));
        assert!(blocks(&claim(&[]), &[]).is_empty());
        assert_eq!([0.94, 0.925, 0.929_999].map(percent), ["94 %", "92.5 %", "93 %"]);
    }
}
