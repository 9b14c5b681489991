//! The command `reproduce`.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use kindling_report::{Pictures, table, write};
use kindling_workbench::{
    Misuse, Outcome, Workbench,
    arguments::PlaceArguments,
    data, keep_evaluation,
    output::{notice, print},
    pick, sheet,
    sweep::{Planned, find, sweep},
    terminal, writable,
};

use super::{
    configs::config,
    measured::{Reproduction, Row},
    reference::{Question, Reference},
    report::document,
    tables::main_table,
};

/// Arguments of `reproduce`.
#[derive(Args)]
struct ReproduceArguments {
    /// Train every experiment with each of the seeds 1 to N
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Only these questions: 1.1 (first run), 1.2, 1.3, 1.4 (1.2 and 1.3), 1.5, 1.6, 1.7, suggestions [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<String>,
    /// See a ninth of the data, to try the whole in minutes; the report is marked as quick, and judges nothing
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

/// How the command is typed.
pub(crate) fn command() -> Command {
    let about = "Regenerate the assignment: every table and curve, beside the reference's";
    ReproduceArguments::augment_args(Command::new("reproduce")).about(about).long_about(None)
}

/// Trains the assignment's runs, or finds them, and writes the report on them.
pub(crate) fn reproduce(workbench: &Workbench, matches: &ArgMatches) -> Result<Outcome> {
    let arguments = ReproduceArguments::from_arg_matches(matches)?;
    let (wanted, place, registry) = (rows(&arguments.only)?, &arguments.place, workbench.registry());
    let mut plan = Vec::new();
    for &(question, row) in &wanted {
        for seed in 1..=arguments.seeds {
            let name = format!("{}-{}-seed-{seed}", question.number(), row.replace(' ', "-"));
            plan.push(Planned { name, config: config((question, row), seed, arguments.quick, &registry)? });
        }
    }
    let reference = Reference::read()?;
    writable::check(&arguments.output)?;
    let make = if arguments.report_only { find } else { sweep };
    let swept = make(workbench, &plan, place)?;
    let outcome = swept.outcome();
    if swept.interrupted {
        return Ok(outcome);
    }
    let runs = swept.runs.chunks(arguments.seeds as usize).map(|runs| runs.iter().flatten().cloned().collect());
    let rows: Vec<Row> =
        wanted.iter().zip(runs).map(|(&(question, name), runs)| Row { question, name, runs }).collect();
    evaluate_what_the_report_shows(workbench, &rows, place)?;
    let (command, quick) = (workbench.command_line(), arguments.quick);
    let reproduction = Reproduction { reference, command, quick, samples: Some(samples(workbench, place)?), rows };
    let written = write(&document(&reproduction)?, &arguments.output);
    let main = main_table(&reproduction);
    let header: Vec<&str> = main.header.iter().map(String::as_str).collect();
    if arguments.json {
        let rows = main.rows.iter().map(|row| header.iter().zip(row).collect::<BTreeMap<_, _>>());
        print(serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?);
    } else {
        print(table(&header, &main.right, terminal::width(), main.rows));
    }
    written.with_context(|| format!("the report in {} cannot be written", arguments.output.display()))?;
    if !arguments.json {
        print(arguments.output.join("report.html").display());
    }
    Ok(outcome)
}

/// The rows of the questions that `--only` names: of all where it names none.
fn rows(only: &[String]) -> Result<Vec<(Question, &'static str)>> {
    for name in only {
        let names = Question::ALL.map(Question::number);
        if name != "1.4" && !names.contains(&name.as_str()) {
            bail!(Misuse(format!("--only: expected some of {}, 1.4, found `{name}`", names.join(", "))));
        }
    }
    let is_named = |wanted: &str| only.iter().any(|name| name == wanted);
    let is_wanted = |question: &Question| match question {
        _ if only.is_empty() || is_named(question.number()) => true,
        // It compares these two.
        Question::LearningRates | Question::Convergence => is_named("1.4"),
        _ => false,
    };
    let questions = Question::ALL.into_iter().filter(is_wanted);
    Ok(questions.flat_map(|question| question.rows().iter().map(move |&row| (question, row))).collect())
}

/// Evaluates the weights of one base network and of one CNN, where that has not been done.
fn evaluate_what_the_report_shows(workbench: &Workbench, rows: &[Row], place: &PlaceArguments) -> Result<()> {
    for (question, name) in [(Question::Structures, "base"), (Question::Cnn, "cnn")] {
        let row = rows.iter().find(|row| row.question == question && row.name == name);
        let Some(run) = row.and_then(|row| row.runs.first()) else { continue };
        if run.record.test.is_some() && run.directory.read_evaluation()?.is_none() {
            notice(format_args!("evaluating {}", run.record.id));
            keep_evaluation(workbench, &run.directory, place)?;
        }
    }
    Ok(())
}

/// An image of each class.
fn samples(workbench: &Workbench, place: &PlaceArguments) -> Result<Pictures> {
    let config = config((Question::FirstRun, "mlp"), 1, false, &workbench.registry())?;
    let data = data::load(workbench, &config.data, place.data_dir.as_deref())?;
    Ok(sheet(&data, &pick(&data, 1, 1)))
}
