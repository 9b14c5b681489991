use std::path::PathBuf;

use anyhow::{Context, Error, Result};
use clap::Args;
use kindling_classification::{check_data, preparation};
use kindling_data::ImageSet;
use kindling_record::RunDirectory;
use kindling_web::play::{Facts, Player, site};

use crate::{
    Workbench,
    arguments::RunsDirectory,
    backend::{Backend, Request},
    outcome::Outcome,
    output::{notice, told},
    page::PageArguments,
    relaunch, signals,
    trained::Trained,
};

/// Arguments of `play`.
#[derive(Args)]
pub(crate) struct PlayArguments {
    /// The run, or two to set side by side: an id, a prefix that no other run has, or a path
    #[arg(value_name = "RUN", required = true, num_args = 1..=2)]
    runs: Vec<String>,
    /// Port to listen on; 0 takes any free one
    #[arg(long, value_name = "PORT", default_value_t = 8321)]
    port: u16,
    #[command(flatten)]
    page: PageArguments,
    /// Directory of the data set, for its test images [default: where the run found it, then as for train]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Backend to compute on, as for train [default: the run's]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// With --backend remote: where the command `serve` listens
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
    #[command(flatten)]
    runs_dir: RunsDirectory,
}

/// The command `play`.
pub(crate) fn play(workbench: &Workbench, arguments: &PlayArguments) -> Result<Outcome> {
    let find = |run: &String| RunDirectory::find(&arguments.runs_dir.path, run);
    let directories = arguments.runs.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    let read = |directory| Trained::read(workbench, directory);
    let runs = directories.iter().map(read).collect::<Result<Vec<_>>>()?;
    let request = |trained: &Trained<'_>| {
        let name = arguments.backend.as_deref().unwrap_or(&trained.record.backend);
        Request::new(name, None, arguments.remote.as_slice())
    };
    let requests = runs.iter().map(request).collect::<Result<Vec<_>>>()?;
    relaunch::with(&requests.iter().flat_map(Request::environment).collect::<Vec<_>>())?;
    let server = arguments.page.bind(arguments.port)?;
    signals::install()?;
    let mut opened: Vec<(Request, Backend)> = Vec::new();
    let mut players = Vec::new();
    for (trained, request) in runs.iter().zip(requests) {
        // A device can be set up once.
        let known = opened.iter().position(|(other, _)| *other == request);
        let place = known.unwrap_or(opened.len());
        if known.is_none() {
            let backend = trained.open(&request)?;
            notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
            opened.push((request, backend));
        }
        players.push(player(workbench, arguments, trained, &opened[place].1)?);
    }
    let site = site(players).context("the thread for the test images cannot be started")?;
    arguments.page.serve(&server, &site, "the page is there");
    Ok(Outcome::Done)
}

/// The run with its network on `backend`, and with its test images if they are there.
fn player(
    workbench: &Workbench,
    arguments: &PlayArguments,
    trained: &Trained<'_>,
    backend: &Backend,
) -> Result<Player> {
    let (record, id) = (&trained.record, trained.directory.id());
    let images = record.dataset.images.as_ref().with_context(|| format!("{id} was not trained on images"))?;
    let predictor = trained.predictor(backend)?;
    let test = test_images(workbench, arguments, trained);
    let complain = |error: &Error| notice(format_args!("{id}: the page is without its test images: {}", told(error)));
    let test = test.inspect_err(complain).ok();
    let facts = Facts {
        name: id.clone(),
        model: record.model.clone(),
        dataset: record.dataset.name.clone(),
        classes: images.classes.clone(),
        accuracy: record.test.as_ref().and_then(|test| test.get("accuracy")),
    };
    let network = Box::new(move |images: &ImageSet| predictor.probabilities(images));
    Ok(Player::new(facts, network, preparation(images, trained.config.data.fit), test))
}

fn test_images(workbench: &Workbench, arguments: &PlayArguments, trained: &Trained<'_>) -> Result<ImageSet> {
    let data = trained.data(workbench, arguments.data_dir.as_deref())?;
    check_data(&trained.record, &data)?;
    Ok(data.test)
}
