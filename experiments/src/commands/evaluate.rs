use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use kindling_record::{RunDirectory, RunStatus};
use kindling_report::percent;
use kindling_training::{Precision, Settings};
use serde_json::json;

use crate::{
    arguments::EvaluateArguments,
    backend::Request,
    commands::{Misuse, Outcome},
    data,
    output::{notice, print},
    relaunch, signals,
};

/// `kindling evaluate`
pub(crate) fn evaluate(arguments: &EvaluateArguments) -> Result<Outcome> {
    let directory = RunDirectory::find(&arguments.runs_dir.path, &arguments.run)?;
    let record = directory.read_record()?;
    if record.status != RunStatus::Finished {
        bail!(Misuse(format!(
            "{} is {}, and only a finished run has weights to evaluate; go on with: kindling resume {}",
            directory.id(),
            record.status,
            directory.path().display()
        )));
    }
    let config = Settings::from_object(record.config.clone())?.resolve()?;
    let name = arguments.backend.as_deref().unwrap_or(&record.backend);
    let request = Request::new(name, None, arguments.remote.as_deref())?;
    relaunch::with(&request.environment())?;
    // The weights are in f32 on disk: a backend that lacks the run's type computes in that.
    let backend = request.open_for(&[config.precision, Precision::F32])?;
    notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
    if backend.precision != config.precision {
        notice(format_args!("trained in {}, evaluated in {}", config.precision, backend.precision));
    }
    arguments.kernels.choose();
    signals::install()?;
    let known = record.dataset.source.map(PathBuf::from).filter(|path| path.exists());
    let data = data::load(&config, arguments.data_dir.clone().or(known).as_deref())?;
    let found = kindling_training::test(&data, &directory, &backend.devices[0], backend.largest_tensor)
        .with_context(|| format!("{} cannot be evaluated", directory.id()))?;
    if arguments.json {
        print(serde_json::to_string_pretty(&json!({
            "run": directory.id(),
            "backend": backend.name,
            "device": backend.device_name,
            "kernels": backend.kernels(arguments.kernels),
            "images": found.confusion.iter().flatten().sum::<usize>(),
            "loss": found.loss,
            "accuracy": found.accuracy,
            "confusion": found.confusion,
        }))?);
        return Ok(Outcome::Done);
    }
    print(format_args!("test accuracy {}, test loss {:.4} on {}", percent(found.accuracy), found.loss, backend.name));
    if let Some(test) = record.test {
        let difference = (found.accuracy - test.accuracy) * 100.0;
        print(format_args!(
            "the run itself, on {}: {} (difference {difference:+.2} points)",
            record.backend,
            percent(test.accuracy)
        ));
    }
    Ok(Outcome::Done)
}
