"""Event files, read back by TensorBoard: its EventAccumulator, and the program itself over HTTP while a run trains.

    tensorboard_reader.py PROGRAM WORKDIR

needs tensorboard, and Fashion-MNIST where PROGRAM finds it. Every value of steps.jsonl, run.json and evaluation.json has
to be there once, and nothing else: after `export`, twice; after a training with --tensorboard that was interrupted,
resumed, killed, and resumed again; and in a TensorBoard that was looking on all the time.
"""

import json
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import numpy
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams

PATIENCE = 120  # Seconds.
NUMBERS = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def wait(what, condition):
    """Asks until there is an answer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.1)
    raise SystemExit(f"waited {PATIENCE} s for {what}")


def steps_of(run_path):
    path = run_path / "steps.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def expected_scalars(run_path):
    """Every scalar by its tag, [(step, value)], from the run directory alone."""
    record, found = json.loads((run_path / "run.json").read_text()), {}
    add = lambda tag, step, value: found.setdefault(tag, []).append((step, float(value)))
    last = {}
    for step in steps_of(run_path):
        number = step["step"]
        last[step["epoch"]] = number
        add("step/loss", number, step["loss"])
        add("step/learning_rate", number, step["learning_rate"])
        for kind in ("norm", "mean", "mean_abs") if "gradient" in step else ():
            add(f"step/gradient_{kind}", number, step["gradient"][kind])
            for layer in step["gradient"]["layers"]:
                add(f"gradient_{kind}/{layer['layer']}", number, layer[kind])
    for epoch in record["epochs"]:
        place = last[epoch["epoch"]]
        for name, value in epoch["metrics"].items():
            add("/".join(reversed(name.split("/", 1))), place, value)
        for name in ("learning_rate", "seconds", "evaluation_seconds", "samples_per_second"):
            add(f"epoch/{name}", place, epoch[name])
    if record["status"] == "running":
        return found
    end = max(last.values())
    for name, value in ((record["test"] or {}).get("metrics") or {}).items():
        add(name, end, value)
    if (run_path / "evaluation.json").exists():
        evaluation = json.loads((run_path / "evaluation.json").read_text())
        for name in NUMBERS:
            add(f"evaluation/{name}", end, evaluation[name])
        add("evaluation/calibration_error", end, evaluation["calibration"]["error"])
        for rank, value in enumerate(evaluation["top_k"], 1):
            add(f"evaluation/top_{rank}_accuracy", end, value)
    return found


def same(what, found, expected):
    """Compares [(step, value)] by tag, in f32, and counts the values."""
    assert found.keys() == expected.keys(), f"{what}: tags differ: {sorted(found.keys() ^ expected.keys())}"
    for tag, values in expected.items():
        steps = [[step for step, _ in side] for side in (found[tag], values)]
        assert steps[0] == steps[1], f"{what}: steps of {tag} differ: {len(steps[0])} and {len(steps[1])}"
        numbers = [numpy.array([value for _, value in side], dtype="float32") for side in (found[tag], values)]
        assert numpy.array_equal(*numbers, equal_nan=True), f"{what}: values of {tag} differ"
    return sum(len(values) for values in expected.values())


def read(log_dir):
    return EventAccumulator(str(log_dir), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE).Reload()


def check_file(what, log_dir, run_path):
    """Compares the event files in a folder with a run that nobody writes."""
    events = read(log_dir)
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    count = same(what, found, expected_scalars(run_path))
    times = [event.wall_time for event in events.Scalars("step/loss")]
    assert times == sorted(times) and times[-1] < time.time() + 60, f"{what}: times of steps go back or are to come"

    record = json.loads((run_path / "run.json").read_text())
    text = lambda tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    config = text("config").removeprefix("```json\n").removesuffix("\n```")
    assert json.loads(config) == record["config"], f"{what}: the config differs"
    assert record["dataset"]["sha256"] in text("run"), f"{what}: the data's digest is missing"
    content = events.PluginTagToContent("hparams")
    start = hparams.parse_session_start_info_plugin_data(content[hparams.SESSION_START_INFO_TAG])
    assert start.hparams["training.seed"].number_value == record["config"]["training"]["seed"]
    assert start.hparams["network.name"].string_value == record["model"]
    if record["status"] == "finished":
        end = hparams.parse_session_end_info_plugin_data(content[hparams.SESSION_END_INFO_TAG])
        assert end.status == 1, f"{what}: status {end.status}"

    images = 0
    if (run_path / "evaluation.json").exists():
        mistakes = json.loads((run_path / "evaluation.json").read_text())["mistakes"]
        tags = sorted(events.Tags()["images"])
        assert len(tags) == len(mistakes) > 0, f"{what}: {len(tags)} pictures of {len(mistakes)} mistakes"
        for tag, mistake in zip(tags, mistakes):
            (event,) = events.Images(tag)
            picture = (run_path / "mistakes" / mistake["picture"]).read_bytes()
            assert event.encoded_image_string == picture, f"{what}: {tag} is another picture"
            assert (event.width, event.height) == tuple(int.from_bytes(picture[at:at + 4], "big") for at in (16, 20))
        images = len(tags)
        assert text("evaluation/classes").count("\n") == 1 + len(record["dataset"]["classes"])
    print(f"{what}: {count} scalars, {images} pictures, config, hyperparameters: the same")


class Board:
    """TensorBoard itself, looking at a folder."""

    def __init__(self, log_dir, *flags):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", log_dir, "--port", str(self.port)]
        command += ["--reload_interval", "1", "--samples_per_plugin", "scalars=1000000", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(self, path, **query):
        url = f"http://127.0.0.1:{self.port}/data/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return None

    def scalars(self, run_id):
        tags = (self.get("plugin/scalars/tags") or {}).get(run_id, {})
        found = {}
        for tag in tags:
            found[tag] = [(step, float(value)) for _, step, value in self.get("plugin/scalars/scalars", run=run_id, tag=tag)]
        return found

    def close(self):
        self.process.terminate()
        self.process.wait()


def check_export(program, work):
    run_path = pathlib.Path(
        run(program, "train", "mlp", "--hidden", "16", "--epochs", "2", "--limit-batches", "40", "--set",
            "training.gradient_steps=10", "--runs-dir", work / "runs", "--dashboard", "never").splitlines()[-1]
    )  # fmt: skip
    target = work / "exported"
    export = lambda: run(program, "export", run_path, "--format", "tensorboard", "--output", target, "--force")
    export()
    check_file("exported", target, run_path)
    run(program, "evaluate", run_path)
    export()
    check_file("evaluated and exported again", target, run_path)


def check_live(program, work):
    runs, log_dir = work / "live", work / "tensorboard"
    flags = [f"--tensorboard={log_dir}", "--dashboard", "never"]

    def start(*command):
        return subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def steps(run_id):
        folder = log_dir / run_id
        events = read(folder) if folder.is_dir() and any(folder.iterdir()) else None
        return len(events.Scalars("step/loss")) if events and "step/loss" in events.Tags()["scalars"] else 0

    def stop(process, run_id, more, how):
        before = steps(run_id)
        wait("an event file that grows", lambda: steps(run_id) > before + more or process.poll() is not None)
        assert process.poll() is None, "the training ended before it could be stopped"
        process.send_signal(how)
        return process.wait()

    # The server that reads event files by default, and the one in Python.
    log_dir.mkdir()
    boards = [Board(log_dir), Board(log_dir, "--load_fast", "false")]
    try:
        process = start(program, "train", "mlp", "--epochs", "16", "--runs-dir", runs, *flags)
        run_path = wait("a run", lambda: runs.is_dir() and next(iter(runs.glob("*/run.json")), None)).parent
        run_id = run_path.name
        code = stop(process, run_id, 1000, signal.SIGINT)
        assert code == 130, f"interrupted with the exit code {code}"
        check_file("interrupted", log_dir / run_id, run_path)
        resume = [program, "resume", run_path, *flags]
        stop(start(*resume), run_id, 1000, signal.SIGKILL)
        found = [event.step for event in read(log_dir / run_id).Scalars("step/loss")]
        assert found == list(range(1, len(found) + 1)), "killed: steps are missing or doubled"
        for board in boards:
            wait("TensorBoard", lambda: len(board.scalars(run_id).get("step/loss", [])) >= len(found))
        assert start(*resume).wait() == 0
        check_file("killed and resumed to the end", log_dir / run_id, run_path)
        expected = expected_scalars(run_path)
        for name, board in zip(("TensorBoard, looking on", "TensorBoard without its data server"), boards):
            wait(name, lambda: "test/loss" in board.scalars(run_id))
            print(f"{name}: {same(name, board.scalars(run_id), expected)} scalars, each once")
    finally:
        for board in boards:
            board.close()


def main():
    program, work = sys.argv[1], pathlib.Path(sys.argv[2])
    check_export(program, work)
    check_live(program, work)


if __name__ == "__main__":
    main()
