"""ONNX files of trained networks in ONNX Runtime, against the program's own evaluation and predictions.

    onnx_runtime.py PROGRAM WORKDIR [--images N] [RUN...]

needs onnx, onnxruntime and pillow, and Fashion-MNIST where PROGRAM finds it. Trains mlp, cnn, resnet-8 and airbench for a
moment, or takes runs on Fashion-MNIST; exports each with and without its batch norms; checks the files; and runs the bytes
of N test images (all 10,000 where none is given) through them, in batches of several sizes.
"""

import argparse
import gzip
import json
import pathlib
import subprocess

import numpy
import onnx
import onnxruntime
from PIL import Image

NETWORKS = ("mlp", "cnn", "resnet-8", "airbench")
# A few steps, and the whole test split, which has the same limit.
TRAINING = ("--epochs", 1, "--batch-size", 1000, "--limit-batches", 10)
PREDICTED = 12


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def test_images(run_path):
    """The test split that a run was tested on as bytes, [images, 1, 28, 28], and its labels."""
    folder = pathlib.Path(json.loads((run_path / "run.json").read_text())["dataset"]["source"])
    read = lambda path: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    files = [next(folder.glob(f"t10k-{name}*")) for name in ("images", "labels")]
    images, labels = (numpy.frombuffer(read(path), dtype="uint8") for path in files)
    return images[16:].reshape(-1, 1, 28, 28), labels[8:].astype(int)


def computed(session, images, batch):
    """Logits and probabilities of all images."""
    parts = [session.run(None, {"pixels": images[at:at + batch]}) for at in range(0, len(images), batch)]
    return [numpy.concatenate(part) for part in zip(*parts)]


def close(what, found, expected, tolerance):
    difference = float(numpy.abs(numpy.asarray(found) - numpy.asarray(expected)).max())
    assert difference <= tolerance, f"{what}: differs by {difference}, {tolerance} is allowed"
    return difference


def check(program, work, run_path, count):
    images, labels = (split[:count] for split in test_images(run_path))
    count, classes = len(images), 10
    predicted = []
    for index in range(PREDICTED):
        path = work / f"{index}.png"
        Image.fromarray(images[index, 0]).save(path)
        predicted.append(path)
    answers = json.loads(run(program, "predict", run_path, *predicted, "--as-is", "--top", classes, "--json"))
    by_program = numpy.zeros((PREDICTED, classes))
    for row, answer in zip(by_program, answers):
        for guess in answer["predictions"]:
            row[guess["label"]] = guess["probability"]
    evaluation = json.loads(run(program, "evaluate", run_path, "--json"))
    # As many as the run's limit of batches lets it see.
    tested, plain = sum(map(sum, evaluation["confusion"])), None
    for fold in ((), ("--fold-batch-norm",)):
        path = work / f"{run_path.name}{'-folded' if fold else ''}.onnx"
        run(program, "export", run_path, "--format", "onnx", "--output", path, "--force", *fold)
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert len(json.loads(metadata["classes"])) == classes and metadata["run"] == run_path.name, metadata
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        logits, probabilities = computed(session, images, 1000)
        # Any number of images at once is the same.
        for batch in (1, 7):
            few = computed(session, images[:21], batch)
            close(f"batches of {batch}", few[0], logits[:21], 1e-4 * max(1.0, float(numpy.abs(logits[:21]).max())))
        row = logits.astype("float64")
        row -= row.max(axis=1, keepdims=True)
        losses = numpy.log(numpy.exp(row).sum(axis=1)) - row[numpy.arange(count), labels]
        found = logits.argmax(axis=1)
        difference = close("probabilities", probabilities[:PREDICTED], by_program, 1e-4)
        lines = [f"probabilities of {PREDICTED} pictures as predict has them to {difference:.1e}"]
        if tested <= count:
            confusion = numpy.zeros((classes, classes), dtype=int)
            numpy.add.at(confusion, (labels[:tested], found[:tested]), 1)
            loss, accuracy = losses[:tested].mean(), (found == labels)[:tested].mean()
            close("loss", loss, evaluation["loss"], 1e-5)
            close("accuracy", accuracy, evaluation["accuracy"], 1e-9)
            assert confusion.tolist() == evaluation["confusion"], "the confusion matrices differ"
            lines.append(f"loss {loss:.6f}, accuracy {accuracy:.4f} and confusion of {tested} images as evaluate has them")
        if plain is None:
            plain = logits
        else:
            difference = close("folded logits", logits, plain, 1e-4 * max(1.0, float(numpy.abs(plain).max())))
            lines.append(f"logits of {count} images as without folding to {difference:.1e}")
        norms = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
        print(f"{run_path.name}{' folded' if fold else ''} ({len(model.graph.node)} nodes, {norms} batch norms): {'; '.join(lines)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=10_000, metavar="N")
    parser.add_argument("runs", nargs="*", metavar="RUN", type=pathlib.Path)
    arguments = parser.parse_args()
    work = arguments.workdir
    runs = list(arguments.runs)
    for network in () if runs else NETWORKS:
        place = work / "runs" / network
        run(arguments.program, "train", network, *TRAINING, "--runs-dir", place, "--dashboard", "never")
        runs.append(next(path for path in place.iterdir() if path.is_dir()))
    for path in runs:
        check(arguments.program, work, path, arguments.images)


if __name__ == "__main__":
    main()
