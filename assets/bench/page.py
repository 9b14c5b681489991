"""Writes BENCHMARKS.md from the results in this folder.

    python3 assets/bench/page.py            writes the page
    python3 assets/bench/page.py --check    fails where the page is not what this would write

Each `<processor>.json` has what `kindling bench --save` or `scripts/gpu-check` left: a list of reports. `notes.md` is
written by hand, and ends the page. Needs nothing but Python.
"""

import json
import pathlib
import statistics
import sys

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "BENCHMARKS.md"
TITLE = """# Benchmarks

Written by `just bench-page` from the results in `assets/bench`; change those, or `assets/bench/notes.md`.

Throughput in images per second, and its ratio to PyTorch's. All contenders of a row take turns in one run, in rounds
of the same length; a ratio is the median over the rounds, in brackets the lowest and the highest. Single figures differ
by a tenth from hour to hour on shared machines: trust the ratios. A step takes a batch (rows gathered in a shuffled
order, on both sides), computes, and in training updates; losses are read back, in each step on a CPU and at the end of a
round on a GPU, on both sides. Before anything is timed, both sides must have the same number of parameters, and the same
losses in training, in evaluation and after a step, from the same weights and images. PyTorch runs in a process of its
own (`crates/workbench/src/pytorch_peer.py`), with glibc told to keep freed memory; Kindling uses mimalloc, told the
same.
"""


def main():
    text = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or PAGE.read_text() != text:
            sys.exit(f"{PAGE.name} is not what assets/bench makes; run: just bench-page")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        PAGE.write_text(text)


def page():
    parts = [TITLE]
    for path in sorted(HERE.glob("*.json")):
        parts.append(section(json.loads(path.read_text())))
    parts.append((HERE / "notes.md").read_text())
    return "\n".join(part.strip() + "\n" for part in parts)


def section(reports):
    """The tables of one machine."""
    if isinstance(reports, dict):  # gpu-check's has more than the reports.
        reports = reports["reports"]
    reports = [report for report in reports if report["measurements"]]
    if not reports:
        return ""
    cases = cases_of(reports)
    parts = [f"## {title(reports)}\n\n{about(reports)}"]
    for mode, name in (("train", "Training"), ("infer", "Inference")):
        precisions = dict.fromkeys(case["precision"] for case in cases if case["mode"] == mode)
        for precision in precisions:
            rows = [case for case in cases if (case["mode"], case["precision"]) == (mode, precision)]
            plain = [case for case in rows if len(optimizers(case)) < 2]
            if plain:
                named = f"{name}, {precision}" if len(precisions) > 1 else name
                parts.append(f"### {named}\n\n{throughputs(plain)}")
    several = [case for case in cases if len(optimizers(case)) > 1]
    if several:
        parts.append(f"### Steps of other optimizers\n\n{steps(several)}")
    commands = "\n".join(f"    {report['command']}" for report in reports)
    parts.append(f"Commands:\n\n{commands}")
    return "\n\n".join(parts)


def title(reports):
    first = reports[0]
    gpus = first.get("gpus") or []
    uses_gpu = any(not name.startswith(("flex", "ndarray", "libtorch", "pytorch")) for name in first["devices"])
    if uses_gpu:
        others = [device for name, device in first["devices"].items() if name != "pytorch"]
        return gpus[0] if gpus else others[0]
    found = {measured.get("kernels") or "" for measured in first["measurements"]}
    instructions = sorted(name.split(", ")[1] for name in found if name.startswith("fused, "))
    return ", ".join([first["machine"]["processor"] or first["machine"]["platform"], *instructions[:1]])


def about(reports):
    """Date, threads, versions, devices, and how closely both sides agree."""
    dates = sorted({report["date"][:10] for report in reports})
    versions = dict(pair for report in reports for pair in report["versions"].items())
    devices = dict(pair for report in reports for pair in report["devices"].items())
    threads = sorted({report["machine"]["threads"] for report in reports})
    lines = [
        f"{' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, {' or '.join(map(str, threads))} threads; "
        + ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        + ".",
        "Devices: " + "; ".join(f"{name}: {device}" for name, device in sorted(devices.items())) + ".",
    ]
    for precision in dict.fromkeys(report["precision"] for report in reports):
        agreements = [found for report in reports if report["precision"] == precision for found in report["agreements"]]
        if agreements:
            largest = max((difference(found) for found in agreements if not found["problem"]), default=0.0)
            lines.append(
                f"Compared with PyTorch in {precision}: {len(agreements)} times, losses differ by {largest:.0e} at "
                "most, relatively."
            )
        lines += [f"Not timed: {found['contender']}: {found['problem']}." for found in agreements if found["problem"]]
    return "\n".join(lines)


def difference(agreement):
    pairs = zip(agreement["losses"], agreement["pytorch"]["losses"])
    return max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)


def cases_of(reports):
    """What took turns with one another; of cases that were measured twice, the later."""
    cases = {}
    for report in reports:
        for measured in report["measurements"]:
            what = {key: measured[key] for key in ("model", "image", "batch_size", "mode")}
            what["precision"] = report["precision"]
            several = len({name(found) for found in report["measurements"] if is_rival(found, measured)}) > 1
            key = (*map(str, what.values()), several)
            if cases.get(key, {}).get("report") is not report:
                cases[key] = {**what, "report": report, "measured": []}
            cases[key]["measured"].append(measured)
    return list(cases.values())


def is_rival(found, measured):
    return all(found[key] == measured[key] for key in ("model", "image", "batch_size", "mode"))


def name(measured):
    return (measured.get("optimizer") or {}).get("name", "")


def optimizers(case):
    return list(dict.fromkeys(name(measured) for measured in case["measured"]))


def throughputs(cases):
    """A row for each contender of Kindling's, with a column of ratios for each variant of PyTorch."""
    variants = list(
        dict.fromkeys(
            measured["contender"]
            for case in cases
            for measured in case["measured"]
            if measured["contender"].startswith("pytorch ")
        )
    )
    header = ["network", "images", "batch", "on", "images/s", *(f"/ {name[8:]}" for name in variants)]
    if variants:
        header.append("PyTorch's own images/s")
    rows = []
    for case in cases:
        peers = {found["contender"]: found for found in case["measured"] if found["contender"] in variants}
        own = [found for found in case["measured"] if found["contender"] not in variants]
        for index, measured in enumerate(own):
            channels, height, width = case["image"]
            row = [f"`{case['model']}`", f"{channels}x{height}x{width}", str(case["batch_size"])]
            row += [measured["contender"], grouped(measured["images_per_second"])]
            row += [ratio(measured, peers.get(variant)) for variant in variants]
            if variants:
                speeds = [grouped(peers[variant]["images_per_second"]) if variant in peers else "-" for variant in variants]
                row.append(" / ".join(speeds) if index == 0 else "")
            rows.append(row)
    return table(header, "llrl" + "r" * (len(header) - 4), rows)


def steps(cases):
    """The time of a step with each optimizer by that with sgd."""
    names = list(dict.fromkeys(name for case in cases for name in optimizers(case) if name != "sgd"))
    header = ["network", "images", "batch", "on", "sgd, ms", *(f"{name} / sgd" for name in names)]
    rows = []
    for case in cases:
        for contender in dict.fromkeys(measured["contender"] for measured in case["measured"]):
            found = {name(measured): measured for measured in case["measured"] if measured["contender"] == contender}
            if "sgd" in found and len(found) > 1:
                channels, height, width = case["image"]
                row = [f"`{case['model']}`", f"{channels}x{height}x{width}", str(case["batch_size"]), contender]
                row.append(f"{statistics.median(found['sgd']['step_seconds']) * 1e3:.2f}")
                row += [ratio(found["sgd"], found.get(other)) for other in names]
                rows.append(row)
    return table(header, "llrl" + "r" * (len(header) - 4), rows)


def ratio(measured, other):
    """The throughput of `measured` by the other's, which is the other's time by its own, round by round."""
    if other is None:
        return "-"
    found = [theirs / ours for ours, theirs in zip(measured["step_seconds"], other["step_seconds"])]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def grouped(number):
    return f"{round(number):,}"


def table(header, alignment, rows):
    dashes = ["--:" if side == "r" else "---" for side in alignment]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, dashes, *rows])


if __name__ == "__main__":
    main()
