#!/usr/bin/env python3
"""Does on the page of `kindling play` what a person does, in a browser without a window.

    play_page.py PROGRAM WORKDIR [--pictures DIR]

Trains two small runs in WORKDIR and opens the page on them in Chromium, through playwright. With --pictures it leaves
pictures of the page in DIR.
"""

import argparse
import base64
import json
import re
import shutil
import signal
import struct
import subprocess
import zlib
from pathlib import Path

from playwright.sync_api import expect, sync_playwright


def png(width, height, pixel):
    """A grey PNG file."""
    rows = b"".join(b"\0" + bytes(pixel(x, y) for x in range(width)) for y in range(height))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in chunks)


# A bag: a dark rectangle with a handle, on white.
BAG = png(90, 80, lambda x, y: 30 if 10 < x < 80 and 30 < y < 75 or 30 < x < 60 and 8 < y < 14 or (28 < x < 33 or 57 < x < 62) and 8 < y < 31 else 255)


def train(program, folder, model, *flags):
    command = [program, "train", model, "--dashboard", "never", "--limit-batches", "150", "--epochs", "2", "--runs-dir", folder, *flags]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[-2]


class Program:
    """The program `play` on these runs."""

    def __init__(self, program, *runs):
        self.process = subprocess.Popen([program, "play", *runs, "--port", "0"], stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=30) == 0, "Ctrl-C ends the program with the exit code 0"


def stroke(page, *points):
    """Draws a line through points, which are shares of the canvas."""
    box = page.locator("#canvas").bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def trousers(page):
    page.locator("#brush").fill("4")
    stroke(page, (0.35, 0.15), (0.65, 0.15), (0.68, 0.85))
    stroke(page, (0.35, 0.15), (0.32, 0.85))
    stroke(page, (0.5, 0.2), (0.5, 0.3))


def bars(page, run=0):
    return page.locator(".run").nth(run).locator(".number").all_inner_texts()


def sums_to_one(page, run=0):
    """The bars of a run are as long as their numbers say, and make up the whole."""
    shares = [float(text.split()[0]) for text in bars(page, run)]
    assert abs(sum(shares) - 100) < 1, shares
    length = "bars => bars.map((bar) => 100 * bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width)"
    page.wait_for_timeout(300)  # the bars move
    lengths = page.locator(".run").nth(run).locator(".bar").evaluate_all(length)
    assert all(abs(share - length) < 1 for share, length in zip(shares, lengths)), (shares, lengths)


def settled(page):
    """Waits until the page has the answer to all that was done."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    expect(page.locator("#answers")).not_to_have_attribute("aria-busy", "true")


def answered(page, run=0):
    """Waits for an answer, and returns it."""
    settled(page)
    answer = page.locator(".run").nth(run).locator(".answer")
    expect(answer).to_have_text(re.compile(r".+, [\d.]+\s%"))
    return " ".join(answer.inner_text().split())


def changed(page, before):
    """Waits until the bars are others."""
    page.wait_for_function("before => document.querySelector('.bars').innerText !== before", arg=before)


def no_scrolling(page):
    wide, screen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= screen, f"the page is {wide} pixels wide on a screen of {screen}"


def draws(page):
    expect(page.locator(".answer").first).to_have_text("Draw something")
    trousers(page)
    answered(page)
    sums_to_one(page)
    before = page.locator(".bars").first.inner_text()
    stroke(page, (0.1, 0.5), (0.9, 0.5))
    changed(page, before)
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("before => document.querySelector('.bars').innerText === before", arg=before)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".answer").first).to_have_text("Draw something")
    print("drawing: the bars change, undo brings the first ones back, clear empties them")


def draws_with_keys(page):
    page.locator("#canvas").focus()
    for key in ["ArrowUp"] * 5 + ["Space"] + ["ArrowDown"] * 12:
        page.keyboard.press(key)
    answer = answered(page)
    page.keyboard.press("Escape")
    expect(page.locator(".answer").first).to_have_text("Draw something")
    for key in ["e", "]", "["]:
        page.keyboard.press(key)
    expect(page.get_by_role("button", name="Erase")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("e")
    print(f"keys: a line drawn with the arrows is {answer}")


def takes_files(page, program, run, folder):
    file = folder / "bag.png"
    file.write_bytes(BAG)
    said = subprocess.run([program, "predict", run, str(file), "--json", "--top", "1"], check=True, capture_output=True, text=True)
    best = json.loads(said.stdout)[0]["predictions"][0]
    page.locator("#file").set_input_files(str(file))
    expected = f"{best['class']}, {100 * best['probability']:.1f} %"
    expect(page.locator(".answer").first).to_have_text(expected)
    print(f"a chosen file: {answered(page)}, as `predict` says")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".answer").first).to_have_text("Draw something")
    transfer = """([event, name, data]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, { type: "image/png" }));
        const what = { bubbles: true, cancelable: true, clipboardData: transfer, dataTransfer: transfer };
        document.body.dispatchEvent(event === "paste" ? new ClipboardEvent(event, what) : new DragEvent(event, what));
    }"""
    for event in ["paste", "drop"]:
        page.evaluate(transfer, [event, "bag.png", base64.b64encode(BAG).decode()])
        answered(page)
        page.get_by_role("button", name="Clear").click()
        expect(page.locator(".answer").first).to_have_text("Draw something")
    page.evaluate(transfer, ["drop", "notes.txt", base64.b64encode(b"no picture").decode()])
    expect(page.locator("#problem")).to_be_visible()
    print(f"a file that is no picture: {page.locator('#problem').inner_text()}")
    blank = png(40, 40, lambda x, y: 128)
    page.evaluate(transfer, ["drop", "wall.png", base64.b64encode(blank).decode()])
    expect(page.locator(".answer").first).to_contain_text("nothing stands out from the background")
    page.get_by_label("As it is").check()
    answered(page)
    page.get_by_label("As it is").uncheck()
    page.get_by_role("button", name="Clear").click()
    print("paste and drop: answers; a blank picture: the reason, and an answer as it is")


def looks(page):
    trousers(page)
    page.get_by_label("Show where it looks").check()
    expect(page.locator(".scale").first).to_be_visible()
    said = page.locator(".sees figcaption").first.inner_text()
    assert re.search(r"by up to [\d.]+ points", said), said
    alphas = page.evaluate("""() => {
        const layer = document.querySelector(".overlay");
        return [...layer.getContext("2d").getImageData(0, 0, layer.width, layer.height).data].filter((_, i) => i % 4 === 3);
    }""")
    assert max(alphas) > 200 > min(alphas), "the layer has strong and weak parts"
    print("where it looks: " + said.replace("\n", " "))


def chooses_test_images(page):
    page.get_by_label("Show where it looks").uncheck()
    page.wait_for_function("!document.querySelector('#progress').innerText.includes('so far')", timeout=120_000)
    images = page.locator("#images button")
    assert images.count() == 60
    images.first.click()
    answered(page)
    expect(page.locator(".bars").first.locator(".true")).to_have_count(1)
    first = images.first.inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    chosen = page.locator('#images [aria-pressed="true"]')
    expect(chosen).to_have_count(1)
    assert page.evaluate("[...document.querySelectorAll('#images button')].indexOf(document.activeElement)") > 1
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#page")).to_contain_text("2 of")
    page.locator("#show").select_option("wrong")
    expect(page.locator("#images .wrong").first).to_be_visible()
    expect(page.locator("#images button:not(.wrong)")).to_have_count(0)
    page.locator("#class").select_option("6")
    expect(page.locator("#images button").first).to_contain_text("Shirt")
    images.first.click()
    answer, image = answered(page), images.first.inner_text()
    image = " ".join(image.split())
    assert image == f"Shirt taken for {answer}", f"{answer} on the page, {image} among the test images"
    print(f"test images: {first!r}, by class and right or wrong, with the arrow keys; {page.locator('#progress').inner_text()}")


def films(page):
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#video")).to_be_visible()
    page.get_by_label("Live").check()
    answered(page)
    page.get_by_role("button", name="Take a picture").click()
    expect(page.locator("#filming")).to_be_hidden()
    answered(page)
    print("the camera: live, and a picture")


def can_be_reached_by_keys(page):
    page.locator("body").click(position={"x": 1, "y": 1})
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = page.evaluate("""() => {
            const one = document.activeElement, frame = one.closest("label.button") ?? one;
            return getComputedStyle(frame).outlineStyle;
        }""")
        assert outline != "none" or seen[-1] == "BODY", f"{seen[-1]} has the focus, and nobody sees it"
    for wanted in ["canvas", "clear", "undo", "erase", "brush", "file", "camera", "as-is", "looking", "class", "show", "BUTTON"]:
        assert wanted in seen, f"{wanted} is not reached with the tabulator: {seen}"
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, select, canvas[tabindex], img")]
        .filter((one) => !(one.labels?.length || one.ariaLabel || one.innerText?.trim() || one.alt)).map((one) => one.outerHTML)""")
    assert not nameless, nameless
    print("keys: all controls are reached, each shows its focus and has a name")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    cnn = train(arguments.program, str(arguments.workdir / "runs"), "cnn")
    mlp = train(arguments.program, str(arguments.workdir / "runs"), "mlp", "--image-size", "20")

    def picture(page, name, **more):
        if arguments.pictures:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(arguments.pictures / f"play-{name}.png"), animations="disabled", **more)

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)

        def opened(address, **how):
            context = browser.new_context(permissions=["camera"], **how)
            page = context.new_page()
            page.set_default_timeout(20_000)
            told, asked = [], []
            page.on("console", lambda message: told.append(message.text) if message.type == "error" and "status of 400" not in message.text else None)
            page.on("pageerror", lambda error: told.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address)
            expect(page.locator(".run").first).to_be_visible()
            page.told, page.asked = told, asked
            return page

        def done(page):
            assert not page.told, page.told
            away = [url for url in page.asked if not url.startswith((page.url, "data:", "blob:"))]
            assert not away, f"requests to elsewhere: {away}"
            page.context.close()

        with Program(arguments.program, cnn) as play:
            page = opened(play.address, viewport={"width": 1280, "height": 900})
            draws(page)
            draws_with_keys(page)
            takes_files(page, arguments.program, cnn, arguments.workdir)
            looks(page)
            picture(page, "looks")
            chooses_test_images(page)
            page.evaluate("window.scrollTo(0, 0)")
            picture(page, "light", clip={"x": 0, "y": 0, "width": 1280, "height": 1386}, full_page=True)
            films(page)
            can_be_reached_by_keys(page)
            no_scrolling(page)
            done(page)

            page = opened(play.address, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, reduced_motion="reduce")
            no_scrolling(page)
            trousers(page)
            answered(page)
            page.get_by_label("Show where it looks").check()
            expect(page.locator(".scale")).to_be_visible()
            no_scrolling(page)
            moving = page.evaluate("getComputedStyle(document.querySelector('.bars .bar span')).transitionDuration")
            assert moving == "0s", moving
            picture(page, "phone", clip={"x": 0, "y": 0, "width": 360, "height": 1500}, full_page=True)
            done(page)
            print("a screen of 360 pixels: no scrolling sideways, nothing moves where that is not wanted")

        with Program(arguments.program, cnn, mlp) as play:
            page = opened(play.address, viewport={"width": 1280, "height": 900}, color_scheme="dark")
            assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(20, 23, 26)"
            trousers(page)
            first, second = answered(page, 0), answered(page, 1)
            sums_to_one(page, 1)
            left, right = (page.locator(".run").nth(run).bounding_box() for run in (0, 1))
            assert left["y"] == right["y"] and left["x"] < right["x"], "the runs stand side by side"
            page.locator("#run").select_option(index=1)
            expect(page.locator("#images button").first).to_be_visible()
            page.get_by_label("Show where it looks").check()
            expect(page.locator(".scale")).to_have_count(2)
            picture(page, "two-dark", clip={"x": 0, "y": 0, "width": 1280, "height": 1400}, full_page=True)
            no_scrolling(page)
            done(page)
            print(f"two runs in the dark, of 28 and of 20 pixels: {first}; {second}")
        browser.close()


main()
