use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use kindling_report::{
    Pictures, Run,
    reproduction::{Question, Reference, Reproduction, Row, document, main_table},
    table, write,
};
use kindling_training::Settings;

use crate::{
    arguments::{PlaceArguments, command_line},
    commands::{
        Misuse, Outcome,
        evaluate::keep_evaluation,
        samples::{pick, sheet},
        sweep::outcome_of,
    },
    data,
    output::{notice, print},
    reproduction::{Experiment, QUESTIONS, experiments},
    sweep::{Planned, Swept, find, sweep},
    terminal, writable,
};

/// The reference's figures, with their source.
const REFERENCE: &str = include_str!("../../../assets/assignment/reference.json");

/// Arguments of `kindling reproduce`.
#[derive(Args)]
pub(crate) struct ReproduceArguments {
    /// Train every experiment with each of the seeds 1 to N
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Only these questions: 1.1 (the first run), 1.2, 1.3, 1.4 (1.2 and 1.3), 1.5, 1.6, 1.7, suggestions [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<String>,
    /// See a ninth of the data, to try the whole in minutes; the report is marked as quick, and its figures say nothing
    #[arg(long)]
    quick: bool,
    /// Train nothing: write the report from the runs that are there
    #[arg(long)]
    report_only: bool,
    /// Directory for the report
    #[arg(long, value_name = "DIR", default_value = "reports/reproduction")]
    output: PathBuf,
    #[command(flatten)]
    place: PlaceArguments,
    /// Print the main table as JSON
    #[arg(long)]
    json: bool,
}

/// `kindling reproduce`
pub(crate) fn reproduce(arguments: &ReproduceArguments) -> Result<Outcome> {
    let wanted = questions(&arguments.only)?;
    let experiments: Vec<Experiment> =
        experiments().into_iter().filter(|experiment| wanted.contains(&experiment.question)).collect();
    let mut plan = Vec::new();
    for experiment in &experiments {
        for seed in 1..=arguments.seeds {
            let config = experiment.config(seed, arguments.quick)?;
            plan.push(Planned { name: format!("{}-seed-{seed}", experiment.name()), config });
        }
    }
    let reference = Reference::from_json(REFERENCE)?;
    writable::check(&arguments.output)?;
    let swept = if arguments.report_only { find(&plan, &arguments.place)? } else { sweep(&plan, &arguments.place)? };
    let outcome = outcome_of(&swept);
    if swept.interrupted {
        return Ok(outcome);
    }
    let rows = rows(&experiments, &swept, arguments.seeds as usize);
    evaluate_what_the_report_shows(&rows, &arguments.place)?;
    let reproduction = Reproduction {
        reference,
        command: command_line(),
        quick: arguments.quick,
        samples: Some(samples(&arguments.place)?),
        rows,
    };
    let document = document(&reproduction)?;
    let written = write(&document, &arguments.output);
    let main = main_table(&reproduction);
    if arguments.json {
        let rows: Vec<_> = main
            .rows
            .iter()
            .map(|row| main.header.iter().zip(row).collect::<std::collections::BTreeMap<_, _>>())
            .collect();
        print(serde_json::to_string_pretty(&rows)?);
    } else {
        let header: Vec<&str> = main.header.iter().map(String::as_str).collect();
        print(table(&header, &main.right, terminal::width(), main.rows));
    }
    written.with_context(|| format!("the report in {} cannot be written", arguments.output.display()))?;
    if !arguments.json {
        print(arguments.output.join("report.html").display());
    }
    Ok(outcome)
}

/// The questions that `--only` names: all where it names none.
fn questions(only: &[String]) -> Result<Vec<Question>> {
    let mut wanted = Vec::new();
    for name in only {
        if name == "1.4" {
            // It compares these two.
            wanted.extend([Question::LearningRates, Question::Convergence]);
            continue;
        }
        let Some((_, question)) = QUESTIONS.iter().find(|(known, _)| known == name) else {
            let names: Vec<_> = QUESTIONS.iter().map(|(known, _)| *known).collect();
            bail!(Misuse(format!("--only: expected some of {}, 1.4, found `{name}`", names.join(", "))));
        };
        wanted.push(*question);
    }
    Ok(if only.is_empty() { QUESTIONS.map(|(_, question)| question).to_vec() } else { wanted })
}

/// The experiments' rows with the runs that were made or found, `seeds` for each.
fn rows(experiments: &[Experiment], swept: &Swept, seeds: usize) -> Vec<Row> {
    let runs = swept.runs.chunks(seeds);
    let row = |(experiment, runs): (&Experiment, &[Option<Run>])| Row {
        question: experiment.question,
        name: experiment.row.to_owned(),
        runs: runs.iter().flatten().cloned().collect(),
    };
    experiments.iter().zip(runs).map(row).collect()
}

/// Looks closer at the weights of one base network and one CNN, where that has not been done.
fn evaluate_what_the_report_shows(rows: &[Row], place: &PlaceArguments) -> Result<()> {
    for (question, name) in [(Question::Structures, "base"), (Question::Cnn, "cnn")] {
        let row = rows.iter().find(|row| row.question == question && row.name == name);
        let Some(run) = row.and_then(|row| row.runs.first()) else { continue };
        if run.record.test.is_some() && run.directory.read_evaluation()?.is_none() {
            notice(format_args!("evaluating {}", run.record.id));
            keep_evaluation(&run.directory, place)?;
        }
    }
    Ok(())
}

/// An image of each class.
fn samples(place: &PlaceArguments) -> Result<Pictures> {
    let settings = Settings { model: Some(kindling_models::ModelName::Mlp), ..Settings::default() };
    let data = data::load(&settings.resolve()?, place.data_dir.as_deref())?;
    Ok(sheet(&data, &pick(&data, 1, 1)))
}
