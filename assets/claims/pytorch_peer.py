"""PyTorch's side of a claim: trains one config of Kindling's on Fashion-MNIST, as PyTorch is fastest on a CPU.

    python pytorch_peer.py --config CONFIG --seed S --data-dir DIR --output FILE
                           [--threads N] [--variant channels_last|eager|compiled] [--limit-batches N]

CONFIG is a complete config in JSON, as `kindling config --json` prints it, or the run.json of a run; its seed is not
taken. DIR has the four IDX files, compressed or not. Needs torch 2.6 or newer. Each epoch is a line on stderr. FILE:

    {"torch": "2.9.0", "threads": 2, "variant": "channels_last", "seed": 1, "parameters": 241994,
     "epochs": [{"epoch": 1, "seconds": 19.2, "train_loss": 0.61, "valid_loss": 0.35, "valid_accuracy": 0.87}],
     "best_epoch": 1, "test_accuracy": 0.87, "test_loss": 0.36, "wall_seconds": 21.0}

Seconds count from the start of the process, which includes Python's imports, to the end of an epoch's evaluation;
`wall_seconds` to the last test image. `train_loss` is what is minimized, the other losses are the plain cross entropy.
The first epoch with the best monitored metric is tested, once.

The network, its initial distribution, augmentation, optimizer, schedule and protocol are those of the config; a key or
a value that this program lacks is an error that names it. Random numbers are PyTorch's: a seed means another order,
split and start than in Kindling, of the same distributions.

For speed, all images lie in memory as bytes, without a DataLoader, and a batch is augmented at once; `channels_last`
(the default) has activations and filters with the channels inside; `compiled` is torch.compile for fixed shapes, whose
compilation counts; optimizers are PyTorch's fused ones; evaluation is in inference mode; glibc keeps freed memory.
"""

import time
IMPORTED = time.time()
import argparse
import copy
import functools
import json
import math
import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The networks are those of `kindling bench`; torch.compile has all its workers here, unlike there.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "crates/workbench/src"))
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(os.cpu_count()))
import pytorch_peer as bench
from pytorch_images import CLASSES, SIDE, Keys, TrainImages, read_split, stratified, views

EVALUATED = 250  # Images at once: every split is a multiple, so compiled code has one shape.

# Every key of a config that this program knows, by section and name.
SGD, BETAS = "learning_rate weight_decay decay_biases bias_rate_factor", "beta_1 beta_2 epsilon"
KEYS = {
    "data": {"fashion-mnist": "augment pixel_mean pixel_std normalize image_size channels fit sampler"},
    "data.augment": {
        "flip": "probability alternate",
        "shift": "pixels",
        "crop": "padding edge",
        "erase": "probability scale_min scale_max ratio_min ratio_max",
        "mixup": "alpha probability",
        "cutmix": "alpha probability",
    },
    "optimizer": {
        "sgd": SGD,
        "momentum": f"{SGD} momentum nesterov",
        "adam": f"{SGD} {BETAS}",
        "adamw": f"{SGD} {BETAS}",
        "muon": f"{SGD} {BETAS} momentum adamw_learning_rate scaling filters",
    },
    "schedule": {
        "constant": "warm_up_epochs",
        "step": "warm_up_epochs step_epochs step_factor",
        "cosine": "warm_up_epochs",
        "linear": "warm_up_epochs",
        "warm-restarts": "warm_up_epochs restart_epochs restart_factor",
        "one-cycle": "",
    },
    "protocol": {"validated": "order monitor folds fold test_time_augmentation"},
    "training": {
        "": "epochs batch_size seed label_smoothing clip_norm early_stopping limit_batches ema_decay ema_evaluate "
        "precision class_weights weights freeze gradient_steps accumulate"
    },
}
# The values of keys of which it lacks some.
VALUES: dict[str, list[Any]] = {
    "data.normalize": ["given", "auto"],
    "data.image_size": [None],
    "data.channels": [None, "grey"],
    "data.sampler": ["uniform"],
    "data.augment.edge": ["background", "reflect"],
    "optimizer.scaling": ["moonshot", "jordan"],
    "optimizer.filters": ["adamw", "muon", "normalized-muon"],
    "protocol.order": ["shuffled"],
    "protocol.monitor": ["valid/loss", "valid/accuracy"],
    "protocol.folds": [None],
    "protocol.fold": [None],
    "protocol.test_time_augmentation": [[], ["flip"], ["shift"], ["flip", "shift"], ["shift", "flip"]],
    "training.precision": ["f32"],
    "training.class_weights": [None],
    "training.weights": [None],
    "training.gradient_steps": [None],
    "training.accumulate": [1],
}


def check(path: str, keys: Keys) -> None:
    """Refuses what this program would otherwise pass over in silence."""
    name = keys.get("name", "")
    if name not in KEYS[path]:
        raise ValueError(f"{path}.name: expected {' or '.join(KEYS[path])}, found {name}")
    known = KEYS[path][name].split()
    for key in known:
        if key not in keys:
            raise ValueError(f"{path}.{key} is missing; a complete config is that of `kindling config --json`")
    for key, value in keys.items():
        if key not in ["name", *known]:
            raise ValueError(f"{path}.{key} is not supported by PyTorch's program (got {json.dumps(value)})")
        if value not in VALUES.get(f"{path}.{key}", [value]):
            wanted = " or ".join(map(json.dumps, VALUES[f"{path}.{key}"]))
            raise ValueError(f"{path}.{key}: PyTorch's program takes {wanted} alone (got {json.dumps(value)})")


def check_all(config: Keys) -> None:
    sections = {"network", *KEYS} - {"data.augment"}
    if odd := sections ^ config.keys():
        raise ValueError(f"a config has {', '.join(sorted(sections))} (missing, or not known: {', '.join(odd)})")
    for section in sections - {"network"}:
        check(section, config[section])
    for augmentation in config["data"]["augment"]:
        check("data.augment", augmentation)


@torch.no_grad()
def init_model(network: Keys, first: Tensor) -> nn.Module:
    """The network with Kindling's initial distribution: PyTorch's for mlp and cnn. `first` are normalized images."""
    model = bench.Described(network, [1, SIDE, SIDE], CLASSES, {}, "f32").init(torch.device("cpu"))
    kind = network["name"].split("-")[0]
    for module in model.modules():
        if kind in ("resnet", "wrn") and isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
        if kind == "airbench" and isinstance(module, nn.Conv2d) and module is not model.whiten:
            nn.init.dirac_(module.weight[: module.in_channels])
    if kind == "airbench":
        half = whitening(first, network.get("whitening", "cosines"), model.whiten.kernel_size[0])
        half = half[: len(model.whiten.weight) // 2]
        model.whiten.weight.copy_(torch.cat([half, -half]).view_as(model.whiten.weight))
        nn.init.zeros_(model.whiten.bias)
    return model


def whitening(images: Tensor, way: str, size: int) -> Tensor:
    """Half of airbench's frozen filters, `[size * size, size * size]`, as crates/models/src/whitening.rs has them."""
    if way == "images":
        patches = images[:, 0].unfold(1, size, 1).unfold(2, size, 1).reshape(-1, size * size).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        return (vectors / (values.clamp_min(0) + 5e-4).sqrt()).T.flip(0).float()
    if way != "cosines":
        raise ValueError(f"network.whitening: PyTorch's program takes cosines or images alone (got {way})")
    place = torch.arange(size)
    waves = torch.cos(torch.pi * place[:, None] * (place + 0.5) / size) * (2 / size) ** 0.5
    waves[0] = size**-0.5
    return torch.kron(waves, waves)


class Muon(torch.optim.Optimizer):
    """Jordan's, https://kellerjordan.github.io/posts/muon/, in f32, for matrices and filters."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight not in self.state:
                    self.state[weight]["velocity"] = torch.zeros_like(weight)
                velocity = self.state[weight]["velocity"].mul_(momentum).add_(weight.grad)
                update = orthogonal(weight.grad.add(velocity, alpha=momentum).flatten(1))
                outputs, inputs = update.shape
                scaling = 0.2 * max(outputs, inputs) ** 0.5
                if group["scaling"] == "jordan":
                    scaling = max(1, outputs / inputs) ** 0.5
                if weight.dim() == 4 and group["filters"] == "normalized-muon":
                    weight.mul_(outputs**0.5 / weight.norm().clamp_min(1e-7))
                weight.mul_(1 - rate * group["weight_decay"])
                weight.sub_(update.view_as(weight), alpha=rate * scaling)


def orthogonal(x: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, about: five iterations of Newton and Schulz."""
    is_tall = x.size(0) > x.size(1)
    x = (x.T if is_tall else x) / x.norm().clamp_min(1e-7)
    for _ in range(5):
        a = x @ x.T
        x = torch.addmm(x, torch.addmm(a, a, a, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x.T.contiguous() if is_tall else x


def init_optimizers(model: nn.Module, keys: Keys) -> list[torch.optim.Optimizer]:
    """The config's optimizer, each group with its `rate` before the schedule."""
    name, rate, decay = keys["name"], keys["learning_rate"], keys["weight_decay"]
    named = {path: weight for path, weight in model.named_parameters() if weight.requires_grad}
    optimizers: list[torch.optim.Optimizer] = []
    if name == "muon":
        layers = [path.rsplit(".", 1)[0] for path, _ in model.named_parameters()]
        inner = [path for path in named if path.rsplit(".", 1)[0] not in (layers[0], layers[-1])]
        hidden = [path for path in inner if named[path].dim() == 2]
        if keys["filters"] != "adamw":
            hidden += [path for path in named if named[path].dim() == 4]
        options = {key: keys[key] for key in ("momentum", "weight_decay", "scaling", "filters")}
        optimizers.append(Muon([{"params": [named.pop(path) for path in hidden], "lr": rate}], options))
        rate = keys["adamw_learning_rate"]
    biases = [weight for weight in named.values() if weight.dim() == 1]
    others = [weight for weight in named.values() if weight.dim() > 1]
    bias_rate, bias_decay = rate * keys["bias_rate_factor"], decay if keys["decay_biases"] else 0.0
    groups = [
        {"params": others, "lr": rate, "weight_decay": decay},
        {"params": biases, "lr": bias_rate, "weight_decay": bias_decay},
    ]
    if name in ("sgd", "momentum"):
        momentum, nesterov = keys.get("momentum", 0.0), keys.get("nesterov", False)
        optimizers.append(torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov, fused=True))
    else:
        kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        optimizers.append(kind(groups, betas=(keys["beta_1"], keys["beta_2"]), eps=keys["epsilon"], fused=True))
    for group in groups_of(optimizers):
        group["rate"] = group["lr"]
    return optimizers


def groups_of(optimizers: list[torch.optim.Optimizer]) -> list[Keys]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def rate_factor(schedule: Keys, done: int, batches: int, epochs: int) -> float:
    """What learning rates are multiplied by after `done` steps, as crates/training/src/schedule.rs has it."""

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    name, total, warm_up = schedule["name"], epochs * batches, schedule.get("warm_up_epochs", 0) * batches
    if done < warm_up:
        return (done + 1) / warm_up
    if name == "one-cycle":
        peak = 0.3 * total - 1
        if done <= peak:
            return between(1 / 25, 1, done / peak)
        return between(1, 1 / 25 / 1e4, (done - peak) / (total - 1 - peak))
    if name == "step":
        return schedule["step_factor"] ** (done // (schedule["step_epochs"] * batches))
    if name == "warm-restarts":
        since, length = done - warm_up, schedule["restart_epochs"] * batches
        while since >= length:
            since, length = since - length, length * schedule["restart_factor"]
        return between(1, 0, since / length)
    share = (done - warm_up) / (total - warm_up)
    return {"constant": 1.0, "linear": 1 - share, "cosine": between(1, 0, share)}[name]


class Run:
    """A network in training."""

    def __init__(self, config: Keys, split: TrainImages, variant: str, limit: int | None) -> None:
        self.split, self.schedule, self.training = split, config["schedule"], config["training"]
        self.batch_size = self.training["batch_size"]
        self.decay = self.training["ema_decay"] if self.training["ema_evaluate"] else None
        self.batches, self.done = min(math.ceil(len(split.labels) / self.batch_size), limit or math.inf), 0
        self.model = init_model(config["network"], split.normalization(split.images[:5000]))
        frozen = [way for pattern in self.training["freeze"] for way in (pattern, f"{pattern}.*")]
        for name, weight in self.model.named_parameters():  # Of layers without running statistics.
            weight.requires_grad &= not any(fnmatchcase(name, pattern) for pattern in frozen)
        if variant == "channels_last":
            self.model = self.model.to(memory_format=torch.channels_last)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizers = init_optimizers(self.model, config["optimizer"])
        self.judged = self.model
        if self.decay is not None:
            self.judged = copy.deepcopy(self.model)
            self.averages = [weight for weight in self.judged.parameters() if weight.requires_grad]
        # The same modules, compiled or not.
        compiled = functools.partial(torch.compile, dynamic=False) if variant == "compiled" else lambda model: model
        self.forward, self.forward_judged = compiled(self.model), compiled(self.judged)

    def epoch(self, epoch: int) -> float:
        """Trains for an epoch, and returns its mean loss."""
        self.model.train()
        total = seen = 0.0
        for chosen in torch.randperm(len(self.split.labels)).split(self.batch_size)[: self.batches]:
            total, seen = total + self.step(*self.split.batch(chosen, epoch)) * len(chosen), seen + len(chosen)
        if self.decay is not None:  # Running statistics are not averaged.
            for average, buffer in zip(self.judged.buffers(), self.model.buffers()):
                average.copy_(buffer)
        return total / seen

    def step(self, pixels: Tensor, targets: Tensor, share: Tensor | None) -> float:
        factor = rate_factor(self.schedule, self.done, self.batches, self.training["epochs"])
        for group in groups_of(self.optimizers):
            group["lr"] = group["rate"] * factor
        cross_entropy = functools.partial(F.cross_entropy, label_smoothing=self.training["label_smoothing"])
        logits = self.forward(pixels)
        if share is None:
            loss = cross_entropy(logits, targets)
        else:
            own, other = (cross_entropy(logits, of, reduction="none") for of in (targets, targets.roll(1)))
            loss = own.lerp(other, share).mean()
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        if self.training["clip_norm"] is not None:
            nn.utils.clip_grad_norm_(self.weights, self.training["clip_norm"])
        for optimizer in self.optimizers:
            optimizer.step()
        if self.decay is not None:
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.weights, 1 - self.decay)
        self.done += 1
        return loss.item()

    def evaluate(self, images: Tensor, labels: Tensor, changes: list[str]) -> tuple[float, float]:
        """Mean cross entropy and accuracy of the network or of its average; images are bytes."""
        self.judged.eval()
        loss = correct = 0.0
        with torch.inference_mode():
            for part, targets in zip(images.split(EVALUATED), labels.split(EVALUATED)):
                seen = views(self.split.normalization(part), changes)
                logits = sum(weight * self.forward_judged(view) for weight, view in seen)
                loss += F.cross_entropy(logits, targets, reduction="sum").item()
                correct += (logits.argmax(1) == targets).sum().item()
        return loss / len(labels), correct / len(labels)


def train(config: Keys, seed: int, directory: Path, variant: str, limit: int | None, started: float) -> Keys:
    torch.manual_seed(seed)
    training, monitor = config["training"], config["protocol"]["monitor"]
    images, labels = read_split(directory, "train")
    train_rows, valid_rows = stratified(labels)
    split = TrainImages(images[train_rows], labels[train_rows], config["data"], variant == "channels_last")
    limit = limit or training["limit_batches"]
    evaluated = slice(None, limit and limit * training["batch_size"])
    valid = images[valid_rows[evaluated]], labels[valid_rows[evaluated]]
    run = Run(config, split, variant, limit)

    best, best_epoch, kept, epochs = math.inf, 0, {}, []
    for epoch in range(1, training["epochs"] + 1):
        train_loss, (valid_loss, valid_accuracy) = run.epoch(epoch), run.evaluate(*valid, [])
        value = valid_loss if monitor == "valid/loss" else -valid_accuracy
        if value < best:
            best, best_epoch, kept = value, epoch, copy.deepcopy(run.judged.state_dict())
        about = {"epoch": epoch, "seconds": round(time.time() - started, 3), "train_loss": train_loss}
        epochs.append({**about, "valid_loss": valid_loss, "valid_accuracy": valid_accuracy})
        print("  ".join(f"{key} {value:.5g}" for key, value in epochs[-1].items()), file=sys.stderr, flush=True)
        if not (math.isfinite(train_loss) and kept):
            raise ValueError(f"training diverged in epoch {epoch}: its loss is {train_loss}")
        if training["early_stopping"] is not None and epoch - best_epoch >= training["early_stopping"]:
            break

    run.judged.load_state_dict(kept)
    images, labels = read_split(directory, "t10k")
    changes = config["protocol"]["test_time_augmentation"]
    test_loss, test_accuracy = run.evaluate(images[evaluated], labels[evaluated], changes)
    parameters = sum(weight.numel() for weight in run.model.parameters())
    tested = {"best_epoch": best_epoch, "test_accuracy": test_accuracy, "test_loss": test_loss}
    return {"parameters": parameters, "epochs": epochs, **tested, "wall_seconds": round(time.time() - started, 3)}


def start_of_process() -> float:
    """By the clock of time.time(): before this file's first line, where the system tells."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        start = time.time() - age
        return start if 0 <= IMPORTED - start < 60 else IMPORTED  # Some sandboxes' clocks are of another time.
    except (AttributeError, OSError):
        return IMPORTED


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains one config of Kindling's in PyTorch.")
    parser.add_argument("--config", type=Path, required=True, help="a complete config in JSON, or a run.json")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder with Fashion-MNIST's IDX files")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--threads", type=int, default=cores, help="all cores if not given")
    parser.add_argument("--variant", choices=["channels_last", "eager", "compiled"], default="channels_last")
    parser.add_argument("--limit-batches", type=int, help="use only the first N batches of every split")
    given = parser.parse_args()
    started = start_of_process()
    bench.keep_freed_memory()
    torch.set_num_threads(given.threads)
    try:
        config = json.loads(given.config.read_text())
        config = config.get("config", config)
        check_all(config)
        found = train(config, given.seed, given.data_dir, given.variant, given.limit_batches, started)
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")
    about = {"torch": torch.__version__, "threads": given.threads, "variant": given.variant, "seed": given.seed}
    given.output.write_text(json.dumps({**about, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
