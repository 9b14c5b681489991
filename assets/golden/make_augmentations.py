"""Makes the golden values that Kindling's changes of training images are tested against.

    pip install torch==2.9.0 torchvision==0.24.0
    python assets/golden/make_augmentations.py

Writes `augmentations.json` beside this file: a grey and a colour image as bytes, and what torchvision makes of their
pixels in [0, 1], for fixed parameters of each change.
"""

import json
import pathlib

import torch
import torchvision
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

HERE = pathlib.Path(__file__).parent
SHAPES = {"grey": [1, 7, 9], "rgb": [3, 6, 8]}
BACKGROUNDS = {"grey": [37], "rgb": [12, 200, 90]}
# Top, left, height and width in the image: torchvision's order.
CROPS = [[1, 2, 4, 5], [0, 3, 3, 3], [2, 0, 4, 8], [0, 0, 6, 1]]
AFFINES = [
    {"angle": 23.5, "translate": [0, 0], "scale": 1.0, "shear": 0.0},
    {"angle": -151.0, "translate": [2, -1], "scale": 0.7, "shear": 0.0},
    {"angle": 8.0, "translate": [-1, 3], "scale": 1.3, "shear": 12.0},
    {"angle": 0.0, "translate": [1, -2], "scale": 1.0, "shear": 0.0},
    {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": -20.0},
]
# Brightness, contrast, saturation.
COLORS = [[1.4, 1, 1], [0.6, 1, 1], [1, 1.7, 1], [1, 0.3, 1], [1, 1, 1.8], [1, 1, 0.2], [1.3, 0.8, 1.5]]


def changes(image, fill):
    height, width = image.shape[-2:]
    yield {"change": "flip"}, F.horizontal_flip(image)
    paddings = {"background": F.pad(image, 4, fill=fill), "reflect": F.pad(image, 4, padding_mode="reflect")}
    for edge, padded in paddings.items():
        for top, left in [(0, 0), (4, 4), (7, 2), (3, 8)]:
            cropped = F.crop(padded, top, left, height, width)
            yield {"change": "crop", "edge": edge, "move": [top - 4, left - 4]}, cropped
    for part in CROPS:
        for antialias in [False, True]:
            resized = F.resized_crop(image, *part, [height, width], antialias=antialias)
            yield {"change": "resized-crop", "part": part}, resized
    for angle in [33.0, -90.5]:
        rotated = F.rotate(image, angle, InterpolationMode.BILINEAR, fill=fill)
        yield {"change": "rotate", "angle": angle}, rotated
    for affine in AFFINES:
        given = {**affine, "shear": [affine["shear"], 0.0]}
        moved = F.affine(image, **given, interpolation=InterpolationMode.BILINEAR, fill=fill)
        yield {"change": "affine", **affine}, moved
    for brightness, contrast, saturation in COLORS:
        changed = F.adjust_contrast(F.adjust_brightness(image, brightness), contrast)
        changed = F.adjust_saturation(changed, saturation)
        yield {"change": "color", "factors": [brightness, contrast, saturation]}, changed
    erased = F.erase(image, 1, 3, 4, 2, torch.tensor(fill)[:, None, None])
    yield {"change": "erase", "part": [1, 3, 4, 2]}, erased
    # The other image is the mirrored one.
    both, box = torch.stack([image, F.horizontal_flip(image)]), (2, 1, 6, 5)
    given = {"labels": None, "batch_size": 2}
    yield {"change": "mixup", "share": 0.3}, v2.MixUp(num_classes=2).transform(both, {**given, "lam": 0.7})[0]
    pasted = v2.CutMix(num_classes=2).transform(both, {**given, "box": box, "lam_adjusted": 0.0})[0]
    yield {"change": "cutmix", "part": [1, 2, 4, 4]}, pasted


def numbers(tensor):
    return [float(f"{value:.7g}") for value in tensor.flatten().tolist()]


torch.manual_seed(13)
document = {"torch": torch.__version__, "torchvision": torchvision.__version__, "images": {}, "cases": []}
for name, shape in SHAPES.items():
    pixels, backgrounds = torch.randint(0, 256, shape), BACKGROUNDS[name]
    document["images"][name] = {"shape": shape, "pixels": pixels.flatten().tolist(), "backgrounds": backgrounds}
    for case, result in changes(pixels.float() / 255, [background / 255 for background in backgrounds]):
        document["cases"].append({"image": name, **case, "pixels": numbers(result)})
lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in document.pop("cases"))
text = json.dumps(document, separators=(",", ":"))[:-1] + ',"cases":[\n' + lines + "\n]}\n"
(HERE / "augmentations.json").write_text(text)
