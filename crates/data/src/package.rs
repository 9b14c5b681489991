//! What is in a Debian package, by apt-get and dpkg-deb and without root.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::error::{Failure, local};

/// Downloads `package` into `scratch`, and gives the directory there that it is unpacked to. Each command may take as
/// long as `limit`.
pub(crate) fn unpack(
    package: &str,
    scratch: &Path,
    limit: Duration,
    notice: &mut dyn FnMut(String),
) -> Result<PathBuf, Failure> {
    for made in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(scratch.join(made)).map_err(|error| local(scratch, error))?;
    }
    // Package lists of our own, since reading the system's may find none and renewing them takes root.
    let own_lists = [
        format!("-oDir::State::Lists={}", scratch.join("lists").display()),
        format!("-oDir::Cache={}", scratch.join("cache").display()),
    ];
    notice(format!("downloading the Debian package {package} with apt-get"));
    let apt = |arguments: &[&str], own_lists: &[String]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-oAPT::Sandbox::User="]).args(own_lists).args(arguments).current_dir(scratch);
        run(command, scratch, limit)
    };
    if apt(&["download", package], &[]).is_err() {
        notice("reading the package lists with apt-get".to_owned());
        apt(&["update"], &own_lists).map_err(Failure::Source)?;
        apt(&["download", package], &own_lists).map_err(Failure::Source)?;
    }
    let archive = fs::read_dir(scratch)
        .map_err(|error| local(scratch, error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| Failure::Source("apt-get downloaded no package".to_owned()))?;
    let unpacked = scratch.join("unpacked");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&archive).arg(&unpacked);
    run(unpack, scratch, limit).map_err(Failure::Source)?;
    Ok(unpacked)
}

/// Runs a command to its end or to the limit; the error is the last line it printed.
fn run(mut command: Command, scratch: &Path, limit: Duration) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let log = scratch.join("log");
    let output = File::create(&log).map_err(|error| error.to_string())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} took longer than {} s", limit.as_secs()));
            }
            Err(error) => return Err(format!("{program}: {error}")),
        }
    };
    if status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(&log).unwrap_or_default();
    Err(format!("{program}: {}", log.lines().last().unwrap_or("failed without a word")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_or_hangs_is_reported() {
        let scratch = tempfile::tempdir().unwrap();
        let shell = |script: &str, seconds| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            run(command, scratch.path(), Duration::from_secs(seconds))
        };
        assert_eq!(shell("true", 60), Ok(()));
        assert_eq!(shell("echo first >&2; echo why >&2; exit 3", 60), Err("sh: why".to_owned()));
        assert_eq!(shell("sleep 60", 0), Err("sh took longer than 0 s".to_owned()));
        let absent = run(Command::new("no-such-program"), scratch.path(), Duration::from_secs(1));
        assert!(absent.unwrap_err().starts_with("no-such-program cannot be run"));
    }
}
