//! The report: a section for each question, with at most one sentence on what its numbers say.

use kindling_report::{
    Block, Document, Figure, Group, ReportError, Run, Sample, Section, evaluation_blocks, gradient_charts, grouped,
    how_it_was_run,
};

use super::{
    charts::{Curve, curves, test_chart, training_chart},
    gradients::{falling, layers_table, networks, networks_table},
    measured::{Gap, NOT_RUN, Reproduction, last_accuracy, sample},
    reference::Question,
    tables::{
        accuracy_table, epochs_table, longer_table, parameters_table, reached_table, runs_table, suggestions_table,
        summary_table, verdicts,
    },
    verdict::{Verdict, comparisons},
};

/// What stands before whatever a quick run's numbers say.
const CAUTION: &str = "QUICK: the runs saw only a part of the data, so that none of this says anything. ";

/// The report. What was not run is said to be missing.
///
/// # Errors
/// When what lies beside a run's record is there and cannot be read.
pub(crate) fn document(reproduction: &Reproduction) -> Result<Document, ReportError> {
    let reference = &reproduction.reference;
    let lead = format!(
        "An assignment on image classification with Fashion-MNIST, first done in PyTorch, is done again with Kindling \
         on Burn. The reference: {}. {}.",
        reference.text("source"),
        reference.text("note")
    );
    let (rates, long) = (Question::LearningRates, Question::Convergence);
    let sections = [
        ("summary", "Summary", summary(reproduction)),
        ("differences", "Where they differ", differences(reproduction)),
        ("first-run", "1.1 Data and first run", first_run(reproduction)?),
        ("learning-rates", "1.2 Learning rates", accuracies(reproduction, rates, "learning-rates")?),
        ("convergence", "1.3 Epochs to convergence", accuracies(reproduction, long, "convergence")?),
        ("longer-training", "1.4 Ten epochs and convergence", vec![Block::Table(longer_table(reproduction))]),
        ("structures", "1.5 Depth and width", structures(reproduction)?),
        ("gradients", "1.6 Gradients of the first steps", gradients(reproduction)?),
        ("cnn", "1.7 A convolutional network", cnn(reproduction)?),
        ("suggestions", "What the reference suggests", suggestions(reproduction)?),
        ("runs", "How each was run", runs(reproduction)),
    ];
    let section =
        |(name, title, blocks): (&str, &str, _)| Section { name: name.to_owned(), title: title.to_owned(), blocks };
    Ok(Document {
        title: "Fashion-MNIST: an assignment reproduced".to_owned(),
        lead: say(reproduction, Some(lead)),
        sections: sections.map(section).into(),
    })
}

/// A paragraph on what the numbers say, with a warning where they say nothing.
fn say(reproduction: &Reproduction, text: Option<String>) -> Vec<Block> {
    let caution = if reproduction.quick { CAUTION } else { "" };
    text.map(|text| Block::Paragraph(format!("{caution}{text}"))).into_iter().collect()
}

/// Accuracy and loss of a question's rows.
fn test_charts(name: &str, curves: &[Curve]) -> Result<Vec<Block>, ReportError> {
    let of = |metric| test_chart(&format!("{name}-{metric}"), metric, curves);
    Ok(of("accuracy")?.into_iter().chain(of("loss")?).collect())
}

fn summary(reproduction: &Reproduction) -> Vec<Block> {
    let all = comparisons(reproduction);
    let mut blocks = say(reproduction, Some(verdicts(&all)));
    blocks.extend([Block::Table(summary_table(&all)), Block::Code(reproduction.command.clone())]);
    blocks
}

/// The metrics that lie outside their bands, with the runs that they are of.
fn differences(reproduction: &Reproduction) -> Vec<Block> {
    let all = comparisons(reproduction);
    let count = |verdict| all.iter().filter(|one| one.verdict == verdict).count();
    let (agree, differ) = (count(Verdict::Agrees), count(Verdict::Differs));
    let text = match agree + differ {
        0 if reproduction.quick => "nothing is compared.".to_owned(),
        0 => format!("Nothing is compared: {NOT_RUN}."),
        all => format!("{differ} of {all} compared metrics are outside their bands."),
    };
    let mut blocks = say(reproduction, Some(text));
    for one in all.iter().filter(|one| one.verdict == Verdict::Differs) {
        let label = one.question.label(one.row);
        blocks.push(Block::Heading(format!("{} {label}: {}", one.question.number(), one.compared.as_str())));
        blocks.push(Block::Table(runs_table(one)));
    }
    blocks
}

fn first_run(reproduction: &Reproduction) -> Result<Vec<Block>, ReportError> {
    let mut blocks = vec![Block::Heading("Data".to_owned())];
    let pictures = reproduction.samples.clone().map(|plot| {
        let caption = "Images of the data set with their classes.".to_owned();
        Block::Pictures(Figure { name: "samples".to_owned(), caption, plot })
    });
    blocks.extend(pictures);
    blocks.push(Block::List(shapes(reproduction)));
    blocks.push(Block::Heading("First run".to_owned()));
    blocks.push(Block::Table(epochs_table(reproduction)));
    blocks.extend(test_charts("first-run", &curves(reproduction, Question::FirstRun))?);
    blocks.extend(training_chart(reproduction)?);
    Ok(blocks)
}

/// What goes in and what comes out. The runs of 1.6 see the first batches alone.
fn shapes(reproduction: &Reproduction) -> Vec<String> {
    let whole = reproduction.rows.iter().filter(|row| row.question != Question::Gradients);
    let run = whole.flat_map(|row| &row.runs).next();
    let Some((data, images)) = run.and_then(|run| Some((&run.record.dataset, run.record.dataset.images.as_ref()?)))
    else {
        return vec![format!("Images and classes: {NOT_RUN}")];
    };
    let (height, width, classes) = (images.height, images.width, &images.classes);
    vec![
        format!("An image: `[1, {height}, {width}]`; a batch: images `[64, 1, {height}, {width}]`, targets `[64]`"),
        format!("{}: {} images to train and {} to test", data.name, grouped(data.train), grouped(data.test)),
        format!("{} classes: {}", classes.len(), classes.join(", ")),
    ]
}

/// 1.2 and 1.3: a learning rate in each row. The best is compared with the others.
fn accuracies(reproduction: &Reproduction, question: Question, name: &str) -> Result<Vec<Block>, ReportError> {
    let mut blocks = vec![Block::Table(accuracy_table(reproduction, question, "learning rate"))];
    blocks.extend(say(reproduction, beside(&ranked(reproduction, question))));
    blocks.extend(test_charts(name, &curves(reproduction, question))?);
    Ok(blocks)
}

/// The rows of a question whose runs finished, with their last accuracy, the highest first.
fn ranked(reproduction: &Reproduction, question: Question) -> Vec<(&'static str, Sample)> {
    let of = |&row: &&'static str| Some((row, sample(reproduction.runs(question, row), last_accuracy)?));
    let mut rows: Vec<(&str, Sample)> = question.rows().iter().filter_map(of).collect();
    rows.sort_by(|(_, a), (_, b)| b.mean.total_cmp(&a.mean));
    rows
}

/// How far the others are from the first.
fn beside(rows: &[(&str, Sample)]) -> Option<String> {
    let ((first, base), others) = rows.split_first()?;
    let gaps = others.iter().map(|(name, last)| format!("{name} {}", Gap::between(*base, *last).text()));
    let gaps: Vec<String> = gaps.collect();
    (!gaps.is_empty()).then(|| format!("Accuracy beside that of {first}: {}.", gaps.join(", ")))
}

fn structures(reproduction: &Reproduction) -> Result<Vec<Block>, ReportError> {
    let question = Question::Structures;
    let mut blocks = vec![
        Block::Table(accuracy_table(reproduction, question, "structure")),
        Block::Table(parameters_table(reproduction, question)),
    ];
    let mut structures = ranked(reproduction, question);
    structures.sort_by_key(|(name, _)| *name);
    blocks.extend(say(reproduction, beside(&structures)));
    blocks.extend(test_charts("structures", &curves(reproduction, question))?);
    blocks.extend(evaluation("base", reproduction.runs(question, "base"))?);
    Ok(blocks)
}

/// The run to look closer at: the best of those that were evaluated, or else of those that were tested.
fn evaluation(name: &str, runs: &[Run]) -> Result<Vec<Block>, ReportError> {
    let mut best: Option<(bool, f64, &Run)> = None;
    for run in runs {
        let Some(accuracy) = run.record.test.as_ref().and_then(|test| test.get("accuracy")) else { continue };
        let evaluated = run.directory.read_evaluation()?.is_some();
        if best.is_none_or(|(known, highest, _)| (evaluated, accuracy) > (known, highest)) {
            best = Some((evaluated, accuracy, run));
        }
    }
    let Some((_, _, run)) = best else { return Ok(Vec::new()) };
    let mut blocks = vec![Block::Heading(format!("What `{name}` gets right and wrong"))];
    blocks.extend(evaluation_blocks(run, name)?);
    Ok(blocks)
}

fn gradients(reproduction: &Reproduction) -> Result<Vec<Block>, ReportError> {
    let networks = networks(reproduction)?;
    let mut blocks = vec![Block::Table(networks_table(&networks))];
    blocks.extend(say(reproduction, falling(&networks)));
    let group = |&name: &&str| {
        let runs = reproduction.runs(Question::Gradients, name).to_vec();
        Group { label: name.to_owned(), runs, ..Group::default() }
    };
    let groups: Vec<Group> = Question::Gradients.rows().iter().map(group).collect();
    blocks.extend(gradient_charts(&groups, "gradients")?);
    let kept = networks.iter().filter(|network| !network.gradients.is_empty());
    blocks.extend(kept.map(|network| {
        Block::Details(format!("Layers of `{}`", network.name), vec![Block::Table(layers_table(network))])
    }));
    Ok(blocks)
}

fn cnn(reproduction: &Reproduction) -> Result<Vec<Block>, ReportError> {
    let runs = reproduction.runs(Question::Cnn, "cnn");
    let mut blocks = vec![
        Block::Table(accuracy_table(reproduction, Question::Cnn, "network")),
        Block::Table(parameters_table(reproduction, Question::Cnn)),
        Block::Table(reached_table(reproduction)),
    ];
    let mut networks = ranked(reproduction, Question::Cnn);
    if !networks.is_empty() {
        networks.extend(ranked(reproduction, Question::Structures));
    }
    blocks.extend(say(reproduction, beside(&networks)));
    let own = curves(reproduction, Question::Cnn);
    let others = curves(reproduction, Question::Structures).into_iter();
    let all: Vec<Curve> =
        own.iter().cloned().chain(others.map(|(name, runs, _)| (format!("mlp, {name}"), runs, Vec::new()))).collect();
    blocks.extend(test_chart("cnn-accuracy", "accuracy", &all)?);
    blocks.extend(test_chart("cnn-loss", "loss", &own)?);
    blocks.extend(evaluation("cnn", runs)?);
    Ok(blocks)
}

fn suggestions(reproduction: &Reproduction) -> Result<Vec<Block>, ReportError> {
    let text = "The CNN of 1.7 for the same 13 epochs with a third convolution, with a learning rate that falls along \
                a cosine, with training images that are shifted, mirrored and partly erased, and with all of these.";
    let mut blocks = vec![Block::Paragraph(text.to_owned()), Block::Table(suggestions_table(reproduction))];
    blocks.extend(test_charts("suggestions", &curves(reproduction, Question::Suggestions))?);
    Ok(blocks)
}

/// Every run, and what it takes to make it again. Rows with the same runs are one, with all their names.
fn runs(reproduction: &Reproduction) -> Vec<Block> {
    let places = |runs: &[Run]| runs.iter().map(|run| run.directory.path().to_owned()).collect::<Vec<_>>();
    let mut groups: Vec<Group> = Vec::new();
    for row in reproduction.rows.iter().filter(|row| !row.runs.is_empty()) {
        let label = format!("{} {}", row.question.number(), row.name);
        match groups.iter_mut().find(|group| places(&group.runs) == places(&row.runs)) {
            Some(group) => group.label = format!("{}, {label}", group.label),
            None => groups.push(Group { label, runs: row.runs.clone(), ..Group::default() }),
        }
    }
    if groups.is_empty() {
        vec![Block::Paragraph(format!("Runs: {NOT_RUN}."))]
    } else {
        how_it_was_run(&groups, &reproduction.command)
    }
}

#[cfg(test)]
mod tests {
    use kindling_report::{figures, markdown_document};
    use serde_json::json;

    use super::{
        super::{
            fixtures::{full, reproduction, row, seeds, trained},
            tables::main_table,
        },
        *,
    };

    fn judged(reproduction: &Reproduction) -> usize {
        let is_judged = |verdict| matches!(verdict, Verdict::Agrees | Verdict::Differs);
        comparisons(reproduction).iter().filter(|one| is_judged(one.verdict)).count()
    }

    #[test]
    fn without_runs_everything_is_said_to_be_missing() {
        let reproduction = reproduction(Vec::new());
        let document = document(&reproduction).unwrap();
        assert!(figures(&document).unwrap().is_empty());
        for section in document.sections {
            let alone = Document { sections: vec![section.clone()], ..Document::default() };
            let text = markdown_document(&alone).to_lowercase();
            assert!(text.contains("not run"), "{}: {text}", section.name);
        }
        assert!(main_table(&reproduction).rows.iter().all(|row| row[4] == NOT_RUN));
    }

    #[test]
    fn a_full_report_has_every_plot_and_a_cell_for_each_column_and_a_quick_one_judges_nothing() {
        fn check(blocks: &[Block]) {
            for block in blocks {
                match block {
                    Block::Table(table) => {
                        assert!(table.right.iter().all(|&column| column < table.header.len()), "{}", table.caption);
                        assert!(table.rows.iter().all(|row| row.len() == table.header.len()), "{}", table.caption);
                    }
                    Block::Details(_, inner) => check(inner),
                    _ => {}
                }
            }
        }
        let place = tempfile::tempdir().unwrap();
        let full = full(place.path());
        let whole = document(&full).unwrap();
        whole.sections.iter().for_each(|section| check(&section.blocks));
        let names: Vec<&str> = figures(&whole).unwrap().into_iter().map(|(name, _)| name).collect();
        for section in ["first-run", "learning-rates", "convergence", "structures", "cnn", "suggestions"] {
            for metric in ["accuracy", "loss"] {
                assert!(names.contains(&format!("{section}-{metric}").as_str()), "{section} {metric}: {names:?}");
            }
        }
        for wanted in ["first-run-train-loss", "gradients-gradient-norm", "base-confusion", "cnn-confusion"] {
            assert!(names.contains(&wanted), "{wanted} is not in {names:?}");
        }
        assert!(judged(&full) > 0 && !markdown_document(&whole).contains("QUICK"));
        let quick = Reproduction { quick: true, ..full };
        assert!(judged(&quick) == 0 && markdown_document(&document(&quick).unwrap()).contains("QUICK"));
    }

    #[test]
    fn metrics_outside_their_bands_are_listed_with_their_runs_and_each_run_is_described_once() {
        let place = tempfile::tempdir().unwrap();
        let one = |question, name, curve: &[f64]| seeds(place.path(), question, name, &[curve.to_vec()], &json!({}));
        let far = one(Question::LearningRates, "0.1", &[0.75, 0.7]);
        let base = row(Question::Structures, "wider", far.runs.clone());
        let reproduction = reproduction(vec![far, one(Question::LearningRates, "0.01", &[0.835]), base]);
        let blocks = differences(&reproduction);
        let [Block::Paragraph(text), Block::Heading(heading), Block::Table(table), ..] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        // The wider network has its accuracy and its parameters.
        assert_eq!(text, "3 of 4 compared metrics are outside their bands.");
        assert_eq!(heading, "1.2 learning rate 0.1: accuracy, last epoch");
        assert!(table.caption.starts_with("Measured 0.7000 (n = 1), expected 0.867–0.887."), "{}", table.caption);
        let expected = ["`1.2-0.1-0`", "finished", "0", "2", "0.7000", "0.7500", "0.3000", "0.2500", "1"];
        assert_eq!(table.rows[0][..9], expected);
        let runs = format!("{:?}", runs(&reproduction));
        assert!(runs.contains("1.2 0.1, 1.5 wider"), "{runs}");
    }

    #[test]
    fn sentences_change_with_the_numbers() {
        let of = |values: [f64; 2]| Sample::of(values).unwrap();
        let rows = [("0.1", of([0.879, 0.881])), ("0.01", of([0.878, 0.880])), ("1", of([0.1, 0.1]))];
        let expected = "Accuracy beside that of 0.1: 0.01 -0.0010 (within the spread over the seeds, 0.0020), 1 \
                        -0.7800 (more than the spread over the seeds, 0.0014).";
        assert_eq!(beside(&rows).unwrap(), expected);
        assert_eq!((beside(&rows[..1]), beside(&[])), (None, None));
    }

    #[test]
    fn the_best_run_is_looked_closer_at_but_an_evaluated_one_before_it() {
        let place = tempfile::tempdir().unwrap();
        let run = |id: &str, accuracy: f64| {
            let metrics = json!({ "test/loss": 0.5, "test/accuracy": accuracy });
            trained(place.path(), id, &[accuracy], &json!({ "test": { "metrics": metrics } }))
        };
        let runs = [run("a", 0.8), run("b", 0.9), run("c", 0.7)];
        let shown = || format!("{:?}", evaluation("base", &runs).unwrap());
        assert!(shown().contains("`b`") && !shown().contains("`c`"), "{}", shown());
        let evaluation = json!({
            "schema": kindling_record::SCHEMA, "evaluated": "", "backend": "flex", "device": "", "kernels": "",
            "images": 2, "loss": 0.5, "accuracy": 0.7, "confusion": [[1, 0], [0, 1]], "classes": [], "confused": [],
            "mistakes": [], "calibration": { "error": 0.0, "bins": [] },
        });
        std::fs::write(runs[2].directory.evaluation(), evaluation.to_string()).unwrap();
        assert!(shown().contains("`c`") && !shown().contains("`b`"), "{}", shown());
        assert!(super::evaluation("base", &[]).unwrap().is_empty());
    }
}
