"""Makes the golden values that Kindling's networks are tested against.

    pip install torch==2.9.0 numpy safetensors
    python assets/golden/make_golden.py

Writes, beside this file, for small networks of each kind: `<name>.start.safetensors`, the weights before training, and
`<name>.json`, with images and targets of 20 batches (or 5, which are repeated), logits and gradients of the first batch
in training mode, logits in evaluation mode before and after training, the losses of 20 SGD steps, and the running
statistics at the end; and `variants.json`, the losses of 20 steps of the small MLP with sgd, momentum, adam, adamw and
muon and with what changes the objective.

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

HERE = pathlib.Path(__file__).parent
HEIGHT, WIDTH, CLASSES, BATCH, STEPS, LEARNING_RATE = 8, 12, 4, 6, 20, 0.1


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(HEIGHT * WIDTH, 7), nn.Linear(7, 5), nn.Linear(5, CLASSES)])

    def forward(self, x):
        x = x.flatten(1)
        for index, layer in enumerate(self.layers):
            x = layer(x if index == 0 else F.relu(x))
        return x


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.fc1 = nn.Linear(5 * (HEIGHT // 4) * (WIDTH // 4), 6)
        self.fc2 = nn.Linear(6, CLASSES)

    def blocks(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(self.blocks(x).flatten(1))))


class CnnDeep(Cnn):
    def __init__(self):
        super().__init__()
        # An odd width is left over for the last pooling: 3 becomes 1.
        self.conv3, self.bn3 = nn.Conv2d(5, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(4 * (HEIGHT // 8) * (WIDTH // 8), 6)

    def blocks(self, x):
        return F.max_pool2d(F.relu(self.bn3(self.conv3(super().blocks(x)))), 2)


def conv(inputs, outputs, kernel=3, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x):
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        # Option A of He et al.: every second pixel, and zeros behind the input's channels.
        stride, lacking = self.conv1.stride[0], inner.shape[1] - x.shape[1]
        return F.relu(inner + F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, lacking)))


class Resnet(nn.Module):
    """He et al.'s for CIFAR, https://arxiv.org/abs/1512.03385, with the names of akamaster/pytorch_resnet_cifar10."""

    def __init__(self, depth, width, channels, classes=CLASSES):
        super().__init__()

        def stage(inputs, outputs, stride):
            first = ResidualBlock(inputs, outputs, stride)
            return nn.Sequential(first, *(ResidualBlock(outputs, outputs, 1) for _ in range((depth - 2) // 6 - 1)))

        self.conv1, self.bn1 = conv(channels, width), nn.BatchNorm2d(width)
        self.layer1 = stage(width, width, 1)
        self.layer2 = stage(width, 2 * width, 2)
        self.layer3 = stage(2 * width, 4 * width, 2)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn0, self.conv0 = nn.BatchNorm2d(inputs), conv(inputs, outputs, stride=stride)
        self.bn1, self.conv1 = nn.BatchNorm2d(outputs), conv(outputs, outputs)
        self.convdim = conv(inputs, outputs, kernel=1, stride=stride) if inputs != outputs else None

    def forward(self, x):
        activated = F.relu(self.bn0(x))
        inner = self.conv1(F.relu(self.bn1(self.conv0(activated))))
        return inner + (x if self.convdim is None else self.convdim(activated))


class Wrn(nn.Module):
    """Zagoruyko and Komodakis's, https://arxiv.org/abs/1605.07146, with the names of their PyTorch code."""

    def __init__(self, depth, factor, width, channels, classes=CLASSES):
        super().__init__()

        def group(inputs, outputs, stride):
            first = WideBlock(inputs, outputs, stride)
            return nn.Sequential(first, *(WideBlock(outputs, outputs, 1) for _ in range((depth - 4) // 6 - 1)))

        widened = width * factor
        self.conv0 = conv(channels, width)
        self.group0 = group(width, widened, 1)
        self.group1 = group(widened, 2 * widened, 2)
        self.group2 = group(2 * widened, 4 * widened, 2)
        self.bn = nn.BatchNorm2d(4 * widened)
        self.fc = nn.Linear(4 * widened, classes)

    def forward(self, x):
        x = self.group2(self.group1(self.group0(self.conv0(x))))
        return self.fc(F.relu(self.bn(x)).mean((2, 3)))


class AirbenchGroup(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs), nn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4)
        self.conv2, self.norm2 = conv(outputs, outputs), nn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4)
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad = False

    def forward(self, x):
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Airbench(nn.Module):
    """airbench94.py of https://github.com/KellerJordan/cifar10-airbench."""

    def __init__(self, widths, channels, height, width, classes=CLASSES):
        super().__init__()
        outputs = 2 * channels * 2**2
        self.whiten = nn.Conv2d(channels, outputs, 2)
        self.whiten.weight.requires_grad = False
        self.groups = nn.Sequential(*(AirbenchGroup(*pair) for pair in zip([outputs, *widths], widths)))
        left = [(side - 1) // 2 ** len(widths) // 3 for side in (height, width)]
        self.head = nn.Linear(widths[-1] * left[0] * left[1], classes, bias=False)

    def forward(self, x):
        x = F.max_pool2d(self.groups(F.gelu(self.whiten(x))), 3)
        return self.head(x.flatten(1)) * (1 / 9)


def counts():
    presets = {
        "resnet-8": Resnet(8, 16, 3, 10),
        "resnet-20": Resnet(20, 16, 3, 10),
        "resnet-32": Resnet(32, 16, 3, 10),
        "wrn-16-4": Wrn(16, 4, 16, 3, 10),
        "airbench": Airbench([64, 256, 256], 3, 32, 32, 10),
    }
    for name, network in presets.items():
        print(name, sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad))


def numbers(tensor):
    return [float(f"{value:.9g}") for value in tensor.detach().flatten().tolist()]


def golden(name, network, size=(1, HEIGHT, WIDTH), batches=STEPS):
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
    https://arxiv.org/abs/2502.16982. The decay takes the learning rate unscaled.

    Written out here because torch.optim.Muon runs its iteration in bfloat16."""

    def __init__(self, matrices, lr, momentum, weight_decay):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

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
            for matrix in group["params"]:
                gradient, state = matrix.grad, self.state[matrix]
                state["velocity"] = gradient + momentum * state["velocity"] if state else gradient.clone()
                update = self.orthogonal(gradient + momentum * state["velocity"])
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.sub_(rate * 0.2 * max(matrix.shape) ** 0.5 * update)


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
        network = Mlp()
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


def main():
    # The seeds are some with which no pooling or ReLU is so near its edge that rounding decides what it does.
    torch.set_num_threads(1)
    torch.manual_seed(1)
    golden("mlp", Mlp())
    golden("cnn", Cnn())
    variants()
    torch.manual_seed(2)
    golden("cnn-deep", CnnDeep())
    torch.manual_seed(3)
    golden("resnet", Resnet(8, 4, 1), batches=5)
    # Two blocks in a stage, and an odd width, which is halved to more than its half.
    torch.manual_seed(13)
    golden("resnet-colour", Resnet(14, 3, 3), (3, 16, 15), batches=5)
    torch.manual_seed(5)
    golden("wrn", Wrn(10, 2, 2, 3), (3, 8, 12), batches=5)
    # Whose first stage has the channels of the convolution before it.
    torch.manual_seed(6)
    golden("wrn-narrow", Wrn(16, 1, 3, 1), batches=5)
    torch.manual_seed(9)
    golden("airbench", Airbench([5, 6], 3, 13, 14), (3, 13, 14), batches=5)


if __name__ == "__main__":
    counts() if sys.argv[1:] == ["counts"] else main()
