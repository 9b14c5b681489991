//! The runs that are there.

use std::path::Path;

use crate::{RecordError, RunDirectory, RunRecord};

/// A run with its record, or with the reason why that cannot be read.
pub type ListedRun = (RunDirectory, Result<RunRecord, RecordError>);

/// The runs in `runs_dir`, oldest first; a run whose record cannot be read comes with the reason.
///
/// A `runs_dir` that does not exist holds no runs.
///
/// # Errors
/// When the directory is there and cannot be read.
pub fn list_runs(runs_dir: &Path) -> Result<Vec<ListedRun>, RecordError> {
    let mut runs: Vec<_> = RunDirectory::all_in(runs_dir)?
        .into_iter()
        .map(|directory| {
            let record = directory.read_record();
            (directory, record)
        })
        .collect();
    runs.sort_by_key(|(directory, record)| {
        (record.as_ref().map_or_else(|_| String::new(), |record| record.started.clone()), directory.id())
    });
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::directory::tests::run_in;

    /// The ids that a listing has, each in its record as well.
    fn listed(runs_dir: &Path) -> Vec<String> {
        let runs = list_runs(runs_dir).unwrap();
        assert!(runs.iter().all(|(directory, record)| record.as_ref().unwrap().id == directory.id()));
        runs.into_iter().map(|(directory, _)| directory.id()).collect()
    }

    #[test]
    fn a_run_is_called_as_its_directory_is_however_it_came_by_that_name() {
        let place = tempfile::tempdir().unwrap();
        let runs_dir = place.path().canonicalize().unwrap();
        let run = run_in(&runs_dir, "mlp-1");
        fs::rename(run.path(), runs_dir.join("best")).unwrap();
        run_in(&runs_dir, "copy");
        assert_eq!(listed(&runs_dir), ["best", "copy"]);
        let inner = runs_dir.join("best/checkpoints");
        fs::create_dir(&inner).unwrap();
        let path = |text: &str| runs_dir.join(text).to_str().unwrap().to_owned();
        for wanted in ["best", "best/", "./best", "best/.", "copy/../best", "best/checkpoints/.."] {
            for wanted in [wanted.to_owned(), path(wanted)] {
                let Ok(found) = RunDirectory::find(&runs_dir, &wanted) else { panic!("{wanted} is not found") };
                assert_eq!((found.id(), found.read_record().unwrap().id), ("best".to_owned(), "best".to_owned()));
            }
        }
        // From outside the runs directory as well.
        let outside = RunDirectory::find(&runs_dir.join("none"), &path("best/checkpoints/..")).unwrap();
        assert_eq!(outside.id(), "best");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_run_is_a_run_of_the_links_name() {
        let runs_dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let run = run_in(elsewhere.path(), "mlp-1");
        std::os::unix::fs::symlink(run.path(), runs_dir.path().join("linked")).unwrap();
        assert_eq!(listed(runs_dir.path()), ["linked"]);
        assert_eq!(RunDirectory::find(runs_dir.path(), "link").unwrap().read_record().unwrap().id, "linked");
    }
}
