//! The commands `claims` and `claim`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, builder::PossibleValuesParser};
use kindling_config::Partial;
use kindling_record::{RunStatus, replace_file};
use kindling_report::{Run, table};
use kindling_workbench::{
    Misuse, Outcome, Workbench,
    arguments::{PlaceArguments, with_set},
    data, keep_evaluation,
    output::{notice, print},
    sweep::{Planned, begun},
    terminal, writable,
};
use serde_json::json;

use super::{
    CLAIMS, Claim, ClaimRecord, SEEDS, page, report,
    seeds::{End, Order, PEER, train},
};

/// Where the figures on record are.
const ON_RECORD: &str = "assets/claims";

/// Arguments of `claims`.
#[derive(Args)]
struct ClaimsArguments {
    /// Directory of the figures on record
    #[arg(long, value_name = "DIR", default_value = ON_RECORD)]
    output: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Arguments of `claim`.
#[derive(Args)]
struct ClaimArguments {
    /// Train with N seeds
    #[arg(long, value_name = "N", default_value_t = SEEDS, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// The first of the seeds
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    first_seed: u64,
    /// Directory for NAME.json and NAME.md; what is there of more seeds is kept [default: assets/claims; with --set the
    /// report's]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Directory for the report, with plots [default: reports/claim-NAME]
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Train nothing: write everything from the runs that are there
    #[arg(long)]
    report_only: bool,
    /// After each seed, train the same with PyTorch by this Python, for comparison; in a clone of the repository
    #[arg(long, value_name = "PYTHON", conflicts_with = "report_only")]
    pytorch: Option<PathBuf>,
    /// Change a key of the recipe, as in training.epochs=1; can be repeated. The record says so and does not judge the claim
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    place: PlaceArguments,
    /// Print the record as JSON
    #[arg(long)]
    json: bool,
}

/// How `claims` is typed.
pub(crate) fn claims_command() -> Command {
    let about = "List the claims: what each recipe reaches, with the figures on record";
    ClaimsArguments::augment_args(Command::new("claims")).about(about).long_about(None)
}

/// How `claim` is typed.
pub(crate) fn claim_command() -> Command {
    let about = "Train a claim's recipe with several seeds, each in a process of its own, and check the claim; resumes \
                 what is not finished";
    let names = CLAIMS.map(|claim| claim.name);
    let name = Arg::new("claim").value_name("NAME").required(true).value_parser(PossibleValuesParser::new(names));
    ClaimArguments::augment_args(Command::new("claim").arg(name.help("The claim; `claims` lists what each says")))
        .about(about)
        .long_about(None)
}

/// Lists the claims.
pub(crate) fn claims(_: &Workbench, matches: &ArgMatches) -> Result<Outcome> {
    let arguments = ClaimsArguments::from_arg_matches(matches)?;
    let read = |claim: Claim| Ok((claim, ClaimRecord::read(&file(&arguments.output, claim.name, "json"))?));
    let all = CLAIMS.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    if arguments.json {
        let all = all.iter().map(|(claim, record)| {
            json!({
                "name": claim.name, "claimed": claim.sentence, "target_accuracy": claim.target_accuracy,
                "parameter_limit": claim.parameter_limit, "seconds_limit": claim.seconds_limit,
                "seconds_limit_without_avx512": claim.seconds_limit_without_avx512, "record": record,
            })
        });
        print(serde_json::to_string_pretty(&all.collect::<Vec<_>>())?);
        return Ok(Outcome::Done);
    }
    let none = || "none".to_owned();
    let rows = all.iter().map(|(claim, record)| {
        let on_record = record.as_ref().map_or_else(none, page::in_a_line);
        vec![claim.name.to_owned(), claim.sentence.to_owned(), on_record]
    });
    print(table(&["claim", "claimed", "on record"], &[], terminal::width(), rows) + "\n");
    Ok(Outcome::Done)
}

/// Trains the seeds of a claim, or finds them, and writes what they reach.
pub(crate) fn claim(workbench: &Workbench, matches: &ArgMatches) -> Result<Outcome> {
    let arguments = ClaimArguments::from_arg_matches(matches)?;
    let name = matches.get_one::<String>("claim").map(String::as_str).unwrap_or_default();
    let claim = CLAIMS.into_iter().find(|claim| claim.name == name).context("no such claim")?;
    let place = &arguments.place;
    let plan = plan(workbench, &claim, &arguments)?;
    // Before anything else: the program may start itself again here.
    let runs = begun(workbench, &plan, place)?;
    let seeds = arguments.first_seed..;
    let mut seeds: Vec<_> = seeds.zip(plan).zip(runs).map(|((seed, planned), run)| (seed, planned, run)).collect();
    let report = arguments.report.clone().unwrap_or_else(|| PathBuf::from(format!("reports/claim-{name}")));
    let changed_output = (!arguments.set.is_empty()).then(|| report.clone());
    let output = arguments.output.clone().or(changed_output).unwrap_or_else(|| PathBuf::from(ON_RECORD));
    writable::check(&output)?;
    writable::check(&report)?;
    let python = arguments.pytorch.as_deref();
    if python.is_some() && !Path::new(PEER).is_file() {
        bail!(Misuse(format!("--pytorch: there is no {PEER} here; run the command in a clone of the repository")));
    }
    let mut end = End::Done;
    if !arguments.report_only {
        writable::check(&place.runs_dir.path)?;
        let order = Order { recipe: name, changed: &arguments.set, place, python };
        end = train(workbench, &order, &mut seeds)?;
    }
    if let End::Failed(error) = &end {
        notice(format_args!("error: {error}"));
    }
    if seeds.iter().all(|(_, _, run)| run.is_none()) {
        match end {
            End::Interrupted => return Ok(Outcome::Interrupted),
            End::Failed(_) => return Ok(Outcome::Failed),
            End::Done => bail!("expected runs of {name} in {}, found none", place.runs_dir.path.display()),
        }
    }
    let begun: Vec<Run> = seeds.iter().filter_map(|(_, _, run)| run.clone()).collect();
    if end == End::Done {
        evaluate(workbench, &begun, place)?;
    }
    let command = command_line(workbench, &arguments, name);
    let record = ClaimRecord::of(&claim, &arguments.set, &seeds, command, page::protocol(&seeds))?;
    let written = write(&record, &output, &report)?;
    if let (End::Done, Some((_, planned, _))) = (&end, seeds.first()) {
        let data = data::load(workbench, &planned.config.data, place.data_dir.as_deref())?;
        let made = report::write(&record, &begun, Some(&data.test), &report);
        made.with_context(|| format!("the report in {} cannot be written", report.display()))?;
    }
    if arguments.json {
        print(serde_json::to_string_pretty(&record)?);
    } else {
        print(page::verdict(&record));
        for reason in &record.verdict.reasons {
            print(format_args!("  {reason}"));
        }
        print(written.display());
        if end == End::Done {
            print(report.join("report.html").display());
        }
    }
    Ok(match end {
        End::Done => Outcome::Done,
        End::Failed(_) => Outcome::Failed,
        End::Interrupted => {
            notice("interrupted; the same command resumes it");
            Outcome::Interrupted
        }
    })
}

/// Evaluates the weights of the finished runs, where that has not been done.
fn evaluate(workbench: &Workbench, runs: &[Run], place: &PlaceArguments) -> Result<()> {
    for run in runs.iter().filter(|run| run.status == RunStatus::Finished) {
        if run.directory.read_evaluation()?.is_none() {
            notice(format_args!("evaluating {}", run.record.id));
            keep_evaluation(workbench, &run.directory, place)?;
        }
    }
    Ok(())
}

/// The run of each seed.
fn plan(workbench: &Workbench, claim: &Claim, arguments: &ClaimArguments) -> Result<Vec<Planned>> {
    let registry = workbench.registry();
    let typed = with_set(Partial::default(), &arguments.set, &registry)?;
    if typed.has("training.seed") {
        bail!(Misuse("--set training.seed: a claim has several seeds; use --first-seed and --seeds".to_owned()));
    }
    let base = typed.over(workbench.recipe_named(claim.name)?.partial()?);
    let mark = if arguments.set.is_empty() { "" } else { "changed-" };
    let of = |seed: u64| {
        let mut partial = base.clone();
        partial.set("training.seed", seed.into());
        Ok(Planned { name: format!("claim-{}-{mark}seed-{seed}", claim.name), config: workbench.resolve(partial)? })
    };
    (arguments.first_seed..).take(arguments.seeds as usize).map(of).collect()
}

/// The command that repeats this on another machine: what decides its results, and no place of this one.
fn command_line(workbench: &Workbench, arguments: &ClaimArguments, name: &str) -> String {
    let device = &arguments.place.device;
    let kernels = arguments.place.kernels.map(|kernels| kernels.as_str().to_owned());
    let first = (arguments.first_seed != 1).then(|| arguments.first_seed.to_string());
    let changed = arguments.set.iter().map(|pair| ("set", Some(pair.clone())));
    let flags =
        [("seeds", Some(arguments.seeds.to_string())), ("first-seed", first)].into_iter().chain(changed).chain([
            ("backend", device.backend.clone()),
            ("devices", device.devices.map(|devices| devices.to_string())),
            ("kernels", kernels),
            ("pytorch", arguments.pytorch.is_some().then(|| "python3".to_owned())),
        ]);
    let flags = flags.filter_map(|(flag, value)| Some(format!(" --{flag} {}", value?)));
    format!("{} claim {name}{}", workbench.program(), flags.collect::<String>())
}

/// Writes `NAME.json` and `NAME.md` into `output`, or beside the report where that has a record of more seeds.
fn write(record: &ClaimRecord, output: &Path, report: &Path) -> Result<PathBuf> {
    let json = file(output, &record.name, "json");
    let known =
        ClaimRecord::read(&json)?.map_or(0, |known| if known.changed.is_empty() { known.finished() } else { 0 });
    let is_less = known > record.finished() || (known > 0 && !record.changed.is_empty());
    let place = if is_less && output != report { report } else { output };
    if place != output {
        let path = json.display();
        notice(format_args!("{path} has {known} finished seeds and stays; this record is in {}", place.display()));
    }
    fs::create_dir_all(place).with_context(|| format!("{} cannot be made", place.display()))?;
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    replace_file(&file(place, &record.name, "json"), &text)?;
    let page = file(place, &record.name, "md");
    replace_file(&page, page::page(record).as_bytes())?;
    Ok(page)
}

fn file(directory: &Path, name: &str, extension: &str) -> PathBuf {
    directory.join(format!("{name}.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::{super::verdict::tests::record, *};

    #[test]
    fn a_record_of_more_seeds_or_of_the_recipe_itself_is_not_replaced() {
        let place = tempfile::tempdir().unwrap();
        let (output, report) = (place.path().join("claims"), place.path().join("report"));
        let written = |accuracies: &[Option<f64>], changed: serde_json::Value| {
            write(&record(accuracies, &json!({ "changed": changed })), &output, &report).unwrap()
        };
        let (kept, beside) = (output.join("fast94.md"), report.join("fast94.md"));
        assert_eq!(written(&[Some(0.94); 4], json!([])), kept);
        assert_eq!(written(&[Some(0.94), Some(0.94), None], json!([])), beside);
        assert_eq!(written(&[Some(0.95); 5], json!(["epochs=1"])), beside);
        assert_eq!(ClaimRecord::read(&output.join("fast94.json")).unwrap().unwrap().finished(), 4);
        assert_eq!(written(&[Some(0.94); 4], json!([])), kept);
        assert_eq!(written(&[Some(0.94); 5], json!([])), kept);
    }
}
