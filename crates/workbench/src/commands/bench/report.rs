//! What `bench` prints and keeps.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use kindling_record::{MachineRecord, now, replace_file};
use kindling_report::{grouped, markdown, table};
use kindling_training::BURN_VERSION;
use serde::Serialize;
use serde_json::Value;

use super::BenchArguments;
use crate::{
    Workbench,
    backend::Backend,
    machine,
    output::print,
    pytorch::{Agreement, PyTorch},
    workload::{Batches, Measurement},
};

/// The measurements, with all that they were made with.
#[derive(Serialize)]
pub(super) struct Report {
    command: String,
    /// RFC 3339 in UTC.
    date: String,
    machine: MachineRecord,
    /// NVIDIA's, with driver and memory.
    gpus: Vec<String>,
    versions: BTreeMap<String, String>,
    devices: BTreeMap<String, String>,
    precision: String,
    batches: &'static str,
    /// What PyTorch's program says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pytorch: Option<Value>,
    pub(super) agreements: Vec<Agreement>,
    pub(super) measurements: Vec<Measurement>,
}

/// What is known before anything is measured.
pub(super) fn report(
    workbench: &Workbench,
    arguments: &BenchArguments,
    backends: &[Backend],
    pytorch: Option<&PyTorch>,
) -> Report {
    let mut versions = BTreeMap::from([
        ("kindling".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("burn".to_owned(), BURN_VERSION.to_owned()),
    ]);
    let mut devices: BTreeMap<_, _> =
        backends.iter().map(|backend| (backend.name.to_owned(), backend.device_name.clone())).collect();
    if let Some(pytorch) = pytorch {
        let about = |key: &str| pytorch.about[key].as_str().unwrap_or("?").to_owned();
        versions.insert("torch".to_owned(), about("torch"));
        devices.insert("pytorch".to_owned(), about("device"));
    }
    Report {
        command: workbench.command_line(),
        date: now(),
        machine: machine::describe(),
        gpus: machine::nvidia_gpus(),
        versions,
        devices,
        precision: arguments.precision.to_string(),
        batches: match arguments.batches {
            Batches::Gather => "gathered in a shuffled order, on both sides",
            Batches::Slice => "slices in file order, on both sides",
        },
        pytorch: pytorch.map(|pytorch| pytorch.about.clone()),
        agreements: Vec::new(),
        measurements: Vec::new(),
    }
}

/// Writes `report` into the file that was asked for, in place of what the same command left there.
pub(super) fn save(arguments: &BenchArguments, report: &Report) -> Result<()> {
    let Some(path) = &arguments.save else { return Ok(()) };
    let mut reports: Vec<Value> = if path.exists() {
        let text = fs::read(path).with_context(|| format!("--save: {} cannot be read", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("--save: {} is no list of reports", path.display()))?
    } else {
        Vec::new()
    };
    reports.retain(|other| other["command"] != report.command.as_str());
    reports.push(serde_json::to_value(report)?);
    // A line for each, since indented numbers of rounds would fill pages.
    let lines: Vec<String> = reports.iter().map(Value::to_string).collect();
    replace_file(path, format!("[\n{}\n]\n", lines.join(",\n")).as_bytes())
        .with_context(|| format!("--save: {} cannot be written", path.display()))
}

/// Prints the results as they were asked for.
pub(super) fn show(arguments: &BenchArguments, report: &Report) -> Result<()> {
    if arguments.json {
        print(serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    let header = ["model", "batch", "mode", "on", "images/s", "from", "to", "ratio"];
    let optimizers = arguments.optimizers.len();
    let rows = report.measurements.iter().map(|found| {
        let rounded = |throughput: f64| grouped(throughput.round() as usize);
        let [low, high] = found.images_per_second_range;
        vec![
            found.model.clone(),
            found.batch_size.to_string(),
            found.mode.to_owned(),
            match &found.optimizer {
                Some(optimizer) if optimizers > 1 => {
                    format!("{}, {}", found.contender, optimizer["name"].as_str().unwrap_or_default())
                }
                _ => found.contender.clone(),
            },
            rounded(found.images_per_second),
            rounded(low),
            rounded(high),
            found.ratio_to_pytorch.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        ]
    });
    let right = [1, 4, 5, 6, 7];
    print(if arguments.markdown { markdown(&header, &right, rows) } else { table(&header, &right, None, rows) });
    let about = |all: &BTreeMap<String, String>, between: &str| {
        all.iter().map(|(name, what)| format!("{name}{between}{what}")).collect::<Vec<_>>().join("; ")
    };
    print(format_args!(
        "\nMedian, slowest and fastest of {} rounds in which all took turns; ratio: median over the rounds of the \
         throughput over that of PyTorch eager. A step reads its loss back; batches are {}; {}.",
        arguments.repeats, report.batches, report.precision
    ));
    print(format_args!("\n`{}`", report.command));
    print(format_args!("\n{}; {}", about(&report.versions, " "), about(&report.devices, ": ")));
    Ok(())
}
