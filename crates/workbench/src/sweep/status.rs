//! Where each run of a sweep stands, on whichever machine it is trained.

use std::collections::BTreeMap;

use anyhow::Result;
use kindling_record::{Holder, RunStatus};
use kindling_report::{Run, table};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Planned,
    cluster::{self, Task},
    known::known_runs,
    plan::{Part, digest},
    request,
};
use crate::{Workbench, arguments::PlaceArguments, data::DataSets, output::notice};

/// How far a run of a sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Finished,
    Diverged,
    /// A process trains it.
    Running,
    /// Slurm has started its job, which has not begun to train.
    Starting,
    /// Its job waits in Slurm's queue.
    Queued,
    /// It was being trained by a process that is gone without a word.
    Lost,
    Interrupted,
    Failed,
    /// Nobody has begun it.
    Waiting,
}

impl State {
    /// Whether nobody trains it, or is about to, and it is not over.
    pub(crate) fn is_left(self) -> bool {
        self >= Self::Lost
    }

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// Where a planned run stands.
pub(crate) struct Standing {
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) epochs: usize,
    /// Its directory and record, if it was begun.
    pub(crate) run: Option<Run>,
    /// The process that trains it, where it is known.
    holder: Option<Holder>,
    task: Option<Task>,
}

/// Where the runs of the plan stand.
pub(crate) fn survey(workbench: &Workbench, plan: &[Planned], place: &PlaceArguments) -> Result<Vec<Standing>> {
    let request = request(place)?;
    let known = known_runs(plan, &mut DataSets::new(workbench, place.data_dir.as_deref()), place, notice)?;
    // Any part of a sweep: all of them are trained in setups like this.
    let counts =
        |run: &Run, planned: &Planned| Part::One(0).takes(run, &request.setup(planned.config.training.precision));
    let mut standings: Vec<Standing> = plan
        .iter()
        .map(|planned| {
            let runs = known.iter().filter(|(config, run)| *config == planned.config && counts(run, planned));
            // Of several the one that says most, and the newest of these.
            let run = runs.map(|(_, run)| run).min_by_key(|run| state(run)).cloned();
            let state = run.as_ref().map_or(State::Waiting, state);
            let holder = run.as_ref().filter(|_| state == State::Running).and_then(|run| run.directory.holder());
            let (name, epochs) = (planned.name.clone(), planned.config.training.epochs);
            Standing { name, state, epochs, run, holder, task: None }
        })
        .collect();
    let left = standings.iter().zip(plan).filter(|(standing, _)| standing.state.is_left());
    let tasks = cluster::tasks(&place.runs_dir.path, &left.map(|(_, planned)| digest(&planned.config)).collect())?;
    for (standing, planned) in standings.iter_mut().zip(plan).filter(|(standing, _)| standing.state.is_left()) {
        if let Some(task) = tasks.get(&digest(&planned.config)) {
            standing.state = if task.is_started { State::Starting } else { State::Queued };
            standing.task = Some(task.clone());
        }
    }
    Ok(standings)
}

fn state(run: &Run) -> State {
    match (run.record.status, run.status) {
        (_, RunStatus::Running) => State::Running,
        (RunStatus::Running, _) => State::Lost,
        (RunStatus::Finished | RunStatus::Imported, _) => State::Finished,
        (RunStatus::Diverged, _) => State::Diverged,
        (RunStatus::Interrupted, _) => State::Interrupted,
        (RunStatus::Failed, _) => State::Failed,
    }
}

impl Standing {
    fn done(&self) -> usize {
        self.run.as_ref().map_or(0, |run| run.record.epochs.len())
    }

    /// Who has it.
    fn place(&self) -> String {
        let of_holder = self.holder.as_ref().map(|holder| format!("process {} on {}", holder.process, holder.host));
        let of_task = self.task.as_ref().map(|task| format!("job {}{}", task.id, on(&task.host)));
        of_holder.or(of_task).unwrap_or_default()
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "state": self.state,
            "run": self.run.as_ref().map(|run| &run.record.id),
            "epoch": self.done(),
            "epochs": self.epochs,
            "host": self.holder.as_ref().map(|holder| &holder.host),
            "process": self.holder.as_ref().map(|holder| holder.process),
            "heartbeat": self.holder.as_ref().map(|holder| &holder.heartbeat),
            "job": self.task.as_ref().map(|task| &task.id),
            "error": self.run.as_ref().and_then(|run| run.record.error.as_ref()),
        })
    }
}

fn on(host: &str) -> String {
    if host.is_empty() { String::new() } else { format!(" on {host}") }
}

/// A table of the runs, as wide as the terminal.
pub(crate) fn standings_table(standings: &[Standing], width: Option<u16>) -> String {
    let rows = standings.iter().map(|standing| {
        let id = standing.run.as_ref().map(|run| run.record.id.clone());
        let epochs = format!("{}/{}", standing.done(), standing.epochs);
        vec![standing.name.clone(), standing.state.name(), epochs, standing.place(), id.unwrap_or_default()]
    });
    table(&["run", "state", "epochs", "where", "directory"], &[2], width, rows)
}

pub(crate) fn standings_json(standings: &[Standing]) -> Value {
    standings.iter().map(Standing::to_json).collect()
}

/// How many runs there are, and how many in each state, in words.
pub(crate) fn counts(standings: &[Standing]) -> String {
    let mut counts = BTreeMap::<State, usize>::new();
    for standing in standings {
        *counts.entry(standing.state).or_default() += 1;
    }
    let counts: Vec<_> = counts.into_iter().map(|(state, count)| format!("{count} {}", state.name())).collect();
    format!("{} run{}: {}", standings.len(), if standings.len() == 1 { "" } else { "s" }, counts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn a_run_whose_process_is_gone_is_lost_and_one_that_was_stopped_is_interrupted() {
        let runs = tempfile::tempdir().unwrap();
        let of = |status: &str| state(&fixtures::run(runs.path(), status, &json!({ "status": status })));
        assert_eq!([of("running"), of("interrupted"), of("failed")], [State::Lost, State::Interrupted, State::Failed]);
        assert_eq!([of("finished"), of("diverged")], [State::Finished, State::Diverged]);
        let directory = fixtures::run(runs.path(), "alive", &json!({ "status": "running" })).directory;
        let _lock = directory.lock().unwrap();
        assert_eq!(state(&Run::read(directory).unwrap()), State::Running);
    }

    #[test]
    fn what_is_left_is_what_nobody_trains_and_is_not_over() {
        let left = [State::Lost, State::Interrupted, State::Failed, State::Waiting];
        let rest = [State::Finished, State::Diverged, State::Running, State::Starting, State::Queued];
        assert!(left.into_iter().all(State::is_left) && !rest.into_iter().any(State::is_left));
        let standing =
            |state| Standing { name: "mlp".to_owned(), state, epochs: 2, run: None, holder: None, task: None };
        assert_eq!(counts(&[State::Lost, State::Finished, State::Lost].map(standing)), "3 runs: 1 finished, 2 lost");
    }
}
