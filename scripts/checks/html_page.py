"""Pages of trained networks in Chromium, against ONNX Runtime and the program's own predictions.

    html_page.py PROGRAM WORKDIR [--pictures DIR]

needs onnxruntime, pillow and playwright, and Fashion-MNIST where PROGRAM finds it. Trains four networks for a moment,
opens the page of each from the disk, and compares what it makes of 1,000 test images and of pictures of other sizes.
With --pictures it also leaves screenshots there.
"""

import argparse
import base64
import gzip
import json
import pathlib
import platform
import subprocess

import numpy
import onnxruntime
from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import sync_playwright

NETWORKS = ("mlp", "cnn", "resnet-8", "airbench")
IMAGES = 1000

# The logits of images of a row of bytes each, and the milliseconds that one takes once the code is warm.
COMPUTE = """(base64) => {
    const bytes = bytesOf(base64), size = images.channels * images.height * images.width, logits = [];
    const image = (index) => bytes.subarray(index * size, (index + 1) * size);
    for (let index = 0; index < 5; index++) predict(image(index));
    const start = performance.now(), count = bytes.length / size;
    for (let index = 0; index < count; index++) logits.push([...predict(image(index)).logits]);
    return { logits, milliseconds: (performance.now() - start) / count };
}"""

# The bytes of a picture as the page prepares them, and its probabilities.
PREPARE = """async () => {
    const pixels = prepared(picture, images);
    return { pixels: [...pixels], probabilities: [...predict(pixels).probabilities] };
}"""

# A picture that is dropped or pasted.
GIVEN = """([way, name, base64]) => {
    const transfer = new DataTransfer(), Kind = { drop: DragEvent, paste: ClipboardEvent }[way];
    transfer.items.add(new File([bytesOf(base64)], "picture.png", { type: "image/png" }));
    document.body.dispatchEvent(new Kind(way, { [name]: transfer, bubbles: true, cancelable: true }));
}"""


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def test_images(directory):
    """The first images of the split and their labels."""
    path = next(pathlib.Path(directory).glob("t10k-images*"))
    labels = next(pathlib.Path(directory).glob("t10k-labels*"))
    read = lambda path: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    pixels = numpy.frombuffer(read(path), dtype="uint8", offset=16).reshape(-1, 1, 28, 28)
    return pixels[:IMAGES], numpy.frombuffer(read(labels), dtype="uint8", offset=8)[:IMAGES]


def pictures(directory):
    """Pictures of other sizes, colours and backgrounds."""
    directory.mkdir(exist_ok=True)
    def drawn(mode, size, paper, ink):
        image = Image.new(mode, size, paper)
        pen = ImageDraw.Draw(image)
        pen.polygon([(60, 20), (130, 24), (150, 90), (120, 160), (70, 150), (40, 80)], fill=ink)
        pen.ellipse([80, 60, 110, 100], fill=paper)
        return image.filter(ImageFilter.GaussianBlur(1.5))
    drawn("L", (200, 180), 255, 40).save(directory / "light.png")
    drawn("L", (300, 170), 0, 220).save(directory / "dark.png")
    drawn("RGB", (177, 201), (240, 235, 220), (30, 90, 160)).save(directory / "colour.png")
    drawn("RGB", (640, 480), (20, 40, 15), (230, 200, 40)).save(directory / "large.png")
    small = drawn("L", (200, 180), 255, 10).resize((20, 17))
    small.save(directory / "small.png")
    clear = Image.new("RGBA", (160, 170), (0, 0, 0, 0))
    ImageDraw.Draw(clear).rectangle([40, 30, 90, 150], fill=(10, 120, 60, 255))
    clear.save(directory / "transparent.png")
    return sorted(directory.glob("*.png"))


def trained(program, work, network):
    runs = work / "runs"
    found = sorted(runs.glob(f"page-{network}-*/run.json"))
    if not found:
        run(program, "train", network, "--name", f"page-{network}", "--epochs", 1, "--limit-batches", 40,
            "--runs-dir", runs, "--dashboard", "never")
        found = sorted(runs.glob(f"page-{network}-*/run.json"))
    return found[-1].parent


def predicted(program, directory, files, *more):
    """The program's probabilities in the order of the labels, a row for each file."""
    answers = json.loads(run(program, "predict", directory, *files, "--top", 10, "--json", *more))
    rows = [sorted(answer["predictions"], key=lambda guess: guess["label"]) for answer in answers]
    return numpy.array([[guess["probability"] for guess in row] for row in rows])


def softmax(logits):
    powers = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def until(page, condition):
    """Waits for a condition of the page, whose policy lets no text become a script."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"still not: {condition}")


def check(program, work, browser, network, screenshots):
    directory = trained(program, work, network)
    html, graph = work / f"{network}.html", work / f"{network}.onnx"
    run(program, "export", directory, "--format", "html", "--output", html, "--force")
    run(program, "export", directory, "--format", "onnx", "--fold-batch-norm", "--output", graph, "--force")
    pixels, labels = test_images(json.loads((directory / "run.json").read_text())["dataset"]["source"])

    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page, requests, problems = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(html.as_uri())
    found = page.evaluate(COMPUTE, base64.b64encode(pixels.tobytes()).decode())
    logits = numpy.array(found["logits"])

    theirs = onnxruntime.InferenceSession(graph).run(["logits"], {"pixels": pixels})[0]
    off = abs(logits - theirs).max()
    assert off < 1e-4, f"{network}: logits differ from ONNX Runtime's by {off}"
    assert (logits.argmax(1) == theirs.argmax(1)).all(), f"{network}: other predictions than ONNX Runtime"
    folder = work / "images"
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(pixels[:, 0]):
        if not (folder / f"{index:04}.png").exists():
            Image.fromarray(image).save(folder / f"{index:04}.png")
    own = predicted(program, directory, [folder], "--as-is")
    assert (logits.argmax(1) == own.argmax(1)).all(), f"{network}: other predictions than the program"
    apart = abs(softmax(logits) - own).max()
    assert apart < 1e-4, f"{network}: probabilities differ from the program's by {apart}"
    right = int((logits.argmax(1) == labels).sum())

    # Pictures, through the page's own choice of a file.
    files = pictures(work / "pictures")
    own, worst = predicted(program, directory, files), 0.0
    for file, row in zip(files, own):
        page.set_input_files("#file", file)
        until(page, "picture !== null")
        prepared = page.evaluate(PREPARE)
        difference = abs(numpy.array(prepared["probabilities"]) - row).max()
        worst = max(worst, difference)
        # A pixel may be rounded the other way.
        assert difference < 0.01, f"{network}: {file.name} has probabilities that are {difference} from the program's"
        shown = page.inner_text("#answer")
        assert shown.split(", ")[0] == page.evaluate("classes")[int(row.argmax())], f"{network}: {file.name} is {shown}"
        page.evaluate("picture = null")

    # A stroke changes the bars, and taking it back empties them.
    bars = lambda: page.locator("#bars .number").all_inner_texts()
    page.click("#clear")
    page.wait_for_timeout(400)
    assert page.inner_text("#answer") == "Draw something" and set(bars()) == {""}
    box = page.locator("#canvas").bounding_box()
    at = lambda x, y: (box["x"] + x * box["width"], box["y"] + y * box["height"])
    seen = []
    page.mouse.move(*at(0.3, 0.2))
    page.mouse.down()
    for place in ((0.7, 0.25), (0.6, 0.8), (0.3, 0.7)):
        page.mouse.move(*at(*place), steps=5)
        page.wait_for_timeout(400)
        seen.append(bars())
    page.mouse.up()
    assert seen[0] != seen[1] != seen[2] and "" not in seen[0], f"{network}: bars do not change while one draws"
    if screenshots:
        screenshots.mkdir(exist_ok=True)
        page.screenshot(path=screenshots / f"html-{network}.png", full_page=True)
    page.click("#undo")
    page.wait_for_timeout(400)
    assert page.inner_text("#answer") == "Draw something"
    page.focus("#canvas")
    for key in ("ArrowLeft", " ", "ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    page.wait_for_timeout(400)
    assert "%" in page.inner_text("#answer"), f"{network}: the keys draw nothing"
    for way, name in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(GIVEN, [way, name, base64.b64encode(files[0].read_bytes()).decode()])
        until(page, "picture !== null")
        page.evaluate("picture = null")
    bad = work / "no picture.png"
    bad.write_text("no picture")
    page.set_input_files("#file", bad)
    page.wait_for_selector("#problem:visible")
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, f"{network}: wider than a phone"
    outside = [url for url in requests if url != html.as_uri()]
    assert not outside, f"{network}: loaded {outside}"
    assert not problems, f"{network}: {problems}"
    context.close()
    print(f"{network}: {right} of {IMAGES} right as ONNX Runtime and the program have it, logits to {off:.1e}, "
          f"{len(files)} pictures to {worst:.1e}; {html.stat().st_size / 1e6:.1f} MB, "
          f"{found['milliseconds']:.1f} ms an image on {processor()}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("work", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--pictures", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for network in NETWORKS:
            check(arguments.program, arguments.work, browser, network, arguments.pictures)
        browser.close()


if __name__ == "__main__":
    main()
