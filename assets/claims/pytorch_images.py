"""Fashion-MNIST's images for pytorch_peer.py: read, split, normalized, and changed a batch at a time as a config says.

What is drawn has the distributions of crates/data/src/augment, but that MixUp and CutMix take the other image from the
same batch.
"""

import gzip
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Keys = dict[str, Any]
SIDE, CLASSES = 28, 10


def read_idx(directory: Path, name: str) -> Tensor:
    """The bytes of an IDX file: `[count, 28, 28]` of images, `[count]` of labels."""
    path = directory / name
    data = path.read_bytes() if path.exists() else gzip.open(f"{path}.gz").read()
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, 4 + 4 * data[3], 4)]
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def read_split(directory: Path, prefix: str) -> tuple[Tensor, Tensor]:
    return read_idx(directory, f"{prefix}-images-idx3-ubyte"), read_idx(directory, f"{prefix}-labels-idx1-ubyte").long()


def stratified(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The images for training, and for validation a twelfth of each class."""
    members = [(labels == label).nonzero().flatten() for label in range(CLASSES)]
    members = [rows[torch.randperm(len(rows))] for rows in members]
    parts = [(rows[len(rows) // 12 :], rows[: len(rows) // 12]) for rows in members]
    train, valid = (torch.cat(part).sort().values for part in zip(*parts))
    return train, valid


class Normalization:
    """Bytes to pixels."""

    def __init__(self, data: Keys, train: Tensor, is_last: bool) -> None:
        self.is_last, mean, std = is_last, data["pixel_mean"][0], data["pixel_std"][0]
        if data["normalize"] == "auto":
            pixels = train.float() / 255
            mean, std = pixels.mean().item(), pixels.std(correction=0).item()
        self.factor, self.mean = 1 / (255 * std), mean / std

    def __call__(self, images: Tensor) -> Tensor:
        """`[batch, 28, 28]` to `[batch, 1, 28, 28]`, of which strides alone tell the memory format."""
        pixels = images.float().mul_(self.factor).sub_(self.mean)
        return pixels.unsqueeze(3).permute(0, 3, 1, 2) if self.is_last else pixels.unsqueeze(1)


def uniform(low: float, high: float, *shape: int) -> Tensor:
    return torch.empty(shape).uniform_(low, high)


def rectangles(top: Tensor, left: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`[batch, 28, 28]`: whether a pixel is in the image's rectangle, which is cut off at the edges."""
    place = torch.arange(SIDE)

    def within(first: Tensor, count: Tensor) -> Tensor:
        return (place >= first[:, None]) & (place < (first + count)[:, None])

    return within(top, rows)[:, :, None] & within(left, columns)[:, None, :]


class TrainImages:
    """The training split, whose batches are changed at random."""

    def __init__(self, images: Tensor, labels: Tensor, data: Keys, is_last: bool) -> None:
        self.images, self.labels, self.normalization = images, labels, Normalization(data, images, is_last)
        self.changes: dict[str, Keys] = {change["name"]: change for change in data["augment"]}
        self.starts = torch.rand(len(images)) < 0.5  # Whether an image that is flipped in turns begins with that.
        shift, crop = self.changes.get("shift", {"pixels": 0}), self.changes.get("crop", {"padding": 0, "edge": None})
        self.moves = [shift["pixels"], crop["padding"]]
        most, mode = sum(self.moves), "reflect" if crop["edge"] == "reflect" else "constant"
        padded = F.pad(images[:, None].float(), (most,) * 4, mode)[:, 0].byte()
        # [images, 2 * most + 1, 2 * most + 1, 28, 28] without a copy: each image at each place.
        self.windows = padded.unfold(1, SIDE, 1).unfold(2, SIDE, 1)

    def batch(self, chosen: Tensor, epoch: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images, labels, and the share of each image that is of the one before it, if any are mixed."""
        count, labels = len(chosen), self.labels[chosen]
        down, right = (sum(torch.randint(2 * most + 1, (count,)) for most in self.moves) for _ in range(2))
        images = self.windows[chosen, down, right]  # [batch, 28, 28]
        if flip := self.changes.get("flip"):
            is_in_turn = self.starts[chosen] ^ (epoch % 2 == 0)
            is_mirrored = is_in_turn if flip["alternate"] else torch.rand(count) < flip["probability"]
            images = torch.where(is_mirrored[:, None, None], images.flip(2), images)
        if erase := self.changes.get("erase"):
            images.masked_fill_(erased(count, erase), 0)
        pixels, weights = self.normalization(images), self.mixed(count)
        if weights is None:
            return pixels, labels, None
        return pixels.lerp_(pixels.roll(1, 0), weights[:, None]), labels, weights.mean((1, 2))

    def mixed(self, count: int) -> Tensor | None:
        """`[batch, 28, 28]`: the share of the other image in each pixel."""
        ways = [self.changes[name] for name in ("mixup", "cutmix") if name in self.changes]
        if not ways:
            return None
        weights, way = torch.zeros(count, SIDE, SIDE), torch.randint(len(ways), (count,))
        for index, keys in enumerate(ways):
            share = torch.distributions.Beta(keys["alpha"], keys["alpha"]).sample((count,))
            other = share[:, None, None]
            if keys["name"] == "cutmix":
                half, (top, left) = (share.sqrt() * SIDE / 2).long(), torch.randint(SIDE, (2, count))
                other = rectangles(top - half, left - half, 2 * half, 2 * half).float()
            is_mixed = (way == index) & (torch.rand(count) < keys["probability"])
            weights = torch.where(is_mixed[:, None, None], other, weights)
        return weights


def erased(count: int, erase: Keys) -> Tensor:
    """`[batch, 28, 28]`: the first of ten drawn rectangles that fits into the image."""
    area = uniform(erase["scale_min"], erase["scale_max"], count, 10) * SIDE * SIDE
    aspect = uniform(erase["ratio_min"], erase["ratio_max"], count, 10)
    rows, columns = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (rows <= SIDE) & (columns <= SIDE)
    first = fits.byte().argmax(1, keepdim=True)
    rows, columns = rows.gather(1, first)[:, 0], columns.gather(1, first)[:, 0]
    top, left = (torch.rand(count) * (SIDE + 1 - side) for side in (rows, columns))
    is_erased = (torch.rand(count) < erase["probability"]) & fits.any(1)
    return rectangles(top.floor(), left.floor(), rows, columns) & is_erased[:, None, None]


def views(images: Tensor, changes: list[str]) -> list[tuple[float, Tensor]]:
    """What the final test sees of an image, with weights: as `infer_mirror_translate` in airbench94.py."""
    seen = [(1.0, images)]
    if "shift" in changes:
        padded = F.pad(images, (1,) * 4, "reflect")
        seen = [(0.5, images), (0.25, padded[:, :, :-2, :-2]), (0.25, padded[:, :, 2:, 2:])]
    if "flip" in changes:
        seen = [(weight / 2, view) for weight, images in seen for view in (images, images.flip(3))]
    return seen
