"""How long a folder of pictures takes until it can be trained on: Kindling's packing against torchvision's ImageFolder.

    python3 assets/bench/image_folder.py DIR [ROUNDS] [-- KINDLING ARGUMENTS]

DIR has train/CLASS/*.png and test/CLASS/*.png. Both decode every training and test picture once, on as many threads or
workers as the machine has, in alternating rounds; printed are the median times, their ratio in each round and its median.
Kindling packs into a cache of its own (`KINDLING_CACHE_DIR`), which is removed after each round; then comes the time of a
second start, which finds the packed file. Needs torch, torchvision and the program `kindling` (its path in KINDLING).
"""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


def processor():
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def torchvision_seconds(directory, workers):
    import torch
    from torchvision import datasets, transforms

    start = time.perf_counter()
    images = 0
    for split in ("train", "test"):
        to_tensor = transforms.Compose([transforms.Grayscale(), transforms.PILToTensor()])
        folder = datasets.ImageFolder(os.path.join(directory, split), to_tensor)
        loader = torch.utils.data.DataLoader(folder, batch_size=256, num_workers=workers)
        images += sum(len(targets) for _, targets in loader)
    return time.perf_counter() - start, images


def kindling_seconds(program, directory, cache, arguments):
    command = [program, "samples", "--dataset", "folder", "--data-dir", directory, "--index", "0", "--json", *arguments]
    start = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "KINDLING_CACHE_DIR": cache}, capture_output=True)
    return time.perf_counter() - start


def main():
    arguments = sys.argv[1:]
    more = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
    directory, rounds = arguments[0], int(arguments[1]) if len(arguments) > 1 else 5
    program = os.environ.get("KINDLING", "kindling")
    workers = os.cpu_count()
    peers, firsts, seconds = [], [], []
    for _ in range(rounds):
        peer, images = torchvision_seconds(directory, workers)
        cache = tempfile.mkdtemp()
        first = kindling_seconds(program, directory, cache, more)
        second = kindling_seconds(program, directory, cache, more)
        shutil.rmtree(cache)
        peers.append(peer)
        firsts.append(first)
        seconds.append(second)
        print(f"torchvision {peer:.2f} s, kindling {first:.2f} s, again {second:.2f} s: ratio {peer / first:.2f}")
    ratio = statistics.median(peer / first for peer, first in zip(peers, firsts))
    print(
        f"{images} pictures, {workers} workers, {processor()}, median of {rounds}: torchvision {statistics.median(peers):.2f} s, "
        f"kindling {statistics.median(firsts):.2f} s ({ratio:.2f} times as fast), second start {statistics.median(seconds):.2f} s"
    )


if __name__ == "__main__":
    main()
