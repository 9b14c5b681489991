"""Kindling's networks in PyTorch, with the names that its weights files have; keys are those of its configs."""

import functools
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


def relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)


class Mlp(nn.Module):
    def __init__(self, channels: int, height: int, width: int, classes: int, hidden: list[int]) -> None:
        super().__init__()
        sizes = [channels * height * width, *hidden, classes]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(sizes, sizes[1:]))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = relu(layer(x))
        return self.layers[-1](x)


class Cnn(nn.Module):
    def __init__(
        self, image_channels: int, height: int, width: int, classes: int, channels: list[int], hidden: int
    ) -> None:
        super().__init__()
        self.blocks = len(channels)
        for index, pair in enumerate(zip([image_channels, *channels], channels), 1):
            setattr(self, f"conv{index}", conv(*pair, bias=True))
            setattr(self, f"bn{index}", nn.BatchNorm2d(pair[1]))
        self.fc1 = nn.Linear(channels[-1] * (height >> self.blocks) * (width >> self.blocks), hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        for index in range(1, self.blocks + 1):
            x = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x))
            x = F.max_pool2d(relu(x), 2)
        return self.fc2(relu(self.fc1(x.flatten(1))))


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.lacking = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.lacking:
            # Option A of He et al.: every second pixel, and zeros behind the input's channels.
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.lacking))
        return relu(inner + x)


class Resnet(nn.Module):
    """He et al.'s for CIFAR, https://arxiv.org/abs/1512.03385."""

    def __init__(
        self, channels: int, height: int, image_width: int, classes: int, depth: int, width: int
    ) -> None:
        super().__init__()
        stage = functools.partial(stage_of, ResidualBlock, (depth - 2) // 6)
        self.conv1, self.bn1 = conv(channels, width), nn.BatchNorm2d(width)
        self.layer1 = stage(width, width, 1)
        self.layer2 = stage(width, 2 * width, 2)
        self.layer3 = stage(2 * width, 4 * width, 2)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, dropout: float, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.bn0, self.conv0 = nn.BatchNorm2d(inputs), conv(inputs, outputs, stride=stride)
        self.bn1, self.conv1 = nn.BatchNorm2d(outputs), conv(outputs, outputs)
        self.convdim = conv(inputs, outputs, kernel=1, stride=stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn0(x))
        inner = F.dropout(relu(self.bn1(self.conv0(activated))), self.dropout, self.training)
        inner = self.conv1(inner)
        return inner + (x if self.convdim is None else self.convdim(activated))


class Wrn(nn.Module):
    """Zagoruyko and Komodakis's, https://arxiv.org/abs/1605.07146."""

    def __init__(
        self,
        channels: int,
        height: int,
        image_width: int,
        classes: int,
        depth: int,
        dropout: float,
        factor: int,
        width: int,
    ) -> None:
        super().__init__()
        block = functools.partial(WideBlock, dropout)
        stage, widened = functools.partial(stage_of, block, (depth - 4) // 6), width * factor
        self.conv0 = conv(channels, width)
        self.group0 = stage(width, widened, 1)
        self.group1 = stage(widened, 2 * widened, 2)
        self.group2 = stage(2 * widened, 4 * widened, 2)
        self.bn = nn.BatchNorm2d(4 * widened)
        self.fc = nn.Linear(4 * widened, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.group2(self.group1(self.group0(self.conv0(x))))
        return self.fc(relu(self.bn(x)).mean((2, 3)))


def stage_of(
    kind: Callable[[int, int, int], nn.Module], count: int, inputs: int, outputs: int, stride: int
) -> nn.Sequential:
    return nn.Sequential(kind(inputs, outputs, stride), *(kind(outputs, outputs, 1) for _ in range(count - 1)))


class AirbenchGroup(nn.Module):
    def __init__(self, inputs: int, outputs: int, momentum: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs), nn.BatchNorm2d(outputs, eps=1e-12, momentum=momentum)
        self.conv2, self.norm2 = conv(outputs, outputs), nn.BatchNorm2d(outputs, eps=1e-12, momentum=momentum)
        self.norm1.weight.requires_grad = self.norm2.weight.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Airbench(nn.Module):
    """That of airbench94.py in https://github.com/KellerJordan/cifar10-airbench."""

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        classes: int,
        widths: list[int],
        batch_norm_momentum: float,
        scaling_factor: float,
        whitening: str = "cosines",  # The filters themselves are weights of a file.
        whitening_size: int = 2,
        whitening_stride: int = 1,
        whitening_directions: int | None = None,
    ) -> None:
        super().__init__()
        outputs, self.scaling_factor = 2 * (whitening_directions or channels * whitening_size**2), scaling_factor
        padding, lost = (whitening_size - 1) // 2, 1 + (whitening_size + 1) % 2
        self.whiten = nn.Conv2d(channels, outputs, whitening_size, whitening_stride, padding)
        self.whiten.weight.requires_grad = False
        pairs = zip([outputs, *widths], widths)
        self.groups = nn.Sequential(*(AirbenchGroup(*pair, batch_norm_momentum) for pair in pairs))
        left = [((side - lost) // whitening_stride + 1 >> len(widths)) // 3 for side in (height, width)]
        self.head = nn.Linear(widths[-1] * left[0] * left[1], classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.groups(F.gelu(self.whiten(x))), 3)
        return self.head(x.flatten(1)) * self.scaling_factor


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "resnet": Resnet,
    "wrn": Wrn,
    "airbench": Airbench,
}
