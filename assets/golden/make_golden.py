"""Makes the golden values that Kindling's networks are tested against.

    pip install torch==2.9.0 numpy safetensors
    python assets/golden/make_golden.py

Writes, beside this file, for small networks of each kind: `<name>.start.safetensors`, the weights before training, and
`<name>.json`, with images and targets of 20 batches (or 5, which are repeated), logits and gradients of the first batch
in training mode, logits in evaluation mode before and after training, the losses of 20 SGD steps, and the running
statistics at the end; `variants.json`, the losses of 20 steps of the small MLP with sgd, momentum, adam, adamw and
muon and with what changes the objective; and `optimizers.json`, a few parameters after three steps with given gradients,
where norms and biases are a group of their own, and of Muon's scalings and filters.

    python assets/golden/make_golden.py optimizers

writes `optimizers.json` alone, and

    python assets/golden/make_golden.py counts

prints the numbers of trainable parameters of the presets that are not small, for images of 32x32 pixels in colour.
"""

import json
import pathlib
import sys
from itertools import cycle, islice

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
# The networks are those that `kindling bench` times.
sys.path.insert(0, str(HERE.parents[1] / "crates/workbench/src"))
from pytorch_networks import Airbench, Cnn, Mlp, Resnet, Wrn

HEIGHT, WIDTH, CLASSES, BATCH, STEPS, LEARNING_RATE = 8, 12, 4, 6, 20, 0.1
SIZE = (1, HEIGHT, WIDTH)
AIRBENCH = {"batch_norm_momentum": 0.4, "scaling_factor": 1 / 9}


class CnnDeep(Cnn):
    def __init__(self, channels, height, width, classes):
        super().__init__(channels, height, width, classes, [3, 5], 6)
        # An odd width is left over for the last pooling: 3 becomes 1.
        self.blocks, self.conv3, self.bn3 = 3, nn.Conv2d(5, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(4 * (height // 8) * (width // 8), 6)


def counts():
    shape = (3, 32, 32, 10)
    presets = {
        "resnet-8": Resnet(*shape, depth=8, width=16),
        "resnet-20": Resnet(*shape, depth=20, width=16),
        "resnet-32": Resnet(*shape, depth=32, width=16),
        "wrn-16-4": Wrn(*shape, depth=16, dropout=0.0, factor=4, width=16),
        "airbench": Airbench(*shape, widths=[64, 256, 256], **AIRBENCH),
    }
    for name, network in presets.items():
        print(name, sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad))


def numbers(tensor):
    return [float(f"{value:.9g}") for value in tensor.detach().flatten().tolist()]


def golden(name, kind, size=SIZE, batches=STEPS, **keys):
    network = kind(*size, CLASSES, **keys)
    # Batch norm's scale and shift start at 1 and 0, where errors in their use would not show.
    for parameter_name, parameter in network.named_parameters():
        if any(part.startswith(("bn", "norm")) for part in parameter_name.split(".")):
            nn.init.normal_(parameter, std=0.7)
    weights = {key: value.clone() for key, value in network.state_dict().items() if "num_batches" not in key}
    save_file(weights, HERE / f"{name}.start.safetensors", metadata={"format": "pt"})

    channels, height, width = size
    images = torch.randint(0, 256, (batches, BATCH, *size))
    targets = torch.randint(0, CLASSES, (batches, BATCH))
    pixels = images.float() / 255

    network.eval()
    logits_before = network(pixels[0])
    network.train()
    logits = network(pixels[0])
    F.cross_entropy(logits, targets[0]).backward()
    trained = {key: value for key, value in network.named_parameters() if value.requires_grad}
    gradients = {key: numbers(value.grad) for key, value in trained.items()}

    network.load_state_dict(weights, strict=False)
    optimizer = torch.optim.SGD(trained.values(), lr=LEARNING_RATE)
    losses = []
    for batch, target in islice(cycle(zip(pixels, targets)), STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(batch), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    running = {key: numbers(value) for key, value in network.state_dict().items() if "running" in key}
    shape = {"channels": channels, "height": height, "width": width, "classes": CLASSES}
    document = {
        "torch": torch.__version__,
        "shape": {**shape, "batch": BATCH, "steps": STEPS},
        "learning_rate": LEARNING_RATE,
        "images": images.flatten().tolist(),
        "targets": targets.flatten().tolist(),
        "logits_train": numbers(logits),
        "logits_evaluation": numbers(logits_before),
        "gradients": gradients,
        "losses": losses,
        "running": running,
        "logits_evaluation_after_training": numbers(network(pixels[0])),
    }
    (HERE / f"{name}.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")


class Muon(torch.optim.Optimizer):
    """Jordan's Muon, https://kellerjordan.github.io/posts/muon/: SGD with Nesterov momentum whose updates are made
    orthogonal by five steps of a quintic Newton-Schulz iteration, with decoupled weight decay, and with the learning
    rate scaled by 0.2 sqrt(max(rows, columns)) as in Moonshot's "Muon is Scalable for LLM Training",
    https://arxiv.org/abs/2502.16982, or by Jordan's sqrt(max(1, outputs / inputs)). The decay takes the learning rate
    unscaled. Filters are matrices [outputs, inputs * height * width]. Normalized, parameters are brought to the norm
    sqrt(outputs) before each step.

    Written out here because torch.optim.Muon runs its iteration in bfloat16."""

    def __init__(self, matrices, lr, momentum, weight_decay, scaling="moonshot", normalized=False):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(matrices, {**defaults, "scaling": scaling, "normalized": normalized})

    @staticmethod
    def scale(scaling, outputs, inputs):
        return 0.2 * max(outputs, inputs) ** 0.5 if scaling == "moonshot" else max(1, outputs / inputs) ** 0.5

    @staticmethod
    def orthogonal(update):
        x = update.T if update.shape[0] > update.shape[1] else update
        x = x / x.norm().clamp_min(1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
        return x.T if update.shape[0] > update.shape[1] else x

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                state, matrix = self.state[parameter], parameter.view(len(parameter), -1)
                gradient = parameter.grad.view_as(matrix)
                state["velocity"] = gradient + momentum * state["velocity"] if state else gradient.clone()
                update = self.orthogonal(gradient + momentum * state["velocity"])
                if group["normalized"]:
                    matrix.mul_(len(matrix) ** 0.5 / matrix.norm())
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.sub_(rate * self.scale(group["scaling"], *matrix.shape) * update)


class Both:
    """Two optimizers that share a network's parameters."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers

    def zero_grad(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


def muon(parameters, lr, adamw_lr):
    """Muon for the matrices between the first and the last layer, AdamW for everything else."""
    parameters = list(parameters)  # weight and bias of each layer in turn
    hidden = [parameter for parameter in parameters[2:-2] if parameter.dim() == 2]
    others = [parameter for parameter in parameters if not any(parameter is matrix for matrix in hidden)]
    matrices = Muon(hidden, lr=lr, momentum=0.95, weight_decay=0.01)
    return Both(matrices, torch.optim.AdamW(others, lr=adamw_lr, weight_decay=0.01))


def variants():
    """Losses of the MLP on the batches of mlp.json; the keys of `config` are Kindling's."""
    document = json.loads((HERE / "mlp.json").read_text())
    images = torch.tensor(document["images"]).reshape(STEPS, BATCH, 1, HEIGHT, WIDTH).float() / 255
    targets = torch.tensor(document["targets"]).reshape(STEPS, BATCH)
    optim = torch.optim
    rows = [
        ({"weight_decay": 0.1}, lambda p: optim.SGD(p, lr=0.1, weight_decay=0.1)),
        ({"optimizer": "momentum"}, lambda p: optim.SGD(p, lr=0.01, momentum=0.9)),
        ({"optimizer": "momentum", "nesterov": True}, lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)),
        ({"optimizer": "adam"}, lambda p: optim.Adam(p)),
        ({"optimizer": "adam", "weight_decay": 0.1}, lambda p: optim.Adam(p, weight_decay=0.1)),
        ({"optimizer": "adamw", "learning_rate": 0.01}, lambda p: optim.AdamW(p, lr=0.01)),
        ({"label_smoothing": 0.2}, lambda p: optim.SGD(p, lr=0.1)),
        ({"clip_norm": 0.05}, lambda p: optim.SGD(p, lr=0.1)),
        ({"optimizer": "muon", "learning_rate": 0.1, "adamw_learning_rate": 0.01}, lambda p: muon(p, 0.1, 0.01)),
    ]
    results = []
    for config, make_optimizer in rows:
        network = Mlp(*SIZE, CLASSES, hidden=[7, 5])
        network.load_state_dict(load_file(HERE / "mlp.start.safetensors"))
        optimizer = make_optimizer(network.parameters())
        losses = []
        for batch, target in zip(images, targets):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(batch), target, label_smoothing=config.get("label_smoothing", 0.0))
            loss.backward()
            if "clip_norm" in config:
                nn.utils.clip_grad_norm_(network.parameters(), config["clip_norm"])
            optimizer.step()
            losses.append(loss.item())
        results.append({"config": {"model": "mlp", **config}, "losses": losses})
    (HERE / "variants.json").write_text(json.dumps({"torch": torch.__version__, "variants": results}, indent=1) + "\n")


def optimizers():
    """Parameters after three steps with given gradients. `config` has Kindling's keys; the numbers are in the order of the
    parameters, linear weights as Kindling keeps them: [inputs, outputs]."""
    optim, decay = torch.optim, {"weight_decay": 0.1, "decay_biases": False}
    muon = {"name": "muon", "learning_rate": 0.1, "adamw_learning_rate": 0.05}
    configs = [
        {"name": "sgd", **decay},
        {"name": "sgd", "weight_decay": 0.1, "bias_rate_factor": 3.0},
        {"name": "momentum", **decay, "nesterov": True, "bias_rate_factor": 0.5},
        {"name": "adam", **decay, "learning_rate": 0.05, "bias_rate_factor": 3.0},
        {"name": "adamw", **decay, "learning_rate": 0.05, "bias_rate_factor": 3.0},
        {**muon, "scaling": "jordan"},
        {**muon, **decay, "filters": "muon", "bias_rate_factor": 3.0},
        {**muon, **decay, "scaling": "jordan", "filters": "normalized-muon"},
    ]
    torch.manual_seed(20)
    # Filters and a matrix, both with more outputs than inputs, and a last layer.
    shapes = [(6, 1, 2, 2), (6,), (7, 3), (7,), (2, 7), (2,)]
    start = [torch.randn(shape) for shape in shapes]
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(3)]

    def make(parameters, config):
        weight_decay, factor = config.get("weight_decay", 0.01), config.get("bias_rate_factor", 1.0)

        def groups(rate, parameters):
            vectors = [parameter for parameter in parameters if parameter.dim() == 1]
            vector_decay = weight_decay if config.get("decay_biases", True) else 0.0
            return [
                {"params": [parameter for parameter in parameters if parameter.dim() > 1]},
                {"params": vectors, "lr": rate * factor, "weight_decay": vector_decay},
            ], {"lr": rate, "weight_decay": weight_decay}

        def with_groups(kind, rate, parameters=parameters, **keys):
            groups_of, defaults = groups(rate, parameters)
            return kind(groups_of, **defaults, **keys)

        match config["name"]:
            case "sgd":
                return with_groups(optim.SGD, 0.1)
            case "momentum":
                return with_groups(optim.SGD, 0.01, momentum=0.9, nesterov=True)
            case "adam":
                return with_groups(optim.Adam, config["learning_rate"])
            case "adamw":
                return with_groups(optim.AdamW, config["learning_rate"])
        filters, matrix, *others = parameters[0], parameters[2], parameters[1], *parameters[3:]
        keys = {"lr": 0.1, "momentum": 0.95, "weight_decay": weight_decay, "scaling": config.get("scaling", "moonshot")}
        by_muon = [{"params": [matrix]}]
        if (kind := config.get("filters")) is None:
            others = [filters, *others]
        else:
            by_muon.append({"params": [filters], "normalized": kind == "normalized-muon"})
        return Both(Muon(by_muon, **keys), with_groups(optim.AdamW, config["adamw_learning_rate"], others))

    def lists(tensors):
        return [numbers(tensor.T if tensor.dim() == 2 else tensor) for tensor in tensors]

    runs = []
    for config in configs:
        parameters = [nn.Parameter(tensor.clone()) for tensor in start]
        optimizer = make(parameters, config)
        for step in gradients:
            for parameter, gradient in zip(parameters, step):
                parameter.grad = gradient.clone()
            optimizer.step()
        runs.append({"config": config, "end": lists(parameters)})
    document = {"torch": torch.__version__, "start": lists(start), "gradients": [lists(step) for step in gradients]}
    (HERE / "optimizers.json").write_text(json.dumps({**document, "runs": runs}, separators=(",", ":")) + "\n")


def main():
    # The seeds are some with which no pooling or ReLU is so near its edge that rounding decides what it does.
    torch.manual_seed(1)
    golden("mlp", Mlp, hidden=[7, 5])
    golden("cnn", Cnn, channels=[3, 5], hidden=6)
    variants()
    torch.manual_seed(2)
    golden("cnn-deep", CnnDeep)
    torch.manual_seed(3)
    golden("resnet", Resnet, batches=5, depth=8, width=4)
    # Two blocks in a stage, and an odd width, which is halved to more than its half.
    torch.manual_seed(13)
    golden("resnet-colour", Resnet, (3, 16, 15), batches=5, depth=14, width=3)
    torch.manual_seed(5)
    golden("wrn", Wrn, (3, 8, 12), batches=5, depth=10, dropout=0.0, factor=2, width=2)
    # Whose first stage has the channels of the convolution before it.
    torch.manual_seed(6)
    golden("wrn-narrow", Wrn, batches=5, depth=16, dropout=0.0, factor=1, width=3)
    torch.manual_seed(9)
    golden("airbench", Airbench, (3, 13, 14), batches=5, widths=[5, 6], **AIRBENCH)
    optimizers()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"": main, "counts": counts, "optimizers": optimizers}["".join(sys.argv[1:])]()
