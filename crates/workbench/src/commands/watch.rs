use std::{
    collections::BTreeSet,
    env,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use kindling_record::{RunDirectory, RunRecord, RunStatus};
use kindling_web::watch::{Control, Options, Runs, site};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Workbench,
    arguments::RunsDirectory,
    outcome::{Misuse, Outcome},
    page::PageArguments,
    signals,
};

/// How long the page waits for a process that it has started to hold its run.
const START: Duration = Duration::from_secs(10);
/// As much of what such a process said is shown where it fails.
const SAID: u64 = 4 << 10;

/// Arguments of `watch`.
#[derive(Args)]
pub(crate) struct WatchArguments {
    /// The runs: ids, prefixes that no other run has, or paths [default: all in the runs directory, those to come too]
    runs: Vec<String>,
    #[command(flatten)]
    runs_dir: RunsDirectory,
    /// Port to listen on; 0 takes any free one
    #[arg(long, value_name = "PORT", default_value_t = 8320)]
    port: u16,
    #[command(flatten)]
    page: PageArguments,
    /// Let the page stop and resume runs, not only show them
    #[arg(long)]
    control: bool,
}

/// The command `watch`.
pub(crate) fn watch(workbench: &Workbench, arguments: &WatchArguments) -> Result<Outcome> {
    let runs_dir = &arguments.runs_dir.path;
    let runs = chosen(runs_dir, &arguments.runs)?;
    let server = arguments.page.bind(arguments.port)?;
    let control = arguments.control.then(|| control(runs_dir));
    signals::install()?;
    let what = if arguments.control { "shows, stops and resumes" } else { "shows" };
    let which = if arguments.runs.is_empty() {
        format!("the runs in {}", runs_dir.display())
    } else {
        arguments.runs.join(", ")
    };
    let site = site(Options { runs, program: workbench.program().to_owned(), control });
    arguments.page.serve(&server, &site, &format!("this page {what} {which}"));
    Ok(Outcome::Done)
}

/// The runs that were named, or all of the directory.
fn chosen(runs_dir: &Path, named: &[String]) -> Result<Runs> {
    if named.is_empty() {
        return Ok(Runs::In(runs_dir.to_path_buf()));
    }
    let runs = named.iter().map(|run| RunDirectory::find(runs_dir, run)).collect::<Result<Vec<_>, _>>()?;
    let mut ids = BTreeSet::new();
    if let Some(run) = runs.iter().find(|run| !ids.insert(run.id())) {
        bail!(Misuse(format!("`{}` is the name of two of these runs; watch one of them", run.id())));
    }
    Ok(Runs::These(runs))
}

/// What the page may do to runs.
fn control(runs_dir: &Path) -> Control {
    // A second signal ends a process at once, before its checkpoint.
    let asked = Mutex::new(BTreeSet::new());
    let runs_dir = runs_dir.to_path_buf();
    Control {
        stop: Box::new(move |run| stop(run, &mut asked.lock().unwrap_or_else(PoisonError::into_inner))),
        resume: Box::new(move |run| resume(run, &runs_dir)),
    }
}

/// Asks the process that holds the run to stop; `asked` are those that were before.
fn stop(run: &RunDirectory, asked: &mut BTreeSet<(PathBuf, u32, String)>) -> Result<String, String> {
    let id = run.id();
    let holder = run.holder().ok_or_else(|| format!("{id} is not being trained any more"))?;
    let process = holder.process;
    if !holder.is_here {
        return Err(format!("{id} is trained by process {process} on {}; it can only be stopped there", holder.host));
    }
    let one = (run.path().to_path_buf(), process, holder.since);
    if asked.contains(&one) {
        return Ok(format!("process {process} was asked to stop {id} already, and finishes its step"));
    }
    let number =
        i32::try_from(process).ok().and_then(Pid::from_raw).filter(|_| has_open(process, &run.path().join("lock")));
    let number = number.ok_or_else(|| format!("process {process} does not hold {id}; nothing was done to it"))?;
    kill_process(number, Signal::INT).map_err(|error| format!("process {process} cannot be stopped: {error}"))?;
    asked.insert(one);
    Ok(format!("process {process} was asked to stop {id}; it finishes its step and keeps a checkpoint"))
}

/// Whether a process of this machine has the file open, where the system tells.
fn has_open(process: u32, path: &Path) -> bool {
    let (Ok(files), Ok(path)) = (fs::read_dir(format!("/proc/{process}/fd")), path.canonicalize()) else {
        return !cfg!(target_os = "linux");
    };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|open| open == path))
}

/// Starts a process that trains the run further, and waits until it does.
fn resume(run: &RunDirectory, runs_dir: &Path) -> Result<String, String> {
    let id = run.id();
    let failed = |error: std::io::Error| format!("{id} cannot be resumed: {error}");
    let path = run.path().canonicalize().map_err(failed)?;
    let log = OpenOptions::new().create(true).append(true).open(run.log()).map_err(failed)?;
    let (before, stopped) = (log.metadata().map_err(failed)?.len(), run.read_record().ok());
    let mut command = Command::new(env::current_exe().map_err(failed)?);
    command.args(["resume", "--dashboard", "never", "--runs-dir"]).arg(runs_dir).arg("--").arg(path);
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
    // Ctrl-C in the terminal of the page does not reach it.
    let mut child = command.process_group(0).spawn().map_err(failed)?;
    let process = child.id();
    // It holds the lock before it knows whether it can: it does when its record says so.
    let trains = |record: RunRecord| record.status == RunStatus::Running && Some(record) != stopped;
    let holds = || {
        let is_held = run.holder().is_some_and(|holder| holder.process == process && holder.is_here);
        is_held && run.read_record().is_ok_and(trains)
    };
    let said = match ended_or(&mut child, holds).map_err(failed)? {
        None if holds() => Ok(format!("process {process} trains {id} further")),
        None => Ok(format!("process {process} was started to train {id} further; the run's log says how far it is")),
        Some(true) => Ok(format!("process {process} has resumed {id} and is done with it")),
        Some(false) => Err(format!("{id} cannot be resumed: {}", end_of(&run.log(), before))),
    };
    // What nobody waits for stays in the table of processes.
    thread::spawn(move || child.wait());
    said
}

/// Waits until the process has ended, and says whether it did well; or until something is so, or for long enough.
fn ended_or(child: &mut Child, is_so: impl Fn() -> bool) -> std::io::Result<Option<bool>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if is_so() || started.elapsed() > START {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The last line of what was added to the log since it had `before` bytes.
fn end_of(log: &Path, before: u64) -> String {
    let added = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(before.max(length.saturating_sub(SAID))))?;
        let mut text = Vec::new();
        file.take(SAID).read_to_end(&mut text)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    let added = added().unwrap_or_default();
    added.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing of why").to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    #[test]
    fn a_run_that_nobody_trains_is_not_stopped_and_a_process_without_the_lock_gets_no_signal() {
        let place = tempfile::tempdir().unwrap();
        let run = fixtures::run(place.path(), "mlp", &json!({ "status": "running" })).directory;
        let refused = stop(&run, &mut BTreeSet::new()).unwrap_err();
        assert_eq!(refused, "mlp is not being trained any more");
        let lock = run.path().join("lock");
        let _held = run.lock().unwrap();
        let own = std::process::id();
        assert!(has_open(own, &lock));
        // The first process of the machine, if it can be looked at, has other files open.
        assert!(!cfg!(target_os = "linux") || !has_open(1, &lock) && !has_open(u32::MAX, &lock));
        assert!(!cfg!(target_os = "linux") || !has_open(own, &run.path().join("run.json")));
    }

    #[test]
    fn runs_are_named_as_anywhere_and_two_of_one_name_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let (here, there) = (place.path().join("here"), place.path().join("there"));
        fixtures::run(&here, "mlp-1", &json!({}));
        let other = fixtures::run(&there, "mlp-1", &json!({})).directory;
        assert!(matches!(chosen(&here, &[]).unwrap(), Runs::In(path) if path == here));
        assert!(matches!(chosen(&here, &["mlp".to_owned()]).unwrap(), Runs::These(runs) if runs[0].id() == "mlp-1"));
        let two = ["mlp-1".to_owned(), other.path().display().to_string()];
        assert!(chosen(&here, &two).unwrap_err().is::<Misuse>());
        assert!(chosen(&here, &["cnn".to_owned()]).is_err());
    }

    #[test]
    fn what_a_process_says_last_is_what_is_told() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log.txt");
        fs::write(&log, "of before\nerror: no data\n\n").unwrap();
        assert_eq!(end_of(&log, 10), "error: no data");
        assert_eq!(end_of(&log, 26), "it says nothing of why");
    }
}
