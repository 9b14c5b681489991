//! A sweep as an array job of Slurm: a task for each run that is left, on a directory of runs that all machines share.
//!
//! In the directory of the runs, `.sweeps/<name>-<digest>/` has a file with the plan, and for each submission the
//! script, what each of its tasks trains, and their outputs. A task runs this program on the plan's file, with the
//! number of its run; the file's name has the digest of its content.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{ErrorKind, Write},
    path::{self, Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use kindling_record::replace_file;
use serde::{Deserialize, Serialize};

use super::{
    Planned,
    plan::{SWEEPS, digest, save},
};
use crate::{arguments::PlaceArguments, outcome::Misuse, tensorboard::TensorboardArguments};

/// Options of `sbatch` that the sweep sets itself.
const OWN: [&str; 5] = ["array", "output", "error", "chdir", "wrap"];
/// Their short forms.
const OWN_SHORT: [&str; 4] = ["-a", "-o", "-e", "-D"];

/// An array job that was submitted.
pub(crate) struct Job {
    /// Slurm's number of it.
    pub(crate) id: String,
    /// Its script; plan and outputs are beside it.
    pub(crate) script: PathBuf,
}

/// What is kept of a submission, to know its tasks in Slurm's queue.
#[derive(Serialize, Deserialize)]
struct JobFile {
    job: String,
    /// The runs by the numbers of the tasks.
    tasks: Vec<JobTask>,
}

#[derive(Serialize, Deserialize)]
struct JobTask {
    run: String,
    /// Digest of its config.
    config: String,
}

/// A task in Slurm's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    /// As in `12_3`.
    pub(super) id: String,
    /// Whether Slurm has started it.
    pub(super) is_started: bool,
    /// Where it runs, if it does.
    pub(super) host: String,
}

/// Submits the runs of `plan` with these indices as one array job: at most `at_once` of its tasks run at the same time.
/// `options` are sbatch's, as in a shell.
///
/// # Errors
/// When Slurm refuses it, with Slurm's own words; nothing is submitted then.
pub(crate) fn submit(
    plan: &[Planned],
    indices: &[usize],
    label: &str,
    (options, at_once): (&str, Option<usize>),
    (place, tensorboard): (&PlaceArguments, &TensorboardArguments),
) -> Result<Job> {
    let words = own_words(options)?;
    let runs_dir = path::absolute(&place.runs_dir.path)?;
    let (directory, plan_name) = save(plan, label, &runs_dir.join(SWEEPS))?;
    let failed = || format!("{} cannot be written to", directory.display());
    let mut script =
        tempfile::Builder::new().prefix("submitting-").suffix(".sh").tempfile_in(&directory).with_context(failed)?;
    let mut program = command(&directory.join(&plan_name), place, &runs_dir)?;
    program.extend(tensorboard.log_dir.as_ref().map(|path| format!("--tensorboard={}", path.display())));
    let names: Vec<&str> = indices.iter().map(|index| plan[*index].name.as_str()).collect();
    let text = Script { label, names: &names, indices, directory: &directory, options: &words, at_once, program };
    script.write_all(text.to_text()?.as_bytes()).with_context(failed)?;
    script.flush().with_context(failed)?;

    let id = sbatch(&words, script.path())?;
    // The job is there, whatever becomes of these files.
    let tasks = indices.iter().map(|index| &plan[*index]);
    let tasks = tasks.map(|run| JobTask { run: run.name.clone(), config: digest(&run.config) }).collect();
    let file = serde_json::to_vec_pretty(&JobFile { job: id.clone(), tasks })?;
    let kept = directory.join(format!("job-{id}.sh"));
    let submitted = || format!("job {id} was submitted, but what it trains cannot be kept in {}", directory.display());
    replace_file(&directory.join(format!("job-{id}.json")), &file).with_context(submitted)?;
    replace_file(&kept, &fs::read(script.path()).with_context(submitted)?).with_context(submitted)?;
    Ok(Job { id, script: kept })
}

/// The options as words, if none of them is the sweep's.
fn own_words(options: &str) -> Result<Vec<String>> {
    let wrong = |what: &str| Misuse(format!("--slurm {}: {what}", shell_words::quote(options)));
    let words =
        shell_words::split(options).map_err(|_| wrong("expected options of sbatch, found a quote without its end"))?;
    let is_own = |word: &&String| {
        let long = word.strip_prefix("--").map(|long| long.split('=').next().unwrap_or(long));
        // sbatch takes the beginning of a name for it.
        let is_one = |long: &str| !long.is_empty() && OWN.iter().any(|own| own.starts_with(long));
        long.is_some_and(is_one) || OWN_SHORT.iter().any(|short| word.starts_with(short))
    };
    if let Some(word) = words.iter().find(is_own) {
        bail!(wrong(&format!(
            "`{word}` is set by the sweep; leave it out (--at-once N limits how many runs are trained at the same time)"
        )));
    }
    if options.contains('\n') || words.first().is_some_and(|word| !word.starts_with('-')) {
        bail!(wrong("expected options of sbatch on one line, as in \"--partition=gpu --gres=gpu:1 --time=1:00:00\""));
    }
    Ok(words)
}

/// What a task runs, but for the number of its run.
fn command(plan: &Path, place: &PlaceArguments, runs_dir: &Path) -> Result<Vec<String>> {
    let text = |path: &Path| {
        let absolute = path::absolute(path)?;
        absolute.to_str().map(str::to_owned).with_context(|| format!("{}: this path is no Unicode", path.display()))
    };
    let program = env::current_exe().context("this program's file cannot be found")?;
    let mut words = vec![text(&program)?, "sweep".to_owned(), "--planned".to_owned(), text(plan)?];
    words.extend(["--runs-dir".to_owned(), text(runs_dir)?]);
    let device = &place.device;
    let remote = (!device.remote.is_empty()).then(|| device.remote.join(","));
    let given = [
        ("--backend", device.backend.clone()),
        ("--devices", device.devices.map(|devices| devices.to_string())),
        ("--remote", remote),
        ("--kernels", place.kernels.map(|kernels| kernels.as_str().to_owned())),
        ("--data-dir", place.data_dir.as_deref().map(text).transpose()?),
    ];
    for (flag, value) in given {
        words.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    }
    Ok(words)
}

/// A batch script.
struct Script<'a> {
    label: &'a str,
    names: &'a [&'a str],
    indices: &'a [usize],
    directory: &'a Path,
    options: &'a [String],
    at_once: Option<usize>,
    program: Vec<String>,
}

impl Script<'_> {
    fn to_text(&self) -> Result<String> {
        let current = env::current_dir().context("the current directory is gone")?;
        // Slurm puts numbers in place of what follows a percent sign.
        let output = self.directory.display().to_string().replace('%', "%%");
        let limit = self.at_once.map_or_else(String::new, |at_once| format!("%{at_once}"));
        let indices: Vec<String> = self.indices.iter().map(ToString::to_string).collect();
        let mut lines = vec!["#!/bin/sh".to_owned()];
        let mut directive = |text: String| lines.push(format!("#SBATCH {text}"));
        directive(format!("--job-name=kindling-{}", self.label));
        // A minute before its time is over a run is asked to stop, and leaves a checkpoint; `B:` means this script,
        // which the program takes the place of.
        directive("--signal=B:TERM@60".to_owned());
        if !self.options.is_empty() {
            directive(self.options.iter().map(|option| readable(option)).collect::<Vec<_>>().join(" "));
        }
        directive(format!("--array=0-{}{limit}", self.indices.len() - 1));
        directive(format!("--chdir={}", quoted(&current.display().to_string())));
        directive(format!("--output={}", quoted(&format!("{output}/job-%A_%a.txt"))));
        directive("--open-mode=append".to_owned());
        lines.push("# The tasks of this job train the runs of plan-*.json with these indices, from 0:".to_owned());
        lines.extend(
            self.names
                .iter()
                .zip(&indices)
                .enumerate()
                .map(|(task, (name, index))| format!("#   task {task}: run {index}, {name}")),
        );
        lines.push(format!("set -- {}", indices.join(" ")));
        lines.push("shift \"$SLURM_ARRAY_TASK_ID\"".to_owned());
        lines.push(format!("exec {} --only \"$1\"", shell_words::join(&self.program)));
        Ok(lines.join("\n") + "\n")
    }
}

/// An option in quotes, where it needs them.
fn readable(option: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-=:,.@/_+%".contains(c);
    if option.chars().all(is_plain) { option.into() } else { shell_words::quote(option) }
}

/// A value of a directive, in double quotes where it needs them.
fn quoted(text: &str) -> String {
    if text.contains(|c: char| c.is_whitespace() || "\"'#\\".contains(c)) {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        text.to_owned()
    }
}

/// Submits a script and returns the number of the job.
fn sbatch(options: &[String], script: &Path) -> Result<String> {
    // What is on the command line counts more than variables and the script's lines.
    let output = Command::new("sbatch").arg("--parsable").args(options).arg(script).output();
    let output = output.map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!(
            "--slurm: there is no program `sbatch` on this machine; submit from one of the cluster's, or share the sweep \
             with --shard I/N"
        ),
        _ => anyhow::Error::from(error).context("sbatch"),
    })?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace("sbatch: error: ", "").replace('\n', "; ");
    if !output.status.success() {
        bail!("Slurm refused the job: {}; nothing was submitted: correct the options of --slurm", said(&output.stderr));
    }
    // With several clusters, the cluster's name follows.
    let stdout = said(&output.stdout);
    let id = stdout.split(';').next().unwrap_or_default();
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) {
        bail!("sbatch: expected the number of a job, found `{stdout}` {}", said(&output.stderr));
    }
    Ok(id.to_owned())
}

/// The tasks in Slurm's queue that are to train configs with these digests, by the digests. None where there is no
/// Slurm.
pub(super) fn tasks(runs_dir: &Path, digests: &BTreeSet<String>) -> Result<BTreeMap<String, Task>> {
    let mut jobs = BTreeMap::new();
    for file in job_files(&runs_dir.join(SWEEPS)) {
        if file.tasks.iter().any(|task| digests.contains(&task.config)) {
            jobs.insert(file.job.clone(), file);
        }
    }
    if jobs.is_empty() {
        return Ok(BTreeMap::new());
    }
    let ids: Vec<&str> = jobs.keys().map(String::as_str).collect();
    let output = Command::new("squeue")
        .args(["--noheader", "--array", "--format=%F %K %T %N", "--jobs", &ids.join(",")])
        .output();
    let output = match output {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        output => output.context("squeue")?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    // Slurm forgets jobs some minutes after their end.
    if !output.status.success() && !said.contains("Invalid job id") {
        bail!("squeue does not tell which runs are queued: {}", said.trim());
    }
    let mut tasks = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut words = line.split_whitespace();
        let (Some(job), Some(number), Some(state)) = (words.next(), words.next(), words.next()) else { continue };
        // Its program has ended.
        if state == "COMPLETING" {
            continue;
        }
        let task = jobs.get(job).zip(number.parse::<usize>().ok()).and_then(|(file, number)| file.tasks.get(number));
        if let Some(task) = task.filter(|task| digests.contains(&task.config)) {
            let (id, host) = (format!("{job}_{number}"), words.next().unwrap_or_default().to_owned());
            let is_waiting =
                matches!(state, "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "RESV_DEL_HOLD" | "SPECIAL_EXIT");
            tasks.insert(task.config.clone(), Task { id, is_started: !is_waiting, host });
        }
    }
    Ok(tasks)
}

/// What is kept of the submissions in `sweeps`, as far as it can be read.
fn job_files(sweeps: &Path) -> Vec<JobFile> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let files = entries(sweeps).flat_map(|sweep| entries(&sweep.path())).map(|entry| entry.path());
    let files = files.filter(|path| {
        path.extension().is_some_and(|extension| extension == "json")
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("job-"))
    });
    files.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_the_sweep_sets_and_what_is_no_option_are_refused() {
        let words = own_words("--partition=gpu --gres=gpu:1 -t 1:00:00 --comment='two words' -A account").unwrap();
        assert_eq!(words[3..6], ["1:00:00", "--comment=two words", "-A"]);
        for wrong in ["--array=1-3", "--arr=1-3", "-a1-3", "--output x", "-e x", "-D /tmp", "--wrap=x"] {
            let refused = own_words(wrong).unwrap_err().to_string();
            assert!(refused.contains("is set by the sweep") && refused.contains("--at-once"), "{refused}");
        }
        for wrong in ["gpu", "--a\n--b", "--comment='x"] {
            assert!(own_words(wrong).unwrap_err().is::<Misuse>(), "{wrong}");
        }
        assert!(own_words("").unwrap().is_empty());
    }

    #[test]
    fn a_script_has_a_task_for_each_run_that_is_left() {
        let script = Script {
            label: "mlp",
            names: &["mlp-seed-1", "mlp-seed-4"],
            indices: &[0, 3],
            directory: Path::new("/shared folder/100%/.sweeps/mlp-0a"),
            options: &["--partition=gpu", "--comment=two words"].map(str::to_owned),
            at_once: Some(2),
            program: ["/bin/kindling", "sweep", "--planned", "/shared folder/plan.json"].map(str::to_owned).to_vec(),
        };
        let text = script.to_text().unwrap();
        for line in [
            "#SBATCH --signal=B:TERM@60",
            "#SBATCH --partition=gpu '--comment=two words'",
            "#SBATCH --array=0-1%2",
            "#SBATCH --output=\"/shared folder/100%%/.sweeps/mlp-0a/job-%A_%a.txt\"",
            "#   task 1: run 3, mlp-seed-4",
            "set -- 0 3",
            "exec /bin/kindling sweep --planned '/shared folder/plan.json' --only \"$1\"",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.starts_with("#!/bin/sh\n"));
    }
}
