//! Sweeps that several processes share: shards, and array jobs of a Slurm that is two shell scripts here.
//! `scripts/checks/slurm.sh` does the same with Slurm itself.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    program::{command, text},
    workflow::runs,
};

const SWEEP: [&str; 9] =
    ["sweep", "mlp", "--hidden", "8", "--dataset", "synthetic", "--limit-batches=5", "--epochs", "2"];

/// Keeps its arguments and the script, and says that this is job 7.
const SBATCH: &str = r#"#!/bin/sh
for word in "$@"; do echo "$word"; done > arguments.txt
for script in "$@"; do :; done
cp "$script" submitted.sh
echo 7
"#;

/// The runs' names without their times, each with its weights.
fn weights(place: &Path) -> Vec<(String, Vec<u8>)> {
    let name = |run: &PathBuf| run.file_name().unwrap().to_str().unwrap().rsplitn(3, '-').nth(2).unwrap().to_owned();
    runs(place).iter().map(|run| (name(run), fs::read(run.join("model.safetensors")).unwrap())).collect()
}

/// A program `name` in `place/bin`.
fn put(place: &Path, name: &str, script: &str) {
    let path = place.join("bin").join(name);
    fs::create_dir_all(place.join("bin")).unwrap();
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// `kindling` where the programs of `place/bin` come before others.
fn with_slurm(place: &Path, arguments: &[&str]) -> Output {
    let path = format!("{}:{}", place.join("bin").display(), env::var("PATH").unwrap());
    command(place, arguments).env("PATH", path).output().unwrap()
}

/// The state of each run, and its job.
fn states(place: &Path, more: &[&str]) -> Vec<(String, Value)> {
    let output = with_slurm(place, &[&SWEEP[..], more, &["--status", "--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let standings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    standings.iter().map(|run| (run["state"].as_str().unwrap().to_owned(), run["job"].clone())).collect()
}

/// Runs a task of the script that was submitted, as Slurm would.
fn run_task(place: &Path, task: &str) -> Output {
    let script = place.join("submitted.sh");
    Command::new("sh").arg(script).current_dir(place).env("SLURM_ARRAY_TASK_ID", task).output().unwrap()
}

#[test]
fn shards_at_the_same_time_train_what_one_sweep_trains() {
    let place = tempfile::tempdir().unwrap();
    let alone = tempfile::tempdir().unwrap();
    let start = |shard: &str| {
        let arguments = [&SWEEP[..], &["--seeds", "4", "--shard", shard]].concat();
        command(place.path(), &arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for shard in ["1/2", "2/2"].map(start) {
        let output = shard.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert!(command(alone.path(), &[&SWEEP[..], &["--seeds", "4"]].concat()).output().unwrap().status.success());
    let (shared, alone) = (weights(place.path()), weights(alone.path()));
    assert_eq!(shared.len(), 4);
    assert!(shared == alone);
    // Each has its share, and nothing of it is left.
    let again = command(place.path(), &[&SWEEP[..], &["--seeds", "4", "--shard", "2/2"]].concat()).output().unwrap();
    assert!(text(&again.stderr).contains("2 of 2 runs are already finished"), "{}", text(&again.stderr));
    assert_eq!(runs(place.path()).len(), 4);
}

#[test]
fn an_array_job_has_a_task_for_each_run_that_is_left() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    put(place, "sbatch", SBATCH);
    put(place, "squeue", "#!/bin/sh\ncat queue.txt\n");
    fs::write(place.join("queue.txt"), "").unwrap();
    assert!(command(place, &[&SWEEP[..], &["--seed", "2"]].concat()).output().unwrap().status.success());

    let options = "--partition=gpu --time=1:00:00 --comment='two words'";
    let submit = || with_slurm(place, &[&SWEEP[..], &["--seeds", "3", "--at-once", "2", "--slurm", options]].concat());
    let submitted = submit();
    assert_eq!(text(&submitted.stdout), "7\n", "{}", text(&submitted.stderr));
    for told in ["3 runs: 1 finished, 2 waiting", "submitted 2 of 3 runs as job 7", "scancel 7"] {
        assert!(text(&submitted.stderr).contains(told), "{told} in {}", text(&submitted.stderr));
    }
    let arguments = fs::read_to_string(place.join("arguments.txt")).unwrap();
    let arguments: Vec<_> = arguments.lines().collect();
    assert_eq!(arguments[..4], ["--parsable", "--partition=gpu", "--time=1:00:00", "--comment=two words"]);
    let script = fs::read_to_string(place.join("submitted.sh")).unwrap();
    for line in ["#SBATCH --array=0-1%2", "#SBATCH --signal=B:TERM@60", "#   task 1: run 2, mlp-seed-3", "set -- 0 2"] {
        assert!(script.lines().any(|found| found == line), "{line} in\n{script}");
    }

    let first = run_task(place, "0");
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert_eq!(runs(place).len(), 2);
    fs::write(place.join("queue.txt"), "7 1 PENDING \n9 0 RUNNING node1\n").unwrap();
    let none = Value::Null;
    assert_eq!(
        states(place, &["--seeds", "3"]),
        [
            ("finished".to_owned(), none.clone()),
            ("finished".to_owned(), none.clone()),
            ("queued".to_owned(), "7_1".into())
        ]
    );
    fs::remove_file(place.join("submitted.sh")).unwrap();
    let again = submit();
    assert!(
        again.status.success() && text(&again.stderr).contains("nothing is left to submit"),
        "{}",
        text(&again.stderr)
    );
    assert!(!place.join("submitted.sh").exists(), "a queued run was submitted twice");

    // It was cancelled.
    fs::write(place.join("queue.txt"), "").unwrap();
    assert_eq!(states(place, &["--seeds", "3"])[2], ("waiting".to_owned(), none));
    assert!(text(&submit().stderr).contains("submitted 1 of 3 runs"));
    assert!(run_task(place, "0").status.success());
    assert!(states(place, &["--seeds", "3"]).iter().all(|(state, _)| state == "finished"));
    // A task that comes once more finds its run.
    let late = run_task(place, "0");
    assert!(text(&late.stderr).contains("1 of 1 runs are already finished"), "{}", text(&late.stderr));
    let names: Vec<_> = weights(place).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names.iter().filter(|name| name.starts_with("mlp-seed-")).collect::<Vec<_>>(),
        ["mlp-seed-1", "mlp-seed-3"]
    );
    assert_eq!(names.len(), 3);
}

#[test]
fn what_slurm_refuses_is_told_in_its_words_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let submit = |options: &str| with_slurm(place, &[&SWEEP[..], &["--slurm", options]].concat());
    let told = |output: &Output, code: i32, words: &[&str]| {
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(output.stdout.is_empty());
    };
    put(place, "sbatch", "#!/bin/sh\necho 'sbatch: error: invalid partition specified: nope' >&2\nexit 1\n");
    told(&submit("--partition=nope"), 1, &["invalid partition specified: nope", "nothing was submitted"]);
    put(place, "sbatch", "#!/bin/sh\necho 'all is well'\n");
    told(&submit(""), 1, &["expected the number of a job, found `all is well`"]);
    told(&submit("--array=0-3"), 2, &["`--array=0-3` is set by the sweep"]);
    told(&submit("gpu"), 2, &["expected options of sbatch"]);
    let sweeps = place.join("runs/.sweeps");
    let left = fs::read_dir(&sweeps).unwrap().flat_map(|sweep| fs::read_dir(sweep.unwrap().path()).unwrap());
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name.starts_with("plan-")), "{left:?}");
    let nowhere = command(place, &[&SWEEP[..], &["--slurm", ""]].concat()).env("PATH", "").output().unwrap();
    told(&nowhere, 1, &["no program `sbatch`", "--shard"]);
    for wrong in [&["--shard", "3/2"][..], &["--at-once", "2"], &["--status", "--shard", "1/2"], &["--only", "1"]] {
        let output = command(place, &[&SWEEP[..], wrong].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_task_whose_plan_was_changed_trains_nothing() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    put(place, "sbatch", SBATCH);
    assert!(with_slurm(place, &[&SWEEP[..], &["--slurm", ""]].concat()).status.success());
    let [sweep] = &fs::read_dir(place.join("runs/.sweeps")).unwrap().collect::<Vec<_>>()[..] else { panic!() };
    let files = fs::read_dir(sweep.as_ref().unwrap().path()).unwrap().map(|entry| entry.unwrap().path());
    let plan = files.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("plan-")).unwrap();
    let changed = fs::read_to_string(&plan).unwrap().replace("\"epochs\": 2", "\"epochs\": 3");
    fs::write(&plan, changed).unwrap();
    let refused = run_task(place, "0");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("this plan was changed"), "{}", text(&refused.stderr));
    assert!(runs(place).is_empty());
}

#[test]
fn a_run_that_another_process_trains_is_left_to_it_and_is_lost_when_that_is_killed() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    // So many epochs that it cannot end.
    let sweep = [&SWEEP[..7], &["--epochs", "1000000"]].concat();
    let shard = [&sweep[..], &["--shard", "1/1"]].concat();
    let start = || {
        let mut child = command(place, &shard).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let parts = |run: &PathBuf| {
            let record: Value = serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap();
            (record["parts"].as_array().unwrap().len(), record["epochs"].as_array().unwrap().len())
        };
        let wait = |is_there: &dyn Fn() -> bool, child: &mut std::process::Child| {
            while !is_there() {
                assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
                thread::sleep(Duration::from_millis(5));
            }
        };
        let before = runs(place).first().map_or((0, 0), parts);
        let has_more = || runs(place).first().is_some_and(|run| parts(run).0 > before.0 && parts(run).1 > before.1);
        wait(&has_more, &mut child);
        child
    };
    let status = || {
        let output = command(place, &[&sweep[..], &["--status", "--json"]].concat()).output().unwrap();
        let standings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        standings[0].clone()
    };
    let mut child = start();
    let running = status();
    assert_eq!((running["state"].as_str(), running["process"].as_u64()), (Some("running"), Some(child.id().into())));
    for other in [&shard, &sweep] {
        let output = command(place, other).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success() && said.contains("another process") && said.contains("skipped"), "{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let lost = status();
    assert_eq!((lost["state"].as_str(), &lost["process"]), (Some("lost"), &Value::Null));
    let table = text(&command(place, &[&sweep[..], &["--status"]].concat()).output().unwrap().stdout);
    assert!(table.contains("lost") && table.contains("/1000000"), "{table}");

    let mut child = start();
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(status()["state"], "interrupted");
    assert_eq!(runs(place).len(), 1, "it was resumed, it did not begin again");
}

#[test]
fn a_process_whose_run_was_taken_over_writes_nothing_more() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let train = ["train", "mlp", "--hidden", "8", "--dataset", "synthetic", "--limit-batches=5", "--epochs", "1000000"];
    let mut child = command(place, &train).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let run = loop {
        match &runs(place)[..] {
            [run] if run.join("checkpoints/index.json").exists() => break run.clone(),
            _ => thread::sleep(Duration::from_millis(5)),
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    };
    // As a process on another machine would, which had waited long enough.
    let mut lease: Value = serde_json::from_slice(&fs::read(run.join("lease")).unwrap()).unwrap();
    assert_eq!(lease["process"], child.id());
    (lease["token"], lease["host"], lease["process"]) = ("taken".into(), "elsewhere".into(), 7.into());
    fs::write(run.join("taken"), lease.to_string()).unwrap();
    fs::rename(run.join("taken"), run.join("lease")).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for told in ["no longer holds the run, another one does (process 7 on elsewhere, since ", "nothing more is written"]
    {
        assert!(said.contains(told), "{told} in {said}");
    }
    assert!(!said.contains("resume with:"), "{said}");
    let record: Value = serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap();
    assert_eq!(record["status"], "running", "the record is the other's");
    assert!(fs::read_to_string(run.join("lease")).unwrap().contains("elsewhere"));
}
