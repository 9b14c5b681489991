//! Event files for TensorBoard while a run trains.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use clap::Args;
use kindling_exchange::{ExchangeError, tensorboard::Follower};
use kindling_record::RunDirectory;

use crate::output::{notice, program};

/// How often a run is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// Whether and where event files are written.
#[derive(Args, Default)]
pub(crate) struct TensorboardArguments {
    /// While training, write event files for TensorBoard into DIR/RUN [default DIR: tensorboard]
    // With `=`, or the model would be taken for the directory.
    #[arg(long = "tensorboard", value_name = "DIR", num_args = 0..=1, require_equals = true,
        default_missing_value = "tensorboard")]
    pub(crate) log_dir: Option<PathBuf>,
}

impl TensorboardArguments {
    /// Checks that files can be written there.
    ///
    /// # Errors
    /// When it is a file, or nothing can be made in it.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.log_dir.as_deref().map_or(Ok(()), crate::writable::check)
    }

    /// Follows the run in `directory` until what is returned is dropped, if that was asked for.
    pub(crate) fn follow(&self, directory: &RunDirectory) -> Option<Following> {
        let target = self.log_dir.as_deref()?.join(directory.id());
        let (stop, stopped) = channel();
        let follower = Follower::new(directory, &target);
        let run = directory.path().to_path_buf();
        let thread = thread::Builder::new().name("tensorboard".to_owned()).spawn(move || follow(follower, &stopped));
        let end = |error: &dyn std::fmt::Display| notice(refusal(&target, &run, error));
        match thread {
            Ok(thread) => Some(Following { stop: Some(stop), thread: Some(thread), target, run }),
            Err(error) => {
                end(&error);
                None
            }
        }
    }
}

/// A run that is being followed on a thread of its own. Training never waits for it, and no error of it is one of the run.
#[must_use]
pub(crate) struct Following {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Option<ExchangeError>>>,
    target: PathBuf,
    run: PathBuf,
}

impl Drop for Following {
    /// Waits until all of the run is written, and tells if it could not be.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Ok(Some(error))) = self.thread.take().map(JoinHandle::join) {
            notice(refusal(&self.target, &self.run, &error));
        }
    }
}

/// Follows until it is told to stop, and then once more. After an error only that last time: a full disk does not become
/// empty, and to try costs the training's time.
fn follow(mut follower: Follower, stopped: &Receiver<()>) -> Option<ExchangeError> {
    let mut is_broken = false;
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY) {
        if !is_broken && let Err(error) = follower.update() {
            log::warn!("the event file for TensorBoard cannot be written until the run has ended: {error}");
            is_broken = true;
        }
    }
    follower.update().err()
}

fn refusal(target: &Path, run: &Path, error: &dyn std::fmt::Display) -> String {
    format!(
        "the event file in {} is not complete: {error}; the run is not touched by that, and this writes it again: {} \
         export {} --format tensorboard --output {} --force",
        target.display(),
        program(),
        run.display(),
        target.display()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::fixtures;

    #[test]
    fn what_is_followed_is_written_when_it_ends_and_an_error_leaves_the_run_alone() {
        let place = tempfile::tempdir().unwrap();
        let run = fixtures::run(place.path(), "mlp", &json!({})).directory;
        let log_dir = place.path().join("tensorboard");
        let arguments = TensorboardArguments { log_dir: Some(log_dir.clone()) };
        drop(arguments.follow(&run));
        assert_eq!(fs::read_dir(log_dir.join("mlp")).unwrap().count(), 1);
        fs::remove_dir_all(&log_dir).unwrap();
        fs::write(&log_dir, "a file").unwrap();
        assert!(arguments.check().unwrap_err().to_string().ends_with("is no directory"));
        drop(arguments.follow(&run));
        assert!(TensorboardArguments { log_dir: None }.follow(&run).is_none());
        let message = refusal(Path::new("tensorboard/mlp"), run.path(), &"no space");
        assert!(message.starts_with("the event file in tensorboard/mlp is not complete: no space; "), "{message}");
        assert!(message.ends_with(" --format tensorboard --output tensorboard/mlp --force"), "{message}");
    }
}
