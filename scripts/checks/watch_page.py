#!/usr/bin/env python3
"""Does in Chromium what a person does on the page of `kindling watch`, and says what it saw.

    watch_page.py PROGRAM WORKDIR [--pictures DIR]

Needs playwright and Chromium. WORKDIR is an empty folder for runs; with --pictures the page is pictured into DIR.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from playwright.sync_api import expect, sync_playwright

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("program", type=pathlib.Path)
arguments.add_argument("workdir", type=pathlib.Path)
arguments.add_argument("--pictures", type=pathlib.Path)
arguments = arguments.parse_args()
program = arguments.program.resolve()
work = arguments.workdir.resolve()
work.mkdir(parents=True, exist_ok=True)
runs = work / "runs"
if runs.exists():
    sys.exit(f"{runs} is there already; give an empty folder")
started = []


def start(*command, **options):
    process = subprocess.Popen([program, *command, "--runs-dir", "runs"], cwd=work, **options)
    started.append(process)
    return process


def train(*command):
    process = start("train", *command, "--dashboard", "never", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 3), errors
    return pathlib.Path(output.strip().splitlines()[-1]).name


def begin(*command):
    """A training that goes on, once it has a run."""
    before = set(os.listdir(runs))
    process = start("train", *command, "--dashboard", "never", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (new := [run for run in set(os.listdir(runs)) - before if (runs / run / "run.json").exists()]):
        assert process.poll() is None, "the training has ended"
        time.sleep(0.05)
    return process, new[0]


def check(name, holds, found=""):
    print(f"{'ok' if holds else 'FAILED'}  {name}{f' ({found})' if found != '' else ''}", flush=True)
    assert holds, name


def main():
    images = ["--limit-batches", "80"]
    wide = train("mlp", "--hidden", "128", "--epochs", "5", "--learning-rate", "0.02", "--gradient-steps", "30", "--name", "wide", *images)
    narrow = train("mlp", "--hidden", "64", "--epochs", "4", "--seed", "2", "--name", "narrow", *images)
    conv = train("cnn", "--epochs", "3", "--name", "conv", *images)
    wild = train("mlp", "--epochs", "3", "--learning-rate", "500", "--name", "wild", *images)
    torn = "torn"
    shutil.copytree(runs / narrow, runs / torn)
    (runs / torn / "run.json").write_text("{\"schema\": 3, ")
    evil = "<script>document.title = 'foreign'<"
    shutil.copytree(runs / narrow, runs / evil)
    record = json.loads((runs / evil / "run.json").read_text())
    record["model"] = "<img src=x onerror=\"document.title = 'foreign'\">"
    (runs / evil / "run.json").write_text(json.dumps(record))
    with (runs / evil / "log.txt").open("a") as log:
        log.write("</code></pre><script>document.title = 'foreign'</script>\n")
    training, live = begin("cnn", "--epochs", "5000", "--limit-batches", "20", "--name", "live")

    watch = start("watch", "--port", "0", "--control", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    url = watch.stdout.readline().strip()
    print(f"the page is at {url}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            walk(browser, url, watch, dict(wide=wide, narrow=narrow, conv=conv, wild=wild, torn=torn, evil=evil, live=live), training)
        finally:
            browser.close()


def open_page(browser, url, problems, **options):
    page = browser.new_page(**options)
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if not request.url.startswith((url, "data:")) else None)
    page.goto(url)
    return page


def row(page, run):
    return page.locator(f'tr[data-key={json.dumps(run)}]')


def order(page):
    return page.evaluate("() => [...document.querySelectorAll('.runs tbody tr')].filter(row => !row.hidden).map(row => row.dataset.key)")


def strokes(page, part):
    found = re.findall(r'stroke="(#[0-9a-f]{6})"', page.locator(f'[data-part="{part}"]').inner_html())
    return set(found)


def picture(page, name, full=False):
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=arguments.pictures / f"{name}.png", full_page=full)


def walk(browser, url, watch, run, training):
    problems = []
    page = open_page(browser, url, problems, viewport={"width": 1280, "height": 900})
    expect(row(page, run["live"])).to_be_visible()
    check("every run has a row", len(order(page)) == 7, len(order(page)))
    check("the one that is being trained comes first", order(page)[0] == run["live"])
    check("a torn record is shown as damaged", row(page, "torn").get_attribute("data-status") == "damaged")
    check("a run that diverged says so", row(page, run["wild"]).get_attribute("data-status") == "diverged")
    check("foreign text does nothing", page.title() == "Runs – kindling watch", page.title())

    page.keyboard.press("/")
    page.keyboard.type("sgd cnn")
    check("the search looks into configs", set(order(page)) == {run["conv"], run["live"]}, order(page))
    page.locator("#text").fill("")
    page.locator("#status").select_option("finished")
    check("runs are filtered by status", set(order(page)) == {run["conv"], run["wide"], run["narrow"], run["evil"]})
    page.locator("#status").select_option("")

    head = page.get_by_role("button", name="best accuracy")
    head.click()
    head.click()
    check("sorted by the best accuracy", page.locator("th[aria-sort=descending]").count() == 1 and order(page)[-1] in ("torn", run["wild"]), order(page))
    values = page.evaluate("() => [...document.querySelectorAll('[data-label=\"best accuracy\"]')].map(cell => Number(cell.dataset.value ?? -1))")
    check("the order is that of the values", values == sorted(values, reverse=True), values)

    box = row(page, run["conv"]).locator("input")
    box.focus()
    page.keyboard.press("Space")
    row(page, run["narrow"]).locator("input").check()
    row(page, run["live"]).locator("input").check()
    expect(page.locator(".ticked li")).to_have_count(3)
    expect(page.locator('[data-part="curves"] svg')).to_have_count(4)
    all_colors = strokes(page, "curves")
    blue = "#0072b2"
    check("ticked runs have curves in colours of their own", {blue, "#d55e00", "#009e73"} <= all_colors, sorted(all_colors))
    row(page, run["conv"]).locator("input").uncheck()
    expect(page.locator(".ticked li")).to_have_count(2)
    check("the others keep their colours", strokes(page, "ticked") == {"#d55e00", "#009e73"}, strokes(page, "ticked"))
    row(page, run["conv"]).locator("input").check()
    expect(page.locator(".ticked li")).to_have_count(3)
    check("configs are compared", page.locator('[data-part="configs"] table').inner_text().count("network.name") == 1)
    check("points can be read", "epoch 1, " in page.locator('[data-part="curves"] svg title').first.text_content())

    box.focus()
    page.evaluate("() => scrollTo(0, 150)")
    before, curve = row(page, run["live"]).locator(".epochs").inner_text(), page.locator('[data-part="steps"]').get_attribute("data-version")
    page.evaluate("() => { document.querySelector('.runs tbody').mine = true; }")
    page.wait_for_function("([run, before]) => [...document.querySelectorAll('tr')].find(row => row.dataset.key === run).querySelector('.epochs').innerText !== before", arg=[run["live"], before])
    page.wait_for_function("version => document.querySelector('[data-part=steps]').dataset.version !== version", arg=curve)
    check("progress and curves move by themselves", True, f'{before} -> {row(page, run["live"]).locator(".epochs").inner_text()}')
    kept = page.evaluate("() => [scrollY, document.activeElement.value, document.querySelector('.runs tbody').mine, document.querySelectorAll('input:checked').length]")
    check("scrolling, focus, ticks and elements stay", kept == [150, run["conv"], True, 3], kept)
    check("and the order", page.locator("th[aria-sort=descending]").count() == 1)

    page.reload()
    expect(page.locator(".ticked li")).to_have_count(3)
    check("ticks and colours outlast a reload", strokes(page, "ticked") == {blue, "#d55e00", "#009e73"}, strokes(page, "ticked"))
    shutil.copytree(runs / run["wide"], runs / "appeared")
    expect(row(page, "appeared")).to_be_visible(timeout=10000)
    row(page, "appeared").locator("input").check()
    expect(page.locator(".ticked li")).to_have_count(4)
    shutil.rmtree(runs / "appeared")
    expect(row(page, "appeared")).to_have_count(0, timeout=10000)
    expect(page.locator(".ticked li")).to_have_count(3, timeout=10000)
    check("runs that appear and vanish are followed", True)
    shutil.move(runs / run["evil"], work / "evil")
    shutil.move(runs / "torn", work / "torn")
    expect(row(page, "torn")).to_have_count(0, timeout=10000)
    page.mouse.move(0, 0)
    page.evaluate("() => scrollTo(0, 0)")
    page.wait_for_timeout(1500)
    picture(page, "watch-runs")
    shutil.move(work / "evil", runs / run["evil"])
    shutil.move(work / "torn", runs / "torn")

    # A run's page.
    page.get_by_role("link", name=run["wide"]).click()
    expect(page.get_by_role("heading", name="Gradients")).to_be_visible()
    check("a run's page has curves, gradients, matrix, config and log", all(page.locator(f'[data-part="{part}"]').inner_text() != "" for part in ["curves", "steps", "gradients", "evaluation", "config", "log"]))
    page.locator("summary", has_text="Numbers of each epoch").click()
    expect(page.get_by_role("cell", name="5", exact=True).or_(page.get_by_role("rowheader", name="5", exact=True)).first).to_be_visible()
    page.goto(f"{url}run?id={run['evil'].replace('<', '%3C').replace(' ', '%20')}")
    expect(page.locator("#log")).to_be_visible()
    check("foreign text does nothing on a run's page", page.title().startswith("<script>"), page.title())
    page.goto(f"{url}run?id={run['live']}")
    expect(page.locator('[data-part="steps"] svg')).to_have_count(1)
    dark = open_page(browser, url, problems, viewport={"width": 1280, "height": 1000}, color_scheme="dark")
    dark.goto(f"{url}run?id={run['live']}")
    dark.wait_for_timeout(1500)
    picture(dark, "watch-run")
    dark.close()

    # Stop, and resume.
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Cancel").click()
    check("a question that is not confirmed does nothing", training.poll() is None and page.locator("#happened").count() == 0)
    page.get_by_role("button", name="Stop").click()
    page.keyboard.press("Escape")
    check("Escape does nothing either", training.poll() is None)
    page.get_by_role("button", name="Stop").click()
    page.locator("#yes").click()
    check("the process has stopped as by Ctrl-C", training.wait(timeout=60) == 130, training.returncode)
    expect(page.locator('[data-part="state"] .badge')).to_have_text("interrupted", timeout=10000)
    check("what happened is said", "keeps a checkpoint" in page.locator("#happened").inner_text(), page.locator("#happened").inner_text())
    page.get_by_role("button", name="Resume").click()
    page.locator("#yes").click()
    expect(page.locator('[data-part="state"] .badge')).to_have_text("running", timeout=20000)
    check("it is trained further", "further" in page.locator("#happened").inner_text(), page.locator("#happened").inner_text())

    # Two at a time only when asked for.
    for_two, second = begin("mlp", "--epochs", "5000", "--limit-batches", "20", "--name", "second")
    for_two.send_signal(signal.SIGINT)
    for_two.wait(timeout=60)
    page.get_by_role("link", name="All runs").click()
    expect(row(page, second).locator(".badge")).to_have_text("interrupted", timeout=10000)
    row(page, second).get_by_role("button").click()
    page.locator("#yes").click()
    expect(page.locator("#question")).to_contain_text("is being trained already")
    page.locator("#yes").click()
    expect(row(page, second).locator(".badge")).to_have_text("running", timeout=20000)
    check("two are trained at once when it is asked for twice", True)
    for name in (second, run["live"]):
        row(page, name).get_by_role("button").click()
        page.locator("#yes").click()
        expect(row(page, name).locator(".badge")).to_have_text("interrupted", timeout=20000)
    check("both are stopped", True)

    # A phone, in both schemes.
    for scheme in ("light", "dark"):
        phone = open_page(browser, url, problems, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
        row(phone, run["conv"]).locator("input").tap()
        row(phone, run["narrow"]).locator("input").tap()
        expect(phone.locator('[data-part="curves"] svg')).to_have_count(4)
        phone.locator("#sort").select_option(label="best loss")
        check(f"nothing is wider than a phone ({scheme})", phone.evaluate("() => document.documentElement.scrollWidth") == 360)
        if scheme == "dark":
            phone.evaluate("() => scrollTo(0, 0)")
            picture(phone, "watch-phone")
        phone.goto(f"{url}run?id={run['wide']}")
        check(f"nor on a run's page ({scheme})", phone.evaluate("() => document.documentElement.scrollWidth") == 360)
        phone.close()

    check("no errors, and nothing loaded from elsewhere", not [problem for problem in problems if "409" not in problem], problems)
    watch.send_signal(signal.SIGINT)
    watch.wait(timeout=10)
    expect(page.locator("#connection")).to_contain_text("does not answer", timeout=15000)
    check("a page without its program says so and keeps what it shows", len(order(page)) == 8, len(order(page)))


try:
    main()
finally:
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
print("all of it as it should be")
