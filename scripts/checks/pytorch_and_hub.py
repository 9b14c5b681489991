"""Weights to and from PyTorch, and folders for the Hugging Face hub, against torch, safetensors and the hub's own reader.

    pytorch_and_hub.py PROGRAM WORKDIR

needs torch, safetensors, onnx, numpy, pillow and pyyaml (huggingface_hub as well, if it is there), and Fashion-MNIST where
PROGRAM finds it. Trains mlp, cnn and resnet-8 for a moment, and loads what PROGRAM exports into the same networks of
PyTorch's; saves networks of PyTorch's in every way that PROGRAM imports, and lets it evaluate them; and gives it files that
are none of them, one with foreign code.
"""

import gzip
import importlib.util
import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

NETWORKS = pathlib.Path(__file__).parents[2] / "crates/workbench/src/pytorch_networks.py"
MODELS = ("mlp", "cnn", "resnet-8")
# A few steps, and the whole test split, which has the same limit.
TRAINING = ("--epochs", 1, "--batch-size", 1000, "--limit-batches", 10)
PREDICTED = 16


def run(*command, cwd=None):
    answer = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd)
    assert answer.returncode == 0, f"{command}: {answer.stderr}"
    return answer.stdout


def refused(*command):
    answer = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert answer.returncode in (1, 2) and "panicked" not in answer.stderr, f"{command}: {answer.stderr}"
    return answer.stderr


def last_line(text):
    return pathlib.Path(text.splitlines()[-1])


def networks():
    spec = importlib.util.spec_from_file_location("pytorch_networks", NETWORKS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NETWORKS


def network_of(config):
    """The network of a section `network`, for Fashion-MNIST."""
    keys = dict(config)
    kind = keys.pop("name").partition("-")[0]
    return networks()[kind](1, 28, 28, 10, **keys).eval()


def test_images(record):
    """The test split as a run normalized it, [images, 1, 28, 28], its bytes, and its labels."""
    data = record["dataset"]
    folder = pathlib.Path(data["source"])
    read = lambda path: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    files = [next(folder.glob(f"t10k-{name}*")) for name in ("images", "labels")]
    images, labels = (numpy.frombuffer(read(path), dtype="uint8") for path in files)
    images = images[16:].reshape(-1, 1, 28, 28)
    pixels = torch.from_numpy(images.copy()).float() / 255
    pixels = (pixels - torch.tensor(data["pixel_mean"][0])) / torch.tensor(data["pixel_std"][0])
    return pixels, images, torch.from_numpy(labels[8:].astype("int64"))


@torch.no_grad()
def logits(network, pixels):
    return torch.cat([network(part) for part in pixels.split(1000)])


def right(network, pixels, labels):
    return int((logits(network, pixels).argmax(1) == labels).sum())


def check_export(program, work, model):
    """What PROGRAM trained, in PyTorch: from the file, and by the card's own code from the folder."""
    path = last_line(run(program, "train", model, *TRAINING, "--dashboard", "never", "--runs-dir", work / "runs", "--name", model))
    run(program, "evaluate", path)
    record = json.loads((path / "run.json").read_text())
    pixels, images, labels = test_images(record)
    file, hub = work / f"{model}.safetensors", work / f"{model}-hub"
    run(program, "export", path, "--format", "safetensors", "--output", file)
    run(program, "export", path, "--format", "huggingface", "--output", hub, "--license", "mit")
    network = network_of(record["config"]["network"])
    network.load_state_dict(load_file(file))

    predicted = []
    for index in range(PREDICTED):
        predicted.append(work / f"{index}.png")
        Image.fromarray(images[index, 0]).save(predicted[-1])
    answers = json.loads(run(program, "predict", path, *predicted, "--as-is", "--top", 10, "--json"))
    found = numpy.zeros((PREDICTED, 10))
    for row, answer in zip(found, answers):
        for guess in answer["predictions"]:
            row[guess["label"]] = guess["probability"]
    expected = logits(network, pixels[:PREDICTED]).softmax(1).numpy()
    difference = float(abs(found - expected).max())
    assert difference < 1e-4, f"{model}: probabilities differ by {difference}"

    evaluation = json.loads((path / "evaluation.json").read_text())
    count = len(labels)
    theirs, ours = right(network, pixels, labels), round(evaluation["accuracy"] * count)
    # Two logits that are equal but for rounding may be told apart differently.
    assert abs(theirs - ours) <= 2, f"{model}: {theirs} of PyTorch's are right, and {ours}"
    loss = float(nn.functional.cross_entropy(logits(network, pixels), labels))
    assert abs(loss - evaluation["loss"]) < 1e-4, f"{model}: loss {loss}, and {evaluation['loss']}"

    # Logits to 1e-4, by way of ONNX Runtime.
    onnx_file = work / f"{model}.onnx"
    run(program, "export", path, "--format", "onnx", "--output", onnx_file)
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file)
    theirs = session.run(["logits"], {"pixels": images[:1000]})[0]
    difference_logits = float(abs(theirs - logits(network, pixels[:1000]).numpy()).max())
    assert difference_logits < 1e-4, f"{model}: logits differ by {difference_logits}"
    print(f"{model}: exported, loaded by safetensors: probabilities differ by {difference:.1e}, logits by "
          f"{difference_logits:.1e}, {ours} of {count} right")
    check_hub(program, work, hub, path, images, found)
    return path, record


def check_hub(program, work, hub, path, images, found):
    """The folder's card is one that the hub reads, and its code runs as it stands there."""
    text = (hub / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    for key in ("license", "library_name", "tags", "datasets", "metrics", "model-index"):
        assert front[key], f"{key}: {front}"
    results = front["model-index"][0]["results"][0]
    assert results["task"]["type"] == "image-classification" and results["dataset"]["split"] == "test", results
    values = {metric["type"]: metric["value"] for metric in results["metrics"]}
    evaluation = json.loads((path / "evaluation.json").read_text())
    assert values["accuracy"] == evaluation["accuracy"] and values["loss"] == evaluation["loss"], values
    try:
        from huggingface_hub import ModelCard
    except ImportError:
        print("  huggingface_hub is not here: its reader was not tried")
    else:
        card = ModelCard.load(hub / "README.md")
        metric = card.data.eval_results[0]
        assert card.data.license == "mit" and metric.metric_type == "accuracy", card.data
        print(f"  huggingface_hub reads the card: {metric.metric_type} {metric.metric_value} on {metric.dataset_type}")
    code = text.split("```python\n")[1].split("```")[0]
    Image.fromarray(images[0, 0]).save(hub / "picture.png")
    (hub / "use.py").write_text(code)
    *name, probability = run(sys.executable, "use.py", cwd=hub).split()
    config = json.loads((hub / "config.json").read_text())
    label = int(found[0].argmax())
    assert " ".join(name) == config["id2label"][str(label)], f"{name}, and {config['id2label'][str(label)]}"
    assert abs(float(probability) - found[0][label]) < 1e-4, f"{probability}, and {found[0][label]}"
    back = last_line(run(program, "import", hub / "model.safetensors", "--config", hub / "kindling.json", "--runs-dir",
                         work / "runs", "--name", "hub"))
    again = json.loads(run(program, "evaluate", back, "--json"))
    assert again["confusion"] == evaluation["confusion"], "the folder's weights are others"
    print(f"  the card's code runs, and the folder is imported again: {again['accuracy']:.4f}")


def saved(network, model, work):
    """The network in each way that PROGRAM imports: a file, what it is, and further arguments."""
    state = network.state_dict()
    files = {}

    def save(name, content, *more):
        files[name] = (work / f"{model}-{name}", more)
        torch.save(content, files[name][0])

    save("state-dict.pt", state)
    save("checkpoint.pt", {"epoch": 3, "model_state_dict": state,
                           "optimizer_state_dict": torch.optim.Adam(network.parameters()).state_dict()})
    save("module.pt", {"state_dict": nn.DataParallel(network).state_dict(), "device": torch.device("cpu"),
                       "accuracy": numpy.float64(0.5)})
    save("renamed.pt", {f"backbone.net.{name}": value for name, value in state.items()}, "--rename", "backbone.net=")
    save("half.pt", {name: value.half() if value.is_floating_point() else value for name, value in state.items()})
    legacy = work / f"{model}-legacy.pt"
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    files["legacy.pt"] = (legacy, ())
    file = work / f"{model}-own.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    files["safetensors"] = (file, ())
    file = work / f"{model}-torch.onnx"
    # Told of evaluation, the exporter would put batch norms into convolutions; told of training, it would move their averages.
    torch.onnx.export(network, torch.zeros(2, 1, 28, 28), file, dynamo=False, opset_version=18, do_constant_folding=False,
                      training=torch.onnx.TrainingMode.PRESERVE)
    files["onnx"] = (file, ())
    return files


def check_import(program, work, model, path, record):
    """Networks of PyTorch's with weights of its own, which PROGRAM has never seen."""
    torch.manual_seed(5)
    section = record["config"]["network"]
    network = network_of(section)
    state = load_file(path / "model.safetensors")
    # Others than those that were trained, and not so far from them that everything is one class.
    network.load_state_dict({name: value * (1 + 0.05 * torch.rand_like(value)) for name, value in state.items()})
    pixels, _, labels = test_images(record)
    count = len(labels)
    theirs = right(network, pixels, labels)
    loss = float(nn.functional.cross_entropy(logits(network, pixels), labels))
    for name, (file, more) in saved(network, model, work).items():
        place = last_line(run(program, "import", file, "--network", model, *more, "--runs-dir", work / "runs", "--name",
                              f"{model}-{name.replace('.', '-')}"))
        found = json.loads(run(program, "evaluate", place, "--json"))
        ours = round(found["accuracy"] * count)
        tolerance = 0.01 if name.startswith("half") else 1e-4
        assert abs(found["loss"] - loss) < tolerance, f"{model}, {name}: loss {found['loss']}, PyTorch has {loss}"
        assert abs(ours - theirs) <= (20 if name.startswith("half") else 2), f"{model}, {name}: {ours} and {theirs} right"
        print(f"{model}: imported {name}: {ours} of {count} right, PyTorch has {theirs}; loss {found['loss']:.6f} and {loss:.6f}")


class Foreign:
    """What runs a command in the program that loads it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def check_refusals(program, work, path):
    trap = work / "trap"
    state = load_file(path / "model.safetensors")
    command = f"touch {trap}"

    def refuses(name, expected, *more):
        said = refused(program, "import", work / name, "--network", "cnn", "--runs-dir", work / "none", *more)
        assert expected in said, f"{name}: {said}"
        print(f"refused {name}: {next(line for line in said.splitlines() if expected in line).strip()}")

    torch.save({"state_dict": state, "extra": Foreign(command)}, work / "foreign.pt")
    (work / "foreign.pkl").write_bytes(pickle.dumps(Foreign(command)))
    (work / "foreign-2.pkl").write_bytes(pickle.dumps({"a": [Foreign(command)]}, protocol=2))
    for name in ("foreign.pt", "foreign.pkl", "foreign-2.pkl"):
        refuses(name, "posix.system` (nothing of it was run)")
    assert not trap.exists(), "foreign code was run"
    torch.save({**state, "fc2.weight": torch.zeros(11, 128)}, work / "shapes.pt")
    refuses("shapes.pt", "fc2.weight (10x128 here, 11x128 in the file)")
    torch.save({name: value.long() for name, value in state.items()}, work / "ints.pt")
    refuses("ints.pt", "(I64 in the file)")
    torch.save({"epoch": 3}, work / "no-tensors.pt")
    refuses("no-tensors.pt", "without tensors")
    whole = (work / "cnn-state-dict.pt").read_bytes()
    (work / "cut.pt").write_bytes(whole[: len(whole) // 2])
    refuses("cut.pt", "cannot be read")
    whole = (work / "cnn-torch.onnx").read_bytes()
    (work / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    refuses("cut.onnx", "expected a whole ONNX file")
    refuses("cnn-torch.onnx", "in the file and not used", "--set", "network.channels=16,32")
    # As the exporter has it by default: batch norms are gone.
    network = network_of({"name": "cnn", "channels": [32, 64], "hidden": 128})
    torch.onnx.export(network, torch.zeros(2, 1, 28, 28), work / "folded.onnx", dynamo=False, opset_version=18)
    refuses("folded.onnx", "puts batch norms into the convolutions before them")
    import onnx

    model = onnx.load(work / "cnn-torch.onnx")
    onnx.save(model, work / "elsewhere.onnx", save_as_external_data=True, location="elsewhere.data", size_threshold=0)
    refuses("elsewhere.onnx", "are in another file; save the model in one")
    assert not (work / "none").exists(), "something is left of what was refused"


def main():
    program, work = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    trained = {model: check_export(program, work, model) for model in MODELS}
    for model, (path, record) in trained.items():
        check_import(program, work, model, path, record)
    check_refusals(program, work, trained["cnn"][0])
    print("all agree")


main()
